"""Lease deadlines, on the leader only: longer than the TTL, never shorter.

Place in the house   node -> lessor
Takes                a leader's first applied entry, applied grants and removals, confirmed renewals, the time
Gives                the leases that have run out, for the node to propose their expiry
Never                removes a lease (only an applied command does), reads a clock, or works on a follower

A new leader knows nothing of renewals (they do not enter the log), so it first gives every lease its full
TTL again. An old leader that was paused may find leases expired and propose so: its ExpireLease carries its
own term, and an entry of that term can no longer be committed.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable

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

    def granted(self, lease_id: int, ttl: int, now: float) -> None:
        """A grant was applied."""
        if self._term:
            self._ttls[lease_id] = ttl
            self._deadlines[lease_id] = now + ttl
            heapq.heappush(self._queue, (now + ttl, lease_id))

    def removed(self, lease_id: int) -> None:
        """A revocation or an expiry was applied."""
        self._ttls.pop(lease_id, None)
        self._deadlines.pop(lease_id, None)
        self._ending.discard(lease_id)

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
        return ttl

    def remaining(self, lease_id: int, now: float) -> tuple[int, int]:
        """(whole seconds left, granted TTL); (-1, 0) when there is no such lease."""
        deadline = self._deadlines.get(lease_id)
        if deadline is None:
            return -1, 0
        return max(0, int(deadline - now)), self._ttls[lease_id]

    def expired(self, now: float) -> list[int]:
        """The leases to expire now, each named once; until that is applied they stay, unrenewable."""
        over: list[int] = []
        while self._queue and self._queue[0][0] <= now and len(over) < EXPIRIES_PER_TICK_MAX:
            _, lease_id = heapq.heappop(self._queue)
            deadline = self._deadlines.get(lease_id)
            if deadline is None or lease_id in self._ending:
                continue
            if deadline > now:
                heapq.heappush(self._queue, (deadline, lease_id))
            else:
                self._ending.add(lease_id)
                over.append(lease_id)
        return over
