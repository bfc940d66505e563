"""A node's file: opened, checked, migrated, loaded; written in batches, read beside the writer.

Place in the house   node -> storage.database -> file, raft_log, state, history
Takes                a path; batches
Gives                what the node was when it stopped; the durability of a batch; history
Never                decides anything about the log or the state it keeps

Threads: `range_at`, `changes`, `hash_kv` and `sizes` may run on any, on read-only connections; all else is
the writer's, one call at a time.
"""

import os
import secrets
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import IO, Any

import msgspec
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import OperationalError

from jobguard_store.counts import Histogram, clock
from jobguard_store.machine.apply import Machine
from jobguard_store.machine.commands import UnknownCommand, decode
from jobguard_store.machine.keyspace import interval
from jobguard_store.machine.results import ChangeEvent, HistoricRange, RangeResult
from jobguard_store.raft.configuration import Configuration
from jobguard_store.raft.messages import Entry, EntryId, EntryKind, HardState, Snapshot
from jobguard_store.storage import auth, file, hashkv, history, index, lives, meta, raft_log, snapshot, state
from jobguard_store.storage.batch import Batch
from jobguard_store.storage.damage import Damage, DiskFull, Newer, explained, sqlite_code
from jobguard_store.storage.hashkv import Hash
from jobguard_store.storage.history import Changes
from jobguard_store.storage.inspection import Inspection
from jobguard_store.storage.lives import Life
from jobguard_store.storage.meta import Meta, from_hex, to_hex
from jobguard_store.storage.snapshot import Cut, Staged
from jobguard_store.storage.tables import driver
from jobguard_store.storage.wal import Length


class InitialMember(msgspec.Struct, frozen=True):
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
    disk: int
    boot: int
    expelled: str | None
    lives: dict[int, Life]
    hard_state: HardState
    base: EntryId
    configuration: Configuration | None  # as of the base; None: the initial members
    entries: list[Entry]
    applied_index: int
    machine: Machine


@dataclass(frozen=True, slots=True)
class Sizes:
    """In bytes: the file's pages, and those of them that hold something."""

    total: int
    in_use: int


_CHECKPOINT_FRAMES = 1000  # SQLite's own default: 4 MiB
_TRIM_ROWS = 1000


