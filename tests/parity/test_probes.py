"""Rules of the API, each as a few requests that real etcd and ours have to answer alike.

A probe is a function that talks to one store and yields what it heard. Revisions are counted from the probe's
start and identities dropped, nothing else is: fields, their order, statuses and texts have to be equal.
"""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.gateway import Answer, Gateway, Stream, b64
from tests.messages import (
    COMPACTION,
    DELETE,
    GRANT,
    KEEPALIVE,
    LEASES,
    PROGRESS,
    PUT,
    RANGE,
    REVOKE,
    TIME_TO_LIVE,
    TXN,
    WATCH,
    Message,
    cancel,
    compare,
    create,
    delete,
    delete_op,
    put,
    put_op,
    range_,
    range_op,
    txn,
    txn_op,
)
from tests.parity.replay import empty, relative

Probe = Callable[[Gateway, int], Iterator[Any]]
PROBES: dict[str, Probe] = {}


def probe(function: Probe) -> Probe:
    PROBES[function.__name__] = function
    return function


def heard(gateway: Gateway, run: Probe) -> list[str]:
    base = empty(gateway)
    return [json.dumps(_plain(item, base)) for item in run(gateway, base)]


def _plain(item: Any, base: int) -> Any:
    if isinstance(item, Answer):
        return [item.status, relative(json.loads(item.body), base)]
    return relative(item, base)


def lines(stream: Stream, count: int) -> list[Any]:
    with stream:
        return [stream.result() for _ in range(count)]


# --- section 5: range, put, delete ------------------------------------------------------------------


@probe
def range_end_means_a_key_an_interval_or_the_rest(gateway: Gateway, base: int) -> Iterator[Any]:
    for key in ("a", "ab", "b", "c", "\0", "\x7f"):
        yield gateway.put(key, "v" + key)
    for key, end in (
        ("a", ""),
        ("a", "b"),
        ("a", "c"),
        ("a", "\0"),
        ("\0", "\0"),
        ("b", "a"),
        ("a", "a"),
        ("aa", ""),
        ("a", "a\0"),
        ("ab", "\0"),
    ):
        yield gateway.post(RANGE, range_(key, end))
        yield gateway.post(RANGE, range_(key, end, count_only=True))


@probe
def a_range_is_fetched_filtered_sorted_cut_and_stripped(gateway: Gateway, base: int) -> Iterator[Any]:
    for key, value in (("a", "3"), ("b", "1"), ("c", "2"), ("d", "1"), ("b", "2"), ("a", "1"), ("a", "9")):
        gateway.put(key, value)
    for order in ("NONE", "ASCEND", "DESCEND"):
        for target in ("KEY", "VERSION", "CREATE", "MOD", "VALUE"):
            yield gateway.post(RANGE, range_("a", "z", sort_order=order, sort_target=target))
    for limit in (-1, 0, 1, 3, 4, 5):
        yield gateway.post(RANGE, range_("a", "z", limit=limit))
        yield gateway.post(RANGE, range_("a", "z", limit=limit, sort_order="DESCEND", sort_target="MOD"))
        yield gateway.post(RANGE, range_("a", "z", limit=limit, min_mod_revision=base + 4))
        yield gateway.post(RANGE, range_("a", "z", limit=limit, count_only=True))
        yield gateway.post(RANGE, range_("a", "z", limit=limit, keys_only=True))
    for bound in ("min_mod_revision", "max_mod_revision", "min_create_revision", "max_create_revision"):
        for revision in (base - 1, base + 2, base + 4, base + 100, -1):
            yield gateway.post(RANGE, range_("a", "z", **{bound: revision}))


@probe
def keys_only_keeps_the_lease(gateway: Gateway, base: int) -> Iterator[Any]:
    gateway.ok(GRANT, {"ID": 7, "TTL": 600})
    yield gateway.put("k", "v", lease=7)
    yield gateway.post(RANGE, range_("k", keys_only=True))


@probe
def a_range_reads_revisions_between_compacted_and_current(gateway: Gateway, base: int) -> Iterator[Any]:
    for value in "1234":
        gateway.put("k", value)
    gateway.ok(COMPACTION, {"revision": base + 2})
    for revision in (-5, 0, 1, base + 1, base + 2, base + 3, base + 4, base + 5):
        for serializable in (False, True):
            yield gateway.post(RANGE, range_("k", revision=revision, serializable=serializable))
        yield gateway.post(TXN, txn(range_op("k", revision=revision)))
        yield gateway.post(TXN, txn(range_op("k", revision=revision), put_op("other")))


