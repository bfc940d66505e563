"""Committed events to those who watch: history first, then live, each revision once and in order.

Place in the house   applier (publishes) -> watchers -> api (iterates)
Takes                the events of each applied revision, in order
Gives                Subscriptions: async iterators of whole revisions
Never                lets a subscriber hold up the loop or the writers; skips or repeats a revision

A subscription is live (events are put into its bounded queue as they are applied) or behind (it reads
history from `_next` on, whenever its consumer asks). It becomes live in the same step, without an await,
in which it has read all there is: nothing can be applied in between. Its queue full, it becomes behind.

Where history is read: the newest revisions lie in memory (`Tail`), older ones in the file. What the file
cannot find by key yet is always in memory, and is handed to its reader as well, so there is no gap between.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from operator import itemgetter
from typing import Protocol

from jobguard_store.errors import Compacted, ServerStopped
from jobguard_store.machine.results import ChangeEvent, ChangeKind

# Weights in bytes, about. A queue is short, since what it drops is only read again; the tail is long enough
# for every watch that a broken connection interrupts.
QUEUE_WEIGHT_MAX = 4 << 20
TAIL_WEIGHT = 32 << 20
EVENT_WEIGHT = 200
BATCH_EVENTS = 1000


@dataclass(frozen=True, slots=True)
class WatchBatch:
    """All matching events of one or more whole revisions, in order; never a part of a revision."""

    revision: int  # the store's revision when the batch was cut
    events: Sequence[ChangeEvent]  # ChangeEvent.revision is an event's own


@dataclass(frozen=True, slots=True)
class Interest:
    """What a watcher wants to see. `range_end` as everywhere: empty = the key, a zero byte = to the end."""

    key: bytes
    range_end: bytes = b""
    prev_kv: bool = False
    no_put: bool = False
    no_delete: bool = False

    def covers(self, key: bytes) -> bool:
        if not self.range_end:
            return key == self.key
        return key >= self.key and (self.range_end == b"\0" or key < self.range_end)

    def wants(self, event: ChangeEvent) -> bool:
        if self.no_put or self.no_delete:
            return not (self.no_put if event.kind is ChangeKind.PUT else self.no_delete)
        return True

    def select(self, events: Sequence[ChangeEvent]) -> list[ChangeEvent]:
        return [event for event in events if self.covers(event.record.key) and self.wants(event)]


def weight(events: Sequence[ChangeEvent]) -> int:
    """What holding `events` may keep in memory. A `previous` may live for nobody else any more."""
    total = EVENT_WEIGHT * len(events)
    for event in events:
        total += len(event.record.key) + len(event.record.value)
        if event.previous is not None:
            total += len(event.previous.value)
    return total


class Chapter(Protocol):
    """A stretch of history: what matched, and up to which revision it was read."""

    @property
    def events(self) -> list[ChangeEvent]: ...
    @property
    def through(self) -> int: ...


class History(Protocol):
    """Where older revisions are read. Raises Compacted, also when compaction overtakes the reader."""

    @property
    def revision(self) -> int: ...
    @property
    def compact_revision(self) -> int: ...

    async def changes(self, interest: Interest, start: int, end: int, limit: int) -> Chapter: ...


class Tail:
    """The newest revisions in memory. Trimmed by weight, but never of what the file's index lacks."""

    def __init__(self, revision: int) -> None:
        self._revisions: deque[tuple[int, Sequence[ChangeEvent]]] = deque()
        self._weight = 0
        self._indexed = revision  # everything up to here can be read from the file
        self.first = revision + 1  # everything from here on is in memory

    def restart(self, revision: int) -> None:
        """A state at `revision` took the place of ours: all of it can be read from the file."""
        self._revisions.clear()
        self._weight = 0
        self._indexed = revision
        self.first = revision + 1

    def append(self, revision: int, events: Sequence[ChangeEvent]) -> None:
        self._revisions.append((revision, events))
        self._weight += weight(events)

    def indexed(self, revision: int) -> None:
        """Everything up to `revision` can be read from the file as well."""
        self._indexed = revision
        while self._weight > TAIL_WEIGHT and self._revisions and self._revisions[0][0] <= revision:
            trimmed, events = self._revisions.popleft()
            self._weight -= weight(events)
            self.first = trimmed + 1

    def unindexed(self, upto: int) -> tuple[ChangeEvent, ...]:
        """What a reader of the file at revision `upto` might miss. Perhaps many: none by hand."""
        begin, end = (
            bisect_left(self._revisions, each, key=itemgetter(0)) for each in (self._indexed + 1, upto + 1)
        )
        return tuple(chain.from_iterable(map(itemgetter(1), islice(self._revisions, begin, end))))

    def since(self, revision: int) -> list[tuple[int, Sequence[ChangeEvent]]]:
        """Few, as a rule."""
        assert revision >= self.first
        newest: list[tuple[int, Sequence[ChangeEvent]]] = []
        for each in reversed(self._revisions):
            if each[0] < revision:
                break
            newest.append(each)
        newest.reverse()
        return newest


