"""The outbox: the user's own database, in which an e-mail that was sent is a row.

Place in the house   demo.app -> outbox <- demo.scene, which judges the demo by these rows alone
Never                prevents a duplicate by a constraint: a second e-mail must show, not be hidden
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import (
    Column,
    Connection,
    Engine,
    Integer,
    MetaData,
    String,
    Table,
    create_engine,
    event,
    insert,
    select,
)

RECIPIENTS = ("ada@example.org", "barbara@example.org", "edsger@example.org", "grace@example.org")
FIRST_SENDER = "digest@example.org"

metadata = MetaData()

emails = Table(
    "emails",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("occurrence", String, nullable=False),
    Column("recipient", String, nullable=False),
    Column("sender", String, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("fencing_token", Integer, nullable=False),
    Column("worker", String, nullable=False),
    Column("sent_at", String, nullable=False),
)

senders_seen = Table(
    "senders_seen",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("worker", String, nullable=False),
    Column("sender", String, nullable=False),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Email:
    """One e-mail of one occurrence, as it stands in the outbox."""

    occurrence: str
    recipient: str
    sender: str
    attempt: int
    fencing_token: int
    worker: str


def open_outbox(path: Path) -> Engine:
    """The SQLite file at `path`, made at the first call; writers queue for up to ten seconds."""
    engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": 10.0})

    @event.listens_for(engine, "connect")
    def own_transactions(dbapi, _record) -> None:  # type: ignore[no-untyped-def]
        dbapi.isolation_level = None

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    metadata.create_all(engine)
    return engine


def send(tx: Connection, email: Email) -> None:
    """Send `email`: it is in the outbox once the caller's transaction commits."""
    tx.execute(
        insert(emails).values(
            occurrence=email.occurrence,
            recipient=email.recipient,
            sender=email.sender,
            attempt=email.attempt,
            fencing_token=email.fencing_token,
            worker=email.worker,
            sent_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
        )
    )


def sent(tx: Connection, occurrence: str | None = None) -> list[Email]:
    """The e-mails of `occurrence` (of all of them when None), in the order they were sent."""
    columns = [column for column in emails.c if column.name not in ("id", "sent_at")]
    query = select(*columns).order_by(emails.c.id)
    if occurrence is not None:
        query = query.where(emails.c.occurrence == occurrence)
    return [Email(**row) for row in tx.execute(query).mappings()]


def note_sender(tx: Connection, worker: str, sender: str) -> None:
    """Record that `worker` goes by `sender` from now on."""
    tx.execute(insert(senders_seen).values(worker=worker, sender=sender))


def workers_that_saw(tx: Connection, sender: str) -> set[str]:
    """The workers that have taken up `sender`."""
    query = select(senders_seen.c.worker).where(senders_seen.c.sender == sender)
    return set(tx.execute(query).scalars())


@contextmanager
def reading(path: Path) -> Iterator[Connection]:
    """A transaction on the outbox at `path` for the one who judges it."""
    engine = open_outbox(path)
    try:
        with engine.begin() as tx:
            yield tx
    finally:
        engine.dispose()
