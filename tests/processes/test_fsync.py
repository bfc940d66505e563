"""An answer means: on the disks of a quorum. The kernel is the witness, through strace.

A call's line is in strace's file before the thread that made the call goes on. So whatever was synced before
an answer left has been written down by the time the answer is here.
"""

import os
import re
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests import debian
from tests.stores import Cluster, Node, eventually, leader_of, make

PUTS = 50
QUORUM = 2
_SYNCED = re.compile(rb"\bf(?:data)?sync\b.*= 0$", re.MULTILINE)


class Witness:
    """Counts the syncs of one process that succeeded."""

    def __init__(self, node: Node, log: Path) -> None:
        assert node.process is not None
        self._log = log
        self._threads = Path(f"/proc/{node.process.pid}/task")
        trace = ("--follow-forks", "--quiet", "--trace=fsync,fdatasync", "--output", str(log))
        program, libraries = debian.program(*debian.STRACE), debian.program(*debian.LIBUNWIND)
        self._strace = subprocess.Popen(
            [str(program), *trace, "--attach", str(node.process.pid)],
            env={**os.environ, "LD_LIBRARY_PATH": ":".join(map(str, libraries.glob("*-linux-*")))},
            stderr=subprocess.PIPE,
        )

    def attached(self) -> bool:
        ended = self._strace.poll()
        assert ended is None, f"strace ended with {ended}: {self._strace.communicate()[1].decode()}"
        ours = f"TracerPid:\t{self._strace.pid}\n"
        try:
            return all(ours in thread.read_text() for thread in self._threads.glob("*/status"))
        except OSError:
            return False  # a thread ended while we looked

    def syncs(self) -> int:
        return len(_SYNCED.findall(self._log.read_bytes()))

    def stop(self) -> None:
        self._strace.send_signal(signal.SIGINT)  # it lets go of the node, and ends
        self._strace.communicate(timeout=60)


@contextmanager
def witnessed(nodes: Sequence[Node], directory: Path) -> Iterator[list[Witness]]:
    with ExitStack() as stack:
        witnesses = []
        for node in nodes:
            witnesses.append(Witness(node, directory / f"{node.name}.strace"))
            stack.callback(witnesses[-1].stop)
        eventually(lambda: all(witness.attached() for witness in witnesses), what="strace at every thread")
        yield witnesses


def each_answer_is_synced(nodes: Sequence[Node], directory: Path) -> None:
    with witnessed(nodes, directory) as witnesses, leader_of(nodes).gateway() as gateway:
        for number in range(PUTS):
            before = [witness.syncs() for witness in witnesses]
            gateway.put("k", str(number))
            after = [witness.syncs() for witness in witnesses]
            synced = sum(now > then for now, then in zip(after, before, strict=True))
            assert synced >= QUORUM, f"put {number} was answered when {synced} had synced anything since"


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    cluster = make("jobguard", tmp_path, 3)
    yield cluster
    cluster.stop()


def start(nodes: Sequence[Node]) -> None:
    for node in nodes:
        node.start()
    for node in nodes:
        node.wait_until_ready()


def test_an_answer_is_on_the_disks_of_a_quorum(cluster: Cluster, tmp_path: Path) -> None:
    start(cluster.nodes)
    each_answer_is_synced(cluster.nodes, tmp_path)


def test_a_member_that_does_not_sync_is_noticed(cluster: Cluster, tmp_path: Path) -> None:
    """Two of three are left, so an answer needs both of them."""
    two = cluster.nodes[:QUORUM]
    start(two)
    each_answer_is_synced(two, tmp_path)

    two[0].kill(signal.SIGTERM)
    module = two[0].command.index("jobguard_store")
    two[0].command[module] = "tests.processes.unsynced"
    start(two[:1])
    with pytest.raises(AssertionError, match="was answered when 1 had synced"):
        each_answer_is_synced(two, tmp_path)
