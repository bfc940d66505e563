"""Those who wait for a linearizable read point, on whichever node they asked.

Place in the house   replica -> reads
Takes                waiters; confirmed rounds; how far this node has applied
Gives                one context per turn for all who came; futures that end when reading is safe
Never                lets a waiter share a context that was given out before it came

A waiter needs two things: word that some leader, after the waiter came, knew every acknowledged write up to
`index`; and everything up to `index` applied here. A round confirms the rounds before it as well: whoever
came earlier is served by a later point. So a lost round costs a tick, never a waiter.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from dataclasses import dataclass

from jobguard_store.errors import NoLeader, RequestTimedOut, ServerStopped
from jobguard_store.peer_messages import Ask, numbers

ROUND_TICKS_MAX = 5


@dataclass(slots=True)
class Round:
    """All who came in one turn: our own waiters, and the questions of followers."""

    context: int
    futures: list[asyncio.Future[None]]
    asks: list[Ask]
    age: int = 0  # in ticks


class Reads:
    """Everybody on this node who waits for a read point."""

    def __init__(self, *, boot: int, leader_wait_s: float, timeout_s: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._leader_wait_s = leader_wait_s
        self._timeout_s = timeout_s
        self._futures: list[asyncio.Future[None]] = []
        self._asks: list[Ask] = []
        self._rounds: deque[Round] = deque()
        self._unapplied: list[tuple[int, int, Round]] = []
        self._by_age: deque[tuple[float, asyncio.Future[None]]] = deque()
        self._numbers = numbers(boot)
        self.slow = 0  # timed out
        self.failed = 0  # no leader to ask

    def wait(self, now: float) -> asyncio.Future[None]:
        """A read arrives; its future ends at its read point."""
        future: asyncio.Future[None] = self._loop.create_future()
        self._futures.append(future)
        self._by_age.append((now, future))
        return future

    def asked(self, ask: Ask) -> None:
        """A follower's question arrives here, at the leader."""
        self._asks.append(ask)

    @property
    def gathered(self) -> bool:
        return bool(self._futures or self._asks)

    def begin(self) -> Round:
        """Everybody who has come so far, under one context of their own."""
        round_ = Round(next(self._numbers), self._futures, self._asks)
        self._futures, self._asks = [], []
        self._rounds.append(round_)
        return round_

    def confirmed(self, context: int, index: int) -> None:
        """Round `context`, and all before it, may read once `index` is applied here."""
        while self._rounds and self._rounds[0].context <= context:
            round_ = self._rounds.popleft()
            heapq.heappush(self._unapplied, (index, round_.context, round_))

    def lost(self) -> None:
        """Leadership moved: our own waiters go to whoever leads next; followers ask again themselves.

        They must: did we lead once more before an old question is answered, we would renew a lease on the
        word of a round that confirmed another term.
        """
        for round_ in self._rounds:
            self._futures.extend(future for future in round_.futures if not future.done())
        self._rounds.clear()
        self._asks = []
        for _, _, round_ in self._unapplied:
            round_.asks = []

    def applied(self, index: int) -> list[tuple[int, Ask]]:
        """End the waits that `index` satisfies; return the questions that can now be answered, each with
        the index its asker must reach."""
        answerable: list[tuple[int, Ask]] = []
        while self._unapplied and self._unapplied[0][0] <= index:
            at, _, round_ = heapq.heappop(self._unapplied)
            answerable.extend((at, ask) for ask in round_.asks)
            for future in round_.futures:
                if not future.done():
                    future.set_result(None)
        return answerable

    def until_applied(self, index: int, now: float) -> asyncio.Future[None]:
        """For who already knows its index."""
        future: asyncio.Future[None] = self._loop.create_future()
        number = next(self._numbers)
        heapq.heappush(self._unapplied, (index, number, Round(number, [future], [])))
        self._by_age.append((now, future))
        return future

    def tick(self, now: float, *, has_leader: bool, leading: bool) -> None:
        """Ask again where a question or its answer may be lost; give up on those that waited too long."""
        for round_ in self._rounds:
            round_.age += 1
        if not leading and self._rounds and self._rounds[0].age >= ROUND_TICKS_MAX:
            self.lost()
        while self._by_age:
            since, future = self._by_age[0]
            if not future.done():
                if now - since >= self._timeout_s:
                    self.slow += 1
                    future.set_exception(RequestTimedOut())
                elif not has_leader and now - since >= self._leader_wait_s:
                    self.failed += 1
                    future.set_exception(NoLeader())
                else:
                    break
            self._by_age.popleft()

    def stop(self) -> None:
        for _, future in self._by_age:
            if not future.done():
                future.set_exception(ServerStopped())
        self._by_age.clear()
