"""Which of the log's commands all members can read, and so which of them may be proposed.

Place in the house   replica, duties -> levels -> raft (Raise), members
Takes                what peers say of their builds as they welcome us; configurations, as they are applied
Gives                a leader's proposal to raise the level, once all members are there and can read more;
                     to whoever proposes what they cannot, the names of those to be upgraded
Never                lowers a level, or goes by what a member said over a connection that has ended

The level is part of the configuration, so it has its place in the log, in a state and in a file, and every
command of a level lies behind the entry that raised it. What a member said a moment ago may be wrong by now:
it was stopped, and started with an older build. Nor was one asked that joins later. So nothing rests on that
word: whoever finds a level in its log that it cannot read stops there, before it has kept anything behind it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from jobguard_store.errors import NoLeader, NotAllKnow, TooOld
from jobguard_store.machine.apply import Machine
from jobguard_store.members import Members, about
from jobguard_store.raft import ChangeRefused, Raft, Raise


class Levels:
    def __init__(
        self,
        raft: Raft,
        machine: Machine,
        members: Members,
        *,
        ours: int,
        said: Callable[[int], int | None],
        patience_s: float,
        pause_s: float,
    ) -> None:
        """`said`: by the member, over the connection there is to it now; None without one."""
        self._raft = raft
        self._machine = machine
        self._members = members
        self._ours = ours
        self._said = said
        self._patience_s = patience_s
        self._pause_s = pause_s

    @property
    def reached(self) -> int:
        """What may be proposed here: by what is applied, which any leader holds that it is handed to."""
        return max(self._members.configuration.level, self._machine.level)

    def refuse_what_we_cannot_read(self) -> None:
        """Raises TooOld. Committed or not: what follows in the log may be of that level."""
        level = self._raft.configuration.level
        if level > self._ours:
            raise TooOld("the cluster", level, self._ours)

    def maybe_raise(self) -> None:
        """If we lead; refused, it is tried again at the next tick."""
        said = [self._can_read(member) for member in self._raft.configuration.ids]
        level = min((each or 0 for each in said), default=0)
        if level > self._raft.configuration.level:
            with contextlib.suppress(ChangeRefused):
                self._raft.change_membership(Raise(level))

    async def wait_for(self, level: int) -> None:
        """For a moment, while the leader may be finding out. Raises NotAllKnow, NoLeader."""
        waited_s = 0.0  # counted, not timed: while we do not run, nobody can tell us anything
        while self.reached < level:
            if older := self._who(lambda can_read: can_read is not None and can_read < level):
                raise NotAllKnow(*older)
            if waited_s >= self._patience_s:
                silent = self._who(lambda can_read: can_read is None)
                raise NotAllKnow(*silent) if silent else NoLeader
            await asyncio.sleep(self._pause_s)
            waited_s += self._pause_s

    def older(self) -> list[str]:
        """The names of members that say they cannot read all that we can."""
        return self._who(lambda can_read: can_read is not None and can_read < self._ours)

    def _who(self, chosen: Callable[[int | None], bool]) -> list[str]:
        members = self._raft.configuration.members
        return [
            about(member).name or f"{member.id:x}" for member in members if chosen(self._can_read(member.id))
        ]

    def _can_read(self, member: int) -> int | None:
        return self._ours if member == self._raft.node_id else self._said(member)
