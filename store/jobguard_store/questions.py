"""Questions about leases, which only the leader can answer: it alone counts their time.

Place in the house   replica -> questions -> peer_messages
Takes                questions; the leader's answers, or its refusals
Gives                what to ask now; answers through futures
Never                treats a repeat as harmful: renewing twice and looking twice change nothing

The leader puts its own questions through the same door, so there is one path and one rule: an answer needs
a ReadIndex round begun after the question arrived.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from jobguard_store.errors import NoLeader, RequestTimedOut, ServerStopped
from jobguard_store.peer_messages import REFUSED, Ask, Question, Told, numbers

# With the connection up a question is answered within a round; half a second of silence means it was lost.
ASK_AGAIN_S = 0.5


@dataclass(slots=True)
class Pending:
    context: int
    question: Question
    lease_id: int
    since: float
    future: asyncio.Future[Told]
    asked_at: float | None = None

    def ask(self, sender: int, to: int) -> Ask:
        return Ask(sender=sender, to=to, context=self.context, question=self.question, lease_id=self.lease_id)


class Questions:
    """What this node wants to know of the leader."""

    def __init__(self, *, boot: int, leader_wait_s: float, timeout_s: float) -> None:
        self._leader_wait_s = leader_wait_s
        self._timeout_s = timeout_s
        self._numbers = numbers(boot)
        self._pending: dict[int, Pending] = {}
        self._fresh = False

    def put(self, question: Question, lease_id: int, now: float) -> asyncio.Future[Told]:
        context = next(self._numbers)
        future: asyncio.Future[Told] = asyncio.get_running_loop().create_future()
        self._pending[context] = Pending(context, question, lease_id, now, future)
        self._fresh = True
        return future

    def to_ask(self, now: float) -> list[Pending]:
        """The questions nobody has been asked yet; the caller asks the leader of this moment."""
        if not self._fresh:
            return []
        self._fresh = False
        unasked = [pending for pending in self._pending.values() if pending.asked_at is None]
        for pending in unasked:
            pending.asked_at = now
        return unasked

    def told(self, told: Told) -> None:
        if told.index == REFUSED:
            return  # it leads no more, or not yet; the tick asks again
        pending = self._pending.pop(told.context, None)
        if pending is not None and not pending.future.done():
            pending.future.set_result(told)

    def leader_changed(self) -> None:
        """Whoever was asked may never answer."""
        for pending in self._pending.values():
            pending.asked_at = None
        self._fresh = bool(self._pending)

    def tick(self, now: float, *, has_leader: bool) -> None:
        for pending in tuple(self._pending.values()):
            if pending.future.done():
                del self._pending[pending.context]
            elif now - pending.since >= self._timeout_s:
                self._fail(pending, RequestTimedOut())
            elif not has_leader and now - pending.since >= self._leader_wait_s:
                self._fail(pending, NoLeader())
            elif pending.asked_at is not None and now - pending.asked_at >= ASK_AGAIN_S:
                pending.asked_at = None
                self._fresh = True

    def stop(self) -> None:
        for pending in tuple(self._pending.values()):
            self._fail(pending, ServerStopped())

    def _fail(self, pending: Pending, error: Exception) -> None:
        del self._pending[pending.context]
        if not pending.future.done():
            pending.future.set_exception(error)
