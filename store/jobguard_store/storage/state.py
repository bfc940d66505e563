"""The machine's rows: written from the events of a batch, loaded into a machine, thinned out by compaction.

Place in the house   database -> state -> tables
Takes                the transaction it works in
Gives                a machine equal to the one whose rows were written, or Damage
Never                commits; reads history for anyone (storage.history does)
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple
from zlib import crc32

from sqlalchemy import (
    ColumnElement,
    Connection,
    FromClause,
    Select,
    and_,
    delete,
    func,
    insert,
    select,
    text,
)

from jobguard_store.machine.apply import Machine
from jobguard_store.machine.commands import AlarmKind
from jobguard_store.machine.results import Alarm, ChangeEvent, Record
from jobguard_store.storage import auth
from jobguard_store.storage.damage import Damage
from jobguard_store.storage.tables import alarms, delete_rows, history, insert_rows, leases, live

# --- writing ----------------------------------------------------------------------------------------


def append_events(tx: Connection, events: Sequence[ChangeEvent]) -> None:
    """Write the versions that came into being; `versions` and `live` follow, see index.

    `events` hold whole revisions, in order: a change's place within its revision is its sub-revision.
    """
    values: list[Any] = []
    revision = sub = 0
    for event in events:
        record = event.record
        sub = sub + 1 if record.mod_revision == revision else 0
        revision = record.mod_revision
        values += (
            revision,
            sub,
            record.key,
            record.value,
            record.create_revision,
            record.version,
            record.lease,
            checksum(record, sub),
        )
    insert_rows(tx, history, values)


def write_leases(tx: Connection, changed: Mapping[int, int]) -> None:
    """`changed` is id -> ttl, ttl 0 = gone. An id that was gone may be granted again."""
    gone = [lease for lease, ttl in changed.items() if not ttl]
    granted = [(lease, ttl, lease_checksum(lease, ttl)) for lease, ttl in changed.items() if ttl]
    delete_rows(tx, leases.c.id, gone)
    insert_rows(tx, leases, [value for row in granted for value in row], replace=True)


def write_alarms(tx: Connection, on: Mapping[Alarm, bool]) -> None:
    """All that are on, and whether by hand. There are few, and they change seldom."""
    tx.execute(delete(alarms))
    for alarm, by_hand in on.items():
        row = (f"{alarm.member:x}", int(alarm.kind), int(by_hand))
        tx.execute(insert(alarms).values((*row, alarm_checksum(*row))))


def alarm_checksum(member: str, kind: int, by_hand: int) -> int:
    return crc32(f"{member} {kind} {by_hand}".encode())


def checksum(record: Record, sub: int) -> int:
    """Over the whole row."""
    return _checksum(
        record.key,
        record.value,
        (record.mod_revision, sub, record.create_revision, record.version, record.lease),
    )


def _checksum(key: bytes, value: bytes, numbers: tuple[int, int, int, int, int]) -> int:
    return crc32(value, crc32(key, crc32(b"%d %d %d %d %d" % numbers)))


def lease_checksum(lease: int, ttl: int) -> int:
    return crc32(b"%d %d" % (lease, ttl))


# --- reading ----------------------------------------------------------------------------------------


COLUMNS = ("key", "value", "create_revision", "mod_revision", "version", "lease", "sub", "checksum")


def version(table: FromClause) -> tuple[ColumnElement[Any], ...]:
    """The columns `version_of` reads, of history."""
    return tuple(table.c[name] for name in COLUMNS)


def version_of(row: Sequence[Any]) -> Record:
    """The record, or tombstone, in a row of `version`. Raises Damage."""
    key, value, create_revision, mod_revision, version, lease, sub, noted = row
    try:
        sound = _checksum(key, value, (mod_revision, sub, create_revision, version, lease)) == noted
    except TypeError:  # of a type that no build of ours writes; all null where the row is gone
        sound = False
    if not sound:
        raise Damage(f"revision {mod_revision} of key {key!r} is not what was written")
    return Record(key, value, create_revision, mod_revision, version, lease)


def load(tx: Connection, revision: int, compact_revision: int) -> Machine:
    """The machine as of the last batch. Raises Damage."""
    newest = tx.execute(select(func.max(history.c.mod_revision))).scalar() or 0
    if not max(newest, compact_revision, 1) <= revision:
        raise Damage(f"history reaches revision {newest}, the state only {revision}")
    granted = {}
    for lease, ttl, noted in tx.execute(select(leases)):
        if lease_checksum(lease, ttl) != noted:
            raise Damage(f"lease {lease} is not what was written")
        granted[lease] = ttl
    on = _load_alarms(tx)
    users_and_roles = auth.load(tx)
    try:
        return Machine.restore(
            revision=revision,
            compact_revision=compact_revision,
            records=_records(tx, _LIVE),
            leases=granted,
            alarms=on,
            auth=users_and_roles,
        )
    except KeyError as missing:
        raise Damage(f"lease {missing} has keys but no row") from None


def _load_alarms(tx: Connection) -> dict[Alarm, bool]:
    on = {}
    for member, kind, by_hand, noted in tx.execute(select(alarms)):
        if alarm_checksum(member, kind, by_hand) != noted:
            raise Damage(f"an alarm of member {member} is not what was written")
        on[Alarm(int(member, 16), AlarmKind(kind))] = bool(by_hand)
    return on


def verify(tx: Connection) -> None:
    """Read every version there is. Raises Damage."""
    for _ in _records(tx, select(*version(history))):
        pass


_LONG = and_(
    live.c.value.is_(None), history.c.mod_revision == live.c.mod_revision, history.c.sub == live.c.sub
)
_WHOLE = {**live.c, "value": func.coalesce(live.c.value, history.c.value)}
_LIVE = (
    select(*(_WHOLE[name] for name in COLUMNS))
    .join_from(live, history, _LONG, isouter=True)
    .order_by(live.c.key)
)


def _records(tx: Connection, rows: Select[Any]) -> Iterator[Record]:
    """Of `version`'s columns. There may be millions: the driver's own rows cost half of SQLAlchemy's."""
    found: Iterator[Any] = tx.execute(rows).cursor  # type: ignore[assignment]
    return map(version_of, found)


