"""`versions` and `live`, brought up behind history in slices of neighbouring keys.

Place in the house   database -> index -> tables
Takes                the transaction it works in
Gives                a slice's work, and how far that brings them
Never                lets them lag by more than a start, or the node's memory, can bear

History grows at its end: a commit of forty puts touches a page or two of it. The two tables in the order of
keys would cost it two pages more for each put, written twice: half of all the work of a busy cluster. So they
lag. The rows they lack stand in `unindexed`, a table of the writer's own connection, in memory and in the
order of keys; when these weigh enough, each commit takes a slice of them along.

A cut-off round is harmless. What was brought up stays; after a restart the same rows come again, together
with newer ones, each key's own in their order, and those that are there already change nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sqlalchemy import Connection, text

from jobguard_store.machine.results import ChangeEvent
from jobguard_store.storage.damage import Damage
from jobguard_store.storage.tables import driver

# Bytes that wait until a round begins. A round touches most pages of a million keys, so what it costs each of
# its changes falls with their number. The node's memory holds them meanwhile, as it does for watchers anyway.
ROUND_WEIGHT = 16 << 20
ROW_WEIGHT = 256
SLICE_ROWS = 256

Place = tuple[bytes, int, int]  # in the order of keys: key, mod_revision, sub
_START: Place = (b"", 0, 0)

_PREPARE = (
    "CREATE TEMP TABLE unindexed (key BLOB, mod_revision INTEGER, sub INTEGER,"
    " PRIMARY KEY (key, mod_revision, sub)) WITHOUT ROWID",
    "CREATE TEMP TRIGGER written AFTER INSERT ON main.history BEGIN"
    " INSERT INTO unindexed VALUES (NEW.key, NEW.mod_revision, NEW.sub); END",
)
_LACKING = text("""
    INSERT INTO temp.unindexed SELECT key, mod_revision, sub FROM history WHERE mod_revision > :revision
""")
_REVISIONS = text(
    "SELECT count(DISTINCT mod_revision) FROM temp.unindexed WHERE mod_revision BETWEEN :oldest AND :newest"
)
_LEFT = (
    "FROM temp.unindexed"
    " WHERE (key, mod_revision, sub) > (:key, :mod_revision, :sub) AND mod_revision <= :goal"
)
_SLICE = f"{_LEFT} AND (key, mod_revision, sub) <= (:end_key, :end_revision, :end_sub)"
_END = f"SELECT key, mod_revision, sub {_LEFT} ORDER BY 1, 2, 3 LIMIT 1 OFFSET :rows"
_LAST = f"SELECT key, mod_revision, sub {_LEFT} ORDER BY 1 DESC, 2 DESC, 3 DESC LIMIT 1"
_BRING_UP = f"INSERT OR IGNORE INTO versions SELECT key, mod_revision, sub {_SLICE} ORDER BY 1, 2, 3"
_FORGET = f"DELETE {_SLICE}"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far `versions` and `live` reach, and the round under way; kept when the transaction is durable."""

    revision: int  # they hold everything up to here
    waiting: int = 0  # weight of what no round has taken up yet
    goal: int | None = None  # the revision that this round will reach
    after: Place = _START

    @property
    def due(self) -> bool:
        return self.goal is not None or self.waiting >= ROUND_WEIGHT

    def written(self, events: Sequence[ChangeEvent]) -> "Progress":
        """History has these as well."""
        weight = ROW_WEIGHT * len(events) + sum(len(event.record.value) for event in events)
        return replace(self, waiting=self.waiting + weight)


def prepare(tx: Connection, revision: int) -> Progress:
    """Find what the tables lack beyond `revision`, and from here on note what is written."""
    for statement in _PREPARE:
        tx.exec_driver_sql(statement)
    tx.execute(_LACKING, {"revision": revision})
    return Progress(revision)


def refuse_gaps(tx: Connection, progress: Progress, newest: int) -> None:
    """Each revision changes something, and what `live` lacks can only come from history. Raises Damage."""
    lacking = {"oldest": progress.revision + 1, "newest": newest}
    if tx.execute(_REVISIONS, lacking).scalar() != newest - progress.revision:
        raise Damage(f"history lacks a revision between {progress.revision} and {newest}")


def refuse_leftovers(tx: Connection) -> None:
    """Once all is brought up nothing waits but what has a place that no batch gave it. Raises Damage."""
    if tx.exec_driver_sql("SELECT count(*) FROM temp.unindexed").scalar():
        raise Damage("history has a row that stands nowhere")


def complete(tx: Connection, revision: int, newest: int) -> None:
    """In one go all that the tables lack beyond `revision`, in a file nobody uses yet. Raises Damage."""
    prepare(tx, revision)
    refuse_gaps(tx, Progress(revision), newest)
    rows: int = tx.exec_driver_sql("SELECT count(*) FROM temp.unindexed").scalar_one()
    bring_up(tx, Progress(revision), newest, rows + 1)
    refuse_leftovers(tx)


def bring_up(tx: Connection, progress: Progress, newest: int, rows: int) -> Progress:
    """One slice; of a new round, up to revision `newest` of history, if none is under way."""
    if progress.goal is None:
        progress = replace(progress, goal=newest, waiting=0, after=_START)
    left = {**dict(zip(("key", "mod_revision", "sub"), progress.after, strict=True)), "goal": progress.goal}
    execute = driver(tx).execute
    full = execute(_END, {**left, "rows": rows - 1}).fetchone()
    end = full or execute(_LAST, left).fetchone()
    if end is not None:
        slice_ = {**left, **dict(zip(("end_key", "end_revision", "end_sub"), end, strict=True))}
        execute(_BRING_UP, slice_)
        execute(_FORGET, slice_)
    if full is not None:
        return replace(progress, after=full)
    assert progress.goal is not None
    return Progress(progress.goal, progress.waiting)
