"""States on their way to peers that lack what our log has forgotten: cut, sent, and reported on.

Place in the house   replica -> departures -> cutting, transport (frames)
Takes                the core's offers
Gives                word, once per offer, of what became of it
Never                holds up the loop, the writer or other peers; sends two states at a time

The file is cut beside the writer and sent on a connection of its own, as fast as the receiver stores it.
Whatever fails is tried again from the start: the state is another by then.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import TypeVar

from jobguard_store.cutting import NameOf, Overtaken, cut_state
from jobguard_store.errors import TooOld
from jobguard_store.peer_messages import Delivery, Part, Taken, Unwelcome, Welcome, Whole
from jobguard_store.raft.messages import EntryId, SnapshotOffer
from jobguard_store.storage import file
from jobguard_store.storage.damage import DiskFull
from jobguard_store.storage.database import Database
from jobguard_store.transport import (
    HANDSHAKE_S,
    BadFrame,
    Transport,
    close_when_unacknowledged,
    read_frame,
    write_frame,
)

log = logging.getLogger("jobguard_store.departures")

Answer = TypeVar("Answer")

PART_BYTES = 256 << 10
# A receiver that stores nothing for so long does not get on.
STALLED_S = 30.0
# .. but when it has all of it, it reads all of it.
TAKES_S = 300.0
# The receiver's disk may be full, or ours: an attempt costs both sides too much to be repeated at once.
RETRY_S = 5.0


class Departures:
    """One at a time: whoever comes second waits, and is sent what is the state by then."""

    def __init__(
        self,
        database: Database,
        transport: Transport,
        *,
        name_of: NameOf,
        on_sent: Callable[[int, int], None],
        on_failed: Callable[[int], None],
    ) -> None:
        self._database = database
        self._transport = transport
        self._name_of = name_of
        self._on_sent = on_sent
        self._on_failed = on_failed
        self._one_at_a_time = asyncio.Lock()

    async def send(self, offer: SnapshotOffer) -> None:
        try:
            async with self._one_at_a_time:
                last = await self._send(offer)
        except (OSError, EOFError, TimeoutError, BadFrame, DiskFull, Overtaken, TooOld, _Refused) as error:
            log.warning("member %x did not get a snapshot: %s", offer.to, str(error) or type(error).__name__)
            await asyncio.sleep(RETRY_S)
            self._on_failed(offer.to)
        else:
            log.info("member %x has a snapshot up to entry %d", offer.to, last.index)
            self._on_sent(offer.to, last.index)

    async def _send(self, offer: SnapshotOffer) -> EntryId:
        path = self._database.leaving_path
        try:
            name = await cut_state(self._database, path, self._name_of)
            async with self._connection(offer.to) as (reader, writer):
                await self._hand_over(path, replace(offer, snapshot=name), reader, writer)
        finally:
            await asyncio.to_thread(file.remove, path)
        return name.last

    @contextlib.asynccontextmanager
    async def _connection(
        self, peer: int
    ) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        reader, writer = await self._dial(peer)
        try:
            close_when_unacknowledged(writer.transport)
            yield reader, writer
        finally:
            writer.transport.abort()

    async def _dial(self, peer: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        error: Exception = ConnectionError("it has no address")
        for address in self._transport.addresses(peer):
            try:
                async with asyncio.timeout(HANDSHAKE_S):
                    return await asyncio.open_connection(
                        address.host, address.port, ssl=self._transport.tls.context(tls=address.tls)
                    )
            except (OSError, TimeoutError) as refused:
                error = refused
            except UnicodeError as wrong:
                error = ConnectionError(f"{address.host!r} is no host: {wrong}")
        raise error

    async def _hand_over(
        self, path: Path, offer: SnapshotOffer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """The conversation. Raises _Refused, and what a connection may."""
        hello = replace(self._transport.hello, to=offer.to)
        digest = sha256()
        with await asyncio.to_thread(path.open, "rb") as state:
            size = os.fstat(state.fileno()).st_size
            write_frame(writer, Delivery(hello=hello, offer=offer, size=size))
            welcome = await _expect(Welcome, reader, HANDSHAKE_S)
            if welcome.level < (level := offer.snapshot.configuration.level):
                raise TooOld(f"member {offer.to:x}", level, welcome.level)
            while part := await asyncio.to_thread(state.read, PART_BYTES):
                digest.update(part)
                write_frame(writer, Part(data=part))
                async with asyncio.timeout(STALLED_S):
                    await writer.drain()
        write_frame(writer, Whole(digest=digest.digest()))
        await _expect(Taken, reader, TAKES_S)


class _Refused(Exception):
    """The peer said why it does not take it."""


async def _expect(answer: type[Answer], reader: asyncio.StreamReader, within_s: float) -> Answer:
    async with asyncio.timeout(within_s):
        message = await read_frame(reader)
    if isinstance(message, Unwelcome):
        raise _Refused(message.reason)
    if not isinstance(message, answer):
        raise BadFrame(f"{type(message).__name__} in place of {answer.__name__}")
    return message
