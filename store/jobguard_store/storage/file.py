"""A node's file before it is trusted: locked, looked at, opened, migrated.

Place in the house   database -> file -> jobguard_migrations
Takes                a path
Gives                the writer's engine and the readers', on a file of our own and of our newest schema
Never                touches a file that is not ours, or newer than this build
"""

import fcntl
import os
import re
import sqlite3
from importlib.resources import files
from pathlib import Path
from typing import IO
from urllib.parse import quote

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, QueuePool, StaticPool, create_engine, event

from jobguard_store.errors import DatabaseInUse
from jobguard_store.storage.damage import Damage, Newer, Unusable
from jobguard_store.storage.tables import driver, metadata
from jobguard_store.storage.wal import refuse_dropped_commits

APPLICATION_ID = 0x6A6F6267  # "jobg", in the header of every node's file since the first migration
SQLITE = b"SQLite format 3\0"  # with which every database begins
READERS_MAX = 4
WAL_KEPT = 16 << 20  # bytes of its file when it starts over; it grows beyond while a state is cut
_PREPARED = 512  # statements the driver keeps: one per table and number of rows, see tables.insert_rows


def lock(path: Path) -> IO[bytes]:
    """Hold the file for this process, until it ends or closes what is returned. Raises DatabaseInUse.

    Two nodes on one file would both be its one writer, and both vote in its name. The lock is on a file
    beside it: SQLite's own last for a transaction, and fall with any descriptor of the database we close.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    held = open(f"{path}.lock", "ab")  # noqa: SIM115 — held for as long as the process has the node
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        held.close()
        raise DatabaseInUse(f"{path} is in use by another process: stop the node that runs on it") from None
    return held


def look_at(path: Path) -> None:
    """Refuse what SQLite would take for a new file though it is none. Raises Damage."""
    wal = Path(f"{path}-wal")
    if not path.exists():
        if wal.exists():  # SQLite would throw it away, with every commit since the last checkpoint
            raise Damage(f"it is gone, but {wal.name} is there")
        return
    if path.stat().st_size == 0:
        raise Damage("it is empty")
    with open(path, "rb") as head:
        if head.read(len(SQLITE)) != SQLITE:
            raise Damage("it is not a SQLite database")


# --- generations ------------------------------------------------------------------------------------
# A state that comes from a peer takes the place of a node's whole file. It does so under a name of its own,
# as the next generation: renamed over the old file it would inherit that one's write-ahead log.


def generation(path: Path, number: int) -> Path:
    """node.sqlite, then node.1.sqlite, node.2.sqlite …"""
    return path.with_suffix(f".{number}{path.suffix}") if number else path


def newest_generation(path: Path) -> int:
    """The one in force: what has such a name is whole."""
    name = re.compile(rf"{re.escape(path.stem)}\.(\d+){re.escape(path.suffix)}")
    found = (name.fullmatch(each.name) for each in path.parent.iterdir())
    return max((int(match[1]) for match in found if match), default=0)


def arriving(path: Path) -> Path:
    """Where a state from a peer is put until it is known to be whole."""
    return path.with_suffix(f".arriving{path.suffix}")


def leaving(path: Path) -> Path:
    """Where the state for a peer is put until it has it."""
    return path.with_suffix(f".leaving{path.suffix}")


def backing_up(path: Path) -> Path:
    """Where the state for a backup is put until it is on its way."""
    return path.with_suffix(f".backup{path.suffix}")


def remove(path: Path) -> None:
    """A database and what SQLite keeps beside it."""
    for suffix in ("", "-journal", "-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)


def remove_leftovers(path: Path) -> None:
    """What a crash left of states on their way, and of generations before the one in force."""
    for number in range(newest_generation(path)):
        remove(generation(path, number))
    remove(arriving(path))
    remove(leaving(path))
    remove(backing_up(path))


# --- engines ------------------------------------------------------------------------------------------


def writer_engine(path: Path) -> Engine:
    """The one connection that writes and checkpoints. Every transaction is BEGIN IMMEDIATE … COMMIT, ours."""
    engine = create_engine("sqlite://", poolclass=StaticPool, creator=lambda: _open_writer(path))

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        driver(connection).execute("BEGIN IMMEDIATE")  # DDL included: a migration happens whole or not at all

    return engine


def _open_writer(path: Path) -> sqlite3.Connection:
    dbapi = sqlite3.connect(path, check_same_thread=False, cached_statements=_PREPARED, timeout=1)
    try:
        _prepare_writer(_own_transactions(dbapi), path)
    except BaseException:
        dbapi.close()
        raise
    return dbapi


def _prepare_writer(dbapi: sqlite3.Connection, path: Path) -> None:
    new = recognise(dbapi)
    (_busy, believed, _moved) = dbapi.execute("PRAGMA wal_checkpoint").fetchone()
    refuse_dropped_commits(Path(f"{path}-wal"), believed)
    if new:  # before the first table, and before WAL: once there is a page in the file, it is ignored
        dbapi.execute("PRAGMA auto_vacuum = INCREMENTAL")
    (mode,) = dbapi.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise Unusable(f"its file system does not support WAL, only journal_mode {mode}")
    dbapi.execute("PRAGMA synchronous = FULL")  # NORMAL would answer clients before the fsync
    dbapi.execute("PRAGMA wal_autocheckpoint = 0")  # it keeps its errors to itself: Database checkpoints
    dbapi.execute("PRAGMA cell_size_check = ON")
    dbapi.execute(f"PRAGMA journal_size_limit = {WAL_KEPT}")
    dbapi.execute("PRAGMA temp_store = MEMORY")  # of index: a file has a journal, too
    dbapi.execute("PRAGMA cache_size = -65536")  # 64 MiB: keys come in any order


def reader_engine(path: Path) -> Engine:
    """Connections that only read, for any thread.

    They never checkpoint: SQLite before 3.51.3 can lose commits when two connections do.
    """
    engine = create_engine(
        "sqlite://",
        poolclass=QueuePool,
        pool_size=READERS_MAX,
        max_overflow=0,
        pool_timeout=None,
        creator=lambda: _own_transactions(
            sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, check_same_thread=False, timeout=1)
        ),
    )

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        driver(connection).execute("BEGIN")

    return engine


def private_engine(path: Path) -> Engine:
    """The one connection to a file that nobody relies on. Without journal or sync: a crash leaves rubbish."""

    def connect() -> sqlite3.Connection:
        dbapi = _own_transactions(sqlite3.connect(path, check_same_thread=False))
        for setting in ("auto_vacuum = INCREMENTAL", "journal_mode = OFF", "synchronous = OFF"):
            dbapi.execute(f"PRAGMA {setting}")
        dbapi.execute("PRAGMA cell_size_check = ON")
        return dbapi

    engine = create_engine("sqlite://", poolclass=StaticPool, creator=connect)

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        driver(connection).execute("BEGIN IMMEDIATE")

    return engine


def _own_transactions(dbapi: sqlite3.Connection) -> sqlite3.Connection:
    """The driver neither opens nor closes transactions: left to itself it commits the first CREATE TABLE of a
    migration at once, and a crash then leaves a file that no later start can migrate."""
    dbapi.isolation_level = None
    return dbapi


def recognise(dbapi: sqlite3.Connection) -> bool:
    """Whether the file is new. Reads only: another program's database stays as it is. Raises Damage."""
    (application_id,) = dbapi.execute("PRAGMA application_id").fetchone()
    (tables,) = dbapi.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if application_id != APPLICATION_ID and (application_id or tables):
        raise Damage("it is the database of another program")
    if application_id == APPLICATION_ID and not tables:
        raise Damage("its tables are gone")
    return not tables


