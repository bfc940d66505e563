"""The leader goes, one way or another, under load, and its clients hardly notice.

`make failover` measures the same beside a real etcd.
"""

import signal
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from statistics import median

import pytest

from jobguard import Client
from jobguard.errors import JobguardError
from tests.processes.chaos import between
from tests.stopwatch import Stopwatch
from tests.stores import Node, eventually, leader_of, make, nodes

# Three times the usual: what waits for no silence takes less, also on a busy host whose disk takes half a
# second for a vote. Who waits for silence last heard the leader a heartbeat before.
ELECTION_S = 3.0
BOUND_S = ELECTION_S - 0.5
FLAGS = ["--election-timeout", str(round(ELECTION_S * 1000))]


@pytest.fixture(scope="module")
def three() -> Iterator[list[Node]]:
    with nodes(3, FLAGS) as started:
        yield started


class Load:
    """One client that puts, one after another, at whichever node answers."""

    def __init__(self, stores: list[Node], watch: Stopwatch) -> None:
        self.answered: list[float] = []
        self._watch = watch
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
                self.answered.append(self._watch.seconds)
            except JobguardError:
                continue

    def goes_on(self) -> None:
        goal = len(self.answered) + 20
        eventually(lambda: len(self.answered) >= goal, 60, "puts that are answered")

    def longest_gap_since(self, moment: float) -> float:
        times = [moment, *(at for at in self.answered if at > moment)]
        return max(later - earlier for earlier, later in pairwise(times))


def gaps_around(signal_number: int, stores: list[Node]) -> list[float]:
    """The longest time without an answer, for each of three leaders ended by this signal."""
    gaps = []
    with Stopwatch() as watch, Load(stores, watch) as load:
        for _ in range(3):
            leader = leader_of(stores)
            since = watch.seconds
            leader.kill(signal_number)
            load.goes_on()
            gaps.append(load.longest_gap_since(since))
            leader.start()
            leader.wait_until_ready()
    print("longest gaps:", *(f"{gap:.3f} s" for gap in gaps))
    return gaps


def test_a_leader_that_is_told_to_stop_hands_over_and_writes_go_on(three: list[Node]) -> None:
    gaps = gaps_around(signal.SIGTERM, three)
    assert max(gaps) < BOUND_S, f"nobody was elected for want of a leader: {gaps}"


def test_a_leader_that_is_killed_is_missed_for_less_than_an_election_timeout(three: list[Node]) -> None:
    """Its connections close, and that is the hint. Who waits for silence instead waits as long each time."""
    gaps = gaps_around(signal.SIGKILL, three)
    assert median(gaps) < BOUND_S, f"the followers waited for silence: {gaps}"


def test_a_link_that_flaps_deposes_no_leader(tmp_path: Path) -> None:
    """The hint is wrong, again and again: a follower's connections to the leader break, and nobody else's."""
    cluster = make("jobguard", tmp_path, 3, FLAGS)
    links = between(cluster)
    try:
        for node in cluster.nodes:
            node.start()
        cluster.wait_healthy()
        leader = leader_of(cluster.nodes)
        follower, _ = (node for node in cluster.nodes if node is not leader)
        begun = leader.status()
        for _ in range(10):
            links.cut([(leader.name, follower.name), (follower.name, leader.name)])
            eventually(lambda: "leader" not in follower.status(), what="the hint")
            links.heal()
            eventually(lambda: "leader" in follower.status(), what="word of the leader")
        ended = leader.status()
        assert (ended["leader"], ended["raftTerm"]) == (begun["leader"], begun["raftTerm"])
    finally:
        cluster.stop()
        links.close()
