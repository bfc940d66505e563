"""A cluster in virtual time: nodes, a network that may do anything, disks that keep what was persisted.

Place in the house   test_histories  ->  world  ->  invariants, jobguard_store.raft
Takes                a seed; everything else follows from it
Never                reads a clock, sleeps, or lets a set of strings decide an order

Time is a whole number; a tick takes ten. A node is what node.py is to the core, without sockets and SQLite:
it carries out each Ready in order and may crash between any two steps of that. What the disk keeps is a
prefix of the batches handed to it, each whole or not at all.
"""

import heapq
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from jobguard_store.raft import Entry, EntryKind, HardState, Limits, Message, NotLeader, Raft, Ready, Role
from tests.simulation.invariants import Broken, Ledger

TICK = 10
CHAOS_ENDS = 4_000
PATIENCE = 10_000  # for a healed cluster to settle


class Crash(Exception):
    """The process is gone, between two steps of what it was doing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """One batch of the writer: hard state, entries and rows in one transaction; then the messages may go."""

    hard_state: HardState | None
    entries: tuple[Entry, ...]
    applied_index: int
    messages: tuple[Message, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Temper:
    """How unkind a history is, and to what; each is mostly one kind of trouble."""

    voters: int
    election_ticks: int  # short elections collide
    limits: Limits  # small batches part what usually travels together
    crash_rate: float  # between two steps of a Ready
    reign_max: int  # how soon a new leader crashes, or 0; the stuff of Figure 8
    duplicate_rate: float
    late_rate: float
    hint_rate: float
    chaos_pause: int

    @classmethod
    def draw(cls, random: random.Random) -> "Temper":
        return cls(
            voters=random.choice((1, 2, 3, 3, 3, 3, 5, 5, 5)),
            election_ticks=random.choice((2, 3, 10)),
            limits=Limits(
                append_entries=random.choice((1, 2, 4096)),
                in_flight=random.choice((1, 3, 128)),
                committed=random.choice((1, 5, 1024)),
            ),
            crash_rate=random.choice((0.0, 0.0003, 0.003)),
            reign_max=random.choice((0, 0, 15, 60)),
            duplicate_rate=random.choice((0.0, 0.02, 0.2)),
            late_rate=random.choice((0.0, 0.02, 0.1)),
            hint_rate=random.choice((0.0, 0.5, 1.0)),
            chaos_pause=random.choice((60, 150, 400)),
        )


class Disk:
    """What a crash leaves."""

    def __init__(self) -> None:
        self.hard_state = HardState()
        self.entries: list[Entry] = []
        self.applied_index = 0

    def write(self, batch: Write) -> None:
        if batch.hard_state is not None:
            self.hard_state = batch.hard_state
        if batch.entries:
            del self.entries[batch.entries[0].index - 1 :]
            self.entries += batch.entries
        self.applied_index = max(self.applied_index, batch.applied_index)


class Node:
    """One process and its disk. Everything but the disk is gone after a crash."""

    def __init__(self, node_id: int, random: random.Random) -> None:
        self.id = node_id
        self.disk = Disk()
        self.random = random
        self.boot = 0
        self.raft: Raft | None = None
        self.paused_until = 0
        self.disk_delay_max = 8
        self.forget()

    def forget(self) -> None:
        self.raft = None
        self.writing: deque[Write] = deque()
        self.machine: list[Entry] = []
        self.proposals: dict[int, tuple[int, bytes]] = {}
        self.reads: dict[int, int] = {}
        self.confirmed_reads: list[tuple[int, int]] = []
        self.turn_is_due = False
        self.was_leader_of = 0


class World:
    """One history. `advance` it step by step, or `run` it to its end."""

    def __init__(self, seed: int, *, core: type[Raft] = Raft, temper: Temper | None = None) -> None:
        self.random = random.Random(seed)
        self.core = core
        self.temper = temper or Temper.draw(self.random)
        self.now = 0
        self.trace: list[tuple[Any, ...]] = []
        voters = range(1, self.temper.voters + 1)
        self.nodes = {i: Node(i, random.Random(self.random.random())) for i in voters}
        self.ledger = Ledger(len(voters), lambda: [node.disk.entries for node in self.nodes.values()])
        self.chaotic = True
        self._events: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []
        self._scheduled = 0
        self._cut: set[tuple[int, int]] = set()
        self._loss = 0.0
        self._delay_max = 8
        self._operations = 0
        for node in self.nodes.values():
            self._start(node)
        self.after(5, self._client)
        self.after(self.temper.chaos_pause, self._chaos)

    # -- Time

    def after(self, delay: int, action: Callable[..., None], *arguments: Any) -> None:
        self._scheduled += 1
        heapq.heappush(self._events, (self.now + delay, self._scheduled, action, arguments))

    def advance(self) -> None:
        """The next thing happens."""
        self.now, _, action, arguments = heapq.heappop(self._events)
        action(*arguments)

    def run(self) -> None:
        """Trouble first; then everything heals, and the cluster must work again and agree."""
        while self.now < CHAOS_ENDS:
            self.advance()
        self.heal()
        deadline = self.now + PATIENCE
        while not self._settled():
            if self.now > deadline:
                raise Broken("everything healed, and the cluster does not settle")
            self.advance()
        self.ledger.ends([node.machine for node in self.nodes.values()])

    def note(self, *what: Any) -> None:
        self.trace.append((self.now, *what))

    def tail(self, lines: int) -> str:
        """The end of the history, for a failure's note."""
        return "\n".join(" ".join(map(str, line)) for line in self.trace[-lines:])

    # -- A node carries out what its core asks for

    def _start(self, node: Node) -> None:
        node.boot += 1
        disk = node.disk
        self.note("start", node.id, disk.hard_state, f"last={len(disk.entries)} applied={disk.applied_index}")
        node.machine = disk.entries[: disk.applied_index]
        node.raft = self.core(
            node_id=node.id,
            voters=list(self.nodes),
            hard_state=disk.hard_state,
            entries=disk.entries,
            applied_index=disk.applied_index,
            election_ticks=self.temper.election_ticks,
            random=node.random,
            limits=self.temper.limits,
        )
        self.after(self.random.randrange(TICK), self._tick, node, node.boot)

    def _crash(self, node: Node) -> None:
        kept = self.random.randint(0, len(node.writing))
        for batch in list(node.writing)[:kept]:
            node.disk.write(batch)  # the transaction was whole on the disk, and nobody was told
        self.note("crash", node.id, f"kept={kept} lost={len(node.writing) - kept}")
        node.forget()
        self.after(self.random.randrange(1, self.random.choice((10, 100, 600))), self._restart, node)
        for other in self.nodes.values():
            if other is not node and self.random.random() < self.temper.hint_rate:
                self.after(self.random.randrange(1, 30), self._hint, other, node.id)

    def _end_reign(self, node: Node, boot: int) -> None:
        if self.chaotic and node.raft is not None and node.boot == boot:
            self._crash(node)

    def _restart(self, node: Node) -> None:
        if node.raft is None:
            self._start(node)

    def _perhaps_crash(self, weight: int = 1) -> None:
        if self.chaotic and self.random.random() < weight * self.temper.crash_rate:
            raise Crash

    def _tick(self, node: Node, boot: int) -> None:
        if node.raft is None or node.boot != boot:
            return
        if self.now < node.paused_until:
            self.after(node.paused_until - self.now, self._tick, node, boot)
            return
        node.raft.tick()
        self._due(node)
        if len(node.machine) > node.disk.applied_index and not node.writing:
            self._write(
                node, Write(hard_state=None, entries=(), applied_index=len(node.machine), messages=())
            )
        self.after(self.random.randint(TICK - 1, TICK + 1), self._tick, node, boot)

    def _due(self, node: Node) -> None:
        """Something happened to `node`; a little later, perhaps with more, its turn comes."""
        if not node.turn_is_due:
            node.turn_is_due = True
            self.after(self.random.choice((0, 0, 0, 1, 3)), self._turn, node, node.boot)

    def _turn(self, node: Node, boot: int) -> None:
        if node.raft is None or node.boot != boot:
            return
        node.turn_is_due = False
        try:
            while node.raft.has_ready():
                self._carry_out(node, node.raft, node.raft.ready())
        except Crash:
            self._crash(node)

    def _carry_out(self, node: Node, raft: Raft, ready: Ready) -> None:
        self.ledger.takes(node.id, ready, raft.log.term_at)
        if raft.role is Role.LEADER and raft.term != node.was_leader_of:
            node.was_leader_of = raft.term
            self.note("leads", node.id, f"term={raft.term} last={raft.last_index}")
            self.ledger.leads(node.id, raft.term, raft.log.term_at)
            if self.temper.reign_max and self.random.random() < 0.7:
                self.after(self.random.randrange(self.temper.reign_max), self._end_reign, node, node.boot)
        self._perhaps_crash()
        for message in ready.messages:
            self._send(message)
            self._perhaps_crash()
        if ready.hard_state or ready.entries or ready.messages_after_persist:
            batch = Write(
                hard_state=ready.hard_state,
                entries=ready.entries,
                applied_index=len(node.machine),
                messages=ready.messages_after_persist,
            )
            self._write(node, batch)
        self._perhaps_crash()
        self.ledger.commits(node.id, ready.committed)
        for entry in ready.committed:
            self._apply(node, entry)
            self._perhaps_crash()
        if ready.committed:
            raft.applied(ready.committed[-1].index)
        for lost in ready.reads_lost:
            node.reads.pop(lost)
        for read in ready.reads:
            self.ledger.reads(node.id, read.index, node.reads.pop(read.context))
            node.confirmed_reads.append((read.index, read.context))
        self._answer_reads(node)

    def _write(self, node: Node, batch: Write) -> None:
        node.writing.append(batch)
        if len(node.writing) == 1:
            self.after(self.random.randint(1, node.disk_delay_max), self._flush, node, node.boot)

    def _flush(self, node: Node, boot: int) -> None:
        """One transaction of some of the batches that wait; then their durability is reported, in order."""
        if node.raft is None or node.boot != boot:
            return
        if self.now < node.paused_until:
            self.after(node.paused_until - self.now, self._flush, node, boot)
            return
        together = [node.writing.popleft() for _ in range(self.random.randint(1, len(node.writing)))]
        for batch in together:
            node.disk.write(batch)
        try:
            self._perhaps_crash()
            for batch in together:
                if batch.hard_state:
                    node.raft.hard_state_persisted(batch.hard_state)
                if batch.entries:
                    node.raft.persisted(batch.entries[-1].id)
                for message in batch.messages:
                    self.ledger.says(message)
                    self._send(message)
                    self._perhaps_crash(20 if batch.hard_state else 1)
        except Crash:
            self._crash(node)
            return
        if node.writing:
            self.after(self.random.randint(1, node.disk_delay_max), self._flush, node, boot)
        self._due(node)

    def _apply(self, node: Node, entry: Entry) -> None:
        node.machine.append(entry)
        term, data = node.proposals.pop(entry.index, (0, b""))
        if term == entry.term:
            self.ledger.acknowledges(entry.index, data)
            self.note("done", node.id, entry.index, data)

    def _answer_reads(self, node: Node) -> None:
        applied = len(node.machine)
        for index, context in node.confirmed_reads:
            if index <= applied:
                self.note("read", node.id, context, index)
                self.ledger.floor = max(self.ledger.floor, index)
        node.confirmed_reads = [read for read in node.confirmed_reads if read[0] > applied]

    # -- The network

    def _send(self, message: Message) -> None:
        lost = (message.sender, message.to) in self._cut or self.random.random() < self._loss
        self.note("lost" if lost else "send", message)
        if lost:
            return
        copies = 2 if self.random.random() < self.temper.duplicate_rate else 1
        for _ in range(copies):
            late = self.chaotic and self.random.random() < self.temper.late_rate
            self.after(self.random.randint(1, 400 if late else self._delay_max), self._deliver, message)

    def _deliver(self, message: Message) -> None:
        node = self.nodes[message.to]
        if node.raft is None:
            return
        if self.now < node.paused_until:
            self.after(node.paused_until - self.now + self.random.randrange(3), self._deliver, message)
            return
        self.note("take", message)
        node.raft.step(message)
        self._due(node)

    def _hint(self, node: Node, peer: int) -> None:
        if node.raft is not None and self.now >= node.paused_until:
            self.note("hint", node.id, peer)
            node.raft.peer_lost(peer)
            self._due(node)

    # -- Clients

    def _client(self) -> None:
        if self.chaotic:
            self.after(self.random.randint(1, 25), self._client)
        leaders = [node for node in self._awake() if node.raft and node.raft.role is Role.LEADER]
        nodes = leaders if leaders and self.random.random() < 0.9 else self._awake()
        if nodes:
            self._ask(self.random.choice(nodes))

    def _ask(self, node: Node) -> None:
        if node.raft is None:
            return
        self._operations += 1
        try:
            if self.random.random() < 0.5:
                data = [f"{self._operations}.{i}".encode() for i in range(self.random.choice((1, 1, 1, 3)))]
                self.propose(node, data)
            else:
                node.reads[self._operations] = self.ledger.floor
                node.raft.read_index(self._operations)
        except NotLeader:
            node.reads.pop(self._operations, None)
        self._due(node)

    def propose(self, node: Node, data: Sequence[bytes]) -> None:
        assert node.raft is not None
        first = node.raft.propose(data)
        for index, item in enumerate(data, first.index):
            node.proposals[index] = (first.term, item)
        self.note("propose", node.id, first, *data)

    def _awake(self) -> list[Node]:
        return [n for n in self.nodes.values() if n.raft is not None and n.paused_until <= self.now]

    # -- Trouble

    def _chaos(self) -> None:
        if not self.chaotic:
            return
        self.after(self.random.randint(1, 2 * self.temper.chaos_pause), self._chaos)
        ids = list(self.nodes)
        node = self.random.choice(list(self.nodes.values()))
        leaders = [n for n in self._awake() if n.raft and n.raft.role is Role.LEADER]
        if leaders and self.random.random() < 0.5:
            node = self.random.choice(leaders)
        trouble = self.random.randrange(11)
        if trouble == 0:
            self._cut = {(node.id, i) for i in ids} | {(i, node.id) for i in ids}
        elif trouble == 1:
            side = set(self.random.sample(ids, len(ids) // 2))
            self._cut = {(a, b) for a in ids for b in ids if (a in side) != (b in side)}
        elif trouble == 2:
            self._cut = {(node.id, i) for i in ids}  # it hears, and is not heard
        elif trouble == 3:
            self._cut = {(a, b) for a in ids for b in ids if self.random.random() < 0.3}
        elif trouble in (4, 5):
            self._cut, self._loss, self._delay_max = set(), 0.0, 8
        elif trouble == 6:
            self._loss = self.random.choice((0.05, 0.3))
        elif trouble == 7:
            self._delay_max = self.random.choice((2, 30, 90))
        elif trouble == 8:
            node.disk_delay_max = self.random.choice((2, 8, 60, 300))
        elif trouble == 9 and node.raft is not None:
            self._crash(node)
            return
        elif trouble == 10:
            node.paused_until = self.now + self.random.choice((20, 150, 400))
            self.after(node.paused_until - self.now, self._ask, node)  # it waited in the socket
        for other in ids:
            if (node.id, other) in self._cut and self.random.random() < self.temper.hint_rate:
                self._hint(self.nodes[other], node.id)
        self.note("trouble", trouble, node.id)

    def heal(self) -> None:
        self.note("heal")
        self.chaotic = False
        self._cut, self._loss, self._delay_max = set(), 0.0, 8
        for node in self.nodes.values():
            node.paused_until = self.now
            node.disk_delay_max = 8
            self._restart(node)

    def _settled(self) -> bool:
        """One leader, whose every entry, one of its own time among them, is applied everywhere."""
        leaders = [n for n in self.nodes.values() if n.raft and n.raft.role is Role.LEADER]
        if len(leaders) != 1 or leaders[0].raft is None:
            return False
        leader = leaders[0].raft
        if leader.log.term_at(leader.last_index) != leader.term:
            return False
        return all(
            n.raft is not None and n.raft.term == leader.term and len(n.machine) == leader.last_index
            for n in self.nodes.values()
        )


def written(world: World) -> int:
    """How many commands were committed: a history in which nothing happens proves nothing."""
    return sum(entry.kind is EntryKind.NORMAL for entry in world.ledger.committed)