class Subscription:
    """One watcher. `async for batch in subscription`; raises Compacted when its place is gone.

    Slow is allowed: its queue is bounded, and when that is full it reads history again. ServerStopped
    ends it when the node stops.
    """

    def __init__(self, watchers: Watchers, interest: Interest, start: int) -> None:
        self.interest = interest
        self._watchers = watchers
        self.next = start  # everything before is queued, delivered or not wanted
        self.live = False
        self._queue: deque[WatchBatch] = deque()
        self._queued = 0
        self._waiting: asyncio.Future[None] | None = None
        self._closed = False
        self._error: Exception | None = None

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> WatchBatch:
        while True:
            if self._closed:
                raise StopAsyncIteration
            if self._queue:
                batch = self._queue.popleft()
                self._queued -= weight(batch.events)
                return batch
            if self._error is not None:
                raise self._error
            if not self.live:
                caught = await self._catch_up()
                if caught is not None:
                    return caught
            else:
                await self._wait()

    @property
    def compact_revision(self) -> int:
        return self._watchers.history.compact_revision

    def progress(self) -> int | None:
        """The revision up to which everything has been taken from here; None while there is more to take."""
        if not self.live or self._queue or self._error is not None:
            return None
        return self._watchers.history.revision

    @property
    def pending(self) -> int:
        return sum(len(batch.events) for batch in self._queue)

    async def aclose(self) -> None:
        """Forget this watcher; harmless twice. A pending `__anext__` ends with StopAsyncIteration."""
        self._closed = True
        self._watchers.forget(self)
        self._wake()

    def push(self, revision: int, events: list[ChangeEvent]) -> None:
        """One applied revision's matching events. A queue that is full turns us to history, from here on."""
        added = weight(events)
        if self._queue and self._queued + added > QUEUE_WEIGHT_MAX:
            self._fall_behind(revision)
        else:
            self._queue.append(WatchBatch(revision, events))
            self._queued += added
            self._wake()

    def skipped(self, first: int, last: int) -> None:
        """The revisions from `first` to `last` came without being pushed."""
        if self.live and max(first, self.next) <= last:
            self._fall_behind(max(first, self.next))

    def _fall_behind(self, revision: int) -> None:
        """Turn to history for what comes from `revision` on."""
        self.live = False
        self.next = revision
        self._watchers.unsubscribe(self)
        self._wake()

    def end(self, error: Exception) -> None:
        self._error = error
        self._wake()

    async def _wait(self) -> None:
        self._waiting = asyncio.get_running_loop().create_future()
        try:
            await self._waiting
        finally:
            self._waiting = None

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    async def _catch_up(self) -> WatchBatch | None:
        """The next batch of history, or None if that one held nothing for us (or we are live now)."""
        history, tail = self._watchers.history, self._watchers.tail
        if self.next < history.compact_revision:
            raise Compacted(history.compact_revision)
        if self.next >= tail.first:
            return self._catch_up_from_memory(tail.since(self.next))
        chapter = await history.changes(self.interest, self.next, tail.first - 1, BATCH_EVENTS)
        self.next = chapter.through + 1
        events = [event for event in chapter.events if self.interest.wants(event)]
        return WatchBatch(history.revision, events) if events else None

    def _catch_up_from_memory(self, revisions: list[tuple[int, Sequence[ChangeEvent]]]) -> WatchBatch | None:
        """Without an await: when this has read to the end, we are live before anything else is applied."""
        history = self._watchers.history
        events: list[ChangeEvent] = []
        for revision, changes in revisions:
            selected = self.interest.select(changes)
            if revision <= history.compact_revision:  # what was before is gone, though it is still in memory
                selected = [ChangeEvent(event.record, None) for event in selected]
            if events and len(events) + len(selected) > BATCH_EVENTS:
                return WatchBatch(history.revision, events)
            events += selected
            self.next = revision + 1
        self.go_live()
        return WatchBatch(history.revision, events) if events else None

    def go_live(self) -> None:
        """Everything applied so far is read; only while that is true, so never across an await."""
        self.live = True
        self._watchers.subscribe(self)


