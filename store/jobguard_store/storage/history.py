"""Older states and past changes, for reads at a revision and for watchers that catch up.

Place in the house   database -> history -> state (rows), machine.keyspace (intervals, the range pipeline)
Takes                a way to begin a short read transaction; the node's tail of changes not yet indexed
Gives                answers as the machine would have given them at that revision
Never                keeps a read transaction open for more than a page: the WAL would grow meanwhile

The machine runs ahead of the file by the batches still being written, the file ahead of its index, and rows
of old revisions may be compacted between two pages. Hence two rules. The tail, of all that is not indexed, is
taken first, the transaction second: a change may then be seen in both, never in neither. And a page is
believed only after the compact revision, read in the same transaction, has allowed it.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, FromClause, Table, and_, func, select, tuple_

from jobguard_store.errors import Compacted
from jobguard_store.machine.keyspace import Interval, enough_for, interval, select_answer
from jobguard_store.machine.results import ChangeEvent, HistoricRange, RangeResult, Record
from jobguard_store.storage.state import version, version_of
from jobguard_store.storage.tables import history, meta, versions

Reading = Callable[[], AbstractContextManager[Connection]]

_PAGE_KEYS = 1000
_STRETCH_BYTES = 4 << 20


# --- a read at a revision -----------------------------------------------------------------------------


def range_at(reading: Reading, asked: HistoricRange, tail: Sequence[ChangeEvent]) -> RangeResult:
    """The answer the machine would have given at that revision. Raises Compacted."""
    span = interval(asked.request.key, asked.request.range_end)
    newest = {record.key: record for record in _versions_at(reading, span, asked.at)}
    newest.update(versions_in(tail, span, asked.at))
    records = [newest[key] for key in sorted(newest) if newest[key].version]
    enough = records[enough_for(asked.request)]
    return select_answer(enough, len(records), asked.request, asked.revision)


def versions_in(tail: Sequence[ChangeEvent], span: Interval, revision: int) -> dict[bytes, Record]:
    """The newest version (or tombstone) that the tail holds of each key, up to `revision`."""
    found: dict[bytes, Record] = {}
    for event in tail:
        if event.record.mod_revision <= revision and event.record.key in span:
            found[event.record.key] = event.record
    return found


def _versions_at(reading: Reading, span: Interval, revision: int) -> list[Record]:
    records: list[Record] = []
    rest: Interval | None = span
    while rest is not None:
        with reading() as tx:
            refuse_compacted(tx, revision)
            page = [version_of(row) for row in tx.execute(_newest(rest, revision))]
        records += page
        rest = Interval(page[-1].key + b"\0", span.stop) if len(page) >= _PAGE_KEYS else None
    return records


def _newest(span: Interval, revision: int) -> Any:
    """Of a page of keys, each one's newest version up to `revision`."""
    if _single(span):
        places = select(versions).where(_within(versions, span), versions.c.mod_revision <= revision)
        last = places.order_by(versions.c.mod_revision.desc(), versions.c.sub.desc()).limit(1).subquery()
        return select(*version(history)).join_from(last, history, _at(last), isouter=True)
    last = (
        select(versions.c.key, func.max(versions.c.mod_revision).label("mod_revision"))
        .where(_within(versions, span), versions.c.mod_revision <= revision)
        .group_by(versions.c.key)
        .order_by(versions.c.key)
        .limit(_PAGE_KEYS)
        .subquery()
    )
    # Found by key, then read by place. Looked for by its revision alone it would be one of a million rows, if
    # that revision deleted a million keys.
    again = versions.alias("again")
    same = and_(again.c.key == last.c.key, again.c.mod_revision == last.c.mod_revision)
    sub = select(func.max(again.c.sub)).where(same).correlate(last).scalar_subquery()
    place = and_(history.c.mod_revision == last.c.mod_revision, history.c.sub == sub)
    return select(*version(history)).join_from(last, history, place, isouter=True).order_by(last.c.key)


# --- changes since a revision -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Changes:
    """A stretch of history: every matching change of the revisions asked for up to `through`, in order.

    Revisions are never split. Ask again from `through + 1`, with a newer tail, until it is `to_revision`.
    """

    events: list[ChangeEvent]
    through: int


