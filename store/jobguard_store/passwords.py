"""Passwords and their bcrypt hashes, made and compared beside the loop.

Place in the house   node -> passwords
Gives                a hash; whether a password is the one of a hash
Never                holds up the loop, takes more than a core, or keeps a password

One comparison costs some fifty milliseconds, on purpose. A thread does them one after another, while bcrypt
lets go of the interpreter; whoever tries passwords by the thousand waits for himself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import bcrypt

from jobguard_store.errors import TooManyRequests

T = TypeVar("T")

COST = 10  # etcd's
NOBODYS = b"$2b$10$" + b"." * 53
"""A hash of no password. Compared with in place of an unknown user's, whose name no stopwatch then tells."""

_LENGTH_MAX = 72  # bcrypt looks at no more
_WAITING_MAX = 100  # about as many as are done before their callers have given up


class Passwords:
    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="passwords")
        self._waiting = 0

    async def hash(self, password: str) -> bytes:
        """Raises TooManyRequests."""
        return await self._beside(lambda: bcrypt.hashpw(_bytes(password), bcrypt.gensalt(COST)))

    async def fits(self, password: str, hashed: bytes) -> bool:
        """Raises TooManyRequests."""
        return await self._beside(lambda: bcrypt.checkpw(_bytes(password), hashed))

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _beside(self, work: Callable[[], T]) -> T:
        if self._waiting >= _WAITING_MAX:
            raise TooManyRequests
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        finally:
            self._waiting -= 1


def _bytes(password: str) -> bytes:
    return password.encode()[:_LENGTH_MAX]