class Database:
    def __init__(self, base_path: Path, held: IO[bytes], path: Path, engine: Engine, row: Meta) -> None:
        """`path` is that of the generation in force, see file.generation."""
        self._base_path = base_path
        self._held = held
        self._switching = Lock()  # between two generations, for those on other threads
        self._last_index: int | None = None  # of the log, once loaded
        self.fsyncs = Histogram(0.001, 14)  # seconds in COMMIT, which appends to the WAL and syncs it
        self.commits = Histogram(0.001, 14)  # .. and in the whole transaction around it
        self._use(path, engine, row)

    def _use(self, path: Path, engine: Engine, row: Meta) -> None:
        """`_meta` goes last: what it calls indexed must be found by `_readers` as well."""
        self._path = path
        self._readers = file.reader_engine(path)
        self._engine = engine
        self._writer = engine.connect()
        with self._writer.begin():
            self._indexing = index.prepare(self._writer, row.indexed_revision)
        self._wal = Length(path)
        # Readers first: the writer, closing last, checkpoints and removes the WAL.
        self._ends = self._readers.dispose, self._writer.close, self._engine.dispose, self._wal.close
        self._sweeping: tuple[int, state.Position] | None = None
        self._meta = row  # as the last commit left it: the next one writes it whole

    @classmethod
    def open(cls, base_path: Path) -> "Database":
        """Lock, check and migrate the file, creating it if it is not there; count this start as a boot.

        Raises DatabaseDamaged, DatabaseNewer, DatabaseInUse, DatabaseUnusable: one sentence for the operator.
        """
        with explained(base_path):
            held = file.lock(base_path)
            path = file.generation(base_path, file.newest_generation(base_path))
        engine = file.writer_engine(path)
        try:
            with explained(path):
                file.remove_leftovers(base_path)
                file.look_at(path)
                with engine.begin() as tx:
                    file.check_for_start(tx)
                with engine.begin() as tx:
                    if file.upgrade(tx):
                        meta.create(tx)
                with engine.begin() as tx:
                    row = meta.read(tx)
                    row = replace(row, boot=row.boot + 1, disk=row.disk or secrets.randbits(63))
                    meta.write(tx, row)
                file.sync_folder(path)
                return cls(base_path, held, path, engine, row)
        except BaseException:
            engine.dispose()
            held.close()
            raise

    def load(self) -> Loaded:
        """Everything the node needs to go on. Raises DatabaseDamaged, DatabaseNewer."""
        with explained(self._path):
            try:
                with self._writer.begin():
                    index.refuse_gaps(self._writer, self._indexing, self._meta.revision)
                while self.index():
                    pass
                with self._writer.begin():
                    index.refuse_leftovers(self._writer)
                    loaded = _load(self._writer, self._meta)
            except (TypeError, ValueError) as error:  # a column holds what no build of ours puts there
                raise Damage(str(error)) from error
        self._last_index = loaded.entries[-1].index if loaded.entries else loaded.base.index
        return loaded

    def found(self, identity: Identity) -> None:
        """Write down who this node is; durable on return. Only for a file without an identity."""
        assert self._meta.member_id is None, "a node's identity is written once"
        self._commit_meta(
            cluster_id=to_hex(identity.cluster_id),
            member_id=to_hex(identity.member_id),
            name=identity.name,
            initial_members=msgspec.json.encode(identity.initial_members).decode(),
        )

    def begin_anew(self, cluster_id: int, alone: Snapshot, revision: int) -> None:
        """Be the only member of another cluster, in the state of `alone`, at a `revision` beyond its own.

        What came before is compacted: whoever watched the old cluster must not take this one for it.
        """
        assert alone.last.index == self._meta.applied_index, "the state is not that of the log's end"
        assert self.indexed_revision == self._meta.revision, "index first"
        anew = meta.anew(alone, revision)
        row = replace(self._meta, cluster_id=to_hex(cluster_id), initial_members="[]", expelled=None, **anew)
        with self._committing():
            state.write_alarms(self._writer, {})  # of members that are gone
            meta.write(self._writer, row)
        self._meta = row

    def remember(self, member: int, life: Life) -> None:
        """Write down what `member` said of itself; durable on return. Raises DiskFull."""
        with self._committing():
            lives.remember(self._writer, member, life)

    def expel(self, reason: str) -> None:
        """Write down, for all starts to come, that there must be none; durable on return. Raises DiskFull."""
        self._commit_meta(expelled=reason)

    # --- writing ------------------------------------------------------------------------------------

    def write(self, batch: Batch) -> None:
        """Make one batch durable: one transaction, one fsync; and one more when a checkpoint is due.

        If a round of indexing is due, the transaction takes a slice of it along, larger than the batch, so
        that the round ends however much comes meanwhile.

        Raises DiskFull, after which the batch may be written again. Any other exception, a failed fsync
        above all, must end the process: what reached the disk is unknown until a restart reads it.
        """
        before = self._last_index
        assert before is not None, "load before write"
        last_index = batch.entries[-1].index if batch.entries else before
        row = _after(self._meta, batch)
        assert row.applied_index <= last_index, "applied what the log does not hold"
        indexing = self._indexing.written(batch.events)
        began = clock()
        with self._committing():
            if batch.entries:
                raft_log.append(self._writer, batch.entries, before)
            if batch.events:
                state.append_events(self._writer, batch.events)
            if batch.leases:
                state.write_leases(self._writer, batch.leases)
            if batch.alarms is not None:
                state.write_alarms(self._writer, batch.alarms)
            if batch.auth is not None:
                auth.write(self._writer, batch.auth)
            if indexing.due:
                rows = max(index.SLICE_ROWS, 2 * len(batch.events))
                indexing = index.bring_up(self._writer, indexing, row.revision, rows)
                row = _indexed(row, indexing)
            if row is not self._meta:
                meta.write(self._writer, row)
            executed = clock()
        committed = clock()
        self.fsyncs.observe(committed - executed)
        self.commits.observe(committed - began)
        self._meta, self._last_index, self._indexing = row, last_index, indexing
        self._maybe_checkpoint()

    def index(self) -> bool:
        """Bring a slice of `versions` and `live` up behind history; True while there is more to do."""
        if self.indexed_revision == self._meta.revision:
            return False
        with self._committing():
            indexing = index.bring_up(self._writer, self._indexing, self._meta.revision, index.SLICE_ROWS)
            row = _indexed(self._meta, indexing)
            if row is not self._meta:
                meta.write(self._writer, row)
        self._meta, self._indexing = row, indexing
        self._maybe_checkpoint()
        return True

    def rebase(self, base: Snapshot) -> None:
        """Have the log begin behind `base`, which the file holds applied; `trim` then removes what precedes.

        One row says where it begins, so a crash between the two, or in the middle of it, is harmless.
        """
        if base.last.index > self._meta.base_index:
            assert base.last.index <= self._meta.applied_index, "forgot what is not applied"
            self._commit_meta(
                base_index=base.last.index,
                base_term=base.last.term,
                base_configuration=base.configuration.encode().decode(),
            )

    def trim(self) -> bool:
        """Remove up to 1,000 rows that precede the log's base; True while there may be more to do."""
        with self._committing():
            trimmed = raft_log.trim(self._writer, self._meta.base_index, _TRIM_ROWS)
        self._maybe_checkpoint()
        return trimmed

    def compact(self) -> bool:
        """Remove up to 1,000 rows that compaction made unreadable; True while there is more to do.

        They are found by key, so first `versions` must know those that make them so.
        """
        if self._sweeping is None:
            if self._meta.swept_revision >= self._meta.compact_revision:
                return False
            # Once begun a sweep keeps its goal: a compaction that comes meanwhile has the next one.
            self._sweeping = self._meta.compact_revision, state.Position(self._meta.swept_revision, -1)
        goal, after = self._sweeping
        if self.indexed_revision < goal:
            self.index()
            return True
        with self._committing():
            rest = state.sweep(self._writer, goal, after)
        self._maybe_checkpoint()
        if rest is None:
            self._commit_meta(swept_revision=goal)
        self._sweeping = (goal, rest) if rest else None
        return True

    def reclaim(self, pages: int = 256) -> bool:
        """Give up to `pages` free pages back to the file system; True while there are more."""
        with self._committing():
            # A row without columns per page, none of which SQLAlchemy would step to.
            driver(self._writer).execute(f"PRAGMA incremental_vacuum({pages:d})").fetchall()
            more = bool(self._writer.exec_driver_sql("PRAGMA freelist_count").scalar())
        self._maybe_checkpoint()
        return more

    def adopt(self, staged: Staged, hard_state: HardState | None) -> None:
        """Live by another state: a peer's takes the place of all we have, but for who we are and promised.

        A crash leaves either. Up to the rename the old generation is in force, from there on the new one;
        what it leaves lying about, the next start removes. Raises DiskFull, and may then be called again.
        """
        row = meta.with_state_of(_after(self._meta, Batch(hard_state=hard_state)), staged.row)
        assert row.applied_index >= self._meta.applied_index, "a state that is behind ours"
        assert row.term >= row.base_term, "a state of a term that we have not entered"
        with self._writer.begin():
            met = lives.load(self._writer)
        snapshot.make_ones_own(staged, row, met)
        path = file.generation(self._base_path, file.newest_generation(self._base_path) + 1)
        os.rename(staged.path, path)
        file.sync_folder(path)
        old, ends = self._path, self._ends
        with self._switching:
            self._use(path, file.writer_engine(path), row)
            self._last_index = row.base_index
        for end in ends:
            end()
        file.remove(old)

    @property
    def indexed_revision(self) -> int:
        """Up to here the file answers by key as well. Read by any thread: it only grows."""
        return self._meta.indexed_revision

    def _maybe_checkpoint(self) -> None:
        """Move the log's pages into the database once there are enough, so that it can start over.

        SQLite would do so by itself, and go on in silence where the fsync of the database fails: at the next
        try the pages would be taken for durable, and their only other copy be written over.
        """
        if self._wal.frames() >= _CHECKPOINT_FRAMES:
            try:
                driver(self._writer).execute("PRAGMA wal_checkpoint").fetchall()
            except sqlite3.OperationalError as error:
                if sqlite_code(error) != sqlite3.SQLITE_FULL:
                    raise
                # No space to move them to: they stay where they are, and the next batch is refused itself.

    def _commit_meta(self, **changed: Any) -> None:
        row = replace(self._meta, **changed)
        with self._committing():
            meta.write(self._writer, row)
        self._meta = row

    @contextmanager
    def _committing(self) -> Iterator[None]:
        try:
            with self._writer.begin():
                yield
        except (OperationalError, sqlite3.OperationalError) as error:
            if sqlite_code(error) == sqlite3.SQLITE_FULL:
                raise DiskFull(str(error)) from error
            raise

    # --- reading, on other threads ------------------------------------------------------------------

    def range_at(self, asked: HistoricRange, tail: Sequence[ChangeEvent] = ()) -> RangeResult:
        """The answer the machine would have given at that revision.

        `tail`: all events the machine has produced beyond `indexed_revision`, in order. Take it BEFORE
        calling (on the loop, as a tuple): what is indexed in between is then seen twice, which does no harm,
        and nothing is missed. Raises Compacted.
        """
        with explained(self._path):
            return history.range_at(self._reading, asked, tail)

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
        span = interval(key, range_end)
        with explained(self._path):
            return history.changes(
                self._reading, span, from_revision, to_revision, limit=limit, previous=previous, tail=tail
            )

    def hash_kv(self, revision: int) -> Hash:
        """Of what is durable, up to `revision`. Raises Compacted."""
        with explained(self._path):
            return hashkv.hash_kv(self._reading, revision)

    def cut(self, target: Path) -> Cut:
        """Begin to copy the state into a file of its own. Raises DiskFull."""
        with self._switching:
            return Cut(self._path, target)

    def inspection(self) -> Inspection:
        """Of all pages of the file in force; a start has looked at what it reads alone."""
        with self._switching:
            return Inspection(self._path)

    @property
    def leaving_path(self) -> Path:
        return file.leaving(self._base_path)

    @property
    def backup_path(self) -> Path:
        return file.backing_up(self._base_path)

    @property
    def arriving_path(self) -> Path:
        return file.arriving(self._base_path)

    def sizes(self) -> Sizes:
        with self._reading() as tx:
            size, pages, free = (
                tx.exec_driver_sql(f"PRAGMA {name}").scalar_one()
                for name in ("page_size", "page_count", "freelist_count")
            )
        return Sizes(total=size * pages, in_use=size * (pages - free))

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with self._switching:  # SQLite opens a file bit by bit, and none of it may be gone by then
            connection = self._readers.connect()
            connection.begin()
            connection.exec_driver_sql("SELECT id FROM meta").all()
        with connection:
            yield connection

    def close(self) -> None:
        for end in self._ends:
            end()
        self._held.close()


