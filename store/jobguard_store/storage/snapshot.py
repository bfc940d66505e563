"""A state in a file of its own: cut from the file of a node at work, read where it arrives.

Place in the house   database, arrivals, departures -> snapshot -> file, index, meta, state
Takes                a path to write to; a file that arrived
Gives                Cut: that file, as of one read transaction; Staged: what arrived, all of it checked
Never                lets hard state, identity, log or lives go along; writes to the file it is cut from

The container is a node's file without its node: its schema, and the tables that make the state. So a newer
build migrates what an older one sent, an older one knows what it cannot read, and what is built up behind
history row by row need not be built again. A format for ever, as the file is.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import Connection, func, select
from sqlalchemy.exc import DBAPIError

from jobguard_store.machine.apply import Machine
from jobguard_store.machine.results import Alarm
from jobguard_store.raft.configuration import Configuration
from jobguard_store.raft.messages import EntryId, Snapshot
from jobguard_store.storage import file, index, lives, meta, state, tables
from jobguard_store.storage.damage import Damage, DiskFull, Newer, sqlite_code
from jobguard_store.storage.lives import Life
from jobguard_store.storage.meta import Meta
from jobguard_store.storage.tables import driver

_OF_THE_STATE = (
    *("alembic_version", "history", "versions", "live", "leases", "alarms"),
    *("auth", "users", "roles"),
)


class Unfit(Exception):
    """What arrived is not to be lived by: it is torn, rotten or of a newer build. Nothing was changed."""


# --- where it is cut ----------------------------------------------------------------------------------


class Cut:
    """One read transaction on a file at work, and the copy that is made of it. One call at a time."""

    def __init__(self, source: Path, target: Path) -> None:
        """Begin to read. Raises DiskFull."""
        self._target = target
        self._engine = file.reader_engine(source)
        self._source = self._engine.connect()
        try:
            with _explained():
                self._make(("table",), new=True)
                # Before the transaction begins: SQLAlchemy begins one with its first statement.
                driver(self._source).execute("ATTACH ? AS leaving", (f"file:{quote(str(target))}?mode=rw",))
                for setting in ("journal_mode = OFF", "synchronous = OFF"):
                    driver(self._source).execute(f"PRAGMA leaving.{setting}").fetchall()
                self._source.begin()
                self._row = meta.read(self._source)
        except BaseException:
            self.close()
            raise

    @property
    def applied_index(self) -> int:
        """Up to here the state goes."""
        return self._row.applied_index

    def copy(self, name: Snapshot) -> None:
        """Make the file; `name` is that of the state at `applied_index`. Raises DiskFull."""
        assert name.last.index == self.applied_index
        with _explained():
            for table in _OF_THE_STATE:
                self._source.exec_driver_sql(f"INSERT INTO leaving.{table} SELECT * FROM main.{table}")
            self._source.commit()
            driver(self._source).execute("DETACH leaving")
            self._make(("trigger",))  # last, or they would fire
            engine = file.private_engine(self._target)
            with engine.begin() as tx:
                meta.create(tx, meta.with_state_of(meta.NEW, _named(self._row, name)))
            engine.dispose()

    def interrupt(self) -> None:
        """From another thread: have `copy` raise soon."""
        driver(self._source).interrupt()

    def close(self) -> None:
        self._source.close()
        self._engine.dispose()

    def _make(self, kinds: tuple[str, ...], *, new: bool = False) -> None:
        """Have the target know what the source's schema has of these kinds."""
        schema = "SELECT type, sql FROM main.sqlite_master WHERE sql IS NOT NULL"
        made = driver(self._source).execute(schema).fetchall()
        if new:
            file.remove(self._target)
        engine = file.private_engine(self._target)
        with engine.begin() as tx:
            if new:
                tx.exec_driver_sql(f"PRAGMA application_id = {file.APPLICATION_ID}")
            for kind, statement in made:
                if kind in kinds:
                    tx.exec_driver_sql(statement)
        engine.dispose()


def _named(row: Meta, name: Snapshot) -> Meta:
    return replace(
        row,
        base_index=name.last.index,
        base_term=name.last.term,
        base_configuration=name.configuration.encode().decode(),
    )


# --- where it arrives ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Staged:
    """A state in a file beside the node's own, read from front to back."""

    path: Path
    name: Snapshot
    row: Meta
    machine: Machine


def stage(path: Path, name: Snapshot | None) -> Staged:
    """Read what arrived, and bring it to our own schema. Raises Unfit, DiskFull.

    It must be the state that `name` says; None: whatever state it is.
    """
    engine = file.private_engine(path)
    try:
        with _explained():
            with engine.connect() as connection:
                if file.recognise(driver(connection)):
                    raise Damage("it is empty")
            with engine.begin() as tx:
                file.check(tx)
            with engine.begin() as tx:
                file.upgrade(tx)
            with engine.begin() as tx:
                name = name or _own_name(tx)
                row = _indexed(tx, _checked(tx, name))
                state.verify(tx)
                return Staged(path, name, row, state.load(tx, row.revision, row.compact_revision))
    except DBAPIError as error:
        raise Unfit(str(error.orig)) from error
    except (Damage, Newer, sqlite3.Error, KeyError, TypeError, ValueError) as error:
        raise Unfit(str(error)) from error
    finally:
        engine.dispose()


def _own_name(tx: Connection) -> Snapshot:
    row = meta.read(tx)
    configuration = Configuration.decode((row.base_configuration or "").encode())
    return Snapshot(EntryId(row.base_term, row.base_index), configuration)


def _checked(tx: Connection, name: Snapshot) -> Meta:
    row = meta.read(tx)
    if row != meta.with_state_of(meta.NEW, _named(row, name)) or row.applied_index != name.last.index:
        raise Damage("it is not the state that it was said to be")
    for table in (tables.log, tables.lives):
        if tx.execute(select(func.count()).select_from(table)).scalar():
            raise Damage(f"it has a {table.name} of its own")
    return row


def _indexed(tx: Connection, row: Meta) -> Meta:
    index.complete(tx, row.indexed_revision, row.revision)
    complete = replace(row, indexed_revision=row.revision)
    meta.write(tx, complete)
    return complete


def make_ones_own(
    staged: Staged, row: Meta, met: dict[int, Life], alarms: dict[Alarm, bool] | None = None
) -> None:
    """Put in who lives by it from now on, and make all of it durable. Harmless twice. Raises DiskFull.

    `alarms` take the place of the state's, where the members are others.
    """
    engine = file.private_engine(staged.path)
    try:
        with _explained(), engine.begin() as tx:
            meta.write(tx, row)
            if alarms is not None:
                state.write_alarms(tx, alarms)
            for member, life in met.items():
                lives.remember(tx, member, life)
    finally:
        engine.dispose()
    file.sync(staged.path)


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, DBAPIError) as error:
        if sqlite_code(error) == sqlite3.SQLITE_FULL:
            raise DiskFull(str(error)) from error
        raise
