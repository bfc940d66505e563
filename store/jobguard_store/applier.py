"""Step 4 of a Ready: committed entries, in index order, into the machine and out to all who wait for them.

Place in the house   replica -> applier -> machine.apply, journal, watchers, lessor, tokens, proposals
Takes                committed entries
Gives                rows to the journal, events to watchers, answers to proposers, lease time to the lessor
Never                skips an entry, applies one twice, or stops at a refusal, which is an answer too
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import assert_never

from jobguard_store.counts import Counts, clock
from jobguard_store.errors import StartupError
from jobguard_store.journal import Journal
from jobguard_store.lessor import Lessor
from jobguard_store.machine.apply import Machine
from jobguard_store.machine.commands import UnknownCommand, decode
from jobguard_store.proposals import Proposals
from jobguard_store.raft import Configuration
from jobguard_store.raft.messages import Entry, EntryKind, Snapshot
from jobguard_store.reconfiguring import Reconfiguring
from jobguard_store.tokens import Tokens
from jobguard_store.watchers import Watchers

SLOW_S = 0.1  # as etcd has it


class Applier:
    """Everything that follows from an entry being committed."""

    def __init__(
        self,
        *,
        machine: Machine,
        journal: Journal,
        watchers: Watchers,
        lessor: Lessor,
        proposals: Proposals,
        tokens: Tokens,
        reconfiguring: Reconfiguring,
        lead_in: Callable[[int], bool],
        on_compacted: Callable[[], None],
        applied_index: int,
        counts: Counts,
        on_configuration: Callable[[Configuration], None],
    ) -> None:
        self._machine = machine
        self._journal = journal
        self._watchers = watchers
        self._lessor = lessor
        self._proposals = proposals
        self._tokens = tokens
        self._reconfiguring = reconfiguring
        self._lead_in = lead_in
        self._on_compacted = on_compacted
        self._on_configuration = on_configuration
        self._counts = counts
        self._loop = asyncio.get_running_loop()
        self._term = 0
        self.slow = 0  # times that a Ready's entries took too long
        self.applied_index = applied_index  # what machine, watchers and waiters know by now

    def apply(self, entries: Sequence[Entry]) -> None:
        began = clock()
        for entry in entries:
            if entry.term > self._term:
                self._term = entry.term
                self._proposals.term_began(entry.term)
                self._reconfiguring.term_began(entry.term)
            match entry.kind:
                case EntryKind.NORMAL:
                    self._apply_command(entry)
                case EntryKind.NOOP:
                    self._journal.applied(entry.index)
                    self._begin_leases(entry.term)
                case EntryKind.CONFIG:
                    self._journal.applied(entry.index)
                    self._on_configuration(Configuration.decode(entry.data))
                    self._reconfiguring.applied(entry.term, entry.index)
                case _:
                    assert_never(entry.kind)
        self.applied_index = entries[-1].index
        self.slow += clock() - began > SLOW_S

    def skip_to(self, name: Snapshot, machine: Machine) -> None:
        """A state took the place of all entries up to its last."""
        since = self._machine.revision
        self._machine.become(machine)
        self._tokens.skipped()
        self._watchers.skipped_to(machine.revision, since)
        self._proposals.skipped()
        self._reconfiguring.skipped()
        self._term, self.applied_index = name.last.term, name.last.index

    def _apply_command(self, entry: Entry) -> None:
        try:
            origin, command = decode(entry.data)
        except UnknownCommand as unknown:
            raise StartupError(
                f"log entry {entry.index} was written by a newer jobguard ({unknown}): start this node with "
                "that version."
            ) from unknown
        applied = self._machine.apply(command, entry.term, origin.caller)
        self._counts.applied(applied)
        self._journal.applied(entry.index, applied.rows)
        if applied.events:
            self._watchers.publish(applied.revision, applied.events)
        if self._lessor.term:
            self._lessor.applied(command, applied, self._loop.time())
        if applied.rows.auth is not None:
            self._tokens.applied(applied.result, self._loop.time())
        self._proposals.applied(origin, applied)
        if applied.rows.compact_revision is not None:
            self._on_compacted()

    def _begin_leases(self, term: int) -> None:
        """A leader's first entry is applied. If it is ours, the time of all leases begins here and now."""
        if self._lead_in(term):
            ids = self._machine.lease_ids()
            ttls = [(lease_id, self._machine.lease_ttl(lease_id) or 0) for lease_id in ids]
            self._lessor.start(term, ttls, self._loop.time())
