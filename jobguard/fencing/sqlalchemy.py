"""A guard row in the user's own database, compared and advanced in the user's own transaction.

Place in the house   users' task bodies  ->  fencing.sqlalchemy  ->  SQLAlchemy
Takes                a connection or ORM session in a transaction, a resource's name, who holds
Gives                nothing, or Fenced
Never                opens, commits or rolls back a transaction, talks to the store

    with engine.begin() as transaction:
        fence(transaction, "outbox", jobguard.current())     # before the first read
        ...                                                  # read and write

The row's lock is held until the transaction ends. So a newcomer's `fence` waits for a late holder's
transaction to finish, and after it the late holder's next one is refused: no interleaving is left.
"""

from typing import Any

from sqlalchemy import BigInteger, Column, Connection, Engine, MetaData, String, Table, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from jobguard.errors import Fenced
from jobguard.fencing import Holder

Transaction = Connection | Session


def guard_table(metadata: MetaData, name: str = "jobguard_guards") -> Table:
    """The guards' table, for your own metadata, so that your own migrations create it."""
    return Table(
        name,
        metadata,
        Column("resource", String(255), primary_key=True),
        Column("cluster", String(20), nullable=False),  # an unsigned 64-bit integer, which SQL does not have
        Column("token", BigInteger, nullable=False),
    )


guards = guard_table(MetaData())
"""The table as it is when you name nothing else."""


def create_guards(bind: Engine | Connection) -> None:
    """Create the table `guards` if it is not there."""
    guards.create(bind, checkfirst=True)


def fence(transaction: Transaction, resource: str, holder: Holder, *, table: Table = guards) -> None:
    """Let this holder in, and no earlier one any more. Raises Fenced if a later one was here.

    Call it before the first read of the resource. Roll back when it raises. The same holder may come again.
    """
    advance(transaction, resource, holder.fencing_token, holder.cluster_id, table=table)


def advance(
    transaction: Transaction, resource: str, token: int, cluster_id: int, *, table: Table = guards
) -> None:
    """`fence` for a bare token, such as one that came in a message."""
    if _advance(transaction, resource, token, cluster_id, table):
        return
    _insert_if_absent(transaction, resource, token, cluster_id, table)
    if not _advance(transaction, resource, token, cluster_id, table):
        raise Fenced(_reason(transaction, resource, token, cluster_id, table))


def move(transaction: Transaction, old_cluster_id: int, new_cluster_id: int, *, table: Table = guards) -> int:
    """Make every guard of one cluster accept tokens of another; how many there were.

    Only when no holder of the old cluster can run any more.
    """
    moved = (
        update(table)
        .where(table.c.cluster == str(old_cluster_id))
        .values(cluster=str(new_cluster_id), token=0)
    )
    return _row_count(transaction.execute(moved))


def _advance(transaction: Transaction, resource: str, token: int, cluster_id: int, table: Table) -> bool:
    # An UPDATE, not a SELECT: it takes the row's lock (in SQLite the file's), and after waiting for another
    # transaction it compares with what that one committed.
    advanced = (
        update(table)
        .where(table.c.resource == resource, table.c.cluster == str(cluster_id), table.c.token <= token)
        .values(token=token)
    )
    return _row_count(transaction.execute(advanced)) == 1


def _insert_if_absent(
    transaction: Transaction, resource: str, token: int, cluster_id: int, table: Table
) -> None:
    """Two newcomers may insert at once; the loser must not lose its transaction over it."""
    row = {"resource": resource, "cluster": str(cluster_id), "token": token}
    bind = transaction.get_bind() if isinstance(transaction, Session) else transaction
    match bind.dialect.name:
        case "postgresql":
            transaction.execute(postgresql.insert(table).values(row).on_conflict_do_nothing())
        case "sqlite":
            transaction.execute(sqlite.insert(table).values(row).on_conflict_do_nothing())
        case _:
            _insert_in_savepoint(transaction, row, table)


def _insert_in_savepoint(transaction: Transaction, row: dict[str, Any], table: Table) -> None:
    try:
        with transaction.begin_nested():
            transaction.execute(insert(table).values(row))
    except IntegrityError:
        return  # it is there now, which is all we wanted


def _reason(transaction: Transaction, resource: str, token: int, cluster_id: int, table: Table) -> str:
    row = transaction.execute(select(table).where(table.c.resource == resource)).one()
    if row.cluster != str(cluster_id):
        return f"{resource!r} is guarded for cluster {int(row.cluster):x}, not {cluster_id:x}: see move()"
    return f"{resource!r} has seen token {row.token}; {token} came too late"


def _row_count(result: Any) -> int:
    return int(result.rowcount)
