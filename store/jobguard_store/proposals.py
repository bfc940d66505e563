"""Commands on their way to commitment, and those who wait for them.

Place in the house   replica -> proposals -> machine.commands
Takes                commands; what became of them: handed on, refused, applied, overtaken by a newer term
Gives                the queue to propose or forward; answers through futures
Never                hands a command on twice, unless it was refused before anybody appended it

A waiter's life:  queued ─▶ sent in term t ─▶ applied                        the machine's answer
                    │  ▲       │    ├───────▶ an entry of a term > t applied  LeaderChanged: it never will be
                    │  └refused┘    ├───────▶ time-out                        RequestTimedOut: it may yet be
                    │               └───────▶ a state came, not the entries   RequestTimedOut: or it has been
                    └─▶ no leader for too long, or none that takes it       NoLeader: it never was

Why the second answer is definite. A command sent to term t is appended by the leader of t, as an entry of
term t, or not at all (Forward carries t, and other leaders refuse it). Terms never fall along a log, and what
we have applied is committed for ever. So once an entry of a term > t is applied, every entry of term t that
will ever be committed lies before it, and has been applied here already.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jobguard_store.errors import (
    LeaderChanged,
    NoLeader,
    RequestTimedOut,
    ServerStopped,
    StoreError,
    TooManyRequests,
)
from jobguard_store.machine.commands import ANONYMOUS, Caller, Command, Origin, encode
from jobguard_store.peer_messages import numbers

if TYPE_CHECKING:
    from jobguard_store.machine.results import Applied

QUEUED = 0  # no term is 0, so this means: in no leader's hands
WAITERS_MAX = 5000  # etcd refuses at the same distance
WAITING_BYTES_MAX = 64 << 20  # .. and of large commands we hold no more than this


@dataclass(slots=True)
class Waiter:
    sequence: int
    data: bytes
    since: float
    future: asyncio.Future[Applied]
    term: int = QUEUED


class Proposals:
    """All commands this node has accepted and not yet answered."""

    def __init__(self, *, member: int, boot: int, leader_wait_s: float, timeout_s: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._member = member
        self._boot = boot
        self._leader_wait_s = leader_wait_s
        self._timeout_s = timeout_s
        self._sequences = numbers(boot)
        self._waiting: dict[int, Waiter] = {}
        self._bytes = 0  # of their data
        self._queued: list[Waiter] = []
        self._refused: list[Waiter] = []
        self._by_age: deque[Waiter] = deque()
        self.failed = 0  # without the machine having seen them, or in time

    def __len__(self) -> int:
        return len(self._waiting)

    def submit(self, command: Command, now: float, caller: Caller = ANONYMOUS) -> asyncio.Future[Applied]:
        if len(self._waiting) >= WAITERS_MAX or self._bytes >= WAITING_BYTES_MAX:
            raise TooManyRequests
        sequence = next(self._sequences)
        data = encode(Origin(self._member, self._boot, sequence, caller), command)
        future: asyncio.Future[Applied] = self._loop.create_future()
        waiter = Waiter(sequence, data, now, future)
        self._waiting[waiter.sequence] = waiter
        self._bytes += len(data)
        self._queued.append(waiter)
        self._by_age.append(waiter)
        return future

    def groups(self, bytes_max: int) -> Iterator[list[Waiter]]:
        """What is queued, cut into messages. Say `sent` for each group before taking the next."""
        self._forget_the_gone()
        while self._queued:
            group, size = [self._queued[0]], len(self._queued[0].data)
            for waiter in self._queued[1:]:
                size += len(waiter.data)
                if size > bytes_max:
                    break
                group.append(waiter)
            yield group

    def take(self, term: int) -> list[bytes]:
        """All that is queued, for the leader of `term` that we are."""
        self._forget_the_gone()
        commands = [waiter.data for waiter in self._queued]
        self.sent(self._queued, term)
        return commands

    def sent(self, group: list[Waiter], term: int) -> None:
        """The head of the queue is now in the hands of the leader of `term`."""
        for waiter in group:
            waiter.term = term
        self._queued = self._queued[len(group) :]

    def refused(self, sequences: Iterable[int]) -> None:
        """The leader appended none of these. They queue again at the next tick, or for the next leader."""
        for sequence in sequences:
            waiter = self._waiting.get(sequence)
            if waiter is not None and waiter.term != QUEUED:
                waiter.term = QUEUED
                self._refused.append(waiter)

    def applied(self, origin: Origin, applied: Applied) -> None:
        """An entry was applied; if it is ours and of this life, somebody waits for it."""
        if origin.boot != self._boot or origin.member != self._member:
            return
        waiter = self._waiting.get(origin.sequence)
        if waiter is None:
            return
        self._drop(waiter)
        if waiter.future.done():
            return
        if isinstance(applied.result, StoreError):
            waiter.future.set_exception(applied.result)
        else:
            waiter.future.set_result(applied)

    def term_began(self, term: int) -> None:
        """The first entry of `term` is applied: what older leaders held and lost is lost for ever."""
        for waiter in [w for w in self._waiting.values() if QUEUED < w.term < term]:
            self._fail(waiter, LeaderChanged())

    def skipped(self) -> None:
        """A state took the place of entries: what we handed on may be among those, and may yet come, too."""
        for waiter in [waiter for waiter in self._waiting.values() if waiter.term != QUEUED]:
            self._fail(waiter, RequestTimedOut())

    def tick(self, now: float, *, has_leader: bool) -> None:
        """Queue the refused again; give up on those that waited too long.

        Not with a leader at hand: after a pause of ours the queue's turn is still to come.
        """
        self.try_again()
        self._forget_the_gone()
        self._give_up_queued(now, self._timeout_s if has_leader else self._leader_wait_s)
        while self._by_age and self._is_over(self._by_age[0], now):
            waiter = self._by_age.popleft()
            if waiter.sequence in self._waiting:
                self._fail(waiter, RequestTimedOut())

    def try_again(self) -> None:
        self._queued.extend(waiter for waiter in self._refused if waiter.sequence in self._waiting)
        self._refused = []

    def stop(self) -> None:
        """Queued: certainly not done. Sent: the others may still commit it."""
        for waiter in tuple(self._waiting.values()):
            unsent = waiter.term == QUEUED
            self._fail(waiter, ServerStopped() if unsent else RequestTimedOut())
        self._queued, self._refused = [], []

    def _is_over(self, waiter: Waiter, now: float) -> bool:
        return waiter.sequence not in self._waiting or now - waiter.since >= self._timeout_s

    def _give_up_queued(self, now: float, wait_s: float) -> None:
        kept = []
        for waiter in self._queued:
            if now - waiter.since >= wait_s:
                self._fail(waiter, NoLeader())
            else:
                kept.append(waiter)
        self._queued = kept

    def _forget_the_gone(self) -> None:
        """Who went away while their command was in no leader's hands is not even owed the attempt."""
        if any(waiter.future.cancelled() for waiter in self._queued):
            for waiter in self._queued:
                if waiter.future.cancelled():
                    self._drop(waiter)
            self._queued = [waiter for waiter in self._queued if not waiter.future.cancelled()]

    def _drop(self, waiter: Waiter) -> None:
        del self._waiting[waiter.sequence]
        self._bytes -= len(waiter.data)

    def _fail(self, waiter: Waiter, error: Exception) -> None:
        self._drop(waiter)
        if not waiter.future.done():
            self.failed += 1
            waiter.future.set_exception(error)
