"""Streams between peers: post messages, accept messages; any may be lost, none is reordered or altered.

Place in the house   replica -> transport -> peer_messages
Takes                messages to post; a Hello that says who we are
Gives                on_message for each message of a known peer, on_lost when a peer's connection closes
Never                retries a message, blocks, or grows a queue without bound

A frame is a 4-byte length (of what follows), a 1-byte type code, and the message as a MessagePack map.
Each node dials every peer and sends on the connection it dialled; it receives on those it accepted. So
a direction has one connection, and a restarted peer's new connection simply replaces the old one.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import socket
import ssl
import struct
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, cast

import msgspec

from jobguard.tls import explained
from jobguard_store.config import Address, parse_urls
from jobguard_store.config import address as address_of
from jobguard_store.counts import Traffic
from jobguard_store.doors import Door, bound
from jobguard_store.errors import StartupError, TooOld
from jobguard_store.peer_messages import (
    CODES,
    Delivery,
    Hello,
    PeerMessage,
    Roster,
    Unwelcome,
    Welcome,
    WhoIsThere,
)
from jobguard_store.raft.configuration import FIRST_LEVEL
from jobguard_store.scrutiny import flaw
from jobguard_store.security import PeerTls

log = logging.getLogger("jobguard_store.transport")

FRAME = struct.Struct(">IB")
LENGTH = struct.Struct(">I")
FRAME_BYTES_MAX = 64 << 20
# Of one who has not been introduced: enough for a Hello, nothing to fill our memory with.
STRANGERS_FRAME_BYTES_MAX = 64 << 10
# What may wait for a peer that does not read: Raft's own in-flight window is far below it.
QUEUED_BYTES_MAX = 32 << 20
HANDSHAKE_S = 5.0
BACKOFF_S_MIN = 0.05
BACKOFF_S_MAX = 1.0
# A cable pulled leaves a connection "open" for a quarter of an hour of kernel retries; five seconds of
# unacknowledged data are enough to dial again.
UNACKNOWLEDGED_MS_MAX = 5000

# Not worth a line in the log: peers start and stop.
UNREACHABLE = Unwelcome(reason="nobody is there")


def no_tls(error: ssl.SSLError) -> Unwelcome:
    return Unwelcome(reason=explained(error, trust="--peer-trusted-ca-file"))


_codes = {cls: code for code, cls in CODES.items()}
_decoders: dict[int, msgspec.msgpack.Decoder[Any]] = {
    code: msgspec.msgpack.Decoder(cls) for code, cls in CODES.items()
}
_encoder = msgspec.msgpack.Encoder()


class BadFrame(Exception):
    """What arrived is not of our protocol; the connection is closed, nothing else happens."""


class Frames(asyncio.Protocol):
    """Cuts a byte stream into messages. A chunk usually ends with a frame, so the rest is seldom copied."""

    def __init__(self) -> None:
        self.stream: asyncio.Transport | None = None
        self.frame_bytes_max = STRANGERS_FRAME_BYTES_MAX
        self.traffic = Traffic()  # with nobody we know
        self._chunks: list[bytes] = []
        self._missing = 0  # bytes until the frame that has begun can be whole

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.stream = cast(asyncio.Transport, transport)
        close_when_unacknowledged(self.stream)

    def data_received(self, data: bytes) -> None:
        self.traffic.received += len(data)
        if self._chunks:
            self._chunks.append(data)
            self._missing -= len(data)
            if self._missing > 0:
                return
            data = b"".join(self._chunks)
        try:
            rest = self._cut(data)
        except BadFrame as bad:
            log.warning("closing a peer connection that sent %s", bad)
            self.close()
            return
        self._chunks = [rest] if rest else []

    def _cut(self, data: bytes) -> bytes:
        """Hand on the whole frames in `data`; return what is left of it."""
        view, start, end = memoryview(data), 0, len(data)
        while end - start >= FRAME.size:
            length, code = FRAME.unpack_from(view, start)
            if not 1 <= length <= self.frame_bytes_max:
                raise BadFrame(f"a frame of {length} bytes")
            stop = start + LENGTH.size + length
            if stop > end:
                self._missing = stop - end
                return data[start:]
            self.message_received(decode_frame(code, view[start + FRAME.size : stop]))
            if self.stream is not None and self.stream.is_closing():
                return b""
            start = stop
        self._missing = 1
        return data[start:]

    def message_received(self, message: Any) -> None:
        raise NotImplementedError

    def close(self) -> None:
        if self.stream is not None:
            self.stream.close()


def encode_frame(message: object) -> bytes:
    body = _encoder.encode(message)
    return FRAME.pack(len(body) + 1, _codes[type(message)]) + body


def write_frame(stream: asyncio.WriteTransport | asyncio.StreamWriter, message: object) -> None:
    """Raises ConnectionError when the peer is gone: uvloop's own word for that is a RuntimeError."""
    if stream.is_closing():
        raise ConnectionResetError("the peer closed the connection")
    stream.write(encode_frame(message))