@probe
def a_deleted_key_begins_a_new_life(gateway: Gateway, base: int) -> Iterator[Any]:
    yield gateway.put("k", "1")
    yield gateway.put("k", "2")
    yield gateway.post(DELETE, delete("k"))
    yield gateway.post(RANGE, range_("k"))
    yield gateway.put("k", "3")
    for revision in range(base, base + 5):
        yield gateway.post(RANGE, range_("k", revision=revision))


@probe
def a_put_shows_what_was_there_and_may_keep_parts_of_it(gateway: Gateway, base: int) -> Iterator[Any]:
    gateway.ok(GRANT, {"ID": 7, "TTL": 600})
    yield gateway.post(PUT, put("k", "1", prev_kv=True))
    yield gateway.post(PUT, put("k", "2", lease=7, prev_kv=True))
    yield gateway.post(PUT, put("k", "", ignore_value=True, prev_kv=True))
    yield gateway.post(RANGE, range_("k"))
    yield gateway.post(PUT, put("k", "3", lease=7))
    yield gateway.post(PUT, put("k", "4", ignore_lease=True, prev_kv=True))
    yield gateway.post(RANGE, range_("k"))
    yield gateway.post(PUT, put("k", "", ignore_value=True, ignore_lease=True, prev_kv=True))
    yield gateway.post(PUT, put("k", "5", ignore_value=True))
    yield gateway.post(PUT, put("k", "5", lease=7, ignore_lease=True))
    yield gateway.post(PUT, put("k", "5", lease=9, ignore_value=True, ignore_lease=True))
    yield gateway.post(PUT, put("", "5", ignore_value=True))
    yield gateway.post(PUT, put("missing", ignore_value=True))
    yield gateway.post(PUT, put("missing", ignore_lease=True))
    yield gateway.post(PUT, put("k", "6", lease=999))
    yield gateway.post(PUT, put("missing", lease=999, ignore_value=True))


@probe
def a_deletion_of_nothing_changes_nothing(gateway: Gateway, base: int) -> Iterator[Any]:
    yield gateway.post(DELETE, delete("a", "z"))
    yield gateway.post(DELETE, delete("k", prev_kv=True))
    for key in "abc":
        gateway.put(key, key)
    yield gateway.post(DELETE, delete("b", "a"))
    yield gateway.post(DELETE, delete("a", "c", prev_kv=True))
    yield gateway.post(DELETE, delete("", "c"))
    yield gateway.post(DELETE, delete("a", "\0"))


# --- section 6: txn -----------------------------------------------------------------------------------


@probe
def compares_know_missing_keys_and_intervals(gateway: Gateway, base: int) -> Iterator[Any]:
    gateway.ok(GRANT, {"ID": 7, "TTL": 600})
    gateway.put("a", "1", lease=7)
    gateway.put("b", "2")
    gateway.put("b", "2")
    operands: list[tuple[str, Message]] = [
        ("VERSION", {"version": 1}),
        ("CREATE", {"create_revision": base + 2}),
        ("MOD", {"mod_revision": base + 2}),
        ("VALUE", {"value": b64("1")}),
        ("LEASE", {"lease": 7}),
    ]
    for target, operand in operands:
        for result in ("EQUAL", "GREATER", "LESS", "NOT_EQUAL"):
            for key, end in (("a", ""), ("b", ""), ("none", ""), ("a", "c"), ("x", "z"), ("a", "\0")):
                condition = compare(key, target, result, range_end=b64(end))
                yield gateway.post(TXN, txn(compare=(condition | operand,)))
                yield gateway.post(TXN, txn(compare=(condition,)))


@probe
def a_compare_has_defaults(gateway: Gateway, base: int) -> Iterator[Any]:
    gateway.put("a", "1")
    yield gateway.post(TXN, {"compare": [{"key": b64("a")}]})
    yield gateway.post(TXN, {"compare": [{"key": b64("none")}]})
    yield gateway.post(TXN, {"compare": [{"key": b64("a"), "target": 1, "create_revision": base + 1}]})
    yield gateway.post(TXN, {"compare": [{"key": b64("a"), "target": "MOD", "version": 5}]})
    yield gateway.post(TXN, {"compare": [{}]})
    yield gateway.post(TXN, {})
    yield gateway.post(TXN, b"")


