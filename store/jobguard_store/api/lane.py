"""The short way through uvicorn for what nearly all requests are: a small POST, a small answer.

Place in the house   server -> lane -> uvicorn
Takes                a connection's bytes
Gives                the same ASGI calls as uvicorn's own protocol, at about half its cost for a plain call
Never                decides anything about a request; takes a request out of its order on the connection

A put's way through uvicorn costs more than through Raft and disk together: a scope of a dozen fields, an
event, a flow control, a timer, each header checked by expressions that headers of our own do not need. Here a
plain call (a POST of announced length to one of the app's `plain` paths, nothing asked of the connection)
begins when its body is complete, and its answer is one write, or a chunk a line where it has no length of its
own. Everything else takes uvicorn's own way, method by method.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Sized
from typing import Any, cast

import httptools
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from jobguard_store.api.exchange import BODY_BYTES_MAX, TEXT, Scope

log = logging.getLogger("jobguard_store.api")

# A request with one of these asks something of the connection itself, or does not say how long it is.
SPECIAL = frozenset((b"expect", b"upgrade", b"transfer-encoding"))
FAILURE = b"Internal Server Error"
# Of a request line and headers, of trailers, of whatever else comes between two bodies; and one read more.
HEAD_BYTES_MAX = 64 << 10
NO_REQUEST = b"Invalid HTTP request received."
GOODBYE_S = 0.2
HEAD_TOO_LARGE = b"Request Header Fields Too Large"
TOO_SLOW = b"Request Timeout"


class _Unheard:
    """Where uvicorn would wake up a reader; ours has read everything before it began."""

    def set(self) -> None: ...


_UNHEARD = _Unheard()


class PlainCall:
    """One call with its whole body. Has the fields by which uvicorn follows a request."""

    __slots__ = (
        "begun",
        "body",
        "chunked",
        "disconnected",
        "keep_alive",
        "lane",
        "message_event",
        "more_body",
        "response_complete",
        "start",
        "started",
        "task",
    )

    def __init__(self, lane: Lane, *, keep_alive: bool) -> None:
        self.lane = lane
        self.task: asyncio.Task[None] | None = None
        self.body: bytes | bytearray = b""
        self.more_body = True
        self.begun = self.chunked = False
        self.keep_alive = keep_alive
        self.disconnected = False
        self.started = False
        self.response_complete = False
        self.message_event = _UNHEARD
        self.start: dict[str, Any] | None = None

    async def run(self, app: Any, scope: Scope) -> None:
        try:
            await app(scope, self.receive, self.send)
        except Exception:
            log.exception("a call failed in a way nobody expected")
            if not self.started:
                self.keep_alive = False
                headers = [TEXT, (b"content-length", b"%d" % len(FAILURE))]
                await self.send({"type": "http.response.start", "status": 500, "headers": headers})
                await self.send({"type": "http.response.body", "body": FAILURE})
        finally:
            if not self.response_complete:
                self.lane.transport.close()

    async def receive(self) -> dict[str, Any]:
        """The body; of one that is too large, its beginning, and then that there is more than that."""
        if self.disconnected or self.response_complete:
            return {"type": "http.disconnect"}
        body, self.body = bytes(self.body), b""
        return {"type": "http.request", "body": body, "more_body": self.more_body and bool(body)}

    async def send(self, message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.start = message
            return
        if self.lane.flow.write_paused:  # a client that asks on without reading fills nothing but its socket
            await self.lane.flow.drain()
        if self.disconnected:
            return
        body: bytes = message["body"]
        more_body = message.get("more_body", False)
        if self.start is not None:
            head, self.start, self.started = self.start, None, True
            self.chunked = all(name != b"content-length" for name, _ in head["headers"])
            body = self.lane.head(head, self.keep_alive, self.chunked) + self._framed(body, more_body)
        else:
            body = self._framed(body, more_body)
        self.lane.transport.write(body)
        if not more_body:
            self.response_complete = True
            self.lane.answered(self)

    def _framed(self, body: bytes, more_body: bool) -> bytes:
        if not self.chunked:
            return body
        chunk = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
        return chunk if more_body else chunk + b"0\r\n\r\n"


class Flow(FlowControl):
    """Reads nothing more while whole requests are waiting, or each answer would let in a thousand."""

    def __init__(self, transport: asyncio.Transport, waiting: Sized) -> None:
        super().__init__(transport)
        self._waiting = waiting

    def resume_reading(self) -> None:
        if not self._waiting:
            super().resume_reading()


class Lane(HttpToolsProtocol):
    """One connection."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._plain: frozenset[bytes] = cast(Any, self.app).plain
        self._open_ended: frozenset[bytes] = cast(Any, self.app).open_ended
        self._connections_max: int = cast(Any, self.app).connections_max
        self._common: tuple[object, bytes] = (None, b"")
        self._special = False
        self._asked_anything = False
        self._head_bytes = 0  # that led to nothing yet
        self._coming = True  # a request, or at the beginning the first of it
        self._late = False  # .. since before the last look
        self._running: Any = None  # the request being answered; uvicorn's `cycle` is the one that came last

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow = Flow(transport, self.pipeline)
        if len(self.connections) > self._connections_max:
            log.warning("closing a connection: clients hold all %d there may be", self._connections_max)
            transport.abort()
        connection = transport.get_extra_info("socket")
        if connection is not None:  # plain calls arm no timer: the kernel finds out who is gone
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def shutdown(self) -> None:
        """The node stops. An idle TLS connection would wait for its client's goodbye, and so would we."""
        super().shutdown()
        if self.transport.is_closing():
            self.loop.call_later(GOODBYE_S, self.transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nobody is left to answer: what was not yet handed on need not be done."""
        super().connection_lost(exc)
        self.pipeline.clear()
        running = self._running
        if running is not None and not running.response_complete:  # uvicorn knows only who came last
            running.disconnected = True
            running.message_event.set()
        if isinstance(running, PlainCall) and running.task is not None:
            running.task.cancel()

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        self._head_bytes += len(data)
        try:
            self._feed(data)
        except httptools.HttpParserError:
            log.warning("closing a connection that sent what is no HTTP request")
            self._dismiss(400, NO_REQUEST)
            return
        if self._head_bytes > HEAD_BYTES_MAX:
            log.warning("closing a connection that sent a head of more than %d bytes", HEAD_BYTES_MAX)
            self._dismiss(431, HEAD_TOO_LARGE)

    def _feed(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as offer:
            self._feed_declining(offer, memoryview(data))

    def _feed_declining(self, offer: httptools.HttpParserUpgrade, data: memoryview) -> None:
        """Who offers another protocol (HTTP/2, as Java does by itself) is served by this one.

        The parser takes what follows the head for the other. So it gets the head again, without the offer.
        """
        while True:
            data = data[offer.args[0] :]
            self.parser.feed_data(self._head_without_offer())
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as another:
                offer = another

    def _head_without_offer(self) -> bytes:
        method, version = self.parser.get_method(), self.parser.get_http_version()
        if method == b"CONNECT":
            raise httptools.HttpParserError("this is no proxy")
        kept = [header for header in self.headers if header[0] != b"upgrade"]
        return b"%b %b HTTP/%b\r\n%b\r\n" % (method, self.url, version.encode(), _lines(kept))

    def _dismiss(self, code: int, reason: bytes) -> None:
        """Close; with a word, unless it would pass for the answer to a request before, which may be done."""
        if self._awaits_only_this_request:
            headers = [TEXT, (b"content-length", b"%d" % len(reason))]
            self.transport.write(self.head({"status": code, "headers": headers}, False) + reason)
        self.transport.close()

    def hurry(self) -> None:
        """Called now and then: what was coming the last time, and still is, comes too slowly."""
        if not self._coming or not self._awaits_only_this_request or self.transport.is_closing():
            return
        if not self._late:
            self._late = True
        elif self._asked_anything:
            log.warning("closing a connection whose request does not come to its end")
            self._dismiss(408, TOO_SLOW)
        else:
            self.transport.close()

    @property
    def _awaits_only_this_request(self) -> bool:
        running = self._running
        if running is None or running.response_complete:
            return True
        unfinished = running is self.cycle and running.more_body
        return unfinished and not isinstance(running, PlainCall) and not running.response_started

    # --- httptools' callbacks ---------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self.url = b""
        self.headers = []
        self._special = self._late = False
        self._coming = self._asked_anything = True

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name in SPECIAL:
            self._special = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        self._head_bytes = 0
        if self._special and self.parser.should_upgrade():
            return  # it comes again
        if self._is_plain():
            self.cycle = cast(Any, PlainCall(self, keep_alive=self.parser.should_keep_alive()))
            return
        self._coming = self.url not in self._open_ended
        url, headers = self.url, self.headers
        super().on_message_begin()
        self.url = url
        for name, value in headers:
            super().on_header(name, value)
        super().on_headers_complete()

    def _is_plain(self) -> bool:
        return (
            self.url in self._plain
            and not self._special
            and (self.cycle is None or self.cycle.response_complete)  # a pipelined request waits its turn
            and self.parser.get_method() == b"POST"
            and self.parser.get_http_version() == "1.1"
        )

    def on_body(self, body: bytes) -> None:
        self._head_bytes = 0
        call = cast(Any, self.cycle)
        if not isinstance(call, PlainCall):
            super().on_body(body)
        elif not call.begun:
            if call.body:
                call.body = bytearray(call.body) if isinstance(call.body, bytes) else call.body
                call.body += body  # in place: tiny chunks must not copy what came before each time
            else:
                call.body = body
            if len(call.body) > BODY_BYTES_MAX:
                self._begin(call)  # it is refused without waiting for its end

    def on_message_complete(self) -> None:
        if self._special and self.parser.should_upgrade():
            return
        self._coming = False
        call = cast(Any, self.cycle)
        if not isinstance(call, PlainCall):
            super().on_message_complete()
        elif not call.begun:
            call.more_body = False
            self._begin(call)

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def _begin(self, call: PlainCall) -> None:
        self._running = call
        call.begun = True
        scope = {
            "type": "http",
            "method": "POST",
            "path": self.url.decode(),
            "headers": self.headers,
            "query_string": b"",
        }
        call.task = task = self.loop.create_task(call.run(self.app, scope))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    # --- the answer -------------------------------------------------------------------------------

    def head(self, start: dict[str, Any], keep_alive: bool, chunked: bool = False) -> bytes:
        """Status line and headers. Those of every answer change ten times a second, with the date."""
        default = self.server_state.default_headers
        if self._common[0] is not default:
            self._common = (default, _lines(default))
        last = b"\r\n" if keep_alive else b"connection: close\r\n\r\n"
        if chunked:
            last = b"transfer-encoding: chunked\r\n" + last
        return b"".join((STATUS_LINE[start["status"]], self._common[1], _lines(start["headers"]), last))

    def answered(self, call: PlainCall) -> None:
        self.server_state.total_requests += 1
        if not call.keep_alive:
            self.transport.close()
        elif self.pipeline:
            self.on_response_complete()


def _lines(headers: list[tuple[bytes, bytes]]) -> bytes:
    return b"".join([b"%b: %b\r\n" % header for header in headers])
