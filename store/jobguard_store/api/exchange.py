"""One HTTP request and its answer, on top of the three names ASGI gives us.

Place in the house   server, watch, lease -> exchange -> uvicorn
Takes                scope, receive, send
Gives                a whole body or a stream of messages; one answer or a stream of lines
Never                knows what a message means
"""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any, NoReturn, TypeVar

import msgspec

from jobguard import wire
from jobguard_store.api import status
from jobguard_store.counts import Counts
from jobguard_store.errors import InvalidRequest, MessageTooLarge

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
M = TypeVar("M")
R = TypeVar("R", bound=msgspec.Struct)

# etcd's limits: 1.5 MiB for what goes into the log, half a MiB more for a message on the way in. Ours arrives
# as JSON, whose base64 takes four bytes for three.
MESSAGE_BYTES_MAX = 2 * 1024 * 1024
BODY_BYTES_MAX = MESSAGE_BYTES_MAX * 4 // 3 + 4096

SLICES_IN_A_ROW = 8  # of an answer, before everybody else has a turn: to send one is a tenth of making it

JSON = (b"content-type", b"application/json")
GRPC = (b"grpc-metadata-content-type", b"application/grpc")
TEXT = (b"content-type", b"text/plain; charset=utf-8")


class Disconnected(Exception):
    """The client is gone; nobody is left to answer."""


