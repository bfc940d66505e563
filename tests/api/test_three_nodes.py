"""Any of three nodes answers, leader or not; and what each says when there is no leader."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.gateway import PATIENCE_S, Gateway, Stream, b64
from tests.messages import (
    COMPACTION,
    GRANT,
    HASHKV,
    KEEPALIVE,
    LEASES,
    PUT,
    RANGE,
    REVOKE,
    TIME_TO_LIVE,
    TXN,
    WATCH,
    compare,
    create,
    delete,
    put,
    put_op,
    range_,
    range_op,
    txn,
)
from tests.stores import CALM, Node, eventually, nodes

TIMING = ["--heartbeat-interval", "50", "--election-timeout", "500"]


@pytest.fixture(scope="module")
def cluster() -> Iterator[list[Node]]:
    with nodes(3, CALM) as stores:
        yield stores


@pytest.fixture
def gateways(cluster: list[Node]) -> Iterator[list[Gateway]]:
    gateways = [store.gateway() for store in cluster]
    yield gateways
    for gateway in gateways:
        gateway.close()


def test_a_write_at_any_node_is_read_at_every_other(gateways: list[Gateway]) -> None:
    """Linearizable: the read begins after the write's answer, so it must see it, follower or not."""
    for round_ in range(20):
        for writer in gateways:
            value = f"{round_} at {writer.url}"
            writer.put("k", value)
            for reader in gateways:
                assert reader.ok(RANGE, range_("k"))["kvs"][0]["value"] == b64(value)
                reading = reader.ok(TXN, txn(range_op("k")))
                assert reading["responses"][0]["response_range"]["kvs"][0]["value"] == b64(value)


def test_every_call_works_at_every_node(gateways: list[Gateway]) -> None:
    for number, gateway in enumerate(gateways):
        other = gateways[(number + 1) % 3]
        granted = gateway.ok(GRANT, {"TTL": 60})
        lease = granted["ID"]
        start = int(granted["header"]["revision"]) + 1  # the other may not yet have applied what was before
        with other.stream(WATCH, create("t", "u", prev_kv=True, start_revision=start)) as stream:
            stream.result()
            claim = txn(
                put_op("task", "mine", lease=lease), compare=(compare("task", "CREATE", create_revision=0),)
            )
            assert gateway.ok(TXN, claim)["succeeded"] is True
            assert "succeeded" not in other.ok(TXN, claim)
            assert stream.result()["events"][0]["kv"]["lease"] == lease
            assert gateway.post(KEEPALIVE, {"ID": lease}).json["result"]["TTL"] == "60"
            told = other.ok(TIME_TO_LIVE, {"ID": lease, "keys": True})
            assert (told["grantedTTL"], told["keys"]) == ("60", [b64("task")])
            assert {"ID": lease} in other.ok(LEASES)["leases"]
            other.ok(REVOKE, {"ID": lease})
            assert stream.result()["events"][0]["type"] == "DELETE"
        assert gateway.post(REVOKE, {"ID": lease}).error[2] == "etcdserver: requested lease not found"
        assert gateway.post(PUT, put("k", lease=lease)).error[:2] == (404, 5)
        gateway.ok("/v3/kv/deleterange", delete("task"))
        members = gateway.ok("/v3/cluster/member/list", {"linearizable": True})["members"]
        assert sorted(member["name"] for member in members) == ["s1", "s2", "s3"]
        assert gateway.get("/health").status == 200


def test_a_compaction_at_one_node_binds_all(gateways: list[Gateway]) -> None:
    first = int(gateways[0].put("c", "1")["header"]["revision"])
    gateways[1].put("c", "2")
    gateways[2].ok(COMPACTION, {"revision": first + 1})
    for gateway in gateways:
        assert gateway.ok(RANGE, range_("c", revision=first + 1))["kvs"][0]["value"] == b64("2")
        assert gateway.post(RANGE, range_("c", revision=first)).error[1] == 11


def test_headers_name_the_member_and_one_cluster(gateways: list[Gateway]) -> None:
    headers = [gateway.ok(RANGE, range_("k"))["header"] for gateway in gateways]
    assert len({header["cluster_id"] for header in headers}) == 1
    assert len({header["member_id"] for header in headers}) == 3
    members = {member["ID"] for member in gateways[0].ok("/v3/cluster/member/list")["members"]}
    assert {header["member_id"] for header in headers} == members
    assert {gateway.ok("/v3/maintenance/status")["leader"] for gateway in gateways} <= members


