"""The tables of a node's file, and the one way rows are written in bulk.

Place in the house   raft_log, state, history, database -> tables
Never                changes a table: their history is in jobguard_migrations, and a test compares the two

Formats for ever: columns are only ever added, by a migration, with a default for the rows that lacked them.
Rows have checksums: SQLite notices a torn tree, not a flipped bit in a value.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

from sqlalchemy import (
    BindParameter,
    ClauseElement,
    Column,
    Connection,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    bindparam,
    delete,
    insert,
)
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite

metadata = MetaData()

log = Table(
    "log",
    metadata,
    Column("index", Integer, primary_key=True, autoincrement=False),
    Column("term", Integer, nullable=False),
    Column("kind", Integer, nullable=False),
    Column("data", LargeBinary, nullable=False),
    Column("checksum", Integer, nullable=False),
)
"""The Raft log after meta's base_index, without gaps; rows up to there are forgotten, and go in time."""

history = Table(
    "history",
    metadata,
    Column("mod_revision", Integer, primary_key=True),
    Column("sub", Integer, primary_key=True),
    Column("key", LargeBinary, nullable=False),
    Column("value", LargeBinary, nullable=False),
    Column("create_revision", Integer, nullable=False),
    Column("version", Integer, nullable=False),
    Column("lease", Integer, nullable=False),
    Column("checksum", Integer, nullable=False),
)
"""Every version of every key since compaction, in the order of their making: rows are only ever added at the
end, and the table's tree stays packed. Version 0 is the tombstone of a delete.

With rowids: without them SQLite would move all but a quarter of a page of each row to pages of the row's own.
"""

versions = Table(
    "versions",
    metadata,
    Column("key", LargeBinary, primary_key=True),
    Column("mod_revision", Integer, primary_key=True),
    Column("sub", Integer, primary_key=True),
    sqlite_with_rowid=False,
)
"""Where in history a key's versions stand. Lags behind it, as far as meta's indexed_revision: see index."""

live = Table(
    "live",
    metadata,
    Column("key", LargeBinary, primary_key=True),
    Column("value", LargeBinary),  # null: too long to be here as well, history has it
    Column("create_revision", Integer, nullable=False),
    Column("mod_revision", Integer, nullable=False),
    Column("version", Integer, nullable=False),
    Column("lease", Integer, nullable=False),
    Column("sub", Integer, nullable=False),
    Column("checksum", Integer, nullable=False),
    sqlite_with_rowid=False,
)
"""The newest version of each key there is: what a start reads, front to back, however long the history.

A trigger on versions keeps it, so nothing here ever writes to it, and it lags as they do. Values of up to
512 bytes stand here too; a longer one costs the start a page of history, and would cost no less here.
"""

leases = Table(
    "leases",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("ttl", Integer, nullable=False),
    Column("checksum", Integer, nullable=False),
)

alarms = Table(
    "alarms",
    metadata,
    Column("member_id", Text, primary_key=True),
    Column("kind", Integer, primary_key=True, autoincrement=False),
    Column("by_hand", Integer, nullable=False),
    Column("checksum", Integer, nullable=False),
)
"""Which are on. A member's id is hexadecimal, as in meta."""