@probe
def ops_run_in_order_and_see_each_other(gateway: Gateway, base: int) -> Iterator[Any]:
    gateway.put("a", "0")
    yield gateway.post(
        TXN,
        txn(
            range_op("a", "z"),
            put_op("a", "1", prev_kv=True),
            range_op("a", "z"),
            put_op("b", "2"),
            delete_op("c", "z"),
            range_op("a", "z", count_only=True),
            txn_op(range_op("b"), put_op("d", "4"), compare=(compare("b", "VERSION", version=0),)),
            range_op("a", "z", keys_only=True, sort_order="DESCEND"),
        ),
    )
    yield gateway.post(
        TXN, txn(delete_op("a", "z", prev_kv=True), delete_op("a", "z", prev_kv=True), range_op("a"))
    )
    yield gateway.post(TXN, txn(delete_op("a", "z"), range_op("a")))


@probe
def nested_compares_look_at_the_state_before(gateway: Gateway, base: int) -> Iterator[Any]:
    there = (compare("a", "VERSION", "GREATER", version=0),)
    nested = txn_op(range_op("a"), failure=(put_op("b", "not there"),), compare=there)
    yield gateway.post(TXN, txn(put_op("a", "1"), nested))
    yield gateway.post(TXN, txn(nested, txn_op(nested, txn_op(), txn_op(failure=(put_op("x"),)))))
    yield gateway.post(RANGE, range_("\0", "\0"))


@probe
def a_txn_is_all_or_nothing(gateway: Gateway, base: int) -> Iterator[Any]:
    yield gateway.post(TXN, txn(put_op("a"), put_op("b", lease=999)))
    yield gateway.post(TXN, txn(put_op("a"), put_op("missing", ignore_value=True)))
    yield gateway.post(TXN, txn(put_op("a"), txn_op(put_op("b", lease=999))))
    yield gateway.post(TXN, txn(put_op("a"), range_op("b", revision=base + 50)))
    yield gateway.post(TXN, txn(put_op("a"), range_op("b", revision=base - 1)))
    yield gateway.post(TXN, txn(put_op("a"), range_op("b", revision=base + 1)))
    yield gateway.post(TXN, txn(put_op("a", ignore_value=True), put_op("b", lease=999)))
    yield gateway.post(TXN, txn(put_op("b", lease=999), put_op("a", ignore_value=True)))
    yield gateway.post(TXN, txn(failure=(put_op("b", lease=999),)))
    yield gateway.post(RANGE, range_("\0", "\0"))


@probe
def the_limit_of_ops_is_shared_with_nested_txns(gateway: Gateway, base: int) -> Iterator[Any]:
    def puts(count: int, prefix: str = "k") -> list[Message]:
        return [put_op(f"{prefix}{number}") for number in range(count)]

    yield gateway.post(TXN, txn(*puts(128)))
    yield gateway.post(TXN, txn(*puts(129)))
    yield gateway.post(TXN, txn(failure=tuple(puts(129))))
    yield gateway.post(TXN, txn(compare=tuple(compare("a", "VERSION") for _ in range(129))))
    yield gateway.post(TXN, txn(*puts(100), txn_op(*puts(50, "n"))))
    yield gateway.post(TXN, txn(*puts(126), txn_op(put_op("n"))))
    yield gateway.post(TXN, txn(*puts(127), txn_op(put_op("n"))))
    yield gateway.post(TXN, txn(*puts(126), txn_op(txn_op(put_op("n")))))
    yield gateway.post(TXN, txn(*puts(126), txn_op(txn_op())))
    deep = txn_op()
    for _ in range(127):
        deep = txn_op(deep)
    yield gateway.post(TXN, txn(deep))
    yield gateway.post(TXN, txn(txn_op(deep)))


@probe
def refusals_come_in_order(gateway: Gateway, base: int) -> Iterator[Any]:
    many = [put_op(f"k{number}") for number in range(129)]
    yield gateway.post(TXN, txn(*many, compare=({"key": ""},)))
    yield gateway.post(TXN, txn({}, compare=({"key": ""},)))
    yield gateway.post(TXN, txn({}, put_op("")))
    yield gateway.post(TXN, txn(put_op(""), {}))
    yield gateway.post(TXN, txn(put_op("a"), put_op("a"), failure=({},)))
    yield gateway.post(TXN, txn(put_op("a"), put_op("a"), put_op("", "v")))
    yield gateway.post(TXN, txn(put_op("a", "v", ignore_value=True, lease=1, ignore_lease=True)))
    yield gateway.post(TXN, txn(txn_op(range_op("")), put_op("a"), put_op("a")))
    yield gateway.post(TXN, txn({"request_range": {}}))
    yield gateway.post(TXN, txn({"request_put": None}))