def test_watchers_at_all_nodes_see_the_same(gateways: list[Gateway]) -> None:
    start = int(gateways[0].ok(RANGE, range_("w"))["header"]["revision"]) + 1
    streams = [gateway.stream(WATCH, create("w", start_revision=start)) for gateway in gateways]
    writers = [threading.Thread(target=write, args=(gateway.url, 30)) for gateway in gateways]
    for writer in writers:
        writer.start()
    seen = []
    for stream in streams:
        with stream:
            stream.result()
            events = stream.events()
            seen.append([next(events)["kv"]["mod_revision"] for _ in range(90)])
    for writer in writers:
        writer.join(PATIENCE_S)
    assert seen[0] == seen[1] == seen[2] == [str(start + number) for number in range(90)]


def write(url: str, count: int) -> None:
    with Gateway(url) as gateway:
        for number in range(count):
            gateway.put("w", str(number))


def until_value(stream: Stream, value: str) -> Iterator[Any]:
    for event in stream.events():
        yield event
        if event["kv"].get("value") == value:
            return


def test_without_a_leader_a_node_says_so() -> None:
    """Last in its file and on a cluster of its own: two of three nodes are killed."""
    with nodes(3, TIMING) as stores, stores[0].gateway() as gateway:
        gateway.put("k", "v")
        wants_leader = {"Grpc-Metadata-hasleader": "true"}
        with (
            gateway.stream(WATCH, create("k"), headers=wants_leader) as particular,
            gateway.stream(WATCH, create("k")) as patient,
        ):
            particular.result()
            patient.result()
            for store in stores[1:]:
                store.kill()
            eventually(lambda: "leader" not in gateway.ok("/v3/maintenance/status"), what="no leader")
            assert gateway.ok("/v3/maintenance/status")["errors"] == ["etcdserver: no leader"]
            refused = (503, 14, "etcdserver: no leader")
            assert gateway.post(RANGE, range_("k"), headers=wants_leader).error == refused
            assert gateway.post(RANGE, range_("k")).error == refused
            assert gateway.post(KEEPALIVE, {"ID": 1}).error == refused
            status, code, _ = gateway.post(PUT, put("k", "w")).error
            assert (status, code) == (503, 14)
            stale = gateway.ok(RANGE, range_("k", serializable=True))
            assert stale["kvs"][0]["value"] == b64("v")
            assert gateway.ok(TXN, txn(range_op("k", serializable=True)))["succeeded"] is True
            deadline = gateway.post(PUT, put("k"), headers={"Grpc-Timeout": "20m"})
            assert deadline.error == (504, 4, "context deadline exceeded")
            health = gateway.get("/health")
            assert (health.status, health.json) == (503, {"health": "false", "reason": "RAFT NO LEADER"})
            assert gateway.get("/health?serializable=true").status == 200
            assert gateway.get("/livez").status == 200
            unready = gateway.get("/readyz")
            assert (unready.status, unready.body) == (
                503,
                b"[+]serializable_read ok\n[-]linearizable_read failed: RAFT NO LEADER\n",
            )
            assert particular.next()["error"]["message"] == "etcdserver: no leader"
            stores[1].start()
            eventually(lambda: gateway.post(PUT, put("k", "back")).status == 200, within=60, what="a quorum")
            # The puts that were cut short may have happened after all; the watcher sees what did, in order.
            values = [event["kv"].get("value", "") for event in until_value(patient, b64("back"))]
            assert values == sorted(values, key=[b64("w"), "", b64("back")].index)


def test_all_nodes_hash_the_same_keys_at_the_same_revision(gateways: list[Gateway]) -> None:
    for number in range(20):
        revision = int(gateways[number % 3].put(f"hashed/{number % 4}", str(number))["header"]["revision"])
    for gateway in gateways:
        gateway.ok(RANGE, range_("hashed/0"))  # linearizable: it has applied all of it now
    answers = [gateway.ok(HASHKV, {"revision": revision}) for gateway in gateways]
    assert len({answer["hash"] for answer in answers}) == 1
    assert {answer["hash_revision"] for answer in answers} == {str(revision)}
    assert gateways[0].ok(HASHKV, {"revision": revision - 1})["hash"] != answers[0]["hash"]
    now = gateways[0].ok(HASHKV)
    assert now["hash_revision"] == now["header"]["revision"]
    status, code, text = gateways[0].post(HASHKV, {"revision": revision + 1000}).error
    assert (status, code, text) == (400, 11, "etcdserver: mvcc: required revision is a future revision")
