"""HTTP/1.1 as the gateway speaks it: one exchange, or one endless answer, on one socket.

Place in the house   client, watch  ->  transport  ->  urllib3 (which dials: addresses, TLS, socket options)
Takes                a finished request, a deadline on the monotonic clock
Gives                an Answer, or the chunks of a stream as they come
Never                retries, pools, knows what a request means, or uses the process's default socket timeout

urllib3 opens the connection, but requests are written and read here. Two reasons. A lock takes two round
trips of about a millisecond, and urllib3 with http.client adds 0.15 ms and 0.12 ms of CPU to each. And a
watch must be able to time out and go on: http.client's buffered reader is unusable after its first timeout.
"""

import os
import socket as sockets
import ssl
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import NamedTuple
from weakref import WeakSet

import urllib3.connection
from urllib3.exceptions import HTTPError
from urllib3.util import parse_url

from jobguard.errors import ConfigurationError
from jobguard.tls import Certificates, explained, handshake, refused_us

HEAD_BYTES_MAX = 64 * 1024
"""A head longer than this is not the gateway's."""

_RECEIVE_BYTES = 64 * 1024
_GLANCE_S = 0.001


class NotConnected(Exception):
    """No connection, so nothing was sent."""


class AnswerLost(Exception):
    """The request was sent, at least in part, and no whole answer came."""


class Answer(NamedTuple):
    status: int
    date: bytes
    body: bytes


