"""Dashboards made for etcd find its names here, with its kinds, labels and bounds, and true numbers."""

import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from tests.gateway import Gateway, b64
from tests.messages import (
    DELETE,
    GRANT,
    KEEPALIVE,
    PUT,
    RANGE,
    REVOKE,
    TXN,
    WATCH,
    create,
    delete,
    delete_op,
    put_op,
    range_,
    range_op,
    txn,
)
from tests.parity.test_alarms import ALARM
from tests.stores import CALM, etcd, eventually, leader_of, nodes

# An etcd shows it from its first measurement on, half a minute after its start: too long to wait for here.
ROUND_TRIPS = "etcd_network_peer_round_trip_time_seconds"

# What dashboards and alerts ask of an etcd.
NAMES = {
    *(
        f"etcd_server_{name}"
        for name in (
            *("has_leader", "is_leader", "is_learner", "leader_changes_seen_total"),
            *("proposals_committed_total", "proposals_applied_total", "proposals_pending"),
            *("proposals_failed_total", "heartbeat_send_failures_total", "slow_apply_total"),
            *("slow_read_indexes_total", "read_indexes_failed_total", "health_success", "health_failures"),
            *("quota_backend_bytes", "version", "id"),
        )
    ),
    "etcd_cluster_version",
    "etcd_disk_wal_fsync_duration_seconds",
    "etcd_disk_backend_commit_duration_seconds",
    "etcd_mvcc_db_total_size_in_bytes",
    "etcd_mvcc_db_total_size_in_use_in_bytes",
    *(f"etcd_mvcc_{name}_total" for name in ("range", "put", "delete", "txn")),
    ROUND_TRIPS,
    *(f"etcd_network_peer_{way}_bytes_total" for way in ("sent", "received")),
    *(f"etcd_network_client_grpc_{way}_bytes_total" for way in ("sent", "received")),
    *(
        f"etcd_debugging_mvcc_{name}"
        for name in (
            *("keys_total", "watcher_total", "slow_watcher_total", "pending_events_total", "range_total"),
            *("current_revision", "compact_revision"),
        )
    ),
    *(f"etcd_debugging_lease_{name}_total" for name in ("granted", "revoked", "renewed")),
    *(f"grpc_server_{name}_total" for name in ("started", "handled")),
    *(f"process_{name}" for name in ("cpu_seconds_total", "open_fds", "max_fds", "resident_memory_bytes")),
    *("process_virtual_memory_bytes", "process_start_time_seconds", "os_fd_used", "os_fd_limit"),
}
# Their methods are told apart in an etcd only once they are called, ours from the start.
RECIPES = ("v3lockpb.Lock", "v3electionpb.Election")
_TYPE = re.compile(r"# TYPE (\S+) (\S+)")
_SERIES = re.compile(r"([^\s{]+)(?:\{(.*)\})? (\S+)")
_LABEL = re.compile(r'(\w+)="([^"]*)"')

Labels = frozenset[tuple[str, str]]


@dataclass
class Page:
    kinds: dict[str, str] = field(default_factory=dict)
    series: dict[str, dict[Labels, float]] = field(default_factory=lambda: defaultdict(dict))

    def one(self, name: str, **labels: str) -> float:
        return self.series[name][frozenset(labels.items())]

    def family(self, name: str) -> Iterator[tuple[str, Labels]]:
        """The series that `name` consists of."""
        for each in (name, f"{name}_bucket", f"{name}_sum", f"{name}_count"):
            yield from ((each, labels) for labels in self.series.get(each, ()))


def read(gateway: Gateway) -> Page:
    answer = gateway.get("/metrics")
    assert (answer.status, answer.headers["content-type"]) == (
        200,
        "text/plain; version=0.0.4; charset=utf-8",
    )
    page = Page()
    for line in answer.body.decode().splitlines():
        if kind := _TYPE.fullmatch(line):
            page.kinds[kind[1]] = kind[2]
        elif not line.startswith("#"):
            series = _SERIES.fullmatch(line)
            assert series, line
            labels = frozenset(_LABEL.findall(series[2] or ""))
            assert labels not in page.series[series[1]], line
            page.series[series[1]][labels] = float(series[3])
    return page


