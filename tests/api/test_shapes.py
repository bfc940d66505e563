"""The exact documents of the API, written out once, so that a reader sees them and a change shows."""

import json
from typing import Any

import pytest

from tests.gateway import Gateway, b64
from tests.messages import (
    COMPACTION,
    DELETE,
    GRANT,
    KEEPALIVE,
    LEASES,
    PUT,
    RANGE,
    REVOKE,
    TIME_TO_LIVE,
    TXN,
    compare,
    delete,
    put,
    put_op,
    range_,
    range_op,
    txn,
    txn_op,
)
from tests.stores import eventually


@pytest.fixture
def header(gateway: Gateway) -> Any:
    """Makes the header of an answer, `ahead` revisions after the test's beginning."""
    first = gateway.ok(RANGE, range_("-"))["header"]

    def made(ahead: int) -> dict[str, str]:
        return {**first, "revision": str(int(first["revision"]) + ahead)}

    return made


def text(gateway: Gateway, path: str, message: object) -> str:
    answer = gateway.post(path, message)
    assert answer.status == 200, answer
    return answer.body.decode()


def compact_json(document: object) -> str:
    return json.dumps(document, separators=(",", ":"))


def test_numbers_are_strings_and_zeros_are_left_out(gateway: Gateway, header: Any) -> None:
    at = {ahead: header(ahead)["revision"] for ahead in range(4)}
    assert text(gateway, PUT, put("k")) == compact_json({"header": header(1)})
    assert text(gateway, RANGE, range_("k")) == compact_json(
        {
            "header": header(1),
            "kvs": [{"key": b64("k"), "create_revision": at[1], "mod_revision": at[1], "version": "1"}],
            "count": "1",
        }
    )
    assert text(gateway, PUT, put("k", "v", prev_kv=True)) == compact_json(
        {
            "header": header(2),
            "prev_kv": {"key": b64("k"), "create_revision": at[1], "mod_revision": at[1], "version": "1"},
        }
    )
    assert text(gateway, RANGE, range_("none")) == compact_json({"header": header(2)})
    gateway.put("l", "w")
    assert text(gateway, RANGE, range_("k", "z", limit=1)) == compact_json(
        {
            "header": header(3),
            "kvs": [
                {
                    "key": b64("k"),
                    "create_revision": at[1],
                    "mod_revision": at[2],
                    "version": "2",
                    "value": b64("v"),
                }
            ],
            "more": True,
            "count": "2",
        }
    )
    assert text(gateway, RANGE, range_("k", "z", count_only=True)) == compact_json(
        {"header": header(3), "count": "2"}
    )


def test_a_deletion(gateway: Gateway, header: Any) -> None:
    gateway.put("k", "v")
    at = header(1)["revision"]
    assert text(gateway, DELETE, delete("none")) == compact_json({"header": header(1)})
    assert text(gateway, DELETE, delete("k", prev_kv=True)) == compact_json(
        {
            "header": header(2),
            "deleted": "1",
            "prev_kvs": [
                {
                    "key": b64("k"),
                    "create_revision": at,
                    "mod_revision": at,
                    "version": "1",
                    "value": b64("v"),
                }
            ],
        }
    )


def test_a_txn_nests_answers_as_it_nests_requests(gateway: Gateway, header: Any) -> None:
    at = {"revision": header(1)["revision"]}
    asked = txn(
        put_op("k", "v"),
        range_op("k", keys_only=True),
        txn_op(compare=(compare("none", "VALUE", "NOT_EQUAL"),)),
        compare=(compare("k", "CREATE", create_revision=0),),
    )
    pair = {
        "key": b64("k"),
        "create_revision": at["revision"],
        "mod_revision": at["revision"],
        "version": "1",
    }
    assert text(gateway, TXN, asked) == compact_json(
        {
            "header": header(1),
            "succeeded": True,
            "responses": [
                {"response_put": {"header": at}},
                {"response_range": {"header": at, "kvs": [pair], "count": "1"}},
                {"response_txn": {"header": {}}},
            ],
        }
    )
    assert text(gateway, TXN, asked) == compact_json({"header": header(1)})