class _Head(NamedTuple):
    status: int
    date: bytes
    length: int | None  # None: chunked if `chunked`, else until the connection closes
    chunked: bool
    closes: bool


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a node listens for clients."""

    url: str
    host: str
    port: int
    tls: bool

    @classmethod
    def parse(cls, url: str, scheme: str = "http") -> "Endpoint":
        """Read `http://host:port`; a bare `host:port` means `scheme`."""
        try:
            parts = parse_url(url if "://" in url else f"{scheme}://{url}")
        except HTTPError:
            raise ConfigurationError(f"endpoint {url!r} is not a URL") from None
        if parts.scheme not in ("http", "https") or not parts.host or parts.path not in (None, "", "/"):
            raise ConfigurationError(f"endpoint {url!r} is not of the form http://host:port")
        port = parts.port or 2379
        return cls(
            f"{parts.scheme}://{parts.host}:{port}", parts.host.strip("[]"), port, parts.scheme == "https"
        )

    def request(self, path: str, body: bytes, token: str = "") -> bytes:
        """A POST of `body`, head and all, to be sent in one piece."""
        head = f"POST {path} HTTP/1.1\r\nHost: {self.host}:{self.port}\r\nContent-Type: application/json\r\n"
        if token:
            head += f"Authorization: {token}\r\n"
        return b"%sContent-Length: %d\r\n\r\n%s" % (head.encode(), len(body), body)


def _socket_options() -> list[tuple[int, int, int | bytes]]:
    """No Nagle; and a peer that vanished without a word is noticed within half a minute."""
    options: list[tuple[int, int, int | bytes]] = [
        (sockets.IPPROTO_TCP, sockets.TCP_NODELAY, 1),
        (sockets.SOL_SOCKET, sockets.SO_KEEPALIVE, 1),
    ]
    for name, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3)):
        if hasattr(sockets, name):
            options.append((sockets.IPPROTO_TCP, getattr(sockets, name), value))
    return options


SOCKET_OPTIONS = _socket_options()

_open: "WeakSet[Connection]" = WeakSet()


def _close_inherited() -> None:
    """In a forked child: close our copies of the parent's sockets.

    Two processes must not read from one socket; and while a child holds a copy, the store would not notice
    that its parent died.
    """
    for connection in list(_open):
        connection.close()


os.register_at_fork(after_in_child=_close_inherited)


class Connection:
    """One socket to one node, for one request at a time."""

    def __init__(self, endpoint: Endpoint, timeout: float, certificates: Certificates | None = None) -> None:
        self._url = endpoint.url
        self._dialled = _dialler(endpoint, max(timeout, 0.001), certificates)
        self._has_certificate = certificates is not None and certificates.cert is not None
        self._buffer = bytearray()
        self._heard = False
        self._late = False  # it has looked once after its deadline
        self.reusable = True
        try:
            with handshake() if endpoint.tls else nullcontext():
                self._dialled.connect()
        except ssl.SSLError as error:
            self._dialled.close()
            raise NotConnected(self._no_tls(error)) from error
        except (HTTPError, OSError) as error:
            self._dialled.close()
            raise NotConnected(f"{endpoint.url}: {_reason(error)}") from error
        assert self._dialled.sock is not None
        self._socket = self._dialled.sock
        _open.add(self)

    def still_open(self) -> bool:
        """Has the peer, so far as we know, kept an idle connection open?"""
        return self._dialled.is_connected

    def exchange(self, request: bytes, deadline: float) -> Answer:
        """Send a request and read its whole answer. Raises AnswerLost, or NotConnected after all.

        An answer that had come by the deadline counts, though this process was not run in time to read it.
        """
        self.reusable = self._late = False
        try:
            head = self._ask(request, deadline)
            body = self._body(head, deadline)
        except (OSError, ValueError) as error:  # a timeout and a TLS failure are OSErrors
            raise self._failure(error) from error
        self.reusable = not head.closes
        return Answer(head.status, head.date, body)

    def open_stream(self, request: bytes, deadline: float) -> Answer | None:
        """Send a request whose answer has no end: None, and `chunk()` gives the rest; else the refusal."""
        self.reusable = self._late = False
        try:
            head = self._ask(request, deadline)
            if head.status == 200 and head.chunked:
                return None
            return Answer(head.status, head.date, self._body(head, deadline))
        except (OSError, ValueError) as error:
            raise self._failure(error) from error

    def chunk(self, deadline: float) -> bytes | None:
        """The next chunk of the stream, None at its end.

        A TimeoutError loses nothing: what has come of the chunk stays in the buffer. AnswerLost is final.
        """
        self._late = False
        try:
            return self._chunk(deadline)
        except TimeoutError:
            raise
        except (OSError, ValueError) as error:
            raise AnswerLost(_reason(error)) from error

    def _failure(self, error: OSError | ValueError) -> AnswerLost | NotConnected:
        if isinstance(error, ssl.SSLError) and not self._heard and refused_us(error):
            return NotConnected(self._no_tls(error))
        return AnswerLost(_reason(error))

    def _no_tls(self, error: ssl.SSLError) -> str:
        if refused_us(error) and not self._has_certificate:
            return f"{self._url} asks for a certificate: set jobguard_cert and jobguard_key"
        return explained(error, self._url, "jobguard_cacert")

    def interrupt(self) -> None:
        """Make a read in another thread end at once."""
        try:
            # Not TLS's own method, which would let that thread go on in plain text.
            sockets.socket.shutdown(self._socket, sockets.SHUT_RDWR)
        except OSError:
            return  # it was closed already, which is what was asked for

    def close(self) -> None:
        self._dialled.close()

    __del__ = close  # a client that is dropped without `close()` drops its sockets in silence

    # --- reading: everything below leaves the buffer whole when it raises TimeoutError ---

    def _ask(self, request: bytes, deadline: float) -> _Head:
        left = deadline - time.monotonic()
        if left <= 0:
            raise NotConnected(f"{self._url}: no time was left to ask")
        self._socket.settimeout(left)
        self._send(request)
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            if len(self._buffer) > HEAD_BYTES_MAX:
                raise ValueError("the answer is not HTTP")
            self._receive(deadline)
        head = _read_head(bytes(self._buffer[:end]))
        del self._buffer[: end + 4]
        return head

    def _send(self, request: bytes) -> None:
        try:
            self._socket.sendall(request)
        except OSError:
            if isinstance(self._socket, ssl.SSLSocket) and not self._heard:
                self._socket.recv(1)  # what it has against our certificate came before it closed
            raise

    def _body(self, head: _Head, deadline: float) -> bytes:
        if head.chunked:
            return b"".join(self._chunks(deadline))
        if head.length is None:
            return self._rest(deadline)
        while len(self._buffer) < head.length:
            self._receive(deadline)
        return self._take(0, head.length, head.length)

    def _chunks(self, deadline: float) -> Iterator[bytes]:
        while (chunk := self._chunk(deadline)) is not None:
            yield chunk

    def _chunk(self, deadline: float) -> bytes | None:
        while (end := self._buffer.find(b"\r\n")) < 0:
            self._receive(deadline)
        size = int(self._buffer[:end].partition(b";")[0], 16)
        if not size:
            self._end_chunks(deadline)
            return None
        whole = end + 2 + size + 2
        while len(self._buffer) < whole:
            self._receive(deadline)
        return self._take(end + 2, size, whole)

    def _end_chunks(self, deadline: float) -> None:
        """Up to the empty line. Before it may stand trailers, as after each refusal of etcd 3.4."""
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            if len(self._buffer) > HEAD_BYTES_MAX:
                raise ValueError("the answer is not HTTP")
            self._receive(deadline)
        del self._buffer[: end + 4]

    def _rest(self, deadline: float) -> bytes:
        try:
            while True:
                self._receive(deadline)
        except ConnectionError:
            return self._take(0, len(self._buffer), len(self._buffer))

    def _take(self, start: int, size: int, whole: int) -> bytes:
        taken = bytes(self._buffer[start : start + size])
        del self._buffer[:whole]
        return taken

    def _receive(self, deadline: float) -> None:
        left = deadline - time.monotonic()
        if left <= 0 and self._late:
            raise TimeoutError("timed out")
        # What has come by now: once, or a peer that never ends would hold us.
        self._late = left <= 0
        self._socket.settimeout(max(left, _GLANCE_S))
        data = self._socket.recv(_RECEIVE_BYTES)
        if not data:
            raise ConnectionResetError("the connection was closed before the answer was complete")
        self._heard = True
        self._buffer += data


def _dialler(
    endpoint: Endpoint, timeout: float, certificates: Certificates | None
) -> urllib3.connection.HTTPConnection:
    where = endpoint.host, endpoint.port
    if not endpoint.tls:
        return urllib3.connection.HTTPConnection(*where, timeout=timeout, socket_options=SOCKET_OPTIONS)
    context = (certificates or Certificates()).context()
    return urllib3.connection.HTTPSConnection(
        *where, timeout=timeout, socket_options=SOCKET_OPTIONS, ssl_context=context
    )


def _read_head(head: bytes) -> _Head:
    status_line, *lines = head.split(b"\r\n")
    version, _, rest = status_line.partition(b" ")
    if not version.startswith(b"HTTP/1."):
        raise ValueError("the answer is not HTTP")
    named = {}
    for line in lines:
        name, _, value = line.partition(b":")
        named[name.lower()] = value.strip()
    length = named.get(b"content-length")
    chunked = named.get(b"transfer-encoding", b"").lower() == b"chunked"
    closes = named.get(b"connection", b"").lower() == b"close" or version == b"HTTP/1.0"
    return _Head(
        status=int(rest[:3]),
        date=named.get(b"date", b""),
        length=None if length is None else int(length),
        chunked=chunked,
        closes=closes or (length is None and not chunked),
    )


def _reason(error: Exception) -> str:
    match error:
        case TimeoutError():
            return "timed out"
        case ssl.SSLError():
            return f"TLS: {error.reason or error}"
        case HTTPError(__cause__=OSError(strerror=str(reason))):
            return reason  # urllib3 puts its own objects before it
        case _:
            return str(error) or type(error).__name__