def decode_frame(code: int, body: memoryview) -> Any:
    decoder = _decoders.get(code)
    if decoder is None:
        raise BadFrame(f"a message of unknown type {code}")
    name = CODES[code].__name__
    try:
        message = decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadFrame(f"a malformed {name}: {error}") from None
    if (found := flaw(message)) is not None:
        raise BadFrame(f"a {name} with {found}")
    return message


async def read_frame(reader: asyncio.StreamReader) -> Any:
    """The next message of a stream. Raises BadFrame, and IncompleteReadError where the stream ends."""
    length, code = FRAME.unpack(await reader.readexactly(FRAME.size))
    if not 1 <= length <= FRAME_BYTES_MAX:
        raise BadFrame(f"a frame of {length} bytes")
    return decode_frame(code, memoryview(await reader.readexactly(length - 1)))


def close_when_unacknowledged(stream: asyncio.BaseTransport) -> None:
    option = getattr(socket, "TCP_USER_TIMEOUT", None)
    sock = stream.get_extra_info("socket")
    if option is not None and sock is not None:
        sock.setsockopt(socket.IPPROTO_TCP, option, UNACKNOWLEDGED_MS_MAX)


class Inbound(Frames):
    """A connection a peer dialled: it introduces itself, then only its messages come in.

    Or it brings a state. Then what follows is read as a stream, at the pace at which it can be stored.
    """

    def __init__(self, house: Transport) -> None:
        super().__init__()
        self.house = house
        self.peer: int | None = None
        self._introduction: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.house.accepted.add(self)
        assert self.stream is not None
        if objection := self.house.tls.objection(self.stream):
            log.warning("refused a peer at %s: %s", _remote(self.stream), objection)
            self.stream.abort()
            return
        asyncio.get_running_loop().call_later(HANDSHAKE_S, self._close_a_stranger)

    def _close_a_stranger(self) -> None:
        if self.peer is None:
            self.close()

    def message_received(self, message: Any) -> None:
        if self.peer is not None:
            if not isinstance(message, PeerMessage):
                raise BadFrame("an introduction in the middle of it")
            if message.sender != self.peer:
                raise BadFrame(f"a message in the name of another member than {self.peer:x}")
            self.house.on_message(message)
            return
        if isinstance(message, WhoIsThere) and self._introduction is None:
            self._say_goodbye(self.house.roster())
            return
        if not isinstance(message, Hello | Delivery) or self._introduction is not None:
            raise BadFrame("no introduction")
        work = self._introduce(message) if isinstance(message, Hello) else self._receive(message)
        self._introduction = asyncio.get_running_loop().create_task(work)
        self._introduction.add_done_callback(self.house.ended)

    async def _introduce(self, hello: Hello) -> None:
        assert self.stream is not None
        if await self._is_welcome(hello):
            self.peer = hello.sender
            self.frame_bytes_max = FRAME_BYTES_MAX
            self.traffic = self.house.traffic[self.peer]
            self.house.introduced(self, hello)
            write_frame(self.stream, self.house.welcome)

    async def _is_welcome(self, hello: Hello) -> bool:
        refusal = await self.house.refusal(hello)
        assert self.stream is not None
        if self.stream.is_closing():
            return False
        if refusal is not None:
            log.warning("refused the peer %r at %s: %s", hello.name, _remote(self.stream), refusal.reason)
            self._say_goodbye(refusal)
        return refusal is None

    def _say_goodbye(self, message: object) -> None:
        if self.stream is not None and not self.stream.is_closing():
            write_frame(self.stream, message)
            self.stream.close()

    async def _receive(self, delivery: Delivery) -> None:
        """From here on the connection is a stream; its sender is silent until it is welcome."""
        assert self.stream is not None
        if await self._is_welcome(delivery.hello):
            self.peer = delivery.hello.sender
            reader = asyncio.StreamReader()
            protocol = asyncio.StreamReaderProtocol(reader)
            self.stream.set_protocol(protocol)
            protocol.connection_made(self.stream)
            loop = asyncio.get_running_loop()
            try:
                writer = asyncio.StreamWriter(self.stream, protocol, reader, loop)
                await self.house.on_delivery(delivery, reader, writer)
            finally:
                self.house.accepted.discard(self)
                self.stream.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._introduction is not None:
            self._introduction.cancel()
        self.house.inbound_lost(self)


