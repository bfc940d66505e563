"""States that peers send us, because we lack what their logs have forgotten: stored, checked, handed on.

Place in the house   transport -> arrivals -> storage (Staged), replica
Takes                a connection whose sender is known to be a peer
Gives                a state of which every byte was read, to whoever is to live by it
Never                touches the file we live by; takes two states at a time, or a part of one
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import shutil
from collections.abc import Awaitable, Callable
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

from jobguard_store.errors import ServerStopped
from jobguard_store.peer_messages import Delivery, Part, Taken, Unwelcome, Welcome, Whole
from jobguard_store.raft.messages import SnapshotOffer
from jobguard_store.storage import file
from jobguard_store.storage.damage import DiskFull
from jobguard_store.storage.snapshot import Staged, Unfit, stage
from jobguard_store.transport import BadFrame, read_frame, write_frame

log = logging.getLogger("jobguard_store.arrivals")

# A sender that is silent for so long is gone.
SILENT_S = 30.0


class Arrivals:
    """The one place beside our file where a state may be."""

    def __init__(
        self, path: Path, *, welcome: Welcome, take: Callable[[Staged, SnapshotOffer], Awaitable[None]]
    ) -> None:
        """`take` returns when we live by the state, or have no need of it."""
        self._path = path
        self._welcome = welcome
        self._take = take
        self._busy = False

    async def receive(
        self, delivery: Delivery, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """The whole conversation: its sender has introduced itself, and waits to be welcome."""
        sender = delivery.hello.sender
        if self._busy:
            _answer(writer, Unwelcome(reason="it is taking in another snapshot"))
            return
        self._busy = True
        answer: Taken | Unwelcome | None = None
        try:
            await self._receive(delivery, reader, writer)
            answer = Taken()
        except (EOFError, ConnectionError, TimeoutError, BadFrame) as error:
            log.warning("a snapshot from member %x broke off: %s", sender, str(error) or type(error).__name__)
        except ServerStopped:
            pass
        except (_Refused, Unfit, DiskFull, OSError) as error:
            log.warning("a snapshot from member %x was dropped: %s", sender, error)
            answer = Unwelcome(reason=_reason(error))
        finally:
            await asyncio.to_thread(file.remove, self._path)
            self._busy = False
        if answer is not None:
            _answer(writer, answer)

    async def _receive(
        self, delivery: Delivery, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        offer = delivery.offer
        if offer.sender != delivery.hello.sender or offer.to != self._welcome.sender:
            raise _Refused("the snapshot is not from who brings it, or not for us")
        if shutil.disk_usage(self._path.parent).free < delivery.size:
            raise DiskFull
        log.info("member %x sends a snapshot up to entry %d", offer.sender, offer.snapshot.last.index)
        write_frame(writer, self._welcome)
        await self._store(delivery.size, reader)
        staged = await asyncio.to_thread(stage, self._path, offer.snapshot)
        await self._take(staged, offer)

    async def _store(self, size: int, reader: asyncio.StreamReader) -> None:
        await asyncio.to_thread(file.remove, self._path)
        digest = sha256()
        with await asyncio.to_thread(self._path.open, "wb", buffering=0) as state:
            while isinstance(message := await _next(reader), Part):
                size -= len(message.data)
                if size < 0:
                    raise _Refused("more came than was announced")
                digest.update(message.data)
                await asyncio.to_thread(_write, state, message.data)
        if not isinstance(message, Whole):
            raise BadFrame(f"{type(message).__name__} in the middle of a snapshot")
        if size or message.digest != digest.digest():
            raise _Refused("what came is not what was sent")


def _answer(writer: asyncio.StreamWriter, answer: Taken | Unwelcome) -> None:
    """The last word; a sender that is gone does not need it."""
    with contextlib.suppress(ConnectionError):
        write_frame(writer, answer)


class _Refused(Exception):
    """What comes is not what it must be."""


async def _next(reader: asyncio.StreamReader) -> object:
    async with asyncio.timeout(SILENT_S):
        message: object = await read_frame(reader)
        return message


def _write(state: BinaryIO, data: bytes) -> None:
    while data:
        data = data[state.write(data) :]


def _reason(error: Exception) -> str:
    full = isinstance(error, DiskFull) or getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
    return "its disk is full" if full else str(error)
