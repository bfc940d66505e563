"""Lease deadlines, on the leader only: longer than the TTL, never shorter.

Place in the house   replica, applier -> lessor -> peer_messages
Takes                a leader's first applied entry, applied grants and removals, confirmed questions, time
Gives                answers about leases; those that have run out, for the replica to propose their expiry
Never                removes a lease (only an applied command does), reads a clock, or works on a follower

A new leader knows nothing of renewals (they do not enter the log), so it first gives every lease its full
TTL again. An old leader that was paused may find leases expired and propose so: its ExpireLease carries its
own term, and an entry of that term can no longer be committed.
"""

from __future__ import annotations

import heapq
from collections.abc import Container, Iterable

from jobguard_store.machine.commands import Command, ExpireLease, RevokeLease
from jobguard_store.machine.results import Applied, ExpireResult, GrantResult, RevokeResult
from jobguard_store.peer_messages import REFUSED, Ask, Question, Told

# Ten thousand leases of one dead datacentre must not become one ten-thousand-entry burst: at most this many
# a tick, a thousand a second.
EXPIRIES_PER_TICK_MAX = 100


class Lessor:
    """When each lease runs out, while we lead."""

    def __init__(self) -> None:
        self._term = 0
        self._ttls: dict[int, int] = {}
        self._deadlines: dict[int, float] = {}
        # (deadline, id), perhaps out of date: a renewal only moves the dict's deadline, and an item that
        # comes up too early is pushed again with the true one.
        self._queue: list[tuple[float, int]] = []
        self._ending: set[int] = set()  # named by expired(), their removal not applied yet
        self.renewed = 0

    @property
    def term(self) -> int:
        """The term in which we lead and count; 0 while we do not."""
        return self._term

    def start(self, term: int, leases: Iterable[tuple[int, int]], now: float) -> None:
        """We lead in `term` and have applied its first entry: every lease begins its TTL again."""
        self.stop()
        self._term = term
        for lease_id, ttl in leases:
            self._ttls[lease_id] = ttl
            self._deadlines[lease_id] = now + ttl
        self._queue = [(deadline, lease_id) for lease_id, deadline in self._deadlines.items()]
        heapq.heapify(self._queue)

    def stop(self) -> None:
        self._term = 0
        self._ttls, self._deadlines, self._queue, self._ending = {}, {}, [], set()

    def applied(self, command: Command, applied: Applied, now: float) -> None:
        """A command was applied; grants and removals are what we care for."""
        match applied.result:
            case GrantResult(id=lease_id, ttl=ttl):
                self._ttls[lease_id] = ttl
                self._deadlines[lease_id] = now + ttl
                heapq.heappush(self._queue, (now + ttl, lease_id))
            case RevokeResult() if isinstance(command, RevokeLease):
                self._removed(command.id)
            case ExpireResult(expired=True) if isinstance(command, ExpireLease):
                self._removed(command.id)

    def _removed(self, lease_id: int) -> None:
        self._ttls.pop(lease_id, None)
        self._deadlines.pop(lease_id, None)
        self._ending.discard(lease_id)

    def answer(self, ask: Ask, index: int, now: float) -> Told:
        """A read round begun after `ask` arrived is confirmed: we led then, so our count was right."""
        if ask.question is Question.BARRIER:
            return ask.reply(index)
        if not self._term:
            return ask.reply(REFUSED)
        if ask.question is Question.RENEW:
            ttl = self.renew(ask.lease_id, now)
            return ask.reply(index, remaining=ttl, granted=ttl)
        remaining, granted = self.remaining(ask.lease_id, now)
        return ask.reply(index, remaining=remaining, granted=granted)

    def renew(self, lease_id: int, now: float) -> int:
        """Its TTL once more; 0 when there is no such lease, or its end has come already.

        Past the deadline it is over even if the tick that proposes so is still to come: whoever reads the
        time left must never see it grow from nothing.
        """
        deadline = self._deadlines.get(lease_id)
        if deadline is None or deadline <= now:
            return 0
        ttl = self._ttls[lease_id]
        self._deadlines[lease_id] = now + ttl
        self.renewed += 1
        return ttl

    def remaining(self, lease_id: int, now: float) -> tuple[int, int]:
        """(whole seconds left, granted TTL); (-1, 0) when there is no such lease."""
        deadline = self._deadlines.get(lease_id)
        if deadline is None:
            return -1, 0
        return max(0, int(deadline - now)), self._ttls[lease_id]

    def due(self, now: float) -> bool:
        """Whether a look at `expired` is worth while."""
        return bool(self._queue) and self._queue[0][0] <= now

    def expired(self, now: float, spared: Container[int] = ()) -> list[int]:
        """The leases to expire now, each named once; until that is applied they stay, unrenewable.

        Those in `spared` come up again the next time.
        """
        over: list[int] = []
        later: list[tuple[float, int]] = []
        while self._queue and self._queue[0][0] <= now and len(over) < EXPIRIES_PER_TICK_MAX:
            _, lease_id = heapq.heappop(self._queue)
            deadline = self._deadlines.get(lease_id)
            if deadline is None or lease_id in self._ending:
                continue
            if deadline > now:
                heapq.heappush(self._queue, (deadline, lease_id))
            elif lease_id in spared:
                later.append((deadline, lease_id))
            else:
                self._ending.add(lease_id)
                over.append(lease_id)
        for item in later:
            heapq.heappush(self._queue, item)
        return over