def changes(
    reading: Reading,
    span: Interval,
    from_revision: int,
    to_revision: int,
    *,
    limit: int,
    previous: bool,
    tail: Sequence[ChangeEvent],
) -> Changes:
    """The next stretch, about `limit` rows or 4 MiB: indexed ones first, then the tail. Raises Compacted."""
    with reading() as tx:
        compact, indexed = refuse_compacted(tx, from_revision)
        through, cut = _stretch(tx, span, from_revision, min(indexed, to_revision), limit)
        events: list[ChangeEvent] = []
        size = 0
        with tx.execute(_changed(span, from_revision, through, previous)) as rows:
            for row in rows:
                event = _event(row, compact, previous)
                if size >= _STRETCH_BYTES and event.revision != events[-1].revision:
                    through, cut = events[-1].revision, True
                    break
                events.append(event)
                size += _size(event.record) + (_size(event.previous) if event.previous else 0)
    return Changes(events, through) if cut else join(events, indexed, tail, span, from_revision, to_revision)


def _size(record: Record) -> int:
    return len(record.key) + len(record.value)


def join(
    events: list[ChangeEvent],
    indexed: int,
    tail: Sequence[ChangeEvent],
    span: Interval,
    from_revision: int,
    to_revision: int,
) -> Changes:
    """Go on from what is indexed with what the tail knows beyond it."""
    beyond = [
        event
        for event in tail
        if max(indexed + 1, from_revision) <= event.revision <= to_revision and event.record.key in span
    ]
    known = max(indexed, tail[-1].revision if tail else 0)
    return Changes(events + beyond, min(to_revision, known))


def _stretch(tx: Connection, span: Interval, first: int, last: int, limit: int) -> tuple[int, bool]:
    """Up to which revision to read so that about `limit` rows are looked at, and whether that cuts short.

    One key's rows are found by key; a wider interval is found by looking at all rows of the revisions.
    """
    rows: Table = versions if _single(span) else history
    looked_at: list[ColumnElement[bool]] = [rows.c.mod_revision.between(first, last)]
    if rows is versions:
        looked_at.append(rows.c.key == span.start)
    place = select(rows.c.mod_revision).where(*looked_at).order_by(rows.c.mod_revision, rows.c.sub)
    end: int | None = tx.execute(place.limit(1).offset(limit)).scalar()
    return (last, False) if end is None else (max(end - 1, first), max(end - 1, first) < last)


def _changed(span: Interval, first: int, last: int, previous: bool) -> Any:
    columns: list[ColumnElement[Any]] = [*version(history)]
    source: Any = history
    found_in: FromClause = history
    if _single(span):
        source, found_in = versions.outerjoin(history, _at(versions)), versions
    if previous:
        before = versions.alias("before")
        last_before = (
            select(before.c.mod_revision, before.c.sub)
            .where(before.c.key == history.c.key, before.c.mod_revision < history.c.mod_revision)
            .order_by(before.c.mod_revision.desc(), before.c.sub.desc())
            .limit(1)
            .correlate(history)
            .scalar_subquery()
        )
        old = history.alias("old")
        place = tuple_(old.c.mod_revision, old.c.sub)
        source = source.outerjoin(old, place == last_before)
        columns += version(old)
    wanted = found_in.c.mod_revision.between(first, last), _within(found_in, span)
    return select(*columns).select_from(source).where(*wanted).order_by(*_place(found_in))


def _event(row: Sequence[Any], compact_revision: int, previous: bool) -> ChangeEvent:
    record = version_of(row[:8])
    # At and before the compact revision the older version may be gone, on some nodes sooner than on others.
    if not previous or row[8] is None or record.mod_revision <= compact_revision:
        return ChangeEvent(record, None)
    old = version_of(row[8:])
    return ChangeEvent(record, old if old.version else None)


# --- both ---------------------------------------------------------------------------------------------


def refuse_compacted(tx: Connection, revision: int) -> tuple[int, int]:
    """The compact revision and the newest indexed one. Raises Compacted if `revision` is before the first."""
    compact, indexed = tx.execute(select(meta.c.compact_revision, meta.c.indexed_revision)).one()
    if revision < compact:
        raise Compacted(compact)
    return compact, indexed


def _single(span: Interval) -> bool:
    return span.stop == span.start + b"\0"


def _within(rows: FromClause, span: Interval) -> ColumnElement[bool]:
    if _single(span):
        return rows.c.key == span.start
    if span.stop is None:
        return rows.c.key >= span.start
    return and_(rows.c.key >= span.start, rows.c.key < span.stop)


def _place(rows: FromClause) -> tuple[ColumnElement[int], ColumnElement[int]]:
    return rows.c.mod_revision, rows.c.sub


def _at(place: FromClause) -> ColumnElement[bool]:
    """The row of history that stands there. Joined to it from outside: were it gone, its key must not be."""
    return and_(history.c.mod_revision == place.c.mod_revision, history.c.sub == place.c.sub)
