"""A node's file: opened, checked, migrated, loaded; written in batches, read beside the writer.

Place in the house   node -> storage.database -> file, raft_log, state, history
Takes                a path; batches
Gives                what the node was when it stopped; the durability of a batch; history
Never                decides anything about the log or the state it keeps

Threads: `open`, `load`, `found`, `write`, `compact`, `reclaim` and `close` are the writer's, one at a time;
`range_at`, `changes` and `sizes` may run on any other thread meanwhile, on read-only connections.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import msgspec
from sqlalchemy import Connection, Engine, Row, select, update
from sqlalchemy.exc import OperationalError

from jobguard_store.machine.apply import Machine
from jobguard_store.machine.commands import UnknownCommand, decode
from jobguard_store.machine.keyspace import interval
from jobguard_store.machine.results import ChangeEvent, HistoricRange, RangeResult
from jobguard_store.raft.messages import Entry, EntryId, EntryKind, HardState
from jobguard_store.storage import file, history, raft_log, state
from jobguard_store.storage.batch import Batch
from jobguard_store.storage.damage import Damage, DiskFull, Newer, explained, sqlite_code
from jobguard_store.storage.history import Changes
from jobguard_store.storage.tables import meta


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
    boot: int
    hard_state: HardState
    base: EntryId
    entries: list[Entry]
    applied_index: int
    machine: Machine


@dataclass(frozen=True, slots=True)
class Sizes:
    """In bytes: the file's pages, and those of them that hold something."""

    total: int
    in_use: int


@dataclass(slots=True)
class _Written:
    """What the last commit left in `meta`, so that the next one writes that row whole, by one statement."""

    term: int
    voted_for: str | None
    applied_index: int
    revision: int
    compact_revision: int
    last_index: int  # of the log: not in meta


_WRITE_META = "UPDATE meta SET term = ?, voted_for = ?, applied_index = ?, revision = ?, compact_revision = ?"


