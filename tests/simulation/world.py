"""A cluster in virtual time: nodes, a network that may do anything, clients, operators and trouble.

Place in the house   test_histories, __main__  ->  world  ->  node, temper, invariants
Takes                a seed; everything else follows from it
Never                reads a clock, sleeps, or lets a set of strings decide an order

Time is a whole number; a tick takes about ten.
"""

import heapq
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

from jobguard_store.raft import (
    AddLearner,
    AddVoter,
    AppendReply,
    Change,
    Configuration,
    EntryKind,
    Message,
    NotLeader,
    Promote,
    Raft,
    Remove,
    SnapshotOffer,
    Update,
)
from tests.simulation.disk import Disk, Staged
from tests.simulation.invariants import Broken, Ledger
from tests.simulation.node import DISK_DELAY_MAX, TICK, Node
from tests.simulation.temper import Temper

CHAOS_ENDS = 4_000
PATIENCE = 10_000  # for a healed cluster to settle
DELAY_MAX = 8
HEALED_DELAY_MAX = 3  # that it works again is promised where messages are faster than the shortest election
MEMBERS_MAX = 7


class World:
    """One history. `advance` it step by step, or `run` it to its end."""

    def __init__(
        self, seed: int, *, core: type[Raft] = Raft, node: type[Node] = Node, temper: Temper | None = None
    ) -> None:
        self.random = random.Random(seed)
        self.core = core
        self.node = node
        self.temper = temper or Temper.draw(self.random)
        self.now = 0
        self.steps = 0
        self.trace: list[tuple[Any, ...]] = []
        self.crashed_at: Counter[str] = Counter()
        self.installed = 0
        self.chaotic = True
        self._events: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []
        self._scheduled = 0
        self._cut: set[tuple[int, int]] = set()
        self._loss = 0.0
        self._delay_max = DELAY_MAX
        self._operations = 0
        founders = Configuration.of(range(1, self.temper.voters + 1))
        self.nodes: dict[int, Node] = {}
        self.ledger = Ledger(founders, self._disk_of)
        for voter in founders.voters:
            self.nodes[voter] = node(self, voter, founders)
            self.nodes[voter].start()
        self.after(5, self._client)
        self.after(self.temper.chaos_pause, self._chaos)
        if self.temper.change_pause:
            self.after(self.temper.change_pause, self._operator)

    def _disk_of(self, node: int) -> Disk:
        return self.nodes[node].disk

    # -- Time

    def after(self, delay: int, action: Callable[..., None], *arguments: Any) -> None:
        self._scheduled += 1
        heapq.heappush(self._events, (self.now + delay, self._scheduled, action, arguments))

    def advance(self) -> None:
        """The next thing happens."""
        self.now, _, action, arguments = heapq.heappop(self._events)
        self.steps += 1
        action(*arguments)

    def run(self) -> None:
        """Trouble first; then everything heals, and the cluster must work again and agree."""
        while self.now < CHAOS_ENDS:
            self.advance()
        self.heal()
        deadline = self.now + PATIENCE
        while not (members := self._settled()):
            if self.now > deadline:
                raise Broken("everything healed, and the cluster does not settle")
            self.advance()
        self.ledger.ends([self.nodes[member].state for member in members])

    def note(self, *what: Any) -> None:
        self.trace.append((self.now, *what))

    def tail(self, lines: int) -> str:
        """The end of the history, for a failure's note."""
        return "\n".join(" ".join(map(str, line)) for line in self.trace[-lines:])

    # -- The network

    def send(self, message: Message) -> None:
        self.ledger.says(message)
        if isinstance(message, AppendReply):
            self.ledger.acknowledges(message, self.nodes[message.sender].up)
        lost = self._loses(message.sender, message.to)
        self.note("lost" if lost else "send", message)
        if lost:
            return
        for _ in range(self._copies()):
            self.after(self._delay(), self._deliver, message)

    def _deliver(self, message: Message) -> None:
        if message.to in self.nodes:
            self.nodes[message.to].take(message)

    def ship(self, sender: Node, offer: SnapshotOffer, staged: Staged) -> None:
        """A state on its way. Its sender hears what became of it, if it lives to."""
        boot, delay = sender.boot, 5 * self._delay()
        self.note("ships", offer)
        if self._loses(offer.sender, offer.to) or offer.to not in self.nodes:
            self.after(delay, sender.shipped, boot, offer.to, None)
            return
        for _ in range(self._copies()):
            self.after(delay, self._arrive, sender, boot, offer, staged)

    def _arrive(self, sender: Node, boot: int, offer: SnapshotOffer, staged: Staged) -> None:
        taken = self.nodes[offer.to].take_state(offer, staged)
        last = staged.name.last.index if taken else None
        self.after(self._delay(), sender.shipped, boot, offer.to, last)

    def _loses(self, sender: int, to: int) -> bool:
        return (sender, to) in self._cut or self.random.random() < self._loss

    def _copies(self) -> int:
        return 2 if self.random.random() < self.temper.duplicate_rate else 1

    def _delay(self) -> int:
        late = self.chaotic and self.random.random() < self.temper.late_rate
        return self.random.randint(1, 400 if late else self._delay_max)

    def hint(self, gone: Node) -> None:
        """Its connections closed; some notice."""
        for other in list(self.nodes.values()):
            if other is not gone and self.random.random() < self.temper.hint_rate:
                self.after(self.random.randrange(1, 30), other.lose, gone.id)

    def leads(self, node: Node) -> None:
        raft = node.up
        self.note("leads", node.id, f"term={raft.term} last={raft.last_index}")
        if self.temper.reign_max and self.random.random() < 0.7:
            self.after(self.random.randrange(self.temper.reign_max), node.crash_if_it_is, node.boot)

    # -- Clients

    def _client(self) -> None:
        if self.chaotic:
            self.after(self.random.randint(1, self.temper.client_pause), self._client)
        awake = self._awake()
        leaders = [node for node in awake if node.leads]
        nodes = leaders if leaders and self.random.random() < 0.9 else awake
        if nodes:
            self._ask(self.random.choice(nodes))

    def _ask(self, node: Node) -> None:
        if node.raft is None:
            return
        self._operations += 1
        if self.random.random() < self.temper.transfer_rate:
            node.transfer(self.random.choice(list(self.nodes)))
            return
        try:
            if self.random.random() < 0.5:
                count = self.random.choice((1, 1, 1, 3))
                node.propose([f"{self._operations}.{i}".encode() for i in range(count)])
            else:
                node.read(self._operations)
        except NotLeader:
            pass  # it said so before it did anything

    def _awake(self) -> list[Node]:
        return [node for node in self.nodes.values() if node.is_awake]

    # -- Operators

    def _operator(self) -> None:
        if not self.chaotic:
            return
        self.after(self.random.randint(1, 2 * self.temper.change_pause), self._operator)
        leaders = [node for node in self._awake() if node.leads]
        if leaders:
            leader = self.random.choice(leaders)
            self._change(leader, self._some_change(leader.up.configuration))

    def _some_change(self, configuration: Configuration) -> Change:
        some = self.random.choice(configuration.ids)
        kinds: list[Change] = [Promote(some), Promote(some), Remove(some), Update(some, b"%d" % self.now)]
        if len(configuration.ids) < MEMBERS_MAX:
            new = max(self.nodes) + 1
            kinds += [AddLearner(new), AddLearner(new), AddVoter(new)]
        return self.random.choice(kinds)

    def _change(self, leader: Node, change: Change) -> None:
        new = isinstance(change, AddLearner | AddVoter)
        if new:  # it is there, and knows nothing, before anyone speaks of it
            self.nodes[change.id] = self.node(self, change.id)
        if not leader.change(change):
            if new:
                del self.nodes[change.id]
        elif new:
            self.after(self.random.choice((0, 10, 200)), self.nodes[change.id].start)

    # -- Trouble

    def _chaos(self) -> None:
        if not self.chaotic:
            return
        self.after(self.random.randint(1, 2 * self.temper.chaos_pause), self._chaos)
        ids = list(self.nodes)
        node = self.random.choice(list(self.nodes.values()))
        leaders = [n for n in self._awake() if n.leads]
        if leaders and self.random.random() < 0.5:
            node = self.random.choice(leaders)
        trouble = self.random.randrange(12)
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
            self._cut, self._loss, self._delay_max = set(), 0.0, DELAY_MAX
        elif trouble == 6:
            self._loss = self.random.choice((0.05, 0.3))
        elif trouble == 7:
            self._delay_max = self.random.choice((2, 30, 90))
        elif trouble == 8:
            node.disk_delay_max = self.random.choice((2, 8, 60, 300))
        elif trouble == 9:
            node.crash()
            return
        elif trouble == 10:
            node.paused_until = self.now + self.random.choice((20, 150, 400))
            self.after(node.paused_until - self.now, self._ask, node)  # it waited in the socket, like
            if self.random.random() < 0.5:  # .. what was sent before the machine was cut off as well
                self._cut = {(i, node.id) for i in ids}
        elif trouble == 11:
            drift = self.temper.drift_max
            node.tick_length = TICK + self.random.randint(-drift, drift)
        for other in ids:
            if (node.id, other) in self._cut and self.random.random() < self.temper.hint_rate:
                self.nodes[other].lose(node.id)
        self.note("trouble", trouble, node.id)

    def heal(self) -> None:
        self.note("heal")
        self.chaotic = False
        self._cut, self._loss, self._delay_max = set(), 0.0, HEALED_DELAY_MAX
        for node in self.nodes.values():
            node.paused_until = self.now
            node.disk_delay_max = DISK_DELAY_MAX
            node.tick_length = TICK
            node.start()

    def _settled(self) -> tuple[int, ...]:
        """The members, once one leads whose every entry, one of its own time among them, all have applied."""
        leaders = [node.up for node in self.nodes.values() if node.leads]
        if len(leaders) != 1:
            return ()
        (leader,) = leaders
        if leader.log.last.term != leader.term or leader.log.configuration_index > leader.commit_index:
            return ()
        members = [self.nodes[member] for member in leader.configuration.ids]
        agree = all(
            member.raft is not None
            and member.raft.term == leader.term
            and member.state.index == leader.last_index
            for member in members
        )
        return leader.configuration.ids if agree else ()


def written(world: World) -> int:
    """How many commands were committed: a history in which nothing happens proves nothing."""
    return sum(entry.kind is EntryKind.NORMAL for entry in world.ledger.committed)