def test_a_compaction(gateway: Gateway, header: Any) -> None:
    gateway.put("k")
    revision = header(1)["revision"]
    assert text(gateway, COMPACTION, {"revision": revision}) == compact_json({"header": header(1)})
    refused = (400, 11, "etcdserver: mvcc: required revision has been compacted")
    assert gateway.post(COMPACTION, {"revision": revision}).error == refused
    assert gateway.post(RANGE, range_("k", revision=int(revision) - 1)).error == refused


def test_leases(gateway: Gateway, header: Any) -> None:
    assert text(gateway, GRANT, {"TTL": 60, "ID": 7}) == compact_json(
        {"header": header(0), "ID": "7", "TTL": "60"}
    )
    gateway.put("k", lease=7)
    assert text(gateway, KEEPALIVE, {"ID": 7}) == (
        compact_json({"result": {"header": header(1), "ID": "7", "TTL": "60"}}) + "\n"
    )
    told = gateway.ok(TIME_TO_LIVE, {"ID": 7, "keys": True})
    assert 30 < int(told.pop("TTL")) <= 60
    assert told == {
        "header": header(1),
        "ID": "7",
        "grantedTTL": "60",
        "keys": [b64("k")],
    }
    assert text(gateway, LEASES, {}) == compact_json({"header": header(1), "leases": [{"ID": "7"}]})
    assert text(gateway, REVOKE, {"ID": 7}) == compact_json({"header": header(2)})
    assert text(gateway, KEEPALIVE, {"ID": 7}) == (
        compact_json({"result": {"header": header(2), "ID": "7"}}) + "\n"
    )
    assert text(gateway, TIME_TO_LIVE, {"ID": 7}) == compact_json(
        {"header": header(2), "ID": "7", "TTL": "-1"}
    )
    assert text(gateway, LEASES, {}) == compact_json({"header": header(2)})


def test_members_and_status(gateway: Gateway, header: Any) -> None:
    local = {name: value for name, value in header(0).items() if name != "revision"}
    eventually(lambda: gateway.ok("/v3/cluster/member/list")["members"][0].get("clientURLs"))
    listed = gateway.ok("/v3/cluster/member/list")
    assert listed["header"] == local
    (member,) = listed["members"]
    assert member.pop("peerURLs")[0].startswith("http://127.0.0.1:")
    assert member == {"ID": local["member_id"], "name": "default", "clientURLs": [gateway.url]}
    status = gateway.ok("/v3/maintenance/status")
    assert status["header"] == header(0)
    assert status["version"] == "3.5.1"
    assert status["leader"] == local["member_id"]
    assert status["raftTerm"] == local["raft_term"]
    assert int(status["raftIndex"]) >= int(status["raftAppliedIndex"]) > 0
    assert int(status["dbSize"]) >= int(status["dbSizeInUse"]) > 0


def test_version_and_health(gateway: Gateway) -> None:
    version = gateway.get("/version")
    assert version.body == b'{"etcdserver":"3.5.1","etcdcluster":"3.5.0"}'
    assert version.headers["content-type"] == "application/json"
    for query in ("", "?serializable=true", "?exclude=NOSPACE"):
        health = gateway.get(f"/health{query}")
        assert (health.status, health.body) == (200, b'{"health":"true","reason":""}')
        assert health.headers["content-type"] == "text/plain; charset=utf-8"
    assert gateway.get("/livez").body == b"ok\n"
    assert gateway.get("/readyz").body == b"ok\n"
    assert gateway.get("/readyz?verbose").body == b"[+]serializable_read ok\n[+]linearizable_read ok\nok\n"
    assert gateway.get("/readyz?verbose&exclude=linearizable_read").body == b"[+]serializable_read ok\nok\n"