def test_every_name_has_etcds_kind_labels_and_bounds() -> None:
    with (
        etcd(3) as theirs,
        nodes(3, CALM) as ours,
        leader_of(theirs).gateway() as oracle,
        leader_of(ours).gateway() as gateway,
    ):
        original, page = read(oracle), read(gateway)
    assert page.kinds.keys() == NAMES
    assert page.kinds.pop(ROUND_TRIPS) == "histogram"
    assert page.kinds.items() <= original.kinds.items()
    for name in page.kinds:
        assert shape(page, name) == shape(original, name)
    bounds = sorted(float(dict(labels)["le"]) for labels in page.series[f"{ROUND_TRIPS}_bucket"])
    assert bounds == sorted([*(0.0001 * 2**power for power in range(16)), math.inf] * 2)


def shape(page: Page, name: str) -> set[tuple[str, Labels]]:
    """Names, labels and bounds of a family; of labels that name a member, only how many there are."""
    members: dict[str, int] = {}
    found = set()
    for series, labels in page.family(name):
        plain = dict(labels)
        if name == "etcd_cluster_version" and not page.series[series][labels]:
            continue  # of an etcd that came up before it had heard of the others
        if plain.get("grpc_service", "").startswith(("grpc.", *RECIPES)):
            continue
        for label in {"To", "From", "server_id"} & plain.keys():
            if plain[label] == "0":  # an etcd that did not know yet who dialled it
                break
            plain[label] = str(members.setdefault(plain[label], len(members)))
        else:
            found.add((series, frozenset(plain.items())))
    return found


def two_puts(gateway: Gateway) -> None:
    gateway.put("a")
    gateway.put("a", "b")


def a_put_that_is_refused(gateway: Gateway) -> None:
    assert gateway.post(PUT, {"key": ""}).status == 400
    assert gateway.post(PUT, {"key": b64("a"), "lease": 99}).status == 404


def ranges(gateway: Gateway) -> None:
    gateway.ok(RANGE, range_("a"))
    gateway.ok(RANGE, range_("a", "z", serializable=True))


def deletions(gateway: Gateway) -> None:
    gateway.put("a")
    gateway.put("b")
    gateway.ok(DELETE, delete("a", "z"))
    gateway.ok(DELETE, delete("a"))


def txns(gateway: Gateway) -> None:
    gateway.ok(TXN, txn(put_op("a")))
    gateway.ok(TXN, txn(put_op("a"), range_op("a"), delete_op("b")))
    gateway.ok(TXN, txn(range_op("a")))
    gateway.ok(TXN, txn(range_op("a"), range_op("b")))
    gateway.ok(TXN, {})


def leases(gateway: Gateway) -> None:
    gateway.ok(GRANT, {"ID": 7, "TTL": 600})
    gateway.put("a", lease=7)
    gateway.put("b", lease=7)
    gateway.ok(KEEPALIVE, {"ID": 7})
    gateway.ok(KEEPALIVE, {"ID": 8})
    gateway.ok(REVOKE, {"ID": 7})
    assert gateway.post(REVOKE, {"ID": 7}).status == 404


def health(gateway: Gateway) -> None:
    assert gateway.get("/health").status == 200
    gateway.ok(ALARM, {"action": "ACTIVATE", "memberID": "42", "alarm": "NOSPACE"})
    assert gateway.get("/health").status == 503
    gateway.ok(ALARM, {"action": "DEACTIVATE", "memberID": "42", "alarm": "NOSPACE"})


COUNTED = (
    *(f"etcd_mvcc_{name}_total" for name in ("range", "put", "delete", "txn")),
    *(f"etcd_debugging_lease_{name}_total" for name in ("granted", "revoked", "renewed")),
    *("etcd_debugging_mvcc_keys_total", "etcd_debugging_mvcc_current_revision"),
    *("etcd_server_health_success", "etcd_server_health_failures", "etcd_server_proposals_failed_total"),
    *("grpc_server_started_total", "grpc_server_handled_total"),
)


@pytest.mark.parametrize("work", [two_puts, a_put_that_is_refused, ranges, deletions, txns, leases, health])
def test_numbers_move_as_in_etcd(oracle: Gateway, ours: Gateway, work: Callable[[Gateway], None]) -> None:
    assert moved(ours, work) == moved(oracle, work)


