"""A node that is far behind catches up by a snapshot while the others serve, whatever happens to it."""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.messages import HASHKV, PUT, WATCH, create, put
from tests.processes.chaos import between
from tests.processes.links import Links
from tests.stores import Cluster, Node, eventually, make, running

SNAPSHOT_COUNT = 300
LARGE = "x" * 50_000
A_PART = 1 << 20  # bytes of the snapshot of 400 of them
ON_ITS_WAY = 2000  # entries that a paused node's kernel may have taken in for it

FLAGS = ["--snapshot-count", str(SNAPSHOT_COUNT)]

pytestmark = pytest.mark.timeout(600)  # so many entries, however long the disk takes for a few of them


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with running("jobguard", tmp_path, 3, FLAGS) as cluster:
        yield cluster


@pytest.fixture
def linked(tmp_path: Path) -> Iterator[tuple[Cluster, Links]]:
    cluster = make("jobguard", tmp_path, 3, FLAGS)
    links = between(cluster)
    try:
        for node in cluster.nodes:
            node.start()
        cluster.wait_healthy()
        yield cluster, links
    finally:
        cluster.stop()
        links.close()


@contextmanager
def writing(nodes: list[Node]) -> Iterator[list[int]]:
    """Writes that never stop; the revisions of those acknowledged."""
    revisions: list[int] = []
    enough = threading.Event()

    def write(number: int) -> None:
        node = nodes[number % len(nodes)]
        with node.gateway() as gateway:
            while not enough.is_set():
                answer = gateway.post(PUT, put(f"w/{number}", str(len(revisions))))
                if answer.status == 200:
                    revisions.append(int(answer.json["header"]["revision"]))
                else:  # a busy host may cost an election; what was done then shows in the events all the same
                    assert answer.status in (503, 504), answer

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    try:
        yield revisions
    finally:
        enough.set()
        for thread in threads:
            thread.join(20)


def applied(node: Node) -> int:
    return int(node.status()["raftAppliedIndex"])


def leader_last(cluster: Cluster) -> list[Node]:
    """The nodes, so that one is taken away whose loss costs no election."""
    return sorted(cluster.nodes, key=Node.leads)


def snapshots_taken(data: Path) -> int:
    names = [each.name.split(".")[1] for each in data.glob("node.*.sqlite")]
    return max((int(name) for name in names if name.isdigit()), default=0)


def trimmed_beyond(index: int, data: Path) -> bool:
    with closing(sqlite3.connect(f"file:{data / 'node.sqlite'}?mode=ro", uri=True)) as file:
        (base,) = file.execute("SELECT base_index FROM meta").fetchone()
    return bool(base > index)


def leave_behind(index: int, others: list[Node], directory: Path) -> None:
    """Wait until all of them, whichever leads, have forgotten what comes after entry `index`."""
    for node in others:
        eventually(lambda: trimmed_beyond(index, directory / node.name), 240, "the log to be trimmed")  # noqa: B023


def half_a_part(arriving: Path) -> bool:
    """Whether so much is on its disk; all that passes is a part."""
    return arriving.exists() and arriving.stat().st_size > A_PART // 2


def catch_up(lagging: Node, leader: Node) -> None:
    goal = applied(leader)
    eventually(lambda: applied(lagging) >= goal, 60, "catching up under load")


def agree(cluster: Cluster) -> None:
    """Wait until all have applied the same; then they must have come to the same."""
    eventually(lambda: len({applied(node) for node in cluster.nodes}) == 1, 60, "the nodes to be level")
    answers = []
    for node in cluster.nodes:
        with node.gateway() as gateway:
            answers.append(gateway.ok(HASHKV))
    assert len({(answer["hash"], answer.get("compact_revision")) for answer in answers}) == 1, answers


def test_a_paused_node_catches_up_under_load_and_its_watchers_see_everything(
    cluster: Cluster, tmp_path: Path
) -> None:
    lagging, *others = leader_last(cluster)
    with lagging.gateway() as gateway:
        begin = int(gateway.put("w/first")["header"]["revision"])
        stream = gateway.stream(WATCH, create("w/", "w0", start_revision=begin))
    with stream:
        events = stream.events()
        assert int(next(events)["kv"]["mod_revision"]) == begin
        with writing(others) as revisions:
            lagging.pause()
            leave_behind(applied(others[-1]) + ON_ITS_WAY, others, tmp_path)
            lagging.resume()
            eventually(lambda: snapshots_taken(tmp_path / lagging.name), 60, "the snapshot")
            catch_up(lagging, others[-1])
        last = max(revisions)
        seen = [int(next(events)["kv"]["mod_revision"]) for _ in range(begin, last)]
    assert seen == list(range(begin + 1, last + 1))
    agree(cluster)


def test_a_node_killed_in_the_middle_of_it_begins_again(
    linked: tuple[Cluster, Links], tmp_path: Path
) -> None:
    cluster, links = linked
    lagging, *others = leader_last(cluster)
    data = tmp_path / lagging.name
    with lagging.gateway() as gateway:
        for number in range(400):
            gateway.put(f"large/{number}", LARGE)
    index = applied(lagging)
    lagging.kill()
    with writing(others):
        leave_behind(index, others, tmp_path)
        links.hold([(other.name, lagging.name) for other in others], after=A_PART)
        lagging.start()
        eventually(lambda: half_a_part(data / "node.arriving.sqlite"), 60, "a snapshot on its way")
        lagging.kill()
        assert snapshots_taken(data) == 0, "the old state is still in force"
        links.heal()
        lagging.start()
        lagging.wait_until_ready()
        eventually(lambda: snapshots_taken(data), 60, "the snapshot")
        catch_up(lagging, others[-1])
    agree(cluster)
    lagging.kill()
    lagging.start()
    lagging.wait_until_ready()
    agree(cluster)
    for node in cluster.nodes:
        left = [each.name for each in (tmp_path / node.name).glob("node.*ing.sqlite")]
        assert left == [], f"{node.name} has left {left}"
