"""A production client we did not write, against each of three nodes, leader or not."""

from collections.abc import Iterator
from contextlib import contextmanager
from queue import Queue
from typing import Any
from urllib.parse import urlsplit

import etcd3gw
import pytest
from etcd3gw.exceptions import Etcd3Exception
from etcd3gw.watch import Watcher

from tests.gateway import PATIENCE_S
from tests.messages import put_op, txn
from tests.stores import CALM, Node, eventually, nodes


@pytest.fixture(scope="module")
def cluster() -> Iterator[list[Node]]:
    with nodes(3, CALM) as stores:
        yield stores


@pytest.fixture(params=[0, 1, 2], ids=["s1", "s2", "s3"])
def client(request: pytest.FixtureRequest, cluster: list[Node]) -> Iterator[Any]:
    """A client of one node that finds the API's path by itself, as etcd3gw does since 3.4."""
    parts = urlsplit(cluster[request.param].url)
    with connected(parts.hostname, parts.port) as client:
        yield client


@pytest.fixture
def neighbour(request: pytest.FixtureRequest, cluster: list[Node]) -> Iterator[Any]:
    """A client of another node than `client` talks to."""
    number = int(request.node.callspec.id[1:])
    parts = urlsplit(cluster[number % 3].url)
    with connected(parts.hostname, parts.port) as client:
        yield client


@contextmanager
def connected(host: str | None, port: int | None) -> Iterator[Any]:
    client = etcd3gw.client(host=host, port=port, timeout=PATIENCE_S, api_path=None)
    try:
        yield client
    finally:
        client.session.close()


def test_put_get_and_delete(client: Any, neighbour: Any) -> None:
    assert client.api_path == "/v3/"
    client.put("greeting", "hello")
    assert client.get("greeting") == [b"hello"]
    assert neighbour.get("greeting") == [b"hello"]
    client.put("greeting/2", "world")
    assert [value for value, _ in client.get_prefix("greeting")] == [b"hello", b"world"]
    assert client.create("greeting", "again") is False
    assert client.replace("greeting", "hello", "good bye") is True
    assert client.get("greeting", metadata=True)[0][1]["version"] == "2"
    assert client.delete("greeting") is True
    assert client.delete("greeting") is False
    client.delete_prefix("greeting")
    assert client.get_prefix("greeting") == []


@pytest.fixture
def key(request: pytest.FixtureRequest) -> str:
    """One that no test on another node had: a watch begins at what its node has applied, which may lag."""
    return str(request.node.name)


def test_watch(client: Any, neighbour: Any, key: str) -> None:
    events, cancel = client.watch_prefix(key)
    neighbour.put(f"{key}/a", "1")
    neighbour.put(f"{key}/b", "2")
    neighbour.delete(f"{key}/a")
    try:
        seen = [next(events) for _ in range(3)]
    finally:
        cancel()
    assert [(event.get("type", "PUT"), event["kv"]["key"]) for event in seen] == [
        ("PUT", f"{key}/a".encode()),
        ("PUT", f"{key}/b".encode()),
        ("DELETE", f"{key}/a".encode()),
    ]


def test_watch_of_a_large_revision_comes_in_one_chunk(client: Any, neighbour: Any, key: str) -> None:
    """etcd3gw parses each HTTP chunk as one document: a message in two of them would kill its watcher."""
    seen: Queue[Any] = Queue()
    watcher = Watcher(client, f"{key}/", seen.put, range_end=f"{key}0")
    try:
        neighbour.transaction(txn(*(put_op(f"{key}/{number}", "x" * 10_000) for number in range(100))))
        events = [seen.get(timeout=PATIENCE_S) for _ in range(100)]
    finally:
        watcher.stop()
    assert len({event["kv"]["key"] for event in events}) == 100


def test_lease(client: Any, neighbour: Any) -> None:
    lease = client.lease(ttl=60)
    client.put("leased", "value", lease=lease)
    assert lease.ttl() in range(30, 61)
    assert lease.refresh() == 60
    assert lease.keys() == [b"leased"]
    assert lease.revoke() is True
    assert neighbour.get("leased") == []
    assert lease.ttl() == -1
    with pytest.raises(Etcd3Exception, match="Not Found") as refused:
        lease.revoke()
    assert "etcdserver: requested lease not found" in refused.value.detail_text


def test_a_lease_that_nobody_renews_runs_out(client: Any, neighbour: Any, key: str) -> None:
    events, cancel = neighbour.watch(key)
    try:
        eventually(lambda: put_on_a_short_lease(client, key), what="a put before its lease's end")
        kinds = [next(events).get("type", "PUT") for _ in range(2)]
    finally:
        cancel()
    assert kinds == ["PUT", "DELETE"]


def put_on_a_short_lease(client: Any, key: str) -> bool:
    """Whether it was not over before the put came."""
    lease = client.lease(ttl=2)
    try:
        client.put(key, "value", lease=lease)
    except Etcd3Exception as refused:
        if "etcdserver: requested lease not found" not in refused.detail_text:
            raise
        return False
    return True


def test_lock(client: Any, neighbour: Any) -> None:
    mine, other = client.lock("resource", ttl=60), neighbour.lock("resource", ttl=60)
    assert mine.acquire() is True
    assert mine.is_acquired() is True
    assert other.acquire() is False
    assert mine.refresh() == 60
    assert mine.release() is True
    assert mine.release() is False
    assert other.acquire() is True
    assert other.release() is True


def test_members_and_status(client: Any, cluster: list[Node]) -> None:
    members = eventually(lambda: introduced(client.members()), what="each member's own word")
    assert sorted(url for member in members for url in member["clientURLs"]) == sorted(n.url for n in cluster)
    status = client.status()
    assert status["leader"] in {member["ID"] for member in members}
    assert int(status["raftAppliedIndex"]) > 0


def introduced(members: list[Any]) -> list[Any]:
    return members if all("clientURLs" in member for member in members) else []
