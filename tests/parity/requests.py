"""Request sequences for Hypothesis to draw: small alphabets, so that requests meet each other often.

The allow-list, that is what is never drawn because the two stores may differ by right:

* a sort target beyond the known numbers: etcd 3.5.1 ends its process over it, later ones and ours refuse it;
* a limit with a target other than KEY but no order: etcd cuts before it sorts there, a quirk nobody can use;
* more than eleven keys: then etcd's sort leaves ties in no particular order, ours by key;
* leases short enough to expire: when exactly is a matter of clocks, not of answers;
* the order of a lease's keys, and of leases: none is promised, so both are sorted before comparing;
* what a watch from exactly the compacted revision sees of a deletion there (see replay.py).
"""

from typing import Any

from hypothesis import strategies as st

from tests.gateway import b64
from tests.parity.replay import At, Call, Step, Watch

KEYS = [b"a", b"a\0", b"ab", b"b", b"c", b"d", b"\0", b"\xff", b"\xff\xff"]
VALUES = [b"", b"1", b"2", b"10", b"\0", b"\xff"]
LEASES = [11, 12]
UNKNOWN_LEASE = 99


def _weighted(*choices: tuple[int, st.SearchStrategy[Any]]) -> st.SearchStrategy[Any]:
    """One of the strategies, by weight (one_of merges equal ones)."""
    return st.sampled_from([strategy for weight, strategy in choices for _ in range(weight)]).flatmap(
        lambda chosen: chosen
    )


def _often(value: Any, *others: Any) -> st.SearchStrategy[Any]:
    """`value` about three times in four, since the default is the common case."""
    return st.sampled_from([value] * 3 * len(others) + list(others))


