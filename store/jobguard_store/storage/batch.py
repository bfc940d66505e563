"""One commit's worth of writes, collected by the loop, carried out by the writer thread.

Place in the house   node (fills) -> Batch -> storage.database.write
Never                touches the database

A batch that is still waiting when the next one is due takes the next one in: one transaction, one fsync.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from jobguard_store.machine.auth import AuthChange
from jobguard_store.machine.results import Alarm, ChangeEvent, Rows
from jobguard_store.raft.messages import Entry, HardState


@dataclass(slots=True)
class Batch:
    """Log, votes and state, as one transaction. Leases are id -> ttl, ttl 0 = gone; alarms: all."""

    hard_state: HardState | None = None
    entries: list[Entry] = field(default_factory=list)
    applied_index: int | None = None
    revision: int | None = None
    compact_revision: int | None = None
    events: list[ChangeEvent] = field(default_factory=list)
    leases: dict[int, int] = field(default_factory=dict)
    alarms: dict[Alarm, bool] | None = None
    auth: AuthChange | None = None

    def append(self, entries: Sequence[Entry]) -> None:
        """Add log entries; a suffix of ours that they replace gives way."""
        if self.entries and entries and entries[0].index <= self.entries[-1].index:
            self.entries = [entry for entry in self.entries if entry.index < entries[0].index]
        self.entries.extend(entries)

    def apply(self, index: int, rows: Rows | None = None) -> None:
        """Add what applying entry `index` left behind; in index order, None for one without a command."""
        self.applied_index = index
        if rows is not None:
            self.revision = rows.revision
            self.events.extend(rows.events)
            self.leases.update(rows.leases)
            if rows.compact_revision is not None:
                self.compact_revision = rows.compact_revision
            if rows.alarms is not None:
                self.alarms = rows.alarms
            if rows.auth is not None:
                self._change_auth(rows.auth)

    def merge(self, later: "Batch") -> None:
        """Take in a later batch, as if it had been collected here."""
        self.append(later.entries)
        self.events.extend(later.events)
        self.leases.update(later.leases)
        for name in ("hard_state", "applied_index", "revision", "compact_revision", "alarms"):
            if (value := getattr(later, name)) is not None:
                setattr(self, name, value)
        if later.auth is not None:
            self._change_auth(later.auth)

    def _change_auth(self, later: AuthChange) -> None:
        self.auth = later if self.auth is None else self.auth.then(later)

    @property
    def last(self) -> Entry | None:
        """The last entry this batch makes durable."""
        return self.entries[-1] if self.entries else None

    def __bool__(self) -> bool:
        return bool(self.hard_state or self.entries or self.applied_index is not None)