@probe
def a_key_changes_once_in_a_txn(gateway: Gateway, base: int) -> Iterator[Any]:
    a, other = put_op("a"), put_op("b")
    for ops in (
        (a, a),
        (a, delete_op("a")),
        (delete_op("a"), a),
        (delete_op("a", "z"), put_op("m")),
        (delete_op("a", "m"), put_op("m")),
        (delete_op("m", "a"), put_op("b")),
        (delete_op("a", "z"), delete_op("b", "y")),
        (txn_op(a), a),
        (a, txn_op(a)),
        (txn_op(a), txn_op(a)),
        (txn_op(a, failure=(a,)), other),
        (txn_op(a, failure=(a,)), a),
        (txn_op(failure=(a,)), a),
        (txn_op(a, failure=(delete_op("a"),)), other),
        (txn_op(delete_op("a")), a),
        (a, txn_op(delete_op("a", "b"))),
        (txn_op(txn_op(a)), delete_op("a")),
        (txn_op(delete_op("a")), txn_op(a)),
        # Not noticed by etcd, and carried out op by op:
        (txn_op(a), txn_op(delete_op("a"))),
        (a, delete_op("a", "\0")),
        (delete_op("a", "\0"), a),
    ):
        yield gateway.post(TXN, txn(*ops))
        yield gateway.post(TXN, txn(failure=ops))
    yield gateway.post(RANGE, range_("\0", "\0"))


@probe
def what_changed_twice_in_one_revision_stays_readable(gateway: Gateway, base: int) -> Iterator[Any]:
    gateway.put("m", "0")
    yield gateway.post(TXN, txn(put_op("m", "1"), delete_op("k", "\0")))
    yield gateway.post(TXN, txn(delete_op("k", "\0"), put_op("m", "2")))
    yield gateway.post(TXN, txn(put_op("m", "3"), delete_op("k", "\0", prev_kv=True)))
    for revision in range(base, base + 5):
        yield gateway.post(RANGE, range_("a", "z", revision=revision))
    seen: list[Any] = []
    with gateway.stream(WATCH, create("a", "z", start_revision=base + 1, prev_kv=True)) as stream:
        while len(seen) < 6:
            seen += stream.result().get("events", ())
    yield seen


@probe
def a_txn_that_only_reads_takes_no_revision(gateway: Gateway, base: int) -> Iterator[Any]:
    gateway.put("a", "1")
    for serializable in (False, True):
        yield gateway.post(TXN, txn(range_op("a", serializable=serializable), range_op("b")))
    yield gateway.post(TXN, txn(txn_op(range_op("a"))))
    yield gateway.post(TXN, txn(delete_op("nothing")))
    yield gateway.post(TXN, txn(range_op("a"), compare=(compare("a", "VALUE", "LESS", value=b64("2")),)))


# --- section 7: compaction ----------------------------------------------------------------------------


@probe
def compaction_moves_forward_only(gateway: Gateway, base: int) -> Iterator[Any]:
    for value in "12345":
        gateway.put("k", value)
    gateway.post(DELETE, delete("k"))
    for revision in (0, -1, base, base + 50, base + 3, base + 3, base + 2, base + 6, base + 6):
        for physical in (False, True):
            yield gateway.post(COMPACTION, {"revision": revision, "physical": physical})
    yield gateway.post(COMPACTION, {})
    for revision in range(base, base + 8):
        yield gateway.post(RANGE, range_("k", revision=revision))


# --- section 8: watch -----------------------------------------------------------------------------------


@probe
def created_comes_first_and_says_from_when(gateway: Gateway, base: int) -> Iterator[Any]:
    gateway.put("k", "1")
    with gateway.stream(WATCH, create("k", "l")) as stream:
        yield stream.result()
        gateway.put("k", "2")
        gateway.put("kk", "3")
        gateway.put("l", "outside")
        gateway.post(DELETE, delete("k", "l"))
        yield stream.result()
        yield stream.result()
        yield stream.result()


