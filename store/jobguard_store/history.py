"""Older states and past changes, read from the file beside the writer, without holding up the loop.

Place in the house   node, watchers -> history -> storage.database
Takes                historic ranges; a watcher's interest and a stretch of revisions
Gives                results, or Compacted: also when compaction has overtaken the reader meanwhile
Never                writes; reads on the loop's own thread
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import msgspec

from jobguard_store.errors import Compacted
from jobguard_store.machine.apply import Machine
from jobguard_store.machine.results import HistoricRange, OpResult, RangeResult, TxnResult
from jobguard_store.storage.database import Database
from jobguard_store.storage.hashkv import Hash
from jobguard_store.storage.history import Changes
from jobguard_store.watchers import Interest, Tail

T = TypeVar("T")
READERS = 2


class History:
    """The file's past and the machine's present, as one line of revisions."""

    def __init__(self, database: Database, machine: Machine, tail: Tail) -> None:
        self._database = database
        self._machine = machine
        self._tail = tail
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="history")

    @property
    def revision(self) -> int:
        return self._machine.revision

    @property
    def compact_revision(self) -> int:
        return self._machine.compact_revision

    async def changes(self, interest: Interest, start: int, end: int, limit: int) -> Changes:
        """Matching changes from `start` on. `end` lies before the tail, so the file holds all of them."""
        changes = await self._read(
            lambda: self._database.changes(
                interest.key, interest.range_end, start, end, limit=limit, previous=interest.prev_kv
            )
        )
        if start < self._machine.compact_revision:
            raise Compacted(self._machine.compact_revision)
        return changes

    async def range(self, wanted: HistoricRange) -> RangeResult:
        tail = self._tail.unindexed(
            wanted.at
        )  # before the read: what is indexed meanwhile is then seen twice
        result = await self._read(lambda: self._database.range_at(wanted, tail))
        if wanted.at < self._machine.compact_revision:
            raise Compacted(self._machine.compact_revision)
        return result

    async def hash_kv(self, revision: int) -> Hash:
        """Of what is durable."""
        return await self._read(lambda: self._database.hash_kv(revision))

    async def fill(self, result: TxnResult) -> TxnResult:
        """The same answer with its historic ranges read."""
        if not is_historic(result):
            return result
        responses: list[OpResult] = []
        for response in result.responses:
            if isinstance(response, HistoricRange):
                responses.append(await self.range(response))
            elif isinstance(response, TxnResult):
                responses.append(await self.fill(response))
            else:
                responses.append(response)
        return msgspec.structs.replace(result, responses=tuple(responses))

    def close(self) -> None:
        self._readers.shutdown(cancel_futures=True)

    async def _read(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._readers, work)


def is_historic(result: object) -> bool:
    if isinstance(result, TxnResult):
        return any(is_historic(response) for response in result.responses)
    return isinstance(result, HistoricRange)
