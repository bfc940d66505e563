"""The one thread that touches this node's file: batches in, word of their durability out.

Place in the house   journal, opening -> writer -> storage.database
Takes                batches, in the order of their Readies; other work on the file, in turn
Gives                on_durable, on the loop, in the same order; on_failed, after which the process must end
Never                reorders, drops or repeats a batch that may be on the disk

While one transaction waits for its fsync, the next batches gather; then all of them are one transaction.
That is group commit without a timer: an idle node commits at once, a busy one commits what has come.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from jobguard_store.raft.messages import EntryId, HardState, Message
from jobguard_store.storage.batch import Batch
from jobguard_store.storage.damage import DiskFull

log = logging.getLogger("jobguard_store.writer")

T = TypeVar("T")
DISK_FULL_RETRY_S = 1.0


@dataclass(frozen=True, slots=True)
class Job:
    """A batch, and what may happen once it and all before it are durable."""

    batch: Batch
    hard_state: HardState | None
    last: EntryId | None
    messages: tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class _Call:
    work: Callable[[], Any]
    future: asyncio.Future[Any]


class _Stop:
    """The last item of the queue."""


class Writer:
    """A queue and the thread behind it."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: SimpleQueue[Job | _Call | _Stop] = SimpleQueue()
        self._stopping = threading.Event()
        self._begun = False
        # A daemon: a process that must end does not wait for a disk that hangs.
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)
        self._thread.start()

    def begin(
        self,
        write: Callable[[Batch], None],
        *,
        on_durable: Callable[[list[Job]], None],
        on_full: Callable[[bool], None],
        on_failed: Callable[[BaseException], None],
    ) -> None:
        """From here on batches may come, and an error of anything done with the file is the process's end."""
        self._write_batch = write
        self._on_durable = on_durable
        self._on_full = on_full
        self._on_failed = on_failed
        self._begun = True

    def put(self, job: Job) -> None:
        self._queue.put(job)

    async def call(self, work: Callable[[], T]) -> T:
        """Do something else with the file, between two batches. Raises what `work` does; see `begin`."""
        future: asyncio.Future[T] = self._loop.create_future()
        self._queue.put(_Call(work, future))
        return await future

    async def stop(self, last: Callable[[], None] | None = None) -> None:
        """End after everything that is queued, `last` at the very end; a full disk is not waited for."""
        self._stopping.set()
        self._queue.put(_Stop())
        await asyncio.to_thread(self._thread.join)
        if last is not None:
            await asyncio.to_thread(last)

    # --- on the thread ----------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not isinstance(item := self._commit_what_waits(self._queue.get()), _Stop):
                if item is not None:
                    self._carry_out(item)
        except BaseException as error:  # noqa: BLE001 - it ends the process: what reached the disk is unknown
            self._tell(self._on_failed, error)

    def _commit_what_waits(self, item: Job | _Call | _Stop | None) -> _Call | _Stop | None:
        """One transaction of all jobs up to the first item that is none; return that one."""
        jobs: list[Job] = []
        while isinstance(item, Job):
            jobs.append(item)
            item = self._waiting()
        if jobs:
            batch = jobs[0].batch
            for job in jobs[1:]:
                batch.merge(job.batch)
            if not batch or self._write(batch):
                self._tell(self._on_durable, jobs)
        return item

    def _waiting(self) -> Job | _Call | _Stop | None:
        try:
            return self._queue.get_nowait()
        except Empty:
            return None

    def _write(self, batch: Batch) -> bool:
        """False: the disk is full and the node stops. Until then the same batch is tried again."""
        full = False
        while True:
            try:
                self._write_batch(batch)
            except DiskFull:
                if not full:
                    full = True
                    log.error("the disk is full: nothing is accepted until there is space again")
                    self._tell(self._on_full, True)
                if self._stopping.wait(DISK_FULL_RETRY_S):
                    return False
            else:
                if full:
                    log.warning("there is space on the disk again")
                    self._tell(self._on_full, False)
                return True

    def _carry_out(self, call: _Call) -> None:
        try:
            result = call.work()
        except Exception as error:
            self._tell(_fail, call.future, error)
            # After a failed COMMIT or fsync, of whatever, no batch may follow: it would be called durable.
            if self._begun and not isinstance(error, DiskFull):
                raise
        else:
            self._tell(_succeed, call.future, result)

    def _tell(self, what: Callable[..., None], *arguments: Any) -> None:
        # Only a process that is ending has closed its loop, and nobody is left to be told.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(what, *arguments)


def _succeed(future: asyncio.Future[Any], result: Any) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: asyncio.Future[Any], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