# --- schema -------------------------------------------------------------------------------------------


def check(connection: Connection) -> None:
    """Walk all pages. Raises Damage with SQLite's first finding."""
    _check(connection, "1")


def check_for_start(connection: Connection) -> None:
    """Walk the pages of what a start reads whole, of any schema. Raises Damage.

    Not those of history and its index: they may be many times as many, and a start must not last for ever.
    Of history it reads the long values that live, and believes no row without its checksum.
    """
    tables = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT IN ('history', 'versions')"
    for name in connection.exec_driver_sql(tables).scalars().all():
        _check(connection, name)


def _check(connection: Connection, what: str) -> None:
    finding = connection.exec_driver_sql(f"PRAGMA quick_check({what})").scalar()
    if finding != "ok":
        raise Damage(str(finding).replace("\n", " "))


def upgrade(tx: Connection) -> bool:
    """Bring the file to the newest schema this build knows; whether it was new. Raises Newer, Damage."""
    config = Config()
    config.set_main_option("script_location", str(files("jobguard_migrations")).replace("%", "%%"))
    script = ScriptDirectory.from_config(config)
    known = {revision.revision for revision in script.walk_revisions()}
    found = MigrationContext.configure(tx).get_current_revision()
    if found is not None and found not in known:
        raise Newer(f"schema {found}, this build knows {script.get_current_head()}")
    if found is None and tx.exec_driver_sql("SELECT count(*) FROM sqlite_master").scalar():
        raise Damage("it does not say which schema it has")
    if found != script.get_current_head():
        if found is not None:
            check(tx)  # what a migration copies looks sound afterwards
        config.attributes.update(connection=tx, metadata=metadata)
        command.upgrade(config, "head")
    return found is None


def sync(path: Path) -> None:
    """Make what was written to it by whomever durable."""
    with open(path, "rb") as written:
        os.fsync(written.fileno())


def sync_folder(path: Path) -> None:
    """Make the name of a new file durable: without this a power cut may leave the folder without it."""
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
