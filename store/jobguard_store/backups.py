"""States on their way to operators: what `jobguard store backup` keeps.

Place in the house   replica -> backups -> cutting
Gives                the bytes of a state's file, and last their SHA-256: a truncated copy shows
Never                sends two at a time; holds up writes, or peers that wait for a state
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from hashlib import sha256

from jobguard_store.cutting import NameOf, cut_state
from jobguard_store.storage import file
from jobguard_store.storage.database import Database

PART_BYTES = 32 << 10  # as etcd cuts them


@dataclass(frozen=True, slots=True)
class Part:
    """`remaining`: bytes of the state's file that follow this one."""

    remaining: int
    data: bytes


class Backups:
    def __init__(self, database: Database, name_of: NameOf) -> None:
        self._database = database
        self._name_of = name_of
        self._one_at_a_time = asyncio.Lock()

    async def parts(self) -> AsyncGenerator[Part]:
        """Raises Overtaken, DiskFull, OSError."""
        async with self._one_at_a_time:
            path = self._database.backup_path
            digest = sha256()
            try:
                await cut_state(self._database, path, self._name_of)
                with await asyncio.to_thread(path.open, "rb") as state:
                    remaining = os.fstat(state.fileno()).st_size
                    while data := await asyncio.to_thread(state.read, PART_BYTES):
                        digest.update(data)
                        remaining -= len(data)
                        yield Part(remaining, data)
                yield Part(0, digest.digest())
            finally:
                await asyncio.to_thread(file.remove, path)