# --- compaction -------------------------------------------------------------------------------------


class Position(NamedTuple):
    """A row's place in history."""

    mod_revision: int
    sub: int


_SWEEP_ROWS = 500  # each may make one older version and, if it is a tombstone, itself superfluous

_END = text("""
    SELECT mod_revision, sub FROM history
    WHERE (mod_revision, sub) > (:revision, :sub) AND mod_revision <= :compact
    ORDER BY mod_revision, sub LIMIT 1 OFFSET :rows
""")
_DROP_VERSIONS = text("""
    DELETE FROM history WHERE (mod_revision, sub) IN (
        SELECT old.mod_revision, old.sub
        FROM history AS new CROSS JOIN versions AS old ON old.key = new.key
        -- older ones; of a tombstone, itself too
        AND (old.mod_revision, old.sub) <= (new.mod_revision, new.sub - (new.version > 0))
        WHERE (new.mod_revision, new.sub) > (:revision, :sub)
        AND (new.mod_revision, new.sub) <= (:end_revision, :end_sub)
        AND old.mod_revision < :compact)
""")


def sweep(tx: Connection, compact_revision: int, after: Position) -> Position | None:
    """Remove what the next stretch of history behind `after` supersedes; the stretch's end, None at the last.

    A version goes if a newer one exists at or before `compact_revision`; a tombstone goes too. But everything
    OF that very revision stays until the next compaction: a watcher may start there and must see all of it.
    `versions` must have everything up to `compact_revision`.
    """
    start = {"revision": after.mod_revision, "sub": after.sub, "compact": compact_revision}
    end = tx.execute(_END, {**start, "rows": _SWEEP_ROWS - 1}).first()
    upto = Position(*end) if end else Position(compact_revision, 1 << 62)
    stretch = {**start, "end_revision": upto.mod_revision, "end_sub": upto.sub}
    tx.execute(_DROP_VERSIONS, stretch)
    return upto if end else None
