"""What a leader does unasked, at each tick: end leases, let history go, promote who has caught up, hand over.

Place in the house   replica -> duties -> raft, lessor, retention, reconfiguring, levels
Takes                the time
Gives                proposals of its own, which nobody waits for
Never                acts without leading; forwards anything: only this very term may decide these
"""

from __future__ import annotations

import logging

from jobguard_store.lessor import Lessor
from jobguard_store.levels import Levels
from jobguard_store.machine.apply import Machine
from jobguard_store.machine.commands import (
    AlarmKind,
    Compact,
    ExpireLease,
    GrantLease,
    Origin,
    decode,
    encode,
)
from jobguard_store.raft.core import Raft, Role
from jobguard_store.raft.messages import EntryKind
from jobguard_store.reconfiguring import Reconfiguring
from jobguard_store.retention import Retention

log = logging.getLogger("jobguard_store.duties")


class Duties:
    def __init__(
        self,
        raft: Raft,
        machine: Machine,
        lessor: Lessor,
        retention: Retention,
        reconfiguring: Reconfiguring,
        levels: Levels,
        *,
        boot: int,
    ) -> None:
        self._raft = raft
        self._machine = machine
        self._lessor = lessor
        self._retention = retention
        self._reconfiguring = reconfiguring
        self._levels = levels
        self._origin = Origin(raft.node_id, boot, 0)

    def tick(self, now: float, *, disk_full: bool) -> None:
        self._retention.note(now, self._machine.revision)
        if self._raft.role is not Role.LEADER or not self._raft.accepts_proposals:
            return
        self._expire_leases(now)
        self._forget_history(now)
        self._reconfiguring.promote_who_caught_up()
        self._levels.maybe_raise()
        if disk_full:
            self._hand_over()

    def _expire_leases(self, now: float) -> None:
        term = self._lessor.term
        if term == self._raft.term and self._lessor.due(now):
            over = self._lessor.expired(now, self._grants_under_way())
            if over:
                self._raft.propose([encode(self._origin, ExpireLease(lease_id, term)) for lease_id in over])

    def _grants_under_way(self) -> set[int]:
        """Ids granted by entries of the log that are not applied yet.

        A lease that has run out may be revoked and its id granted again in there. An expiry, appended behind
        that, would end the new lease as it begins.
        """
        raft = self._raft
        commands = [
            decode(entry.data)[1]
            for entry in raft.log.slice(raft.applied_index + 1, raft.last_index)
            if entry.kind is EntryKind.NORMAL
        ]
        return {command.id for command in commands if isinstance(command, GrantLease)}

    def _forget_history(self, now: float) -> None:
        machine = self._machine
        pressed = any(kind is AlarmKind.NOSPACE and not hand for (_, kind), hand in machine.alarms.items())
        goal = self._retention.take(now, machine.revision, machine.compact_revision, pressed=pressed)
        if goal is not None:
            self._raft.propose([encode(self._origin, Compact(goal))])

    def _hand_over(self) -> None:
        """A leader that accepts nothing keeps the whole cluster from writing; its followers have disks."""
        if (heir := self._raft.successor) is not None:
            log.warning("handing leadership over to member %x, which may have space on its disk", heir)
            self._raft.transfer(heir)
