"""Whether this member uses more space than it may, and the alarm that says so to all.

Place in the house   replica -> quota -> proposals
Takes                at each measurement the bytes in use, without those of the log
Gives                an alarm raised for ourselves when they pass the quota, and lowered when space is back
Never                refuses anything: that does the machine, of every member, once the log says so

Of bytes in use count those of keys, values and their history. Free pages are space, and go back to the file
system by themselves; the Raft log is bounded by itself, and no delete makes it shorter.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from jobguard_store.errors import OutcomeUnknown, StoreError
from jobguard_store.machine.apply import Machine
from jobguard_store.machine.commands import AlarmKind, Command, LowerAlarm, RaiseAlarm
from jobguard_store.machine.results import Alarm

log = logging.getLogger("jobguard_store.quota")

# Lowered only a good way below it, or the alarm would come and go with every write.
LOWERED_AT = 0.9


class Quota:
    def __init__(
        self, machine: Machine, *, member: int, limit: int, propose: Callable[[Command], Awaitable[Any]]
    ) -> None:
        """`limit` in bytes, 0 for none."""
        self._machine = machine
        self._ours = Alarm(member, AlarmKind.NOSPACE)
        self._limit = limit
        self._propose = propose
        self._proposing = False

    async def measured(self, in_use: int) -> None:
        """Whatever becomes of a proposal, the next measurement shows whether it is still to be made."""
        change = self._change(in_use)
        if change is None or self._proposing:
            return
        self._proposing = True
        try:
            with contextlib.suppress(StoreError, OutcomeUnknown):
                await self._propose(change)
                log.warning(
                    "%s: %d bytes are in use, the quota is %d", type(change).__name__, in_use, self._limit
                )
        finally:
            self._proposing = False

    def _change(self, in_use: int) -> RaiseAlarm | LowerAlarm | None:
        by_hand = self._machine.alarms.get(self._ours)
        if by_hand is None and 0 < self._limit < in_use:
            return RaiseAlarm(*self._ours)
        if by_hand is False and (not self._limit or in_use < LOWERED_AT * self._limit):
            return LowerAlarm(*self._ours)
        return None