auth = Table(
    "auth",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("enabled", Integer, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("checksum", Integer, nullable=False),
)
"""One row, id 1, once there has been a user or a role."""

users = Table(
    "users",
    metadata,
    Column("name", Text, primary_key=True),
    Column("password", LargeBinary),
    Column("roles", Text, nullable=False),
    Column("checksum", Integer, nullable=False),
)
"""A password is a bcrypt hash, null of one who cannot come by password; roles are a JSON list."""

roles = Table(
    "roles",
    metadata,
    Column("name", Text, primary_key=True),
    Column("permissions", LargeBinary, nullable=False),
    Column("checksum", Integer, nullable=False),
)
"""Permissions as machine.permissions has them, in MessagePack."""

meta = Table(
    "meta",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    # Who this node is, once it knows. Ids have 64 bits without a sign, which SQLite's integers lack: hex.
    Column("cluster_id", Text),
    Column("member_id", Text),
    Column("name", Text),
    Column("initial_members", Text),
    # Counts starts, so that an answer to a request of an earlier life finds no waiter in this one.
    Column("boot", Integer, nullable=False),
    # Raft's hard state, and what precedes the first entry in the log.
    Column("term", Integer, nullable=False),
    Column("voted_for", Text),
    Column("base_index", Integer, nullable=False),
    Column("base_term", Integer, nullable=False),
    # The machine: changes in one transaction with the rows of history, live and leases.
    Column("applied_index", Integer, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("compact_revision", Integer, nullable=False),
    # The last compaction whose rows have all been removed.
    Column("swept_revision", Integer, nullable=False),
    Column("checksum", Integer, nullable=False),
    # Drawn when the file was made: a file made anew under the same name is another disk.
    Column("disk", Integer),
    # Why the other members want no more of this one, in a sentence; then it does not start again.
    Column("expelled", Text),
    # Up to where versions and live have everything.
    Column("indexed_revision", Integer, nullable=False, server_default="1"),
    # Who was in the cluster at the log's base, as raft.configuration spells it; null: the initial members.
    Column("base_configuration", Text),
)
"""One row, id 1."""

lives = Table(
    "lives",
    metadata,
    Column("member_id", Text, primary_key=True),
    Column("disk", Integer, nullable=False),
    Column("boot", Integer, nullable=False),
    Column("nonce", Integer, nullable=False),
    Column("checksum", Integer, nullable=False),
)
"""Each other member that was ever met, as it was when it last introduced itself."""


# --- beneath SQLAlchemy -------------------------------------------------------------------------------


def driver(connection: Connection) -> sqlite3.Connection:
    """What SQLAlchemy's connection stands on: for pragmas, and for what each commit of a batch repeats.

    Through SQLAlchemy a commit of one put takes 73 µs of CPU on each node, 40 of which are SQLAlchemy's.
    """
    beneath = connection.connection.driver_connection
    assert isinstance(beneath, sqlite3.Connection)
    return beneath


# --- writing many rows --------------------------------------------------------------------------------
# Each statement of the writer gives up the GIL and has to win it back from a busy loop, up to half a
# millisecond every time. So a batch is one statement per table, with all its rows, and a statement's text is
# made once per number of rows: the driver then finds it prepared. Above 64 only every 16th gets one.
_SIZES = (512, *range(256, 64, -16), *range(64, 0, -1))


def insert_rows(tx: Connection, table: Table, values: Sequence[Any], *, replace: bool = False) -> None:
    """Insert rows given flat, column after column, row after row, in the table's order of columns."""
    for rows, chunk in _chunks(values, len(table.columns)):
        driver(tx).execute(_insert(table, rows, replace), chunk)


def delete_rows(tx: Connection, column: Column[Any], values: Sequence[Any]) -> None:
    """Delete the rows in which `column` has one of `values`."""
    for rows, chunk in _chunks(values, 1):
        driver(tx).execute(_delete(column, rows), chunk)


def _chunks(values: Sequence[Any], width: int) -> Iterator[tuple[int, tuple[Any, ...]]]:
    start, left = 0, len(values) // width
    for rows in _SIZES:
        while left >= rows:
            stop = start + rows * width
            yield rows, tuple(values[start:stop])
            start, left = stop, left - rows


@lru_cache(maxsize=1024)
def _insert(table: Table, rows: int, replace: bool) -> str:
    # Only one row is compiled, and repeated: to compile 64 rows kept the interpreter from the loop for 19 ms.
    statement = insert(table).values({column.name: None for column in table.columns})
    one = _sql(statement.prefix_with("OR REPLACE") if replace else statement)
    head, _, row = one.rpartition("VALUES ")
    return f"{head}VALUES {', '.join([row] * rows)}"


@lru_cache(maxsize=1024)
def _delete(column: Column[Any], rows: int) -> str:
    places: list[BindParameter[Any]] = [bindparam(f"value_{row}") for row in range(rows)]
    return _sql(delete(column.table).where(column.in_(places)))


def _sql(statement: ClauseElement) -> str:
    return str(statement.compile(dialect=SQLiteDialect_pysqlite()))