def _message(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """A message with the fields that did not come out as None."""
    return st.fixed_dictionaries(fields).map(
        lambda drawn: {name: value for name, value in drawn.items() if value is not None}
    )


key = st.sampled_from([b64(key) for key in KEYS])
maybe_no_key = st.sampled_from([b64(key) for key in KEYS] * 8 + [""])
value = st.sampled_from([b64(value) for value in VALUES])
range_end = st.sampled_from([None] * 5 + [b64(end) for end in [*KEYS, b"b\0", b"e"]])
flag = _often(None, True)
revision = st.integers(-2, 14).map(At)
maybe_revision = _weighted((3, st.none()), (1, revision))
lease = _often(None, *LEASES, UNKNOWN_LEASE)

put = _message(
    key=maybe_no_key,
    value=value,
    lease=lease,
    prev_kv=flag,
    ignore_value=st.sampled_from([None] * 9 + [True]),
    ignore_lease=st.sampled_from([None] * 9 + [True]),
)
# With ignore_value no value may be given: most of those would only ever be refused.
put = _weighted(
    (1, put), (2, put.map(lambda message: {**message, "value": ""} if "ignore_value" in message else message))
)
delete = _message(key=maybe_no_key, range_end=range_end, prev_kv=flag)


@st.composite
def _range(draw: st.DrawFn) -> dict[str, Any]:
    message = draw(
        _message(
            key=maybe_no_key,
            range_end=range_end,
            limit=_often(None, 1, 2, 3, -1, 0),
            revision=maybe_revision,
            sort_order=_often(None, "NONE", "ASCEND", "DESCEND", 1, 2),
            sort_target=_often(None, "KEY", "VERSION", "CREATE", "MOD", "VALUE", 3),
            serializable=flag,
            keys_only=flag,
            count_only=flag,
            min_mod_revision=_often(None, At(1), At(3), At(5)),
            max_mod_revision=_often(None, At(2), At(4), At(6)),
            min_create_revision=_often(None, At(1), At(3)),
            max_create_revision=_often(None, At(2), At(4)),
        )
    )
    unordered = message.get("sort_order", "NONE") == "NONE"
    if unordered and message.get("sort_target", "KEY") != "KEY":
        message.pop("limit", None)
    return message


range_ = _range()

_OPERANDS: dict[str, tuple[str, st.SearchStrategy[Any]]] = {
    "VERSION": ("version", st.integers(0, 3)),
    "CREATE": ("create_revision", st.one_of(st.just(0), revision)),
    "MOD": ("mod_revision", st.one_of(st.just(0), revision)),
    "VALUE": ("value", value),
    "LEASE": ("lease", st.sampled_from([0, *LEASES])),
}


@st.composite
def _compare(draw: st.DrawFn) -> dict[str, Any]:
    target = draw(st.sampled_from(list(_OPERANDS)))
    field, operand = _OPERANDS[target]
    return draw(
        _message(
            key=maybe_no_key,
            range_end=_weighted((2, st.none()), (1, range_end)),
            target=st.just(target),
            result=st.sampled_from(["EQUAL", "GREATER", "LESS", "NOT_EQUAL", None]),
            **{field: _weighted((5, operand), (1, st.none()))},
        )
    )


def _txn(depth: int) -> st.SearchStrategy[dict[str, Any]]:
    kinds = {"request_range": range_, "request_put": put, "request_delete_range": delete}
    if depth:
        kinds["request_txn"] = _txn(depth - 1)
    op = st.one_of(
        *(strategy.map(lambda message, kind=kind: {kind: message}) for kind, strategy in kinds.items())
    )
    ops = st.lists(_weighted((40, op), (1, st.just({}))), max_size=3)
    reads = st.lists(range_.map(lambda message: {"request_range": message}), max_size=2)
    compare = st.lists(_compare(), max_size=2)
    return _weighted(
        (3, st.fixed_dictionaries({"compare": compare, "success": ops, "failure": ops})),
        (1, st.fixed_dictionaries({"compare": compare, "success": reads, "failure": reads})),
    )


txn = _txn(depth=2)

watch = _message(
    key=_weighted((9, key), (1, st.none())),
    range_end=range_end,
    start_revision=_weighted((1, st.none()), (2, st.integers(-1, 12).map(At))),
    prev_kv=flag,
    filters=_often(None, ["NOPUT"], ["NODELETE"], [1]),
    fragment=flag,
)
# Each lease contends for a name of its own, or the sequence would wait for itself.
_contended = {lease: b64(f"e{lease}") for lease in (*LEASES, UNKNOWN_LEASE)}
contender = st.sampled_from([{"name": name, "lease": lease} for lease, name in _contended.items()])
leader = st.sampled_from(
    [{"name": name, "lease": lease, "key": b64(f"e{lease}/{lease:x}")} for lease, name in _contended.items()]
)
led = st.fixed_dictionaries(
    {"leader": st.tuples(leader, revision).map(lambda drawn: {**drawn[0], "rev": drawn[1]})}
)
lease_id = st.sampled_from([*LEASES, *LEASES, UNKNOWN_LEASE])


def _calls(path: str, message: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[Step]:
    return message.map(lambda drawn: Call(path, drawn))


step: st.SearchStrategy[Step] = _weighted(
    (5, _calls("/v3/kv/put", put)),
    (4, _calls("/v3/kv/range", range_)),
    (2, _calls("/v3/kv/deleterange", delete)),
    (5, _calls("/v3/kv/txn", txn)),
    (1, _calls("/v3/lease/grant", _message(ID=st.sampled_from(LEASES), TTL=st.sampled_from([600, 900])))),
    (1, _calls("/v3/lease/revoke", _message(ID=lease_id))),
    (1, _calls("/v3/kv/lease/timetolive", _message(ID=lease_id, keys=flag))),
    (1, _calls("/v3/lease/keepalive", _message(ID=lease_id))),
    (1, _calls("/v3/lease/leases", st.just({}))),
    (1, _calls("/v3/kv/compaction", _message(revision=st.integers(-1, 12).map(At), physical=st.just(True)))),
    (1, _calls("/v3/lock/lock", contender)),
    (1, _calls("/v3/lock/unlock", leader.map(lambda held: {"key": held["key"]}))),
    (2, _calls("/v3/election/campaign", st.tuples(contender, value).map(lambda c: {**c[0], "value": c[1]}))),
    (1, _calls("/v3/election/proclaim", st.tuples(led, value).map(lambda c: {**c[0], "value": c[1]}))),
    (1, _calls("/v3/election/resign", led)),
    (1, _calls("/v3/election/leader", contender.map(lambda drawn: {"name": drawn["name"]}))),
    (2, watch.map(Watch)),
)

# A sequence that starts empty finds little to disagree about: some keys and a lease are there from the start.
_SEEDED: list[Step] = [
    Call("/v3/lease/grant", {"ID": 11, "TTL": 600}),
    Call("/v3/kv/put", {"key": b64(b"a"), "value": b64(b"1"), "lease": 11}),
    Call("/v3/kv/put", {"key": b64(b"b"), "value": b64(b"2")}),
    Call("/v3/kv/put", {"key": b64(b"a"), "value": b64(b"10")}),
    Call("/v3/kv/put", {"key": b64(b"c"), "value": b64(b"1"), "lease": 11}),
]
sequence: st.SearchStrategy[list[Step]] = st.tuples(
    st.sampled_from([5, 5, 5, 0]), st.lists(step, min_size=4, max_size=14)
).map(lambda drawn: [*_SEEDED[: drawn[0]], *drawn[1]])
