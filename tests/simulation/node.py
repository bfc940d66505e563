"""A node as the core sees it: what replica.py, journal.py and the writer are, without sockets and SQLite.

Place in the house   world  ->  node  ->  disk, invariants, jobguard_store.raft
Takes                ticks, messages, states that arrive, what clients and operators ask
Never                survives a crash with anything but its disk

It carries out each Ready in its order, and may crash between any two steps of that; the steps have names, so
that a test can see whether all of them were tried.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from jobguard_store.raft import (
    NOBODY,
    Change,
    ChangeRefused,
    Configuration,
    Entry,
    EntryId,
    EntryKind,
    Message,
    NotLeader,
    Raft,
    Ready,
    Role,
    SnapshotOffer,
    TransferRefused,
)
from tests.simulation.disk import Disk, Staged, State, Write

if TYPE_CHECKING:
    from tests.simulation.world import World

TICK = 10
DISK_DELAY_MAX = 8


class Crash(Exception):
    """The process is gone, between two steps of what it was doing."""


class Node:
    """One process and its disk. Everything but the disk is gone after a crash."""

    def __init__(self, world: World, node_id: int, founders: Configuration = NOBODY) -> None:
        self.id = node_id
        self.disk = Disk(founders)
        self.boot = 0
        self.raft: Raft | None = None
        self.retired = False  # it was removed, knows it, and stopped for good
        self.paused_until = 0
        self.tick_length = TICK
        self._world = world
        self.disk_delay_max = self.usual_disk_delay
        self._random = random.Random(world.random.random())
        self._forget()

    def _forget(self) -> None:
        self.raft = None
        self.state = State()
        self._writing: deque[Write] = deque()
        self._durable = State()  # of the state: as far as the log may be trimmed
        self._staged: dict[EntryId, Staged] = {}
        self._proposals: dict[int, tuple[int, bytes]] = {}
        self._reads: dict[int, int] = {}
        self._confirmed_reads: list[tuple[int, int]] = []
        self._turn_is_due = False
        self._led = 0

    @property
    def usual_disk_delay(self) -> int:
        return (self.id == 1 and self._world.temper.lame_disk) or DISK_DELAY_MAX

    @property
    def up(self) -> Raft:
        assert self.raft is not None, f"{self.id} is down"
        return self.raft

    @property
    def is_awake(self) -> bool:
        return self.raft is not None and self.paused_until <= self._world.now

    @property
    def leads(self) -> bool:
        return self.raft is not None and self.raft.role is Role.LEADER

    # -- Its life

    def start(self) -> None:
        if self.raft is not None or self.retired:
            return
        self.boot += 1
        disk = self.disk
        self._world.note(
            "start", self.id, disk.hard_state, f"last={disk.last_index}", f"state={disk.state.index}"
        )
        self._world.ledger.starts(self.id, disk)
        self.state = self._durable = disk.state
        self.raft = self._world.core(
            node_id=self.id,
            hard_state=disk.hard_state,
            entries=disk.entries,
            applied_index=disk.state.index,
            base=disk.base.last,
            configuration=disk.base.configuration,
            election_ticks=self._world.temper.election_ticks,
            random=self._random,
            limits=self._world.temper.limits,
        )
        self._world.after(self._world.random.randrange(TICK), self._tick, self.boot)

    def crash(self) -> None:
        if self.raft is None:
            return
        world = self._world
        kept = world.random.randint(0, len(self._writing))
        for batch in list(self._writing)[:kept]:
            self.disk.write(batch)  # the transaction was whole on the disk, and nobody was told
        world.note("crash", self.id, f"kept={kept} lost={len(self._writing) - kept}")
        self._forget()
        world.after(world.random.randrange(1, world.random.choice((10, 100, 600))), self.start)
        world.hint(self)

    def crash_if_it_is(self, boot: int) -> None:
        if self._world.chaotic and self._lives(boot):
            self.crash()

    def _lives(self, boot: int) -> bool:
        return self.raft is not None and self.boot == boot

    def _perhaps_crash(self, step: str, weight: int = 1) -> None:
        world = self._world
        if world.chaotic and world.random.random() < weight * world.temper.crash_rate:
            world.crashed_at[step] += 1
            raise Crash

    def _tick(self, boot: int) -> None:
        world = self._world
        if not self._lives(boot):
            return
        if world.now < self.paused_until:
            world.after(self.paused_until - world.now, self._tick, boot)
            return
        self.up.tick()
        self._happened()
        if self.state.index > self.disk.state.index and not self._writing:
            self._write(Write(state=self.state))
        if world.random.random() < world.temper.compact_rate:
            self._compact(self._durable.index - world.random.choice((0, 0, 1, 5)))
        world.after(self.tick_length + world.random.randint(-1, 1), self._tick, boot)

    def _compact(self, index: int) -> None:
        """Forget the log up to what the disk holds applied, or somewhat less."""
        base = self.up.compact(index)
        if base is not None:
            self._write(Write(base=base))

    # -- What happens to it

    def _happened(self) -> None:
        """Something did; a little later, perhaps with more, its turn comes."""
        self._world.ledger.watch(self.id, self.up)
        if self.up.role is Role.LEADER and self.up.term != self._led:
            self._led = self.up.term
            self._world.leads(self)
        if not self._turn_is_due:
            self._turn_is_due = True
            self._world.after(self._world.random.choice((0, 0, 0, 1, 3)), self._turn, self.boot)

    def take(self, message: Message) -> None:
        """It arrives, if there is anyone."""
        if self.raft is None:
            return
        if not self.is_awake:
            late = self.paused_until - self._world.now + self._world.random.randrange(3)
            self._world.after(late, self.take, message)
            return
        self._world.note("take", message)
        self.raft.step(message)
        self._happened()

    def take_state(self, offer: SnapshotOffer, staged: Staged) -> bool:
        """All of it arrived, and is checked and on disk beside what there was."""
        if not self.is_awake:
            return False
        self._staged[staged.name.last] = staged
        self.take(offer)
        return True

    def lose(self, peer: int) -> None:
        if self.is_awake:
            self._world.note("hint", self.id, peer)
            self.up.peer_lost(peer)
            self._happened()

    def propose(self, data: Sequence[bytes]) -> None:
        """Raises NotLeader."""
        first = self.up.propose(data)
        for index, item in enumerate(data, first.index):
            self._proposals[index] = (first.term, item)
        self._world.note("propose", self.id, first, *data)
        self._happened()

    def read(self, context: int) -> None:
        """Raises NotLeader."""
        self.up.read_index(context)
        self._reads[context] = self._world.ledger.floor
        self._happened()

    def transfer(self, to: int) -> None:
        try:
            self.up.transfer(to)
        except (NotLeader, TransferRefused):
            return
        self._world.note("transfer", self.id, to)
        self._happened()

    def change(self, change: Change) -> bool:
        try:
            entry = self.up.change_membership(change)
        except (NotLeader, ChangeRefused):
            return False
        self._world.note("change", self.id, entry, change)
        self._happened()
        return True

    # -- What its core wants done

    def _turn(self, boot: int) -> None:
        if not self._lives(boot):
            return
        self._turn_is_due = False
        try:
            while self.up.has_ready():
                self._carry_out(self.up, self.up.ready())
        except Crash:
            self.crash()
            return
        if self.retired:
            self._world.note("retires", self.id)
            self._forget()

    def _carry_out(self, raft: Raft, ready: Ready) -> None:
        self._world.ledger.takes(self.id, ready, raft.log.term_at)
        self._perhaps_crash("before anything")
        for message in ready.messages:
            self._world.send(message)
            self._perhaps_crash("after a message")
        for offer in ready.offers:
            self._world.after(self._world.random.randint(1, 5), self._ship, self.boot, offer)
        staged = self._install(ready)
        if staged or ready.hard_state or ready.entries or ready.messages_after_persist:
            self._write(
                Write(
                    staged=staged,
                    hard_state=ready.hard_state,
                    entries=ready.entries,
                    state=self.state,
                    messages=ready.messages_after_persist,
                )
            )
        self._perhaps_crash("before the disk is done")
        for entry in ready.committed:
            self._apply(entry)
            self._perhaps_crash("after an entry is applied")
        if ready.committed:
            raft.applied(ready.committed[-1].index)
        for lost in ready.reads_lost:
            self._reads.pop(lost)
        for read in ready.reads:
            self._world.ledger.reads(self.id, read.index, self._reads.pop(read.context))
            self._confirmed_reads.append((read.index, read.context))
        self._answer_reads()

    def _install(self, ready: Ready) -> Staged | None:
        if ready.snapshot is None:
            return None
        staged = self._staged[ready.snapshot.last]
        self._world.note("installs", self.id, staged.name.last)
        self._world.ledger.restores(self.id, self.up, staged)
        self._world.installed += 1
        self.state = staged.state
        self._perhaps_crash("before a state is switched", 20)
        return staged

    def _write(self, batch: Write) -> None:
        self._writing.append(batch)
        if len(self._writing) == 1:
            self._world.after(self._world.random.randint(1, self.disk_delay_max), self._flush, self.boot)

    def _flush(self, boot: int) -> None:
        """One transaction of some of the batches that wait; then their durability is reported, in order."""
        world = self._world
        if not self._lives(boot):
            return
        if world.now < self.paused_until:
            world.after(self.paused_until - world.now, self._flush, boot)
            return
        together = [self._writing.popleft() for _ in range(world.random.randint(1, len(self._writing)))]
        for batch in together:
            self.disk.write(batch)
        self._durable = self.disk.state
        try:
            self._perhaps_crash("after the disk is done", 5)
            for batch in together:
                self._report(batch)
        except Crash:
            self.crash()
            return
        if self._writing:
            world.after(world.random.randint(1, self.disk_delay_max), self._flush, boot)
        self._happened()

    def _report(self, batch: Write) -> None:
        if batch.hard_state:
            self.up.hard_state_persisted(batch.hard_state)
        if batch.staged:
            self.up.persisted(batch.staged.name.last)
            self._perhaps_crash("after a state is switched", 20)
        if batch.entries:
            self.up.persisted(batch.entries[-1].id)
        self._world.ledger.watch(self.id, self.up)
        for message in batch.messages:
            self._world.send(message)
            self._perhaps_crash("after a promise", 20 if batch.hard_state else 1)

    def _apply(self, entry: Entry) -> None:
        self.state = self.state.after(entry)
        self._world.ledger.applies(self.id, entry, self.state)
        term, data = self._proposals.pop(entry.index, (0, b""))
        if term == entry.term:
            self._world.ledger.answers(entry.index, data)
            self._world.note("done", self.id, entry.index, data)
        if entry.kind is EntryKind.CONFIG and self.id in Configuration.decode(entry.data).removed:
            self.retired |= self._world.random.random() < 0.5  # or it goes on, as one that nobody told

    def _answer_reads(self) -> None:
        for index, context in self._confirmed_reads:
            if index <= self.state.index:
                self._world.note("read", self.id, context, index)
                self._world.ledger.floor = max(self._world.ledger.floor, index)
        self._confirmed_reads = [read for read in self._confirmed_reads if read[0] > self.state.index]

    # -- States, out of band

    def _ship(self, boot: int, offer: SnapshotOffer) -> None:
        """Cut what the disk holds now; the offer goes with it."""
        if not self._lives(boot):
            return
        staged = self.disk.cut()
        assert staged.name.last.index >= offer.snapshot.last.index, "trimmed beyond what is durable"
        self._world.ship(self, replace(offer, snapshot=staged.name), staged)

    def shipped(self, boot: int, peer: int, last: int | None) -> None:
        """Word of a transfer: up to where, or None if it failed."""
        if not self._lives(boot):
            return
        if last is None:
            self.up.snapshot_failed(peer)
        else:
            self.up.snapshot_sent(peer, last)
        self._happened()