@probe
def watchers_get_ids_by_themselves_or_by_wish(gateway: Gateway, base: int) -> Iterator[Any]:
    wishes = [create("a", watch_id=number) for number in (1, 0, 1, 0, 7, -1)]
    yield lines(gateway.stream(WATCH, *wishes), 6)
    yield lines(
        gateway.stream(WATCH, create("a"), create("b"), cancel(0), create("c"), create("d", watch_id=0)), 5
    )
    yield lines(gateway.stream(WATCH, create("a", watch_id=5), cancel(5), create("a", watch_id=5)), 3)


@probe
def a_watcher_without_a_range_is_refused(gateway: Gateway, base: int) -> Iterator[Any]:
    yield lines(gateway.stream(WATCH, create("b", "a"), create("b", "b"), create("b", "c"), create("")), 4)


@probe
def an_empty_key_is_the_zero_byte(gateway: Gateway, base: int) -> Iterator[Any]:
    for message in (create("", "\0"), create(""), create("", "b")):
        with gateway.stream(WATCH, message) as stream:
            yield stream.result()
            gateway.put("a")
            gateway.put("\0")
            first = stream.result()["events"][0]["kv"]
            yield first["key"]


@probe
def history_comes_before_the_present(gateway: Gateway, base: int) -> Iterator[Any]:
    for value in "123":
        gateway.put("k", value)
    gateway.ok(TXN, txn(put_op("k", "4"), put_op("kk", "4"), delete_op("none")))
    gateway.post(DELETE, delete("k"))
    for start in range(base + 1, base + 6):
        with gateway.stream(WATCH, create("k", "l", start_revision=start, prev_kv=True)) as stream:
            stream.result()
            seen: list[Any] = []
            while not seen or seen[-1].get("type") != "DELETE":
                seen += stream.result()["events"]
            yield seen


@probe
def a_watcher_may_wait_for_the_future(gateway: Gateway, base: int) -> Iterator[Any]:
    with gateway.stream(WATCH, create("k", start_revision=base + 3)) as stream:
        yield stream.result()
        for value in "1234":
            gateway.put("k", value)
        yield stream.result()["events"]
        yield stream.result()["events"]


@probe
def compacted_history_cancels_the_watcher_alone(gateway: Gateway, base: int) -> Iterator[Any]:
    for value in "1234":
        gateway.put("k", value)
    gateway.ok(COMPACTION, {"revision": base + 3, "physical": True})
    for start in (-5, -1, 1, base + 2):
        yield lines(gateway.stream(WATCH, create("k", start_revision=start, watch_id=3)), 2)
    with gateway.stream(
        WATCH, create("k", start_revision=base + 2), create("k", start_revision=base + 3)
    ) as stream:
        messages = [stream.result() for _ in range(4)]
        yield sorted(messages, key=lambda message: (message.get("watch_id", "0"), "created" not in message))


@probe
def filters_leave_kinds_of_events_out(gateway: Gateway, base: int) -> Iterator[Any]:
    for filters in (["NOPUT"], ["NODELETE"], [0], [1], ["NOPUT", "NOPUT"]):
        with gateway.stream(WATCH, create("k", filters=filters)) as stream:
            stream.result()
            gateway.put("k", "1")
            gateway.post(DELETE, delete("k"))
            gateway.put("k", "2")
            gateway.post(DELETE, delete("k"))
            yield [event.get("type", "PUT") for event in stream.result()["events"]]
            yield [event.get("type", "PUT") for event in stream.result()["events"]]


@probe
def prev_kv_is_the_pair_before(gateway: Gateway, base: int) -> Iterator[Any]:
    gateway.ok(GRANT, {"ID": 7, "TTL": 600})
    with gateway.stream(WATCH, create("k", prev_kv=True), create("k", watch_id=9)) as stream:
        stream.result()
        stream.result()
        gateway.put("k", "1", lease=7)
        gateway.put("k", "2")
        gateway.post(DELETE, delete("k"))
        seen = [stream.result() for _ in range(6)]
        yield sorted(
            seen, key=lambda message: (message.get("watch_id", "0"), int(message["header"]["revision"]))
        )


@probe
def what_was_before_the_compacted_revision_is_gone(gateway: Gateway, base: int) -> Iterator[Any]:
    for value in "123":
        gateway.put("k", value)
    gateway.ok(COMPACTION, {"revision": base + 3})
    gateway.put("k", "4")
    with gateway.stream(WATCH, create("k", start_revision=base + 3, prev_kv=True)) as stream:
        stream.result()
        yield next(iter(stream.result()["events"]))


