"""Request sequences for Hypothesis to draw: small alphabets, so that requests meet each other often.

The allow-list, that is what is never drawn because the two stores may differ by right:

* a sort target beyond the known numbers: etcd 3.5.1 ends its process over it, later ones and ours refuse it;
* a number that names no value of an enum: etcd 3.5.1 goes on, a compare even holds; ours refuses it;
* bytes as an array of numbers, which Go's reader takes for base64, and "null" as a string, for a number;
* the id of a member at or above 2^63: ours draws none such, and refuses it as a number it cannot read;
* a txn within a txn, none of which writes, under a CORRUPT alarm: ours takes it for the read it is;
* the redirect of /v3 to /v3/, where nothing is;
* a limit with a target other than KEY but no order: etcd cuts before it sorts there, a quirk nobody can use;
* more than eleven keys: then etcd's sort leaves ties in no particular order, ours by key;
* leases short enough to expire: when exactly is a matter of clocks, not of answers;
* the order of a lease's keys, and of leases: none is promised, so both are sorted before comparing;
* the words of a JSON parser, and what a file or a clock decides: sizes, hashes, addresses (see replay.py);
* what a watch from exactly the compacted revision sees of a deletion there (see replay.py).
"""

import copy
import json
import re
from dataclasses import replace
from itertools import chain
from typing import Any

from hypothesis import strategies as st

from tests.gateway import b64
from tests.parity.replay import At, Call, Step, Watch

KEYS = [b"a", b"a\0", b"ab", b"b", b"c", b"d", b"\0", b"\xff", b"\xff\xff"]
VALUES = [b"", b"1", b"2", b"10", b"\0", b"\xff"]
LEASES = [11, 12]
UNKNOWN_LEASE = 99


def weighted(*choices: tuple[int, st.SearchStrategy[Any]]) -> st.SearchStrategy[Any]:
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
maybe_revision = weighted((3, st.none()), (1, revision))
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
put = weighted(
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
            range_end=weighted((2, st.none()), (1, range_end)),
            target=st.just(target),
            result=st.sampled_from(["EQUAL", "GREATER", "LESS", "NOT_EQUAL", None]),
            **{field: weighted((5, operand), (1, st.none()))},
        )
    )


def _txn(depth: int) -> st.SearchStrategy[dict[str, Any]]:
    kinds = {"request_range": range_, "request_put": put, "request_delete_range": delete}
    if depth:
        kinds["request_txn"] = _txn(depth - 1)
    op = st.one_of(
        *(strategy.map(lambda message, kind=kind: {kind: message}) for kind, strategy in kinds.items())
    )
    ops = st.lists(weighted((40, op), (1, st.just({}))), max_size=3)
    reads = st.lists(range_.map(lambda message: {"request_range": message}), max_size=2)
    compare = st.lists(_compare(), max_size=2)
    return weighted(
        (3, st.fixed_dictionaries({"compare": compare, "success": ops, "failure": ops})),
        (1, st.fixed_dictionaries({"compare": compare, "success": reads, "failure": reads})),
    )


