"""Three real nodes, killed one after another under load, and what their clients were told stays true."""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Any

import pytest

from tests.gateway import Gateway, b64, unb64
from tests.stores import Node as Store
from tests.stores import eventually, nodes

PATIENCE_S = 60.0


@pytest.fixture
def cluster() -> Iterator[list[Store]]:
    with nodes(3) as stores:
        yield stores


@dataclass
class Writer:
    """One client that counts up in a key of its own, at whichever node answers.

    What was acknowledged is a lower bound of what must be read later; what was sent at all, an upper one.
    """

    key: str
    stores: Sequence[Store]
    acknowledged: int = 0
    sent: int = 0
    refusals: set[str] = field(default_factory=set)
    surprises: list[str] = field(default_factory=list)

    def run(self, stop: threading.Event) -> None:
        node = hash(self.key) % len(self.stores)
        while not stop.is_set():
            try:
                with Gateway(self.stores[node].url) as gateway:
                    self.count_at(gateway, stop)
            except (OSError, HTTPException):
                pass  # the node is down, or went down with a put or half an answer in flight: the next one
            node = (node + 1) % len(self.stores)
            stop.wait(0.01)

    def count_at(self, gateway: Gateway, stop: threading.Event) -> None:
        while not stop.is_set():
            self.sent += 1
            answer = gateway.post("/v3/kv/put", {"key": b64(self.key), "value": b64(str(self.sent))})
            if answer.status == 200:
                self.acknowledged = self.sent
                continue
            status, _, text = answer.error
            self.refusals.add(text)
            if status not in (503, 504):
                self.surprises.append(f"{status} {text}")
            return


def wait_for(condition: Callable[[], bool], what: str) -> None:
    eventually(condition, PATIENCE_S, what)


def counts_read(stores: Sequence[Store], key: str) -> dict[str, int]:
    """Of each node, at the revision of the first: what a writer gave up on may come between two reads."""
    counts, revision = {}, "0"
    for store in stores:
        found = served(store, "/v3/kv/range", {"key": b64(key), "revision": revision})
        if revision == "0":
            revision = found["header"]["revision"]
        (pair,) = found["kvs"]
        counts[store.name] = int(unb64(pair["value"]))
    return counts


def served(store: Store, path: str, message: object) -> Any:
    """The answer, once there is one: a busy host may cost an election."""

    def ask() -> Any:
        with store.gateway() as gateway:
            answer = gateway.post(path, message)
        assert answer.status in (200, 503, 504), answer
        return answer.json if answer.status == 200 else None

    return eventually(ask, PATIENCE_S, f"an answer of {store.name}")


def test_every_acknowledged_write_outlives_kill_9_of_each_node_in_turn(cluster: list[Store]) -> None:
    writers = [Writer(f"writer-{number}", cluster) for number in range(6)]
    stop = threading.Event()
    threads = [threading.Thread(target=writer.run, args=(stop,)) for writer in writers]
    for thread in threads:
        thread.start()
    try:
        for victim in cluster:
            go_on(writers, f"every writer to be answered before {victim.name} is killed")
            victim.kill()
            go_on(writers, f"every writer to be answered without {victim.name}")
            victim.start()
            victim.wait_until_ready()
    finally:
        stop.set()
        for thread in threads:
            thread.join(PATIENCE_S)
    assert [writer.surprises for writer in writers if writer.surprises] == []
    for writer in writers:
        counts = counts_read(cluster, writer.key)
        for name, count in counts.items():
            assert writer.acknowledged <= count <= writer.sent, f"{writer.key} at {name}"
        assert len(set(counts.values())) == 1, f"{writer.key}: {counts}"


def go_on(writers: Sequence[Writer], what: str) -> None:
    """Wait until each of `writers` has had five more writes acknowledged."""
    goals = [(writer, writer.acknowledged + 5) for writer in writers]
    try:
        wait_for(lambda: all(writer.acknowledged >= goal for writer, goal in goals), what)
    except AssertionError as failure:
        failure.add_note("\n".join(f"{writer} is to reach {goal}" for writer, goal in goals))
        failure.add_note("\n".join(f"{node.name}:\n{node.tail()}" for node in writers[0].stores))
        raise


def test_without_a_quorum_nothing_is_answered_wrongly_and_all_goes_on_when_one_returns(
    cluster: list[Store],
) -> None:
    survivor, second, third = cluster
    with survivor.gateway() as gateway:
        served(survivor, "/v3/kv/put", {"key": b64("k"), "value": b64("before")})
        second.kill()
        wait_for(lambda: put(survivor, "k", "one down") == 200, "writes with two of three nodes")
        third.kill()
        for path, body in (
            ("/v3/kv/put", {"key": b64("k"), "value": b64("two down")}),
            ("/v3/kv/range", {"key": b64("k")}),
        ):
            status, code, text = gateway.post(path, body).error
            assert (status, code) in ((503, 14), (504, 4)), text
            assert "no leader" in text or "timed out" in text or "leader changed" in text
        stale = gateway.post("/v3/kv/range", {"key": b64("k"), "serializable": True})
        assert unb64(stale.json["kvs"][0]["value"]) == b"one down"
    third.start()
    third.wait_until_ready()
    wait_for(lambda: put(survivor, "k", "two again") == 200, "writes once a quorum is back")
    answer = served(third, "/v3/kv/range", {"key": b64("k")})
    assert unb64(answer["kvs"][0]["value"]) == b"two again"


def put(store: Store, key: str, value: str) -> int:
    with store.gateway() as gateway:
        return gateway.post("/v3/kv/put", {"key": b64(key), "value": b64(value)}).status