@probe
def cancel_answers_only_what_exists(gateway: Gateway, base: int) -> Iterator[Any]:
    with gateway.stream(WATCH, create("a"), create("b"), cancel(9), cancel(1), cancel(1)) as stream:
        yield [stream.result() for _ in range(3)]
        gateway.put("b")
        gateway.put("a")
        yield stream.result()


@probe
def progress_is_about_no_watcher(gateway: Gateway, base: int) -> Iterator[Any]:
    gateway.put("a")
    yield lines(gateway.stream(WATCH, PROGRESS), 1)
    yield lines(gateway.stream(WATCH, create("a"), PROGRESS), 2)


@probe
def one_revision_is_one_message(gateway: Gateway, base: int) -> Iterator[Any]:
    with gateway.stream(WATCH, create("k", "l")) as stream:
        stream.result()
        gateway.ok(TXN, txn(*(put_op(f"k{number}") for number in range(100))))
        yield stream.result()
        gateway.post(DELETE, delete("k", "l"))
        yield stream.result()


# --- section 9: lease ---------------------------------------------------------------------------------


@probe
def a_lease_has_a_floor_and_a_ceiling(gateway: Gateway, base: int) -> Iterator[Any]:
    for ttl in (-5, 0, 1, 2, 3, 600, 9_000_000_000, 9_000_000_001):
        yield gateway.post(GRANT, {"TTL": ttl, "ID": 7})
        yield gateway.post(REVOKE, {"ID": 7})


@probe
def a_lease_has_any_id_but_zero(gateway: Gateway, base: int) -> Iterator[Any]:
    for lease in (1, -7, 2**63 - 1, -(2**63)):
        yield gateway.post(GRANT, {"TTL": 600, "ID": str(lease)})
        yield gateway.post(GRANT, {"TTL": 600, "ID": str(lease)})
        yield gateway.post(KEEPALIVE, {"ID": lease})
    drawn = gateway.ok(GRANT, {"TTL": 600})
    assert int(drawn.pop("ID")) > 0
    yield drawn
    yield gateway.post(REVOKE, {})
    yield gateway.post(REVOKE, {"ID": 999})


@probe
def revoking_deletes_all_keys_in_one_revision(gateway: Gateway, base: int) -> Iterator[Any]:
    gateway.ok(GRANT, {"ID": 7, "TTL": 600})
    gateway.ok(GRANT, {"ID": 8, "TTL": 600})
    for key in "cab":
        gateway.put(key, key, lease=7)
    gateway.put("b", "moved", lease=8)
    gateway.put("d", "let go", lease=7)
    gateway.put("d", "let go")
    with gateway.stream(WATCH, create("\0", "\0", prev_kv=True)) as stream:
        stream.result()
        yield gateway.post(REVOKE, {"ID": 7})
        yield stream.result()
    yield gateway.post(RANGE, range_("\0", "\0"))
    yield gateway.post("/v3/kv/lease/revoke", {"ID": 8})
    yield gateway.post(GRANT, {"ID": 8, "TTL": 600})
    yield gateway.post(REVOKE, {"ID": 8})
    yield gateway.post(RANGE, range_("\0", "\0"))


@probe
def a_lease_knows_its_keys(gateway: Gateway, base: int) -> Iterator[Any]:
    gateway.ok(GRANT, {"ID": 7, "TTL": 600})
    gateway.ok(GRANT, {"ID": 8, "TTL": 700})

    def told() -> Iterator[Any]:
        for path in (TIME_TO_LIVE, "/v3/kv/lease/timetolive"):
            for lease, keys in ((7, True), (7, False), (8, True), (999, True)):
                answer = gateway.ok(path, {"ID": lease, "keys": keys})
                if lease != 999:
                    assert int(answer.pop("TTL")) in range(590, 701)
                yield answer | {"keys": sorted(answer.get("keys", []))}

    yield from told()
    for key in "ab":
        gateway.put(key, lease=7)
    yield from told()
    gateway.put("a", lease=8)
    gateway.post(DELETE, delete("b"))
    yield from told()