def _load(tx: Connection, row: Meta) -> Loaded:
    base = EntryId(term=row.base_term, index=row.base_index)
    entries = raft_log.load(tx, base)
    last = entries[-1].id if entries else base
    if not base.index <= row.applied_index <= last.index:
        raise Damage(f"entries up to {row.applied_index} are applied, the log ends at {last.index}")
    if row.term < last.term:
        raise Damage(f"its term is {row.term}, but its log holds entries of term {last.term}")
    for entry in entries[row.applied_index - base.index :]:
        _refuse_unknown(entry)
    return Loaded(
        identity=_identity(row),
        disk=row.disk or 0,
        boot=row.boot,
        expelled=row.expelled,
        lives=lives.load(tx),
        hard_state=HardState(term=row.term, voted_for=from_hex(row.voted_for)),
        base=base,
        configuration=_configuration(row),
        entries=entries,
        applied_index=row.applied_index,
        machine=state.load(tx, row.revision, row.compact_revision),
    )


def _refuse_unknown(entry: Entry) -> None:
    """An entry still to be applied must be one this build understands, all of it."""
    if entry.kind is EntryKind.NORMAL:
        try:
            decode(entry.data)
        except UnknownCommand as unknown:
            raise Newer(f"log entry {entry.index} holds an unknown command, {unknown}") from unknown


