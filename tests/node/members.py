"""Members in this process, on real files and loopback sockets, with short time-outs.

Place in the house   tests/node -> members -> node
Gives                Members: start, stop and restart each by number; waits that end with a deadline, of many
                     times what they wait for: the host may not run us for a second or two
Never                sleeps in the hope that something has happened by then
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock

import uvloop

from jobguard_store import replica
from jobguard_store.config import SNAPSHOT_COUNT, NodeConfig
from jobguard_store.machine.commands import Put, Range
from jobguard_store.node import Answer, Node
from tests.ports import free_ports

T = TypeVar("T")
PATIENCE_S = 30.0
HEARTBEAT_MS = 40
ELECTION_MS = 400
ELECTION_TICKS = ELECTION_MS // HEARTBEAT_MS
NEVER = 1_000_000  # ticks
# So that no request fails because it met the moment without a leader, or a host that stood still.
PATIENT: dict[str, Any] = {"LEADER_WAIT_ELECTIONS": 40, "REQUEST_TIMEOUT_S": 25.0}


def run(story: Coroutine[Any, Any, None]) -> None:
    """A test's story, on a loop of its own that forgives no forgotten error."""

    async def strictly() -> None:
        surprises: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: surprises.append(context))
        await story
        assert surprises == [], surprises

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:  # as the process does
        runner.run(strictly())


async def eventually(
    condition: Callable[[], T], what: str = "the condition", within: float = PATIENCE_S
) -> T:
    """Look after every few events until the answer is truthy; fails when it never is."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within
    while not (answer := condition()):
        assert loop.time() < deadline, f"{what} did not come true within {within} s"
        await asyncio.sleep(0.005)
    return answer


async def heartbeats(count: int) -> None:
    """Let time pass where time itself is the subject: a lease that must still be there afterwards."""
    await asyncio.sleep(count * HEARTBEAT_MS / 1000)


async def soon(work: Awaitable[T], within: float = PATIENCE_S) -> T:
    return await asyncio.wait_for(work, within)


class Members:
    """The members of one cluster, each running or stopped."""

    def __init__(
        self,
        directory: Path,
        size: int,
        election_ms: int = ELECTION_MS,
        snapshot_count: int = SNAPSHOT_COUNT,
        tls: Mapping[str, Any] | None = None,
        patient: bool = True,
    ) -> None:
        """`tls`: flags of the peers' side, which then speak nothing else. `patient`: unlike those of users,
        the members give up on nothing before the test does.
        """
        ports = free_ports(size)
        names = [f"s{number + 1}" for number in range(size)]
        urls = [f"{'https' if tls else 'http'}://127.0.0.1:{port}" for port in ports]
        together = ",".join(f"{name}={url}" for name, url in zip(names, urls, strict=True))
        self.configs = [
            NodeConfig.from_flags(
                name=name,
                data_dir=directory / name,
                listen_client_urls=f"http://127.0.0.1:{number + 1}",  # only said, never listened on
                listen_peer_urls=url,
                initial_cluster=together,
                heartbeat_interval=HEARTBEAT_MS,
                election_timeout=election_ms,
                snapshot_count=snapshot_count,
                **(tls or {}),
            )
            for number, (name, url) in enumerate(zip(names, urls, strict=True))
        ]
        self.nodes: list[Node | None] = [None] * size
        self._patient = patient

    def __getitem__(self, number: int) -> Node:
        node = self.nodes[number]
        assert node is not None, f"member {number} is stopped"
        return node

    @property
    def running(self) -> list[Node]:
        return [node for node in self.nodes if node is not None]

    async def start(self, number: int) -> Node:
        assert self.nodes[number] is None
        with mock.patch.multiple(replica, **PATIENT) if self._patient else nullcontext():
            node = self.nodes[number] = await Node.start(self.configs[number])
        return node

    async def stop(self, number: int) -> None:
        await soon(self[number].stop())
        self.nodes[number] = None

    async def stop_all(self) -> None:
        for number, node in enumerate(self.nodes):
            if node is not None:
                await self.stop(number)

    async def leader(self) -> int:
        """The number of the member that all running members take for their leader."""
        return await eventually(self._leader_or_none, "one leader") - 1

    def _leader_or_none(self) -> int | None:
        leaders = {node.status().leader for node in self.running}
        if len(leaders) != 1:
            return None
        leader = leaders.pop()
        for number, node in enumerate(self.nodes):
            if node is not None and node.header().member_id == leader:
                return number + 1  # never falsy
        return None

    async def followers(self) -> list[int]:
        leader = await self.leader()
        return [number for number, node in enumerate(self.nodes) if node is not None and number != leader]

    async def settled(self) -> None:
        """Until the members' own entries, of who they are and what they can read, are applied everywhere."""

        def is_settled(node: Node) -> bool:
            raft = node._replica.raft
            level, last = node._replica.members.configuration.level, raft.last_index
            introduced = node._replica.introduced.is_set()
            return introduced and level == node.config.level and raft.applied_index == last

        await eventually(lambda: all(is_settled(node) for node in self.running), "all is applied")

    def elect_after(self, ticks: int) -> None:
        """How long a silence makes the running members elect another leader, and this one step down.

        NEVER: who leads does so until it hands over, or its connections close.
        """
        for node in self.running:
            raft = node._replica.raft
            leadership = [] if raft._leadership is None else [raft._leadership]
            for each in (raft, raft._patience, *leadership):
                each._election_ticks = ticks
            raft._patience._timeout = ticks


@asynccontextmanager
async def members(
    directory: Path,
    size: int = 3,
    election_ms: int = ELECTION_MS,
    snapshot_count: int = SNAPSHOT_COUNT,
    tls: Mapping[str, Any] | None = None,
    patient: bool = True,
) -> AsyncIterator[Members]:
    cluster = Members(directory, size, election_ms, snapshot_count, tls, patient)
    try:
        for number in range(size):
            await cluster.start(number)
        yield cluster
    finally:
        await cluster.stop_all()


async def put(node: Node, key: str, value: str, lease: int = 0) -> int:
    """The revision of an acknowledged put."""
    answer = await soon(node.propose(Put(key.encode(), value.encode(), lease)))
    return answer.revision


async def get(node: Node, key: str, *, serializable: bool = False, revision: int = 0) -> str | None:
    answer: Answer = await soon(node.range(Range(key.encode(), revision=revision), serializable=serializable))
    return answer.result.kvs[0].value.decode() if answer.result.kvs else None


def pass_time(leader: Node, seconds: float) -> None:
    """For the leases; nobody waits for theirs to run out, nor does a host that stands still end them."""
    lessor = leader._replica._lessor
    assert lessor.term, "it counts their time"
    for lease in lessor._deadlines:
        lessor._deadlines[lease] -= seconds
    lessor._queue = sorted((deadline, lease) for lease, deadline in lessor._deadlines.items())