class Outbound(Frames):
    """The connection we dialled: usable once the other side has welcomed us."""

    def __init__(self, hello: Hello) -> None:
        super().__init__()
        self._hello = hello
        self.welcomed: asyncio.Future[Welcome | Unwelcome] = asyncio.get_running_loop().create_future()
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        assert self.stream is not None
        self.stream.write(encode_frame(self._hello))

    def message_received(self, message: Any) -> None:
        if self.welcomed.done() or not isinstance(message, Welcome | Unwelcome):
            raise BadFrame("something else than a welcome")
        self.welcomed.set_result(message)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.lost.done():
            self.lost.set_result(None)
        if not self.welcomed.done():
            # In TLS 1.3 what it has against our certificate comes after the handshake, as we see it.
            self.welcomed.set_result(no_tls(exc) if isinstance(exc, ssl.SSLError) else UNREACHABLE)


class Peer:
    """One peer as we send to it: dials for ever, posts while welcomed, drops otherwise."""

    def __init__(self, house: Transport, member_id: int, addresses: tuple[Address, ...]) -> None:
        self.id = member_id
        self._house = house
        self.addresses = addresses
        self._hello = dataclasses.replace(house.hello, to=member_id)
        self._stream: asyncio.Transport | None = None
        self._posted: list[bytes] = []
        self._posted_bytes = 0
        self._traffic = house.traffic[member_id]
        self._said_level = FIRST_LEVEL
        self._last_reason = ""
        self._task = asyncio.get_running_loop().create_task(self._dial_for_ever())
        self._task.add_done_callback(house.ended)

    @property
    def welcomed(self) -> bool:
        return self._stream is not None and not self._stream.is_closing()

    @property
    def said_level(self) -> int | None:
        return self._said_level if self.welcomed else None

    def post(self, message: PeerMessage) -> bool:
        """Queue a message for the next flush. False: it was dropped, and certainly not sent."""
        if self._stream is None or self._stream.is_closing():
            return False
        frame = encode_frame(message)
        if self._stream.get_write_buffer_size() + self._posted_bytes + len(frame) > QUEUED_BYTES_MAX:
            return False
        self._posted.append(frame)
        self._posted_bytes += len(frame)
        return True

    def flush(self) -> None:
        """One write per turn, however many messages."""
        if self._posted:
            if self._stream is not None and not self._stream.is_closing():
                self._stream.write(b"".join(self._posted))
                self._traffic.sent += self._posted_bytes
            self._posted, self._posted_bytes = [], 0

    def close(self) -> None:
        self._task.cancel()
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    async def _dial_for_ever(self) -> None:
        backoff = BACKOFF_S_MIN
        while True:
            for address in self.addresses:
                if await self._dial(address):
                    backoff = BACKOFF_S_MIN
            await asyncio.sleep(backoff)
            backoff = min(2 * backoff, BACKOFF_S_MAX)

    async def _dial(self, address: Address) -> bool:
        """One connection's whole life; False when it never came to a welcome."""
        connection = Outbound(self._hello)
        try:
            welcome = await self._introduce_ourselves(connection, address)
            if not isinstance(welcome, Welcome):
                self._refused(welcome)
                return False
            if welcome.level < (level := self._house.level()):
                self._log(f"is not talked to: {TooOld('it', level, welcome.level)}")
                return False
            self._stream, self._said_level, self._last_reason = connection.stream, welcome.level, ""
            self._house.on_reachable(self.id)
            await connection.lost
        finally:
            connection.close()  # also of one that was accepted by a kernel whose process never answers
        self._stream = None
        self._house.on_lost(self.id)
        return True

    async def _introduce_ourselves(self, connection: Outbound, address: Address) -> Welcome | Unwelcome:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(HANDSHAKE_S):
                await loop.create_connection(
                    lambda: connection,
                    address.host,
                    address.port,
                    ssl=self._house.tls.context(tls=address.tls),
                )
                return await connection.welcomed
        except ssl.SSLError as error:
            return no_tls(error)
        except (OSError, TimeoutError, UnicodeError):  # the last from a host name that cannot be one
            return UNREACHABLE

    def _refused(self, refusal: Unwelcome) -> None:
        if refusal is UNREACHABLE:
            return
        self._log(f"does not talk to us: {refusal.reason}")
        if refusal.fatal:
            self._house.on_expelled(refusal.reason)
        elif refusal.too_old:
            self._house.on_failed(StartupError(refusal.reason))

    def _log(self, reason: str) -> None:
        if reason != self._last_reason:  # the same answer once a second would only fill the log
            self._last_reason = reason
            log.warning("member %x %s", self.id, reason)


