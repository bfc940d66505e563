"""Watches: ordered, unique, whole revisions, from any start; a slow one hurts only itself."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from jobguard_store import watchers as module
from jobguard_store.errors import Compacted, ServerStopped
from jobguard_store.machine.results import ChangeEvent, Record, tombstone
from jobguard_store.watchers import Interest, Subscription, Tail, Watchers, prefix_end
from tests.node.members import run, soon


@dataclass
class Stretch:
    events: list[ChangeEvent]
    through: int


@dataclass
class Past:
    """All revisions so far; of which the file is asked only for those the tail has let go."""

    revision: int = 1
    compact_revision: int = -1
    revisions: dict[int, list[ChangeEvent]] = field(default_factory=dict)
    reads: int = 0
    compact_during_read: int | None = None

    async def changes(self, interest: Interest, start: int, end: int, limit: int) -> Stretch:
        self.reads += 1
        await asyncio.sleep(0)
        if self.compact_during_read is not None:
            self.compact_revision = self.compact_during_read
        if start < self.compact_revision:
            raise Compacted(self.compact_revision)
        found: list[ChangeEvent] = []
        for revision in range(start, end + 1):
            found += [e for e in self.revisions.get(revision, []) if interest.covers(e.record.key)]
            if len(found) >= limit:
                return Stretch(found, revision)
        return Stretch(found, end)


@dataclass
class World:
    past: Past = field(default_factory=Past)

    def __post_init__(self) -> None:
        self.tail = Tail(self.past.revision)
        self.watchers = Watchers(self.past, self.tail)

    def change(self, *keys: str, delete: bool = False, value: bytes = b"v", indexed: bool = True) -> int:
        revision = self.past.revision = self.past.revision + 1
        records = [
            tombstone(key.encode(), revision)
            if delete
            else Record(key.encode(), value, revision, revision, 1, 0)
            for key in keys
        ]
        events = [ChangeEvent(record, None) for record in records]
        self.past.revisions[revision] = events
        self.watchers.publish(revision, events)
        if indexed:
            self.tail.indexed(revision)
        return revision


async def take(watch: Subscription, count: int) -> list[int]:
    """The revisions of the next `count` events."""
    seen: list[int] = []
    while len(seen) < count:
        batch = await soon(anext(watch))
        seen += [event.revision for event in batch.events]
    return seen


def prefix(text: str) -> Interest:
    return Interest(text.encode(), prefix_end(text.encode()))


def test_from_now_on_means_after_this_moment() -> None:
    async def story() -> None:
        world = World()
        world.change("a")
        watch = world.watchers.watch(Interest(b"a"), 0)
        revision = world.change("a")
        world.change("b")
        assert await take(watch, 1) == [revision]
        assert watch.progress() == world.past.revision
        assert world.past.reads == 0

    run(story())


def test_history_then_live_without_a_gap_or_a_repeat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TAIL_WEIGHT", 10 * module.EVENT_WEIGHT)
    monkeypatch.setattr(module, "BATCH_EVENTS", 7)

    async def story() -> None:
        world = World()
        expected = [world.change(f"a/{number}") for number in range(50)]
        watch = world.watchers.watch(prefix("a/"), 2)
        seen: list[int] = []
        while len(seen) < 100:
            assert watch.progress() is None or len(seen) == len(expected)
            seen += await take(watch, 1)
            if len(expected) < 100:
                expected.append(world.change(f"a/{len(expected)}"))
        assert seen == expected
        assert world.past.reads > 0

    run(story())


def test_a_future_start_is_silent_until_then() -> None:
    async def story() -> None:
        world = World()
        watch = world.watchers.watch(Interest(b"a"), 4)
        assert [world.change("a") for _ in range(3)] == [2, 3, 4]
        assert await take(watch, 1) == [4]

    run(story())


def test_the_events_of_a_revision_come_together_and_in_order() -> None:
    async def story() -> None:
        world = World()
        watch = world.watchers.watch(prefix("a/"), 0)
        world.change("a/2", "b", "a/1", "a/3")
        batch = await soon(anext(watch))
        assert [event.record.key for event in batch.events] == [b"a/2", b"a/1", b"a/3"]

    run(story())


@pytest.mark.parametrize("start", [0, 2])
def test_filters_hold_live_and_in_history(start: int) -> None:
    async def story() -> None:
        world = World()
        no_put = world.watchers.watch(Interest(b"a", no_put=True), start)
        no_delete = world.watchers.watch(Interest(b"a", no_delete=True), start)
        put, delete = world.change("a"), world.change("a", delete=True)
        assert await take(no_put, 1) == [delete]
        assert await take(no_delete, 1) == [put]

    run(story())


def test_a_slow_watcher_reads_history_instead_of_holding_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "QUEUE_WEIGHT_MAX", 5 * module.EVENT_WEIGHT)
    monkeypatch.setattr(module, "TAIL_WEIGHT", 20 * module.EVENT_WEIGHT)

    async def story() -> None:
        world = World()
        slow, quick = world.watchers.watch(prefix("a"), 0), world.watchers.watch(prefix("a"), 0)
        expected = []
        for _ in range(200):
            expected.append(world.change("a", value=b""))
            assert await take(quick, 1) == expected[-1:]
        assert slow.progress() is None
        assert await take(slow, 200) == expected
        assert slow.progress() == world.past.revision
        expected = [world.change("a")]
        assert await take(slow, 1) == expected

    run(story())


def test_what_the_file_has_not_indexed_stays_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TAIL_WEIGHT", 0)
    world = World()
    world.change("a")
    assert world.tail.first == 3
    kept = [world.change("b", indexed=False), world.change("c", indexed=False)]
    assert world.tail.first == kept[0]
    assert [event.revision for event in world.tail.unindexed(world.past.revision)] == kept
    world.tail.indexed(kept[0])
    assert [event.revision for event in world.tail.unindexed(world.past.revision)] == kept[1:]


def test_a_start_before_compaction_is_told_so_and_the_compacted_revision_itself_is_served() -> None:
    async def story() -> None:
        world = World()
        for _ in range(5):
            world.change("a")
        world.past.compact_revision = 4
        early = world.watchers.watch(Interest(b"a"), 3)
        with pytest.raises(Compacted) as compacted:
            await soon(anext(early))
        assert compacted.value.compact_revision == 4
        assert await take(world.watchers.watch(Interest(b"a"), 4), 3) == [4, 5, 6]

    run(story())


def test_compaction_that_overtakes_a_reader_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TAIL_WEIGHT", 0)

    async def story() -> None:
        world = World()
        for _ in range(5):
            world.change("a")
        watch = world.watchers.watch(Interest(b"a"), 2)
        world.past.compact_during_read = 5
        with pytest.raises(Compacted):
            await soon(anext(watch))

    run(story())


def test_only_those_concerned_are_woken() -> None:
    async def story() -> None:
        world = World()
        interests = {
            "key": Interest(b"a/1"),
            "prefix": prefix("a/"),
            "longer prefix": prefix("a/1"),
            "other prefix": prefix("b/"),
            "range": Interest(b"a", b"a/2"),
            "from": Interest(b"a/1", b"\0"),
            "everything": Interest(b"\0", b"\0"),
            "the end": Interest(b"\xff", b"\0"),
        }
        watches = {name: world.watchers.watch(interest, 0) for name, interest in interests.items()}
        world.change("a/1")
        concerned = {name for name, watch in watches.items() if watch.progress() is None}
        assert concerned == {"key", "prefix", "longer prefix", "range", "from", "everything"}

    run(story())


def test_closing_and_stopping_end_a_pending_wait() -> None:
    async def story() -> None:
        world = World()
        closed, stopped = (world.watchers.watch(Interest(b"a"), 0) for _ in range(2))
        waits: Sequence[asyncio.Task[object]] = [asyncio.ensure_future(anext(w)) for w in (closed, stopped)]
        await asyncio.sleep(0)
        await closed.aclose()
        await closed.aclose()
        world.watchers.stop()
        with pytest.raises(StopAsyncIteration):
            await soon(waits[0])
        with pytest.raises(ServerStopped):
            await soon(waits[1])
        world.change("a")

    run(story())


def test_the_end_of_a_prefix() -> None:
    assert prefix_end(b"a") == b"b"
    assert prefix_end(b"a\xff\xff") == b"b"
    assert prefix_end(b"\xff") == b"\0"


def test_weight_is_what_is_held_in_memory() -> None:
    """A queue of deletes holds all that was deleted."""
    old = Record(b"key", bytes(1000), 2, 2, 1, 0)
    assert module.weight([ChangeEvent(tombstone(b"key", 3), old)]) == module.EVENT_WEIGHT + 3 + 1000