def _configuration(row: Meta) -> Configuration | None:
    if row.base_configuration is None:
        return None
    try:
        return Configuration.decode(row.base_configuration.encode())
    except ValueError as error:
        raise Damage(f"who was in the cluster at entry {row.base_index} cannot be read") from error


def _identity(row: Meta) -> Identity | None:
    if row.member_id is None:
        return None
    return Identity(
        cluster_id=int(row.cluster_id or "", 16),
        member_id=int(row.member_id, 16),
        name=row.name or "",
        initial_members=msgspec.json.decode(row.initial_members or "", type=tuple[InitialMember, ...]),
    )


def _after(row: Meta, batch: Batch) -> Meta:
    """What the row will say once `batch` is in the file."""
    changed: dict[str, Any] = {}
    if batch.hard_state is not None:
        changed["term"] = batch.hard_state.term
        changed["voted_for"] = to_hex(batch.hard_state.voted_for)
    for name in ("applied_index", "revision", "compact_revision"):
        if (value := getattr(batch, name)) is not None:
            changed[name] = value
    return replace(row, **changed) if changed else row


def _indexed(row: Meta, indexing: index.Progress) -> Meta:
    if indexing.revision == row.indexed_revision:
        return row
    return replace(row, indexed_revision=indexing.revision)