watch = _message(
    key=weighted((9, key), (1, st.none())),
    range_end=range_end,
    start_revision=weighted((1, st.none()), (2, st.integers(-1, 12).map(At))),
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


def _call(path: str, message: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[Call]:
    return message.map(lambda drawn: Call(path, drawn))


def _either(*paths: str, message: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[Call]:
    return st.tuples(st.sampled_from(paths), message).map(lambda drawn: Call(*drawn))


_nothing: st.SearchStrategy[dict[str, Any]] = st.just({})
_version = st.sampled_from([None, "", "x", "3.5", "3.5.1", "3.6.0", "3.3.0", "4.0.0"])
_downgrade = _message(action=st.sampled_from([None, "VALIDATE", "ENABLE", "CANCEL", 2]), version=_version)
# What etcd 3.5.1 validates, one minor version back, is refused by ours (and by the rules of the API, 11).
_downgrade = _downgrade.filter(
    lambda drawn: drawn.get("action") == "CANCEL" or drawn.get("version") != "3.4.0"
)


def _keys_and_values(depth: int) -> st.SearchStrategy[Call]:
    return weighted(
        (5, _call("/v3/kv/put", put)),
        (4, _call("/v3/kv/range", range_)),
        (2, _call("/v3/kv/deleterange", delete)),
        (5, _call("/v3/kv/txn", _txn(depth))),
    )


leases = weighted(
    (2, _call("/v3/lease/grant", _message(ID=st.sampled_from(LEASES), TTL=st.sampled_from([600, 900])))),
    (1, _either("/v3/lease/revoke", "/v3/kv/lease/revoke", message=_message(ID=lease_id))),
    (
        2,
        _either("/v3/lease/timetolive", "/v3/kv/lease/timetolive", message=_message(ID=lease_id, keys=flag)),
    ),
    (1, _call("/v3/lease/keepalive", _message(ID=lease_id))),
    (1, _either("/v3/lease/leases", "/v3/kv/lease/leases", message=_nothing)),
)
compaction = _call(
    "/v3/kv/compaction", _message(revision=st.integers(-1, 12).map(At), physical=st.just(True))
)
recipes = weighted(
    (1, _call("/v3/lock/lock", contender)),
    (1, _call("/v3/lock/unlock", leader.map(lambda held: {"key": held["key"]}))),
    (2, _call("/v3/election/campaign", st.tuples(contender, value).map(lambda c: {**c[0], "value": c[1]}))),
    (1, _call("/v3/election/proclaim", st.tuples(led, value).map(lambda c: {**c[0], "value": c[1]}))),
    (1, _call("/v3/election/resign", led)),
    (1, _call("/v3/election/leader", contender.map(lambda drawn: {"name": drawn["name"]}))),
)
upkeep = weighted(
    (1, _call("/v3/cluster/member/list", _message(linearizable=flag))),
    (1, _call("/v3/cluster/member/remove", _message(ID=st.sampled_from([None, 5, "7"])))),
    (1, _call("/v3/cluster/member/promote", _message(ID=st.sampled_from([None, 5, "7"])))),
    (1, _call("/v3/maintenance/status", _nothing)),
    (1, _call("/v3/maintenance/hash", _nothing)),
    (1, _call("/v3/maintenance/defragment", _nothing)),
    (1, _call("/v3/maintenance/transfer-leadership", _message(targetID=st.sampled_from([None, 5])))),
    (1, _call("/v3/maintenance/downgrade", _downgrade)),
    (1, _call("/v3/auth/status", _nothing)),
)


# --- the same requests, said in other words or in none that mean anything -----------------------------


def _renamed(message: Any) -> Any:
    """Every field by its other name: range_end as rangeEnd."""
    match message:
        case dict():
            return {
                _CAMEL.sub(lambda c: c[1].upper(), name): _renamed(item) for name, item in message.items()
            }
        case list():
            return list(map(_renamed, message))
        case _:
            return message


_CAMEL = re.compile("_([a-z])")
_UNKNOWN = [{"unknown": 1}, {"unknown": {"key": [None, {"a": "b"}]}}, {"": ""}, {"KEY": "YQ=="}]
_ODD: list[Any] = json.loads("""[
    null, true, false, "true", 0, 1, -1, 1.0, 1.5, -0.0, 1e3, 2147483648,
    9223372036854775807, 9223372036854775808, -9223372036854775808, -9223372036854775809,
    "0", "1", "-1", "-0", "+1", "01", "1.0", "1e3", "0x1", " 1", "1 ", "NaN", "9223372036854775808",
    "", "x", "YQ", "YQ==", "Y\\nQ==", "YQ===", "YR==", "-_8=", "+/8=",
    "ASCEND", "ascend", "KEY", "PUT", ["YQ=="], [[]], {}, {"key": "YQ=="}
]""")
_ENUMS = {"sort_order", "target", "result"}
_ODD_NAMES = [odd for odd in _ODD if isinstance(odd, bool) or not isinstance(odd, int)]
# What may be drawn for these would wait, expire, be drawn by the server, or end etcd's process.
_LEFT_ALONE = {"TTL", "ID", "name", "lease", "sort_target", "action", "physical"}


def _places(message: Any) -> list[tuple[Any, str]]:
    """Every field of it, as the dict that has it and its name."""
    match message:
        case dict():
            own = [(message, name) for name in message if name not in _LEFT_ALONE]
            return own + [place for item in message.values() for place in _places(item)]
        case list():
            return [place for item in message for place in _places(item)]
        case _:
            return []


@st.composite
def _odd(draw: st.DrawFn, calls: st.SearchStrategy[Call]) -> Call:
    """One field's value is of some other kind, or there is a field nobody knows."""
    call = draw(calls)
    message = copy.deepcopy(call.message)
    places = _places(message)
    if not places or draw(st.integers(0, 9)) == 0:
        return replace(call, message={**message, **draw(st.sampled_from(_UNKNOWN))})
    owner, name = draw(st.sampled_from(places))
    owner[name] = draw(st.sampled_from(_ODD_NAMES if name in _ENUMS else _ODD))
    return replace(call, message=message)


@st.composite
def _torn(draw: st.DrawFn, calls: st.SearchStrategy[Call]) -> Call:
    """Too short, or with something behind, which is not read."""
    tail = st.sampled_from([b"", b"", b"}", b" {}", b"junk", b"\xff", b"\n"])
    return replace(draw(calls), cut=draw(st.integers(0, 6)), tail=draw(tail))


_BODIES = [
    line.encode()
    for line in r"""
{}
null
[]
1
true
"x"
{
{]
{'key':1}
{"key":}
{"key":"YQ==",}
{"key":"YQ==" "value":""}
{"key":"\u0059Q=="}
{"key":"YQ==","key":"Yg=="}
{"key":"YQ==","range_end":"Yg==","rangeEnd":"AA=="}
{"key":"YQ==","limit":01}
{"key":"Y\nQ=="}
""".splitlines()
]
_BODIES += [b" ", b"\xff", b"\xef\xbb\xbf{}"]
_PATHS = [
    "kv/put",
    "kv/range",
    "kv/deleterange",
    "kv/txn",
    "lease/revoke",
    "lease/keepalive",
    "kv/lease/leases",
]
_anything = st.builds(
    lambda path, body: Call(f"/v3/{path}", body), st.sampled_from(_PATHS), st.sampled_from(_BODIES)
)
_HEADERS = [
    ("Grpc-Timeout", "30S"),
    ("Grpc-Timeout", "30000m"),
    ("Grpc-Timeout", "1H"),
    ("Grpc-Timeout", "5X"),
    ("Grpc-Timeout", ""),
    ("Grpc-Timeout", "S"),
    ("Grpc-Timeout", "-1S"),
    ("Grpc-Metadata-hasleader", "true"),
    ("Grpc-Metadata-Hasleader", "false"),
    ("Grpc-Metadata-anything", "at all"),
    ("Content-Type", "text/plain"),
    ("Accept", "text/html"),
    ("Origin", "http://elsewhere.example"),
]
_elsewhere = st.builds(
    Call,
    st.sampled_from(
        ["/v3/nothing", "/v3alpha/kv/put", "/v3/kv/put/", "/v3/kv/lease/grant", "/v3/kv", "/nothing"]
    ),
    _nothing,
    st.sampled_from(["GET", "POST", "PUT", "DELETE", "OPTIONS"]),
)


def _worded(calls: st.SearchStrategy[Call]) -> st.SearchStrategy[Call]:
    """Calls, one in four of them in other words."""
    return weighted(
        (18, calls),
        (1, calls.map(lambda call: replace(call, message=_renamed(call.message)))),
        (2, _odd(calls)),
        (1, _torn(calls)),
        (1, calls.map(lambda call: replace(call, path=call.path.replace("/v3/", "/v3beta/")))),
        (
            1,
            st.builds(
                lambda call, header: replace(call, headers=(header,)), calls, st.sampled_from(_HEADERS)
            ),
        ),
        (1, calls.map(lambda call: replace(call, path=f"{call.path}?query=1"))),
    )


call = weighted(
    (13, _worded(_keys_and_values(depth=2))),
    (4, _worded(leases)),
    (1, _worded(compaction)),
    (4, _worded(recipes)),
    (1, _worded(upkeep)),
    (1, _anything),
    (1, _elsewhere),
)


@st.composite
def _alarmed(draw: st.DrawFn) -> list[Step]:
    """Some calls under an alarm."""
    alarm = {"memberID": 42, "alarm": draw(st.sampled_from(["NOSPACE", "CORRUPT", 1, 2]))}
    under = draw(st.lists(weighted((4, _keys_and_values(depth=0)), (2, leases), (1, recipes)), max_size=8))
    path = "/v3/maintenance/alarm"
    asked = draw(
        st.lists(_message(action=st.just("GET"), alarm=_often(None, "NOSPACE", "CORRUPT")), max_size=1)
    )
    return [
        Call(path, {**alarm, "action": "ACTIVATE"}),
        *under,
        *(Call(path, each) for each in asked),
        Call(path, {**alarm, "action": "DEACTIVATE"}),
    ]


steps: st.SearchStrategy[list[Step]] = weighted(
    (60, call.map(lambda drawn: [drawn])), (1, watch.map(lambda drawn: [Watch(drawn)])), (1, _alarmed())
)

# A sequence that starts empty finds little to disagree about: some keys and a lease are there from the start.
_SEEDED: list[Step] = [
    Call("/v3/lease/grant", {"ID": 11, "TTL": 600}),
    Call("/v3/kv/put", {"key": b64(b"a"), "value": b64(b"1"), "lease": 11}),
    Call("/v3/kv/put", {"key": b64(b"b"), "value": b64(b"2")}),
    Call("/v3/kv/put", {"key": b64(b"a"), "value": b64(b"10")}),
    Call("/v3/kv/put", {"key": b64(b"c"), "value": b64(b"1"), "lease": 11}),
]


def _sequence(longest: int) -> st.SearchStrategy[list[Step]]:
    # Hypothesis has lists near their shortest, unless their length is drawn.
    drawn = st.integers(4, longest).flatmap(lambda length: st.lists(steps, min_size=length, max_size=length))
    return st.tuples(st.sampled_from([5, 5, 5, 0]), drawn).map(
        lambda drawn: [*_SEEDED[: drawn[0]], *chain.from_iterable(drawn[1])]
    )


sequence = _sequence(14)
long_sequence = _sequence(60)


# --- several clients at once --------------------------------------------------------------------------


def _whenever(message: Any) -> Any:
    """Without what makes a refusal depend on when it comes, for it does not say when that was."""
    match message:
        case dict():
            when = ("revision", "ignore_value", "ignore_lease", "serializable")
            kept = {name: _whenever(item) for name, item in message.items() if name not in when}
            return kept | {"lease": LEASES[0]} if kept.get("lease") == UNKNOWN_LEASE else kept
        case list():
            return list(map(_whenever, message))
        case _:
            return message


_at_once = _keys_and_values(depth=1).map(lambda call: replace(call, message=_whenever(call.message)))
crowd: st.SearchStrategy[list[list[Call]]] = st.lists(
    st.integers(1, 10).flatmap(lambda length: st.lists(_at_once, min_size=length, max_size=length)),
    min_size=2,
    max_size=5,
)
writes = weighted(
    (3, _call("/v3/kv/put", put)), (2, _call("/v3/kv/deleterange", delete)), (2, _call("/v3/kv/txn", _txn(1)))
).map(lambda call: replace(call, message=_whenever(call.message)))
BEFORE_THE_CROWD: list[Step] = [Call("/v3/lease/grant", {"ID": 12, "TTL": 600}), *_SEEDED]
