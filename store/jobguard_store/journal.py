"""What goes to the disk, and when: each Ready's part at once, the rows of what was applied in company.

Place in the house   replica -> journal -> writer, storage.batch
Takes                Readies, in order; the rows of applied entries, in order
Gives                batches for the writer; word of durability
Never                gives the writer a row before the entry that made it

Rows wait for a batch of entries to ride on, so that one fsync pays for both, and until they are a few: row by
row they would cost a lone writer more than its log does. After 50 ms they go by themselves. A crash meanwhile
costs nothing: they are made again from the log, from the durable applied index on.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from jobguard_store.machine.results import Rows
from jobguard_store.raft.messages import HardState, Message, Ready, Snapshot
from jobguard_store.storage.batch import Batch
from jobguard_store.storage.damage import DiskFull
from jobguard_store.storage.database import Database
from jobguard_store.storage.lives import Life
from jobguard_store.storage.snapshot import Staged
from jobguard_store.writer import DISK_FULL_RETRY_S, Job, Writer

IDLE_FLUSH_S = 0.05
ROWS_IN_COMPANY = 32  # of applied entries; from there on a statement's own cost is shared well enough
NOTHING = Ready()


class Journal:
    """One node's file as the loop sees it."""

    def __init__(self, database: Database, writer: Writer, *, on_durable: Callable[[Job], None]) -> None:
        self._database = database
        self._writer = writer
        self._on_durable = on_durable
        self._loop = asyncio.get_running_loop()
        self._rows = Batch()
        self._applied = 0  # entries whose rows wait there
        self._in_flight = 0
        self.durable_applied = 0  # the rows of entries up to here have become durable since the start
        self._flush_due = False
        self._closed = False

    def persist(self, ready: Ready) -> tuple[Message, ...]:
        """Steps 2 and 3 of a Ready: returns the messages that wait for nothing.

        The others leave when this batch and all before it are durable, even if this one holds nothing: an
        acknowledgement may be about entries that an earlier batch is still writing.
        """
        if ready.hard_state is not None or ready.entries:
            batch = self._take_rows() if self._applied >= ROWS_IN_COMPANY else Batch()
            batch.hard_state = ready.hard_state
            batch.append(ready.entries)
            self._put(batch, ready)
        elif self._in_flight and ready.messages_after_persist:
            self._put(Batch(), ready)
        else:
            return ready.messages_after_persist
        return ()

    def applied(self, index: int, rows: Rows | None = None) -> None:
        """Entry `index` is applied; None for an entry without a command."""
        self._rows.apply(index, rows)
        self._applied += 1
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_later(IDLE_FLUSH_S, self.flush)

    def flush(self) -> None:
        self._flush_due = False
        if self._rows and not self._closed:
            self._put(self._take_rows(), NOTHING)

    def durable(self, jobs: list[Job]) -> None:
        """From the writer, on the loop."""
        self._in_flight -= len(jobs)
        for job in jobs:
            self._on_durable(job)
            if job.batch.applied_index is not None:
                self.durable_applied = job.batch.applied_index

    async def flushed(self) -> None:
        """Wait until all that is applied is durable, and found by key."""
        self.flush()
        while await self._writer.call(self._database.index):
            pass

    async def remember(self, member: int, life: Life) -> None:
        """Durable on return. Raises DiskFull."""
        await self._writer.call(lambda: self._database.remember(member, life))

    async def expel(self, reason: str) -> None:
        """Durable on return. Raises DiskFull."""
        await self._writer.call(lambda: self._database.expel(reason))

    async def sweep(self) -> None:
        """Remove what compaction made unreadable, a thousand rows at a time, batches in between.

        A disk too full for that is no harm: the next compaction, or start, goes on where this one stopped.
        """
        self.flush()
        with contextlib.suppress(DiskFull):
            while await self._writer.call(self._database.compact):
                pass
            while await self._writer.call(self._database.reclaim):
                pass

    async def trim(self, base: Snapshot | None = None) -> None:
        """Have the log begin behind `base`; remove what precedes its base, a thousand rows at a time.

        A disk too full for that is no harm: the next time, or start, goes on where this one stopped.
        """
        with contextlib.suppress(DiskFull):
            if base is not None:
                await self._writer.call(lambda: self._database.rebase(base))
            while await self._writer.call(self._database.trim):
                pass

    async def adopt(self, staged: Staged, hard_state: HardState | None) -> None:
        """Have a peer's state take our file's place, behind all that is queued; durable on return."""
        self.flush()
        while True:
            try:
                await self._writer.call(lambda: self._database.adopt(staged, hard_state))
            except DiskFull:
                await asyncio.sleep(DISK_FULL_RETRY_S)
            else:
                self.durable_applied = staged.name.last.index
                return

    def abandon(self) -> None:
        """After an unexpected error nothing more is handed to the writer."""
        self._closed = True

    async def close(self) -> None:
        """Write what is applied, so that the next start has less to replay."""
        self.flush()
        self._closed = True
        await self._writer.stop(self._database.close)

    def _take_rows(self) -> Batch:
        rows, self._rows, self._applied = self._rows, Batch(), 0
        return rows

    def _put(self, batch: Batch, ready: Ready) -> None:
        last = ready.entries[-1].id if ready.entries else None
        self._in_flight += 1
        self._writer.put(Job(batch, ready.hard_state, last, ready.messages_after_persist))
