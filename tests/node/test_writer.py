"""The writer thread: in order, what waits together goes together, a full disk is waited out."""

import asyncio
import threading
from collections.abc import Callable

import pytest

from jobguard_store import writer as module
from jobguard_store.raft.messages import Entry, EntryId, EntryKind
from jobguard_store.storage.batch import Batch
from jobguard_store.storage.damage import DiskFull
from jobguard_store.writer import Job, Writer
from tests.node.members import eventually, run, soon


class Disk:
    """Stands in for the file; each write waits until it is let through, or fails as told."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = threading.Semaphore(0)
        self.failures: list[BaseException] = []
        self.tries = 0

    def write(self, batch: Batch) -> None:
        self.gate.acquire()
        self.tries += 1
        if self.failures:
            raise self.failures.pop(0)
        self.batches.append([entry.index for entry in batch.entries])


class Desk:
    """A writer and what it told."""

    def __init__(self, write: Callable[[Batch], None]) -> None:
        self.durable: list[list[int]] = []
        self.full: list[bool] = []
        self.failed: list[BaseException] = []
        self.writer = Writer()
        self.writer.begin(
            write, on_durable=self._durable, on_full=self.full.append, on_failed=self.failed.append
        )

    def _durable(self, jobs: list[Job]) -> None:
        self.durable.append([job.last.index if job.last else 0 for job in jobs])

    def put(self, index: int) -> None:
        batch = Batch()
        batch.append([Entry(index, 1, EntryKind.NORMAL, b"")])
        self.writer.put(Job(batch, None, EntryId(1, index), ()))


def test_what_gathers_during_one_commit_is_the_next() -> None:
    async def story() -> None:
        disk = Disk()
        desk = Desk(disk.write)
        desk.put(1)
        disk.gate.release()
        await eventually(lambda: desk.durable == [[1]])
        desk.put(2)
        await eventually(lambda: desk.writer._queue.empty())
        for index in (3, 4, 5):
            desk.put(index)
        desk.writer.put(Job(Batch(), None, None, ()))  # nothing to write: an answer that must wait
        disk.gate.release(2)
        await eventually(lambda: len(desk.durable) == 3)
        assert disk.batches == [[1], [2], [3, 4, 5]]
        assert desk.durable == [[1], [2], [3, 4, 5, 0]]
        await soon(desk.writer.stop())

    run(story())


def test_other_work_waits_its_turn() -> None:
    async def story() -> None:
        disk = Disk()
        desk = Desk(disk.write)
        order: list[str] = []
        desk.put(1)
        work = asyncio.ensure_future(desk.writer.call(lambda: order.append("call") or len(disk.batches)))
        await asyncio.sleep(0)
        desk.put(2)
        disk.gate.release(2)
        assert await soon(work) == 1
        await eventually(lambda: desk.durable == [[1], [2]])
        await soon(desk.writer.stop())

    run(story())


def test_a_full_disk_met_by_other_work_is_its_callers() -> None:
    async def story() -> None:
        disk = Disk()
        desk = Desk(disk.write)
        disk.gate.release()
        with pytest.raises(DiskFull):
            await soon(desk.writer.call(raising(DiskFull())))
        desk.put(1)
        await eventually(lambda: desk.durable == [[1]])
        assert desk.failed == []
        await soon(desk.writer.stop())

    run(story())


def test_any_other_error_of_other_work_is_the_end_before_the_next_batch() -> None:
    """A compaction whose COMMIT failed: what a batch right behind it finds on the disk is unknown."""

    async def story() -> None:
        disk = Disk()
        desk = Desk(disk.write)
        disk.gate.release()
        work = asyncio.ensure_future(desk.writer.call(raising(OSError("fsync failed"))))
        await asyncio.sleep(0)
        desk.put(1)
        with pytest.raises(OSError, match="fsync failed"):
            await soon(work)
        await eventually(lambda: desk.failed)
        await soon(desk.writer.stop())
        assert (disk.batches, desk.durable) == ([], [])

    run(story())


def test_an_error_before_the_first_batch_is_its_callers() -> None:
    """A file that cannot be opened, say."""

    async def story() -> None:
        writer = Writer()
        with pytest.raises(OSError, match="not there"):
            await soon(writer.call(raising(OSError("not there"))))
        await soon(writer.stop())

    run(story())


def raising(error: Exception) -> Callable[[], None]:
    def work() -> None:
        raise error

    return work


def test_a_full_disk_keeps_the_batch_and_tries_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DISK_FULL_RETRY_S", 0.01)

    async def story() -> None:
        disk = Disk()
        disk.failures = [DiskFull(), DiskFull()]
        desk = Desk(disk.write)
        desk.put(1)
        disk.gate.release(2)
        await eventually(lambda: desk.full == [True])
        assert desk.durable == []
        disk.gate.release()
        await eventually(lambda: desk.durable == [[1]])
        assert (desk.full, disk.tries, desk.failed) == ([True, False], 3, [])
        await soon(desk.writer.stop())

    run(story())


def test_a_stopping_node_does_not_wait_for_space() -> None:
    async def story() -> None:
        disk = Disk()
        disk.failures = [DiskFull()] * 10
        desk = Desk(disk.write)
        desk.put(1)
        disk.gate.release(10)
        await eventually(lambda: desk.full == [True])
        await soon(desk.writer.stop())
        assert desk.durable == []

    run(story())


def test_any_other_error_is_the_end_and_nothing_is_written_after_it() -> None:
    async def story() -> None:
        disk = Disk()
        disk.failures = [OSError("the disk said no")]
        desk = Desk(disk.write)
        desk.put(1)
        desk.put(2)
        disk.gate.release(3)
        await eventually(lambda: desk.failed)
        desk.put(3)
        await soon(desk.writer.stop())
        assert (disk.batches, desk.durable) == ([], [])

    run(story())
