"""GET /metrics: what a member knows of itself, under the names that dashboards for etcd ask for.

Place in the house   server -> metrics -> node, process
Never                costs anything while nobody asks; shows a number that was not counted
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import TYPE_CHECKING

from jobguard_store.api import process
from jobguard_store.api.cluster import ETCD_CLUSTER_VERSION, ETCD_VERSION
from jobguard_store.api.health import Page
from jobguard_store.api.rpcs import CODES, RPCS
from jobguard_store.counts import Calls, Histogram

if TYPE_CHECKING:
    from jobguard_store.node import Node

PROMETHEUS = (b"content-type", b"text/plain; version=0.0.4; charset=utf-8")

Series = tuple[str, float]  # the labels, in their braces, and the value


async def metrics(node: Node, query: bytes) -> Page:
    families = (_member, _network, _disk, _keys, _leases, _calls, _process)
    return 200, PROMETHEUS, "".join([text for family in families for text in family(node)]).encode()


def _member(node: Node) -> Iterator[str]:
    status, load, member, counts = node.status(), node.load(), node.header().member_id, node.counts
    yield _gauge("etcd_server_has_leader", node.has_leader, "Whether this member knows a leader.")
    yield _gauge("etcd_server_is_leader", status.leader == member, "Whether it is this member.")
    yield _gauge("etcd_server_is_learner", status.is_learner, "Whether this member has no vote.")
    yield _counter("etcd_server_leader_changes_seen_total", load.leaders_seen, "Leaders seen.")
    yield _counter(
        "etcd_server_heartbeat_send_failures_total",
        load.heartbeats_late,
        "Heartbeats a busy leader sent late.",
    )
    yield _gauge(
        "etcd_server_proposals_committed_total", status.raft_index, "The log is committed up to here."
    )
    yield _gauge("etcd_server_proposals_applied_total", status.applied_index, "And applied up to here.")
    yield _gauge("etcd_server_proposals_pending", load.proposals, "Writes not yet answered.")
    yield _counter(
        "etcd_server_proposals_failed_total", load.proposals_failed, "Writes given up: refused, or unknown."
    )
    yield _counter("etcd_server_slow_apply_total", load.applies_slow, "Times that applying took over 0.1 s.")
    yield _counter("etcd_server_slow_read_indexes_total", load.reads_slow, "Linearizable reads timed out.")
    yield _counter(
        "etcd_server_read_indexes_failed_total", load.reads_failed, "Linearizable reads without a leader."
    )
    yield _counter("etcd_server_health_success", counts.healthy, "Looks at /health that found it well.")
    yield _counter("etcd_server_health_failures", counts.unhealthy, "Looks at /health that did not.")
    yield _gauge("etcd_server_quota_backend_bytes", node.config.quota_backend_bytes, "The file may grow to.")
    yield _labelled(
        "etcd_server_version",
        "gauge",
        "Which etcd it answers like.",
        [(f'server_version="{ETCD_VERSION}"', 1)],
    )
    yield _labelled("etcd_server_id", "gauge", "Which member this is.", [(f'server_id="{member:x}"', 1)])
    major, minor, _ = ETCD_CLUSTER_VERSION.split(".")
    yield _labelled(
        "etcd_cluster_version",
        "gauge",
        "Which etcd the cluster answers like.",
        [(f'cluster_version="{major}.{minor}"', 1)],
    )


def _network(node: Node) -> Iterator[str]:
    counts, traffic = node.counts, node.traffic()
    yield _counter("etcd_network_client_grpc_received_bytes_total", counts.received, "Bytes of requests.")
    yield _counter("etcd_network_client_grpc_sent_bytes_total", counts.sent, "Bytes of answers.")
    if traffic:  # as from etcd, a member that is alone says nothing of peers
        yield _labelled(
            "etcd_network_peer_sent_bytes_total",
            "counter",
            "Bytes sent to a peer.",
            [(f'To="{peer:x}"', each.sent) for peer, each in traffic.items()],
        )
        yield _labelled(
            "etcd_network_peer_received_bytes_total",
            "counter",
            "Bytes a peer sent.",
            [(f'From="{peer:x}"', each.received) for peer, each in traffic.items()],
        )
        yield _histogram(
            "etcd_network_peer_round_trip_time_seconds",
            "Until a peer answered a heartbeat, measured by who leads.",
            {f'To="{peer:x}"': each.round_trips for peer, each in traffic.items()},
        )


def _disk(node: Node) -> Iterator[str]:
    load, status = node.load(), node.status()
    yield _histogram("etcd_disk_wal_fsync_duration_seconds", "Of a COMMIT and its fsync.", {"": load.fsyncs})
    yield _histogram(
        "etcd_disk_backend_commit_duration_seconds", "Of a whole transaction.", {"": load.commits}
    )
    yield _gauge("etcd_mvcc_db_total_size_in_bytes", status.db_size, "Bytes of the database file.")
    yield _gauge(
        "etcd_mvcc_db_total_size_in_use_in_bytes", status.db_size_in_use, "Bytes of it that are used."
    )


def _keys(node: Node) -> Iterator[str]:
    load, counts = node.load(), node.counts
    yield _counter("etcd_mvcc_range_total", counts.ranges, "Ranges.")
    yield _counter("etcd_debugging_mvcc_range_total", counts.ranges, "Ranges.")
    yield _counter("etcd_mvcc_put_total", counts.puts, "Puts.")
    yield _counter("etcd_mvcc_delete_total", counts.deletes, "Deletions.")
    yield _counter("etcd_mvcc_txn_total", counts.txns, "Txns of more than one operation.")
    yield _gauge("etcd_debugging_mvcc_keys_total", load.keys, "Keys that exist.")
    yield _gauge("etcd_debugging_mvcc_watcher_total", load.watchers, "Watchers.")
    yield _gauge("etcd_debugging_mvcc_slow_watcher_total", load.slow_watchers, "Watchers that read history.")
    yield _gauge("etcd_debugging_mvcc_pending_events_total", load.pending_events, "Events not yet taken.")
    yield _gauge("etcd_debugging_mvcc_current_revision", node.header().revision, "The newest revision.")
    yield _gauge("etcd_debugging_mvcc_compact_revision", load.compact_revision, "The last compacted one.")


def _leases(node: Node) -> Iterator[str]:
    counts = node.counts
    yield _counter("etcd_debugging_lease_granted_total", counts.granted, "Leases granted.")
    yield _counter("etcd_debugging_lease_revoked_total", counts.revoked, "Leases revoked, or expired.")
    yield _counter(
        "etcd_debugging_lease_renewed_total", node.load().leases_renewed, "Renewals, by who leads."
    )


def _calls(node: Node) -> Iterator[str]:
    """Of every method and code, also of those not seen yet: a rate needs the nought it begins with."""
    counted = {rpc.labels: node.counts.calls.get(rpc) or Calls() for rpc in RPCS.values()}
    yield _labelled(
        "grpc_server_started_total",
        "counter",
        "Calls that began.",
        [(labels, calls.started) for labels, calls in counted.items()],
    )
    yield _labelled(
        "grpc_server_handled_total",
        "counter",
        "Calls that ended.",
        [
            (f'grpc_code="{code}",{labels}', calls.handled[number])
            for labels, calls in counted.items()
            for number, code in enumerate(CODES)
        ],
    )


def _process(node: Node) -> Iterator[str]:
    for name, kind, value, meaning in process.facts():
        yield _labelled(name, kind, meaning, [("", value)])


def _gauge(name: str, value: float, meaning: str) -> str:
    return _labelled(name, "gauge", meaning, [("", value)])


def _counter(name: str, value: float, meaning: str) -> str:
    return _labelled(name, "counter", meaning, [("", value)])


def _histogram(name: str, meaning: str, by_labels: dict[str, Histogram]) -> str:
    text = _head(name, "histogram", meaning)
    for labels, histogram in by_labels.items():
        below = list(accumulate(histogram.buckets))
        bounds = [*(f"{bound:.10g}" for bound in histogram.bounds), "+Inf"]
        prefix = f"{labels}," if labels else ""
        buckets = [(f'{prefix}le="{bound}"', count) for bound, count in zip(bounds, below, strict=True)]
        text += _lines(f"{name}_bucket", buckets)
        text += _lines(f"{name}_sum", [(labels, histogram.sum)])
        text += _lines(f"{name}_count", [(labels, below[-1])])
    return text


def _labelled(name: str, kind: str, meaning: str, series: Iterable[Series]) -> str:
    return _head(name, kind, meaning) + _lines(name, series)


def _head(name: str, kind: str, meaning: str) -> str:
    return f"# HELP {name} {meaning}\n# TYPE {name} {kind}\n"


def _lines(name: str, series: Iterable[Series]) -> str:
    return "".join(
        [f"{name}{{{labels}}} {+value}\n" if labels else f"{name} {+value}\n" for labels, value in series]
    )