def moved(gateway: Gateway, work: Callable[[Gateway], None]) -> dict[tuple[str, Labels], float]:
    gateway.ok(DELETE, delete("\0", "\0"))
    before = read(gateway)
    work(gateway)
    after = read(gateway)
    by = {
        (name, labels): value - before.series[name].get(labels, 0)
        for name in COUNTED
        for labels, value in after.series[name].items()
    }
    return {which: change for which, change in by.items() if change}


def test_numbers_of_this_moment(ours: Gateway) -> None:
    after = eventually(
        lambda: a_put_and_a_watcher(ours), what="a moment without a proposal of the node's own"
    )
    assert (after.one("etcd_server_has_leader"), after.one("etcd_server_is_leader")) == (1, 1)
    assert after.one("etcd_server_leader_changes_seen_total") == 1
    member = int(ours.ok("/v3/maintenance/status")["header"]["member_id"])
    assert after.one("etcd_server_id", server_id=f"{member:x}") == 1
    eventually(lambda: read(ours).one("etcd_debugging_mvcc_watcher_total") == 0, what="the watcher's end")
    watch = {"grpc_method": "Watch", "grpc_service": "etcdserverpb.Watch", "grpc_type": "bidi_stream"}
    assert read(ours).one("grpc_server_handled_total", grpc_code="Canceled", **watch) >= 1
    assert read(ours).one("grpc_server_started_total", **watch) >= 1


def a_put_and_a_watcher(ours: Gateway) -> Page | None:
    """The page while there are both, if each was counted once."""
    before = read(ours)
    ours.put("a key of its own")
    with ours.stream(WATCH, create("k")) as stream:
        stream.result()
        after = read(ours)
    proposals = ("etcd_server_proposals_committed_total", "etcd_server_proposals_applied_total")
    assert all(after.one(name) > before.one(name) for name in proposals), "one that is not counted"
    counted = (*proposals, "etcd_debugging_mvcc_watcher_total")
    return after if all(after.one(name) == before.one(name) + 1 for name in counted) else None


def test_bytes_fsyncs_and_what_the_process_uses(ours: Gateway) -> None:
    before = read(ours)
    ours.put("a", "x" * 30_000)
    ours.ok(RANGE, range_("a"))
    after = read(ours)
    for way in ("received", "sent"):
        name = f"etcd_network_client_grpc_{way}_bytes_total"
        assert 40_000 <= after.one(name) - before.one(name) <= 80_000
    for kind in ("wal_fsync", "backend_commit"):
        name = f"etcd_disk_{kind}_duration_seconds_count"
        assert after.one(name) > before.one(name)
        buckets = after.series[f"etcd_disk_{kind}_duration_seconds_bucket"]
        assert max(buckets.values()) == after.one(f"etcd_disk_{kind}_duration_seconds_count")
        assert after.one(f"etcd_disk_{kind}_duration_seconds_sum") > 0
    assert 5 <= after.one("process_open_fds") < after.one("process_max_fds")
    assert 20e6 < after.one("process_resident_memory_bytes") < after.one("process_virtual_memory_bytes")
    assert 0 < after.one("process_cpu_seconds_total") < 600
    assert after.one("process_start_time_seconds") > 1.7e9


def test_who_leads_measures_the_way_to_the_others() -> None:
    name = f"{ROUND_TRIPS}_count"
    with nodes(3, CALM) as stores:
        leader = leader_of(stores)
        with leader.gateway() as gateway:
            page = eventually(lambda: measured(read(gateway)), what="round trips on loopback")
        others = {
            f"{int(store.status()['header']['member_id']):x}" for store in stores if store is not leader
        }
    assert page.series[name].keys() == {frozenset({("To", other)}) for other in others}
    for other in others:
        assert page.one("etcd_network_peer_sent_bytes_total", To=other) > 100
        assert page.one("etcd_network_peer_received_bytes_total", From=other) > 100


def measured(page: Page) -> Page | None:
    """It, once each way took some round trips, of less than half a second on the average."""
    counts, sums = (page.series[f"{ROUND_TRIPS}_{what}"] for what in ("count", "sum"))
    return page if all(counts[way] > 2 and 0 < sums[way] < 0.5 * counts[way] for way in counts) else None
