"""JSON requests on every path: what is no request of it is refused in etcd's form, and the node goes on."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobguard_store.api.exchange import Objects
from jobguard_store.api.server import STREAMING, UNARY
from tests.fuzz.conftest import Victim
from tests.fuzz.garbage import ODD_VALUES, damaged, fuzzed, in_pieces, odd_documents
from tests.fuzz.test_http import statuses
from tests.gateway import Answer, Gateway
from tests.messages import compare, create, delete, delete_op, put, put_op, range_, range_op, txn, txn_op

# One request of each kind, with as many of its fields as go together.
ASKED: dict[str, dict[str, Any]] = {
    "/kv/put": put("json", "v", prev_kv=True, lease=0),
    "/kv/range": range_(
        "json", "jsoo", limit=1, revision=0, sort_order="NONE", sort_target=0, serializable=True
    ),
    "/kv/deleterange": delete("json", "jsoo", prev_kv=True),
    "/kv/txn": txn(
        put_op("json/1", "v"),
        range_op("json"),
        txn_op(delete_op("json/2")),
        failure=(range_op("json"),),
        compare=(compare("json", "VERSION", version=1), compare("json", "VALUE", value="")),
    ),
    "/kv/compaction": {"revision": 1, "physical": True},
    "/lease/grant": {"TTL": 60, "ID": 0},
    "/lease/revoke": {"ID": 1},
    "/kv/lease/revoke": {"ID": 1},
    "/lease/timetolive": {"ID": 1, "keys": True},
    "/kv/lease/timetolive": {"ID": 1, "keys": True},
    "/lease/leases": {},
    "/kv/lease/leases": {},
    "/cluster/member/list": {"linearizable": True},
    "/cluster/member/add": {"peerURLs": ["no url"], "isLearner": True},
    "/cluster/member/remove": {"ID": 1},
    "/cluster/member/promote": {"ID": 1},
    "/cluster/member/update": {"ID": 1, "peerURLs": ["http://127.0.0.1:1"]},
    "/maintenance/alarm": {"action": "GET", "memberID": 1, "alarm": "NONE"},
    "/maintenance/hashkv": {"revision": 0},
    "/maintenance/status": {},
    "/maintenance/transfer-leadership": {"targetID": 1},
    "/lock/lock": {"name": "anNvbg==", "lease": 1},
    "/lock/unlock": {"key": "anNvbg=="},
    "/election/campaign": {"name": "anNvbg==", "lease": 1, "value": "dg=="},
    "/election/proclaim": {"leader": {"name": "anNvbg==", "key": "aw==", "rev": 1}, "value": "dg=="},
    "/election/leader": {"name": "anNvbg=="},
    "/election/resign": {"leader": {"name": "anNvbg==", "key": "aw==", "rev": 1}},
    "/watch": create("json", "jsoo", start_revision=0, filters=["NOPUT"], prev_kv=True, watch_id=0),
    "/lease/keepalive": {"ID": 1},
}
WAITS = ("/lock/lock", "/election/campaign")  # for whoever has it, as long as that takes
STATUSES = (200, 400, 404, 429, 503, 504)
paths = st.sampled_from(sorted(UNARY))


def asked(path: str) -> dict[str, Any]:
    return ASKED.get(path.removeprefix("/v3beta").removeprefix("/v3"), {})


def bodies(path: str) -> st.SearchStrategy[bytes]:
    valid = st.just(json.dumps(asked(path)).encode())
    return st.one_of(
        odd_documents(asked(path)), odd_documents(asked(path)), damaged(valid), st.binary(max_size=40)
    )


def refused_as_unknown(answer: Answer) -> bool:
    """Of a lock or an election, with the code etcd has for it. One nobody expected has none."""
    return answer.status == 500 and answer.body.startswith(b"{") and answer.error[1] == 2


@pytest.fixture(scope="module")
def gateway(victim: Victim) -> Any:
    with Gateway(victim.inside.url) as gateway:
        yield gateway


@given(data=st.data())
@fuzzed(500, shrink=False)
def test_every_path_refuses_what_is_no_request_of_it(
    victim: Victim, gateway: Gateway, data: st.DataObject
) -> None:
    path = data.draw(paths)
    body = data.draw(bodies(path))
    answer = gateway.post(path, body, headers={"Grpc-Timeout": "1S"} if path.endswith(WAITS) else None)
    assert answer.status in STATUSES or refused_as_unknown(answer), (path, body, answer)
    if answer.status == 200:
        assert isinstance(answer.json, dict)
    else:
        _, code, text = answer.error
        assert code
        assert text
    victim.is_well()


@pytest.mark.parametrize("path", sorted(path for path in UNARY if path.startswith("/v3/")))
def test_every_path_meets_every_odd_value(victim: Victim, gateway: Gateway, path: str) -> None:
    names = asked(path) or {"ID": 1}
    for body in (*ODD_VALUES, *(b'{"%b":%b}' % (n.encode(), odd) for n in names for odd in ODD_VALUES)):
        answer = gateway.post(path, body, headers={"Grpc-Timeout": "1S"} if path.endswith(WAITS) else None)
        assert answer.status in STATUSES or refused_as_unknown(answer), (path, body[:100], answer)
        assert isinstance(answer.json, dict)
    victim.is_well()


@given(path=st.sampled_from(sorted(STREAMING)), data=st.data())
@fuzzed(60, shrink=False)
def test_streams_end_with_what_is_no_request(victim: Victim, path: str, data: st.DataObject) -> None:
    body = data.draw(bodies(path)) + data.draw(bodies(path))
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    said, _ = victim.hear(head, *in_pieces(body, data.draw(st.lists(st.integers(0, 500), max_size=3))))
    assert not set(statuses(said)) - {200, 400, 404, 429, 500}, (body, said)
    assert b"\r\n\r\nInternal Server Error" not in said, "of which nobody knew"
    victim.is_well()


@given(
    st.lists(
        st.recursive(st.text(max_size=5), lambda inner: st.dictionaries(st.text(max_size=3), inner)),
        max_size=5,
    ),
    st.lists(st.integers(0, 500)),
)
@fuzzed(200)
def test_a_stream_of_objects_is_cut_into_them_wherever_it_is_cut(values: list[Any], cuts: list[int]) -> None:
    documents = [{"v": value, "l": [value, '\\"{[']} for value in values]
    stream = b" \n".join(json.dumps(each, ensure_ascii=False).encode() for each in documents)
    objects = Objects()
    found = [each for piece in in_pieces(stream, cuts) for each in objects.feed(piece)]
    assert [json.loads(each) for each in found] == documents
    assert not objects.rest