@probe
def a_keepalive_answers_each_request_and_ends(gateway: Gateway, base: int) -> Iterator[Any]:
    gateway.ok(GRANT, {"ID": 7, "TTL": 600})
    gateway.put("a", lease=7)
    for body in (
        b'{"ID":7}',
        b'{"ID":"7"} {"ID":999}\n{"ID":7}',
        b'{"ID":7}{"ID":',
        b'{"ID":7} nonsense',
        b"",
        b" ",
        b"{}",
    ):
        answer = gateway.post(KEEPALIVE, body)
        yield answer.status, "grpc-metadata-content-type" in answer.headers
        yield [json.loads(line) for line in answer.body.splitlines()]


@probe
def leases_are_listed(gateway: Gateway, base: int) -> Iterator[Any]:
    yield gateway.post(LEASES, {})
    for lease in (9, 7, 8):
        gateway.ok(GRANT, {"ID": lease, "TTL": 600})
    for path in (LEASES, "/v3/kv/lease/leases", "/v3beta/lease/leases", "/v3beta/kv/lease/leases"):
        answer = gateway.ok(path)
        yield {**answer, "leases": sorted(answer["leases"], key=lambda lease: lease["ID"])}


# --- section 1: how messages are read and written -----------------------------------------------------


@probe
def numbers_names_and_nulls_are_read_as_protobuf_has_them(gateway: Gateway, base: int) -> Iterator[Any]:
    gateway.put("a", "1")
    gateway.put("b", "2")
    for message in (
        {"key": b64("a"), "rangeEnd": b64("z"), "limit": "1"},
        {"key": b64("a"), "rangeEnd": b64("z"), "limit": 1, "keysOnly": True, "sortOrder": 2},
        {"key": b64("a"), "range_end": None, "limit": None, "sort_order": None, "serializable": None},
        {"key": b64("a"), "unknown": {"nested": [1, 2]}, "prev_kv": True},
        {"key": b64("a"), "sort_order": "DESCEND", "sort_target": "MOD"},
        {"key": b64("a"), "sort_order": "UPWARDS"},
        {"key": b64("a"), "sort_order": "1"},
        {"key": b64("a"), "range_end": "eg\r\n=="},
        {"key": b64("a"), "limit": " 1 "},
        {"key": b64("a"), "limit": "1\t"},
        {"key": b64("a"), "limit": "01"},
        {"key": b64("a"), "limit": "-0"},
    ):
        answer = gateway.post(RANGE, message)
        yield answer.status if answer.status != 200 else answer
    yield gateway.post(TXN, {"success": [{"requestRange": {"key": b64("a"), "countOnly": True}}]})
    yield gateway.post(
        TXN, {"compare": [{"key": b64("a"), "target": "CREATE", "createRevision": str(base + 1)}]}
    )
    yield gateway.post(TXN, {"compare": [None]})
    yield gateway.post(TXN, {"success": [None]})


@probe
def malformed_requests_are_the_callers_fault(gateway: Gateway, base: int) -> Iterator[Any]:
    """The texts are the parsers' own; status and code are not."""
    for body in (
        b"{",
        b"[]",
        b'"text"',
        b"12",
        b'{"key":1}',
        b'{"key":"a"}',
        b'{"key":"YQ"}',
        b'{"key":"-_8="}',
        b'{"key":"YQ==","lease":"x"}',
        b'{"key":"YQ==","lease":""}',
        b'{"key":"YQ==","lease":1.5}',
        b'{"key":"YQ==","lease":1.0}',
        b'{"key":"YQ==","lease":true}',
        b'{"key":"YQ==","lease":"9223372036854775808"}',
        b'{"key":"YQ==","lease":9223372036854775808}',
        b'{"key":"YQ==","lease":"99999999999999999999"}',
        b'{"key":"YQ==","prev_kv":"true"}',
        b'{"key":"YQ==","prev_kv":1}',
        b'{"key":"\xff"}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
    ):
        answer = gateway.post(PUT, body)
        yield answer.status, answer.json["code"], list(answer.json)


@probe
def what_follows_the_first_object_is_not_read(gateway: Gateway, base: int) -> Iterator[Any]:
    for body in (
        b'{"key":"YQ=="}}}',
        b' {"key":"YQ=="} junk',
        b'{"key":"YQ=="}{"key":"Yg=="}',
        b'{"key":"YQ=="}\xff',
        b"null",
        b" ",
        b"",
    ):
        yield gateway.post(PUT, body)
    yield gateway.post(RANGE, range_("\0", "\0"))


