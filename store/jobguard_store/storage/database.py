"""A node's file: opened, checked, migrated, loaded; written in batches, read beside the writer.

Place in the house   node -> storage.database -> tables, raft_log, state, jobguard_migrations
Takes                a path; batches
Gives                what the node was when it stopped; the durability of a batch; history
Never                decides anything about the log or the state it keeps

Threads: `open`, `load`, `found`, `write`, `compact`, `reclaim` and `close` are the writer's, one at a time;
`range_at`, `changes` and `sizes` may run on any other thread meanwhile, on read-only connections.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jobguard_store.machine.apply import Machine
from jobguard_store.machine.commands import Range
from jobguard_store.machine.results import ChangeEvent, RangeResult
from jobguard_store.raft.messages import Entry, EntryId, HardState
from jobguard_store.storage.batch import Batch


@dataclass(frozen=True, slots=True)
class InitialMember:
    id: int
    name: str
    peer_urls: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this node is, for good: written once, at its first start."""

    cluster_id: int
    member_id: int
    name: str
    initial_members: tuple[InitialMember, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """What the file held: `entries` follow `base`; the log up to `applied_index` is already in `machine`."""

    identity: Identity | None
    boot: int
    hard_state: HardState
    base: EntryId
    entries: list[Entry]
    applied_index: int
    machine: Machine


@dataclass(frozen=True, slots=True)
class Changes:
    """A stretch of history: every matching change of the revisions asked for up to `through`, in order.

    Ask again from `through + 1`. Revisions are never split.
    """

    events: list[ChangeEvent]
    through: int


@dataclass(frozen=True, slots=True)
class Sizes:
    total: int
    in_use: int


class DiskFull(Exception):
    """Nothing of the batch was written; keep it and try again when there is space."""


class Database:
    @classmethod
    def open(cls, path: Path) -> "Database":
        """Lock, check and migrate the file, creating it if it is not there; count this start as a boot.

        Raises DatabaseDamaged, DatabaseNewer, DatabaseInUse: each is one sentence for the operator.
        """
        raise NotImplementedError

    def load(self) -> Loaded:
        """Everything the node needs to go on. Raises DatabaseDamaged."""
        raise NotImplementedError

    def found(self, identity: Identity) -> None:
        """Write down who this node is; durable on return. Only for a file without an identity."""
        raise NotImplementedError

    def write(self, batch: Batch) -> None:
        """Make one batch durable: one transaction, one fsync.

        Raises DiskFull, after which the batch may be written again. Any other exception, a failed fsync
        above all, must end the process: what reached the disk is unknown until a restart reads it.
        """
        raise NotImplementedError

    def compact(self) -> bool:
        """Remove up to 1,000 rows that compaction made unreadable; True while there is more to do."""
        raise NotImplementedError

    def reclaim(self, pages: int = 256) -> bool:
        """Give up to `pages` free pages back to the file system; True while there are more."""
        raise NotImplementedError

    def range_at(self, request: Range, revision: int, tail: Sequence[ChangeEvent] = ()) -> RangeResult:
        """The answer to `request` in the state at `revision`.

        `tail`: all events the machine has produced that were not durable when the node asked, in order. Take
        it BEFORE calling (on the loop, as a tuple): what is committed in between is then seen twice, which
        does no harm, and nothing is missed. Raises Compacted.
        """
        raise NotImplementedError

    def changes(
        self,
        key: bytes,
        range_end: bytes,
        from_revision: int,
        to_revision: int,
        *,
        limit: int = 1000,
        previous: bool = False,
        tail: Sequence[ChangeEvent] = (),
    ) -> Changes:
        """About `limit` rows' worth of changes from `from_revision` to `to_revision`, both included.

        `tail` as above; `previous` fills the events' previous records. Raises Compacted, in any call in
        which compaction has overtaken the reader.
        """
        raise NotImplementedError

    def sizes(self) -> Sizes:
        """Bytes of the file, and of its pages in use."""
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError
