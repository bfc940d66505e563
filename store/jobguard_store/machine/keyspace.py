"""The newest version of every key, sorted; and the rules of intervals and of a range's pipeline.

Place in the house   apply, txn -> keyspace;  storage.history shares `interval` and `select_answer`
Takes                keys, records, range requests
Gives                records: always references, never copies
Never                knows revisions other than the newest, or which command it serves
"""

from collections.abc import Iterable, Iterator, Sequence
from operator import attrgetter
from typing import NamedTuple

from sortedcontainers import SortedList

from jobguard_store.machine.commands import Range, SortOrder, SortTarget
from jobguard_store.machine.results import RangeResult, Record


class Interval(NamedTuple):
    """[start, stop) of keys in byte order; stop None = without an upper end."""

    start: bytes
    stop: bytes | None

    def __contains__(self, key: object) -> bool:
        return isinstance(key, bytes) and self.start <= key and (self.stop is None or key < self.stop)


def interval(key: bytes, range_end: bytes) -> Interval:
    """The API's spelling: no range_end is the one key, a zero byte everything from `key` on."""
    if not range_end:
        return Interval(key, key + b"\0")
    return Interval(key, None if range_end == b"\0" else range_end)


Part = slice
"""Of a sequence; a name of its own, since Keyspace has a method of that one."""
ALL = Part(None)


class Keyspace:
    """Records by key. A dict answers the single key, the sorted list beside it every interval."""

    __slots__ = ("_keys", "_records")

    def __init__(self, records: Iterable[Record] = ()) -> None:
        self._records = {record.key: record for record in records}
        self._keys: SortedList[bytes] = SortedList(self._records)

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[Record]:
        return map(self._records.__getitem__, self._keys)

    def get(self, key: bytes) -> Record | None:
        return self._records.get(key)

    def put(self, record: Record) -> None:
        if record.key not in self._records:
            self._keys.add(record.key)
        self._records[record.key] = record

    def _bounds(self, span: Interval) -> tuple[int, int]:
        first = self._keys.bisect_left(span.start)
        last = len(self._keys) if span.stop is None else self._keys.bisect_left(span.stop)
        return first, max(first, last)

    def count(self, key: bytes, range_end: bytes) -> int:
        if not range_end:
            return int(key in self._records)
        first, last = self._bounds(interval(key, range_end))
        return last - first

    def slice(self, key: bytes, range_end: bytes, part: Part = ALL) -> list[Record]:
        """The records of the interval, or that part of them, in key order."""
        if not range_end:
            record = self._records.get(key)
            return [] if record is None else [record]
        places = range(*self._bounds(interval(key, range_end)))[part]
        return list(map(self._records.__getitem__, self._keys.islice(places.start, places.stop)))

    def remove(self, key: bytes, range_end: bytes) -> list[Record]:
        """Take the interval's records out; they are returned in key order."""
        gone = self.slice(key, range_end)
        if len(gone) == 1:
            self._keys.remove(gone[0].key)
        elif gone:
            first = self._keys.bisect_left(gone[0].key)
            del self._keys[first : first + len(gone)]
        for record in gone:
            del self._records[record.key]
        return gone

    def dissolve(self) -> None:
        """Let go of all records, one by one, where nobody reads them any more.

        For a thread: what frees a million of them in one go keeps the loop waiting for a third of a second.
        """
        while self._keys:
            del self._records[self._keys.pop()]

    def range(self, request: Range, revision: int) -> RangeResult:
        """Answer a range at the newest state; `revision` is only what the answer carries."""
        if not request.range_end:  # by far the most frequent: one key
            found = self.slice(request.key, b"")
            return select_answer(found, len(found), request, revision)
        count = self.count(request.key, request.range_end)
        if request.count_only:
            return RangeResult(revision, (), count)
        records = self.slice(request.key, request.range_end, enough_for(request))
        return select_answer(records, count, request, revision)


# --- the pipeline of a range: fetch, filter, sort, cut, strip ----------------------------------------


def enough_for(request: Range) -> Part:
    """Which of the records, in key order, are enough to answer.

    One more than the limit tells `more`. Filters need everything, and so does the order of anything but keys.
    A sort target without an order does not, in etcd: there the limit cuts in key order, and what is left is
    sorted.
    """
    ordered = request.sort_order is not SortOrder.NONE and request.sort_target is not SortTarget.KEY
    if request.limit <= 0 or ordered or _filters(request):
        return ALL
    if request.sort_order is SortOrder.DESCEND:
        return Part(-request.limit - 1, None)
    return Part(request.limit + 1)


def select_answer(records: Sequence[Record], count: int, request: Range, revision: int) -> RangeResult:
    """Make the answer out of the interval's records, which come in key order."""
    if request.count_only:
        return RangeResult(revision, (), count)
    if _filters(request):
        records = [record for record in records if _passes(record, request)]
    if request.sort_target is not SortTarget.KEY or request.sort_order is SortOrder.DESCEND:
        descend = request.sort_order is SortOrder.DESCEND
        records = sorted(records, key=_SORT_KEY[request.sort_target], reverse=descend)
    more = 0 < request.limit < len(records)
    if more:
        records = records[: request.limit]
    if request.keys_only:
        records = [_without_value(record) for record in records]
    return RangeResult(revision, records, count, more)


_SORT_KEY = {
    SortTarget.KEY: attrgetter("key"),
    SortTarget.VERSION: attrgetter("version"),
    SortTarget.CREATE: attrgetter("create_revision"),
    SortTarget.MOD: attrgetter("mod_revision"),
    SortTarget.VALUE: attrgetter("value"),
}


def _filters(request: Range) -> bool:
    return bool(
        request.max_mod_revision
        or request.min_mod_revision
        or request.max_create_revision
        or request.min_create_revision
    )


def _passes(record: Record, request: Range) -> bool:
    return (
        (not request.max_mod_revision or record.mod_revision <= request.max_mod_revision)
        and (not request.min_mod_revision or record.mod_revision >= request.min_mod_revision)
        and (not request.max_create_revision or record.create_revision <= request.max_create_revision)
        and (not request.min_create_revision or record.create_revision >= request.min_create_revision)
    )


def _without_value(record: Record) -> Record:
    return Record(record.key, b"", record.create_revision, record.mod_revision, record.version, record.lease)
