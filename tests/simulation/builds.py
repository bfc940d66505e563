"""Nodes of two builds in one cluster: each start may be of the other, and not all of the log is for both.

Place in the house   test_builds  ->  builds  ->  world, node, jobguard_store.levels
Takes                a seed; everything else follows from it
Never                lets a node know more of the others' builds than their last message told

An upgrade and its way back are a crash and a start. An operator who is told that a build is too old for what
the disk holds starts the newer one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from jobguard_store.errors import TooOld
from jobguard_store.levels import Levels
from jobguard_store.machine.apply import Machine
from jobguard_store.members import Members
from jobguard_store.raft import FIRST_LEVEL, NOBODY, Configuration, Entry, EntryKind, Message, Raft, Ready
from tests.simulation.disk import Staged
from tests.simulation.invariants import Broken
from tests.simulation.node import Node
from tests.simulation.temper import Temper
from tests.simulation.world import World

OLD, NEW = FIRST_LEVEL, FIRST_LEVEL + 1
MARK = b"!"  # ends what only the newer build can read


def level_of(entry: Entry) -> int:
    return NEW if entry.kind is EntryKind.NORMAL and entry.data.endswith(MARK) else OLD


class BuiltNode(Node):
    """A node that runs one of two builds; what it says and heeds of levels is the store's own code."""

    _world: MixedWorld

    def __init__(self, world: World, node_id: int, founders: Configuration = NOBODY) -> None:
        self.build = OLD
        super().__init__(world, node_id, founders)

    def _forget(self) -> None:
        super()._forget()
        self.said: dict[int, int] = {}

    def start(self) -> None:
        if self.raft is not None or self.retired:
            return
        self.build = self._world.some_build()
        super().start()
        self._note_what_is_applied()
        try:
            self.levels.refuse_what_we_cannot_read()
        except TooOld:
            self._world.seen["refused to start"] += 1
            self.build = NEW
        self._can_read(self.disk.entries)

    @property
    def levels(self) -> Levels:
        return Levels(
            self.up,
            Machine(),
            self._members,
            ours=self.build,
            said=self.said.get,
            patience_s=0.0,
            pause_s=0.0,
        )

    def _note_what_is_applied(self) -> None:
        self._members = Members(self.up.log.configuration_at(self.state.index), {})

    def _tick(self, boot: int) -> None:
        super()._tick(boot)
        if self._lives(boot) and self.is_awake and self.leads:
            self._maybe_raise()

    def _maybe_raise(self) -> None:
        before = self.up.configuration.level
        self.levels.maybe_raise()
        if self.up.configuration.level > before:
            self._world.note("raises", self.id, self.up.configuration.level)
            self._world.seen["raised"] += 1
            self._happened()

    def _turn(self, boot: int) -> None:
        if self._lives(boot):
            try:
                self._refuse_what_we_cannot_read()
            except TooOld:
                self._world.note("too old", self.id)
                self._world.seen["stopped"] += 1
                self.crash()
        super()._turn(boot)

    def _refuse_what_we_cannot_read(self) -> None:
        self.levels.refuse_what_we_cannot_read()

    def lose(self, peer: int) -> None:
        self.said.pop(peer, None)
        super().lose(peer)

    def may_propose(self, level: int) -> bool:
        return level <= self.levels.reached

    # -- What must hold

    def _carry_out(self, raft: Raft, ready: Ready) -> None:
        self._can_read((*ready.entries, *ready.committed))
        super()._carry_out(raft, ready)
        self._note_what_is_applied()

    def _install(self, ready: Ready) -> Staged | None:
        if ready.snapshot is not None:
            self._can_read(self._world.ledger.committed[: ready.snapshot.last.index])
        return super()._install(ready)

    def _can_read(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            if level_of(entry) > self.build:
                raise Broken(f"{self.id} reads level {self.build}, and is given {entry}")


class MixedWorld(World):
    """Clients ask for what is new whenever they like, of any node, which hands it to the leader it knows."""

    nodes: dict[int, BuiltNode]  # type: ignore[assignment]

    def __init__(self, seed: int, *, node: type[BuiltNode] = BuiltNode, temper: Temper | None = None) -> None:
        self.seen: Counter[str] = Counter()
        super().__init__(seed, node=node, temper=temper)

    def some_build(self) -> int:
        return self.random.choice((OLD, NEW, NEW)) if self.chaotic else NEW

    def _deliver(self, message: Message) -> None:
        super()._deliver(message)
        receiver = self.nodes.get(message.to)
        if receiver is not None and receiver.raft is not None:
            receiver.said[message.sender] = self.nodes[message.sender].build

    def _ask(self, node: Node) -> None:
        assert isinstance(node, BuiltNode)
        if node.raft is None or node.build == OLD or self.random.random() < 0.5:
            super()._ask(node)
            return
        self._operations += 1
        leader = self.nodes.get(node.up.leader or 0)
        hears = leader is not None and leader.is_awake and leader.up.accepts_proposals
        if not node.may_propose(NEW):
            self.seen["told to wait"] += 1
        elif leader is not None and hears and leader.up.term == node.up.term:
            leader.propose([b"%d%s" % (self._operations, MARK)])
            self.seen["new commands"] += 1

    def heal(self) -> None:
        super().heal()
        for node in self.nodes.values():
            if node.build == OLD:
                node.crash()