class Exchange:
    __slots__ = ("_counts", "_receive", "_scope", "_send", "started")

    def __init__(self, scope: Scope, receive: Receive, send: Send, counts: Counts) -> None:
        self._counts = counts
        self._scope = scope
        self._receive = receive
        self._send = send
        self.started = False

    async def body(self) -> bytes:
        """The whole request. Raises MessageTooLarge, Disconnected."""
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise Disconnected
        body: bytes = message["body"]
        if message["more_body"]:
            parts = [body]
            size = len(body)
            while message["more_body"]:
                message = await self._receive()
                if message["type"] == "http.disconnect":
                    raise Disconnected
                parts.append(message["body"])
                size += len(parts[-1])
                _check_size(size)
            body = b"".join(parts)
        self._counts.received += len(body)
        return body

    async def messages(self, kind: type[R]) -> AsyncIterator[R]:
        """The messages of a streaming request as they arrive; ends with the body.

        As etcd's gateway has it, a first message that cannot be read is an error, a later one ends the
        requests like the end of the body. Raises InvalidRequest, MessageTooLarge, Disconnected.
        """
        objects = Objects()
        first = True
        more = True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise Disconnected
            more = message["more_body"]
            self._counts.received += len(message["body"])
            texts = objects.feed(message["body"])
            if objects.rest and (not more or not objects.rest.startswith(b"{")):
                texts.append(bytes(objects.rest))  # to fail on, unless something before it fails
                more = False
            _check_size(len(objects.rest))
            for text in texts:
                try:
                    request = decode(text, kind)
                except InvalidRequest:
                    if first:
                        raise
                    return
                first = False
                yield request

    async def disconnected(self) -> NoReturn:
        """Wait until the client is gone and raise Disconnected; what it still sends is dropped."""
        while (await self._receive())["type"] != "http.disconnect":
            pass
        raise Disconnected

    async def while_there(self, work: Coroutine[Any, Any, M]) -> M:
        """The outcome of `work`, which is cancelled if the client leaves it. Raises Disconnected."""
        working = asyncio.ensure_future(work)
        leaving = asyncio.ensure_future(self.disconnected())
        try:
            await asyncio.wait([working, leaving], return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                raise Disconnected
            return await working
        finally:
            for task in (working, leaving):
                task.cancel()
            await asyncio.wait([working, leaving])
            for task in (working, leaving):
                if not task.cancelled():
                    task.exception()  # looked at, or the loop would take it for one that nobody expected

    async def answer(
        self,
        code: int,
        headers: Iterable[tuple[bytes, bytes]],
        body: bytes | Sequence[bytes],
        give_way: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """The whole answer. A large one comes in slices, each sent when the one before has been taken."""
        slices = (body,) if isinstance(body, bytes) else body
        size = sum(map(len, slices))
        self._counts.sent += size
        await self._start(code, [*headers, (b"content-length", b"%d" % size)])
        for number, part in enumerate(slices[:-1], start=1):
            await self._send({"type": "http.response.body", "body": part, "more_body": True})
            if give_way is not None and number % SLICES_IN_A_ROW == 0:
                await give_way()
        await self._send({"type": "http.response.body", "body": slices[-1]})

    async def line(self, data: bytes) -> None:
        """One message of a streaming answer: one line, one HTTP chunk. The head leaves with the first one."""
        if not self.started:
            await self._start(200, [JSON, GRPC])
        self._counts.sent += len(data)
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self) -> None:
        """The end of a streaming answer, which may have had no line at all, and then has no metadata."""
        if not self.started:
            await self._start(200, [JSON])
        await self._send({"type": "http.response.body", "body": b""})

    async def refuse(self, error: status.Refusal) -> None:
        """The error as a whole answer, or as the last line of a stream that has begun."""
        if self.started:
            await self.line(status.error_line(error))
            await self.end()
        else:
            await self.answer(status.http_status(error), [JSON], status.error_body(error))

    async def _start(self, code: int, headers: Sequence[tuple[bytes, bytes]]) -> None:
        self.started = True
        await self._send({"type": "http.response.start", "status": code, "headers": headers})


def decode(body: bytes, kind: type[R]) -> R:
    """Read one message. Raises InvalidRequest with the parser's text."""
    try:
        request = wire.decode_request(body, kind)
        if b"\\u" in body:
            wire.encode(request)  # half of a surrogate pair is no text, and would fail wherever it is written
    except (msgspec.DecodeError, UnicodeEncodeError) as error:
        raise InvalidRequest(str(error)) from None
    return request


def _check_size(size: int) -> None:
    if size > BODY_BYTES_MAX:
        raise MessageTooLarge(size * 3 // 4, MESSAGE_BYTES_MAX)


_SPACE = re.compile(rb"\s*")
_BRACKET_OR_QUOTE = re.compile(rb'["{}\[\]]')
_IN_STRING = re.compile(rb'[^"\\]*(?:\\.[^"\\]*)*', re.DOTALL)


class Objects:
    """Cuts a stream into JSON objects. Each byte is looked at once, in however small parts it comes."""

    def __init__(self) -> None:
        self.rest = bytearray()  # the begin of another object, or junk
        self._seen = 0  # bytes of it
        self._depth = 0
        self._in_string = False

    def feed(self, data: bytes) -> list[bytes]:
        """The objects that are complete now."""
        self.rest += data
        objects = []
        while (end := self._object_end()) is not None:
            objects.append(bytes(self.rest[:end]))
            del self.rest[:end]
            self._seen = 0
        return objects

    def _object_end(self) -> int | None:
        """Where the object at the head ends, None if it does not yet, or if there is none."""
        if self._depth == 0:
            space = _SPACE.match(self.rest)
            assert space is not None
            del self.rest[: space.end()]
            if not self.rest.startswith(b"{"):
                return None
        while True:
            if self._in_string and not self._leave_string():
                return None
            token = _BRACKET_OR_QUOTE.search(self.rest, self._seen)
            if token is None:
                self._seen = len(self.rest)
                return None
            self._seen = token.end()
            match token[0]:
                case b'"':
                    self._in_string = True
                case b"{" | b"[":
                    self._depth += 1
                case _:
                    self._depth -= 1
                    if self._depth == 0:
                        return self._seen

    def _leave_string(self) -> bool:
        """Whether the string that has begun ends in what we have."""
        inside = _IN_STRING.match(self.rest, self._seen)
        assert inside is not None
        self._seen = inside.end()
        if self.rest[self._seen : self._seen + 1] != b'"':
            return False
        self._seen += 1
        self._in_string = False
        return True