class Checked(Subscription):
    """One that ends, with what `check` raises, before it hands out what its caller may not see any more."""

    def __init__(self, watchers: Watchers, interest: Interest, start: int, check: Callable[[], None]) -> None:
        super().__init__(watchers, interest, start)
        self._check = check

    async def __anext__(self) -> WatchBatch:
        batch = await super().__anext__()
        self._check()
        return batch


class Watchers:
    """All subscriptions of this node, and the live ones by what they cover."""

    def __init__(self, history: History, tail: Tail) -> None:
        self.history = history
        self.tail = tail
        self._all: set[Subscription] = set()
        self._by_key: dict[bytes, set[Subscription]] = {}
        # Nearly all ranges watched are prefixes, and are found by cutting the key to each known length.
        self._by_prefix: dict[bytes, set[Subscription]] = {}
        self._prefix_lengths: tuple[int, ...] = ()
        self._by_range: dict[bytes, set[Subscription]] = {}

    def watch(
        self, interest: Interest, start_revision: int, check: Callable[[], None] | None = None
    ) -> Subscription:
        """From `start_revision` on, which may lie in the future; 0 is from now on."""
        start = start_revision or self.history.revision + 1
        if check is None:
            subscription = Subscription(self, interest, start)
        else:
            subscription = Checked(self, interest, start, check)
        self._all.add(subscription)
        if start > self.history.revision:
            subscription.go_live()
        return subscription

    def __len__(self) -> int:
        return len(self._all)

    @property
    def behind(self) -> int:
        """How many read history at the moment."""
        return sum(not subscription.live for subscription in self._all)

    @property
    def pending(self) -> int:
        """Events that wait to be taken."""
        return sum(subscription.pending for subscription in self._all)

    def publish(self, revision: int, events: Sequence[ChangeEvent]) -> None:
        """The events of one applied revision."""
        self.tail.append(revision, events)
        if not self._all:
            return
        for subscription in self._concerned(events):
            selected = subscription.interest.select(events)
            if selected and revision >= subscription.next:
                subscription.push(revision, selected)

    def skipped_to(self, revision: int, since: int) -> None:
        """A state at `revision` took the place of the one at `since`: what came between, history knows."""
        self.tail.restart(revision)
        for subscription in tuple(self._all):
            subscription.skipped(since + 1, revision)

    def subscribe(self, subscription: Subscription) -> None:
        shelf, key = self._shelf(subscription.interest)
        shelf.setdefault(key, set()).add(subscription)
        self._prefix_lengths = tuple({len(prefix) for prefix in self._by_prefix})

    def unsubscribe(self, subscription: Subscription) -> None:
        shelf, key = self._shelf(subscription.interest)
        there = shelf.get(key)
        if there is not None:
            there.discard(subscription)
            if not there:
                del shelf[key]
                self._prefix_lengths = tuple({len(prefix) for prefix in self._by_prefix})

    def forget(self, subscription: Subscription) -> None:
        self.unsubscribe(subscription)
        self._all.discard(subscription)

    def stop(self) -> None:
        for subscription in tuple(self._all):
            self.forget(subscription)
            subscription.end(ServerStopped())

    def _shelf(self, interest: Interest) -> tuple[dict[bytes, set[Subscription]], bytes]:
        if not interest.range_end:
            return self._by_key, interest.key
        if interest.range_end == prefix_end(interest.key):
            return self._by_prefix, interest.key
        return self._by_range, interest.key

    def _concerned(self, events: Sequence[ChangeEvent]) -> set[Subscription]:
        found: set[Subscription] = set()
        for event in events:
            key = event.record.key
            found |= self._by_key.get(key, NOBODY)
            for length in self._prefix_lengths:
                found |= self._by_prefix.get(key[:length], NOBODY)
            for start, there in self._by_range.items():
                if start <= key:
                    found |= there
        return found


NOBODY: frozenset[Subscription] = frozenset()


def prefix_end(prefix: bytes) -> bytes:
    """The range_end that makes a range of all keys with `prefix`."""
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes([stem[-1] + 1]) if stem else b"\0"