class Database:
    def __init__(self, path: Path, held: IO[bytes], writer: Engine, readers: Engine) -> None:
        self._path = path
        self._held = held
        self._engine = writer
        self._readers = readers
        self._writer = writer.connect()
        self._written: _Written | None = None
        self._sweeping: tuple[int, state.Position] | None = None

    @classmethod
    def open(cls, path: Path) -> "Database":
        """Lock, check and migrate the file, creating it if it is not there; count this start as a boot.

        Raises DatabaseDamaged, DatabaseNewer, DatabaseInUse, DatabaseUnusable: one sentence for the operator.
        """
        held = file.lock(path)
        engine = file.writer_engine(path)
        try:
            with explained(path):
                file.look_at(path)
                with engine.begin() as tx:
                    file.check(tx)
                file.upgrade(engine)
                with engine.begin() as tx:
                    tx.execute(update(meta).values(boot=meta.c.boot + 1))
                file.sync_folder(path)
                return cls(path, held, engine, file.reader_engine(path))
        except BaseException:
            engine.dispose()
            held.close()
            raise

    def load(self) -> Loaded:
        """Everything the node needs to go on. Raises DatabaseDamaged, DatabaseNewer."""
        with explained(self._path), self._writer.begin():
            try:
                loaded = _load(self._writer)
            except (TypeError, ValueError) as error:  # a column holds what no build of ours puts there
                raise Damage(str(error)) from error
        self._written = _Written(
            term=loaded.hard_state.term,
            voted_for=_hex(loaded.hard_state.voted_for),
            applied_index=loaded.applied_index,
            revision=loaded.machine.revision,
            compact_revision=loaded.machine.compact_revision,
            last_index=loaded.entries[-1].index if loaded.entries else loaded.base.index,
        )
        return loaded

    def found(self, identity: Identity) -> None:
        """Write down who this node is; durable on return. Only for a file without an identity."""
        values = {
            "cluster_id": _hex(identity.cluster_id),
            "member_id": _hex(identity.member_id),
            "name": identity.name,
            "initial_members": msgspec.json.encode(identity.initial_members).decode(),
        }
        with self._writer.begin():
            nobody = update(meta).where(meta.c.member_id.is_(None)).values(**values)
            assert self._writer.execute(nobody).rowcount == 1, "a node's identity is written once"

    # --- writing ------------------------------------------------------------------------------------

    def write(self, batch: Batch) -> None:
        """Make one batch durable: one transaction, one fsync.

        Raises DiskFull, after which the batch may be written again. Any other exception, a failed fsync
        above all, must end the process: what reached the disk is unknown until a restart reads it.
        """
        written = self._written
        assert written is not None, "load before write"
        after = _after(written, batch)
        assert after.applied_index <= after.last_index, "applied what the log does not hold"
        with self._committing():
            if batch.entries:
                raft_log.append(self._writer, batch.entries, written.last_index)
            if batch.events:
                state.append_events(self._writer, batch.events)
            if batch.leases:
                state.write_leases(self._writer, batch.leases)
            if batch.hard_state or batch.applied_index is not None:
                row = (
                    after.term,
                    after.voted_for,
                    after.applied_index,
                    after.revision,
                    after.compact_revision,
                )
                self._writer.exec_driver_sql(_WRITE_META, row)
        self._written = after

    def compact(self) -> bool:
        """Remove up to 1,000 rows that compaction made unreadable; True while there is more to do."""
        with self._committing():
            if self._sweeping is None:
                compact, swept = self._writer.execute(
                    select(meta.c.compact_revision, meta.c.swept_revision)
                ).one()
                if swept >= compact:
                    return False
                self._sweeping = compact, state.Position(swept, -1)
            compact, after = self._sweeping
            rest = state.sweep(self._writer, compact, after)
            if rest is None:
                self._writer.execute(update(meta).values(swept_revision=compact))
        self._sweeping = (compact, rest) if rest else None
        return True

    def reclaim(self, pages: int = 256) -> bool:
        """Give up to `pages` free pages back to the file system; True while there are more."""
        with self._committing():
            # The driver's own cursor: a row without columns per page, none of which SQLAlchemy would step to.
            driver = self._writer.connection.driver_connection
            assert driver is not None
            driver.execute(f"PRAGMA incremental_vacuum({pages:d})").fetchall()
            return bool(self._writer.exec_driver_sql("PRAGMA freelist_count").scalar())

    @contextmanager
    def _committing(self) -> Iterator[None]:
        try:
            with self._writer.begin():
                yield
        except OperationalError as error:
            if sqlite_code(error) == sqlite3.SQLITE_FULL:
                raise DiskFull(str(error.orig)) from error
            raise

    # --- reading, on other threads ------------------------------------------------------------------

    def range_at(self, asked: HistoricRange, tail: Sequence[ChangeEvent] = ()) -> RangeResult:
        """The answer the machine would have given at that revision.

        `tail`: all events the machine has produced that were not durable when the node asked, in order. Take
        it BEFORE calling (on the loop, as a tuple): what is committed in between is then seen twice, which
        does no harm, and nothing is missed. Raises Compacted.
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

    def sizes(self) -> Sizes:
        with self._reading() as tx:
            size, pages, free = (
                tx.exec_driver_sql(f"PRAGMA {name}").scalar_one()
                for name in ("page_size", "page_count", "freelist_count")
            )
        return Sizes(total=size * pages, in_use=size * (pages - free))

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with self._readers.connect() as connection, connection.begin():
            yield connection

    def close(self) -> None:
        """Readers first: the writer, closing last, checkpoints and removes the WAL."""
        self._readers.dispose()
        self._writer.close()
        self._engine.dispose()
        self._held.close()


def _load(tx: Connection) -> Loaded:
    row = tx.execute(select(meta)).one_or_none()
    if row is None:
        raise Damage("its table meta is empty")
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
        boot=row.boot,
        hard_state=HardState(term=row.term, voted_for=_number(row.voted_for)),
        base=base,
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


def _identity(row: Row[Any]) -> Identity | None:
    if row.member_id is None:
        return None
    return Identity(
        cluster_id=int(row.cluster_id, 16),
        member_id=int(row.member_id, 16),
        name=row.name,
        initial_members=msgspec.json.decode(row.initial_members, type=tuple[InitialMember, ...]),
    )


def _after(written: _Written, batch: Batch) -> _Written:
    """What the file will say once `batch` is in it."""
    after = replace(written)
    if batch.hard_state is not None:
        after.term, after.voted_for = batch.hard_state.term, _hex(batch.hard_state.voted_for)
    if batch.applied_index is not None:
        after.applied_index = batch.applied_index
    if batch.revision is not None:
        after.revision = batch.revision
    if batch.compact_revision is not None:
        after.compact_revision = batch.compact_revision
    if batch.entries:
        after.last_index = batch.entries[-1].index
    return after


def _hex(number: int | None) -> str | None:
    return None if number is None else f"{number:x}"


def _number(text: str | None) -> int | None:
    return None if text is None else int(text, 16)