class Transport:
    """All of one node's connections: to the members, and back to whom we do not know and who dialled us."""

    def __init__(
        self,
        hello: Hello,
        *,
        on_message: Callable[[Any], None],
        on_lost: Callable[[int], None],
        on_reachable: Callable[[int], None],
        on_expelled: Callable[[str], None],
        on_failed: Callable[[BaseException], None],
        on_hello: Callable[[Hello], Awaitable[Unwelcome | None]],
        on_delivery: Callable[[Delivery, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
        roster: Callable[[], Roster],
        level: Callable[[], int],
        tls: PeerTls,
    ) -> None:
        """`level`: what a peer has to be able to read."""
        self.hello = hello
        self.welcome = Welcome(sender=hello.sender, level=hello.level)
        self.tls = tls
        self.on_message = on_message
        self.on_lost = on_lost
        self.on_reachable = on_reachable
        self.on_expelled = on_expelled
        self.on_failed = on_failed
        self.on_delivery = on_delivery
        self._on_hello = on_hello
        self.roster = roster
        self.level = level
        self._members: Mapping[int, tuple[Address, ...]] = {}
        self._peers: dict[int, Peer] = {}
        self._inbound: dict[int, Inbound] = {}
        self.accepted: set[Inbound] = set()
        self._servers: list[asyncio.Server | Door] = []
        self.traffic: defaultdict[int, Traffic] = defaultdict(Traffic)

    async def listen(self, addresses: Iterable[Address]) -> None:
        loop = asyncio.get_running_loop()
        for address in addresses:
            try:
                server = (
                    Door(bound(address), self.tls.serving, lambda: Inbound(self))
                    if address.tls
                    else await loop.create_server(lambda: Inbound(self), address.host, address.port)
                )
            except OSError as error:
                raise StartupError(
                    f"cannot listen for peers on {address.host}:{address.port}: {error.strerror or error}."
                ) from None
            self._servers.append(server)

    def follow(self, members: Mapping[int, tuple[Address, ...]]) -> None:
        """Dial these. Who is none of them any more stays connected for as long as it keeps its connection."""
        self._members = members
        for member, addresses in members.items():
            self._dial(member, addresses)
        for member in self._peers.keys() - members.keys() - self._inbound.keys():
            self._peers.pop(member).close()

    def _dial(self, member: int, addresses: tuple[Address, ...]) -> None:
        peer = self._peers.get(member)
        if peer is None or peer.addresses != addresses:
            self._peers[member] = Peer(self, member, addresses)
            if peer is not None:
                peer.close()

    def banish(self, member: int) -> None:
        """Close what it dialled; on_hello has a word for it when it dials again."""
        if member in self._inbound:
            self._inbound[member].close()

    def addresses(self, member: int) -> tuple[Address, ...]:
        peer = self._peers.get(member)
        return peer.addresses if peer is not None else ()

    def post(self, message: PeerMessage) -> bool:
        peer = self._peers.get(message.to)
        return peer is not None and peer.post(message)

    def said_level(self, member: int) -> int | None:
        """What it can read, by its word over the connection there is; None without one."""
        peer = self._peers.get(member)
        return peer.said_level if peer is not None else None

    def reaches(self, member: int) -> bool:
        peer = self._peers.get(member)
        return peer is not None and peer.welcomed

    def flush(self) -> None:
        for peer in self._peers.values():
            peer.flush()

    def ended(self, task: asyncio.Task[None]) -> None:
        """A peer that is not dialled any more, say, is as good as dead, and nobody would know why."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self.on_failed(error)

    async def refusal(self, hello: Hello) -> Unwelcome | None:
        """Whether the one who dialled is the peer it must be; a refusal says why not."""
        ours = self.hello
        if hello.cluster_id != ours.cluster_id:
            return Unwelcome(reason=f"cluster id {hello.cluster_id:x} is not ours, {ours.cluster_id:x}")
        if hello.to != ours.sender:
            return Unwelcome(reason=f"it looks for member {hello.to:x}, this is {ours.sender:x}")
        if hello.sender not in self._members:
            try:
                parse_urls("its peer URLs", ",".join(hello.peer_urls))
            except StartupError as error:
                return Unwelcome(reason=f"it cannot be answered: {error}")
        return await self._on_hello(hello)

    def introduced(self, connection: Inbound, hello: Hello) -> None:
        peer = hello.sender
        if peer not in self._members:
            self._dial(peer, tuple(map(address_of, hello.peer_urls)))
        older = self._inbound.get(peer)
        self._inbound[peer] = connection
        if older is not None:
            older.close()

    def inbound_lost(self, connection: Inbound) -> None:
        self.accepted.discard(connection)
        peer = connection.peer
        if peer is not None and self._inbound.get(peer) is connection:
            del self._inbound[peer]
            if peer not in self._members:
                self._peers.pop(peer).close()
            self.on_lost(peer)

    def close(self) -> None:
        for server in self._servers:
            server.close()
        for peer in self._peers.values():
            peer.close()
        self._inbound.clear()  # so that what closes now is no peer lost
        for connection in tuple(self.accepted):
            connection.close()


def _remote(stream: asyncio.Transport) -> str:
    name = stream.get_extra_info("peername")
    return f"{name[0]}:{name[1]}" if name else "an unknown address"