@probe
def a_request_may_have_one_and_a_half_mebibytes(gateway: Gateway, base: int) -> Iterator[Any]:
    limit = 1536 * 1024
    for size in (limit - 64, limit):
        yield gateway.post(PUT, {"key": b64("k"), "value": b64("x" * size)})
    yield gateway.post(TXN, txn(put_op("k", "x" * (limit // 2)), put_op("l", "x" * (limit // 2))))
    yield gateway.post(RANGE, range_("k", "k" * (limit + 64)))
    yield gateway.post(PUT, {"key": b64("k"), "value": b64("x" * (2 * 1024 * 1024 - 64))})
    answer = gateway.post(PUT, {"key": b64("k"), "value": b64("x" * (3 * 1024 * 1024))})
    yield answer.status, answer.json["code"], answer.json["message"].split(" (")[0]


@probe
def metadata_comes_in_headers(gateway: Gateway, base: int) -> Iterator[Any]:
    for headers in (
        {"Grpc-Timeout": "5S"},
        {"Grpc-Timeout": "5000m"},
        {"Grpc-Timeout": "1n"},
        {"Grpc-Timeout": "5X"},
        {"Grpc-Timeout": "S"},
        {"Grpc-Timeout": ""},
        {"Grpc-Timeout": "-5S"},
        {"Grpc-Timeout": "0S"},
        {"Grpc-Metadata-hasleader": "true"},
        {"Content-Type": "text/plain"},
    ):
        yield gateway.post(RANGE, range_("k"), headers=headers)


@probe
def an_expired_request_changes_nothing(gateway: Gateway, base: int) -> Iterator[Any]:
    for timeout in ("-1S", "0S", "0n"):
        yield gateway.post(PUT, put("k"), headers={"Grpc-Timeout": timeout})
    yield gateway.post(RANGE, range_("\0", "\0"))


@probe
def paths_and_methods_have_their_answers(gateway: Gateway, base: int) -> Iterator[Any]:
    for method in ("GET", "PUT", "DELETE", "OPTIONS", "HEAD"):
        for path in (PUT, WATCH, KEEPALIVE, "/v3/nothing", "/v3alpha/kv/put", "/nothing", "/"):
            yield plain(gateway.send(method, path, b"{}" if method == "PUT" else None))
    for path in (
        "/v3/nothing",
        "/v3/kv/put/",
        "/v3alpha/kv/put",
        "/v3/kv/lease/grant",
        "/v3/kv/lease/keepalive",
    ):
        yield plain(gateway.send("POST", path, b"{}"))
    for path in ("/v3beta/kv/put", "/v3/kv/put?query=ignored"):
        yield gateway.post(path, put("k"))
    for path in ("/version", "/health"):
        yield plain(gateway.get(path))
        yield plain(gateway.send("POST", path, b""))
    yield plain(gateway.get("/health?serializable=true"))


def plain(answer: Answer) -> list[Any]:
    """Everything about an answer but its date."""
    headers = {name: value for name, value in answer.headers.items() if name != "date"}
    return [answer.status, sorted(headers.items()), answer.body.decode()]


@probe
def answers_carry_the_gateways_headers(gateway: Gateway, base: int) -> Iterator[Any]:
    for path, message in ((PUT, put("k")), (RANGE, range_("k")), (PUT, put("")), (LEASES, {})):
        answer = gateway.post(path, message)
        yield sorted(
            (name, value) for name, value in answer.headers.items() if name not in ("date", "content-length")
        )
    with gateway.stream(WATCH, create("k")) as stream:
        stream.result()
        yield stream.status, sorted((name, value) for name, value in stream.headers.items() if name != "date")


# --- section 11: the cluster ----------------------------------------------------------------------------


@probe
def members_and_status_have_their_fields(gateway: Gateway, base: int) -> Iterator[Any]:
    for message in ({}, {"linearizable": True}):
        answer = gateway.ok("/v3/cluster/member/list", message)
        yield list(answer), list(answer["header"]), [list(member) for member in answer["members"]]
        (member,) = answer["members"]
        assert member["clientURLs"] == [gateway.url]
        assert member["ID"] == answer["header"]["member_id"]
    status = gateway.ok("/v3/maintenance/status")
    yield list(status), list(status["header"]), status["version"]
    assert status["leader"] == status["header"]["member_id"]


@pytest.mark.parametrize("name", PROBES)
def test_ours_answers_as_etcd_does(name: str, oracle: Gateway, ours: Gateway) -> None:
    assert heard(ours, PROBES[name]) == heard(oracle, PROBES[name])
