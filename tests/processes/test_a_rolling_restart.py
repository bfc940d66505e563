"""Every node is restarted in turn under load, and its clients hardly notice."""

import signal
import threading
import time
from collections.abc import Iterator
from itertools import pairwise

import pytest

from jobguard import Client
from jobguard.errors import JobguardError
from tests.stores import Node, eventually, nodes

ELECTION_S = 1.0


@pytest.fixture
def three() -> Iterator[list[Node]]:
    with nodes(3) as started:
        yield started


class Load:
    """One client that puts, one after another, at whichever node answers."""

    def __init__(self, stores: list[Node]) -> None:
        self.answered: list[float] = []
        self._client = Client([store.url for store in stores])
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._put)

    def __enter__(self) -> "Load":
        self._thread.start()
        self.goes_on()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(20)
        self._client.close()

    def _put(self) -> None:
        while not self._over.is_set():
            try:
                self._client.put("a", str(len(self.answered)))
                self.answered.append(time.monotonic())
            except JobguardError:
                continue

    def goes_on(self) -> None:
        goal = len(self.answered) + 20
        eventually(lambda: len(self.answered) >= goal, 20, "puts that are answered")

    def longest_gap_since(self, moment: float) -> float:
        times = [moment, *(at for at in self.answered if at > moment)]
        return max(later - earlier for earlier, later in pairwise(times))


def leader_of(stores: list[Node]) -> Node:
    def leader() -> Node | None:
        for store in stores:
            with store.gateway() as gateway:
                status = gateway.ok("/v3/maintenance/status")
                if status.get("leader") == status["header"]["member_id"]:
                    return store
        return None

    return eventually(leader, what="a leader") or stores[0]


def test_a_leader_that_is_told_to_stop_hands_over_and_writes_go_on(three: list[Node]) -> None:
    gaps = []
    with Load(three) as load:
        for _ in range(3):
            leader = leader_of(three)
            since = time.monotonic()
            leader.kill(signal.SIGTERM)
            load.goes_on()
            gaps.append(load.longest_gap_since(since))
            leader.start()
            leader.wait_until_ready()
    assert max(gaps) < ELECTION_S, f"nobody was elected for want of a leader: {gaps}"
    print("longest gaps:", *(f"{gap:.3f} s" for gap in gaps))
