"""A plain HTTP client for the JSON gateway of any etcd v3 store, which hides nothing of what it got.

Place in the house   tests -> gateway -> a socket
Gives                statuses, headers and bodies as they came; of a stream, each HTTP chunk for itself
Never                retries, follows, or decides what is right
"""

import base64
import http.client
import json
import select
import socket
import ssl
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import urlsplit

PATIENCE_S = 30.0


def b64(data: bytes | str) -> str:
    return base64.b64encode(data.encode() if isinstance(data, str) else data).decode()


def unb64(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> tuple[int, int, str]:
        """The HTTP status, gRPC code and text of a refusal. Its two spellings of the text agree."""
        body = self.json
        assert body["error"] == body["message"], body
        return self.status, body["code"], body["message"]


class Gateway:
    """One keep-alive connection to one node."""

    def __init__(
        self, url: str, timeout_s: float = PATIENCE_S, context: ssl.SSLContext | None = None
    ) -> None:
        self.url = url
        parts = urlsplit(url)
        assert parts.hostname
        assert parts.port
        self._address = (parts.hostname, parts.port)
        self._connection = (
            http.client.HTTPConnection(*self._address, timeout=timeout_s)
            if context is None
            else http.client.HTTPSConnection(*self._address, timeout=timeout_s, context=context)
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._connection.close()

    def send(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        try:
            self._connection.request(method, path, body, dict(headers or {}))
            response = self._connection.getresponse()
            content = response.read()
        except BaseException:
            self._connection.close()
            raise
        return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, content)

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> Answer:
        return self.send("GET", path, headers=headers)

    def post(self, path: str, message: object = None, headers: Mapping[str, str] | None = None) -> Answer:
        """`message` as JSON; bytes go as they are."""
        body = message if isinstance(message, bytes) else json.dumps(message or {}).encode()
        return self.send("POST", path, body, headers)

    def ok(self, path: str, message: object = None) -> Any:
        """The parsed answer of a call that has to succeed."""
        answer = self.post(path, message)
        assert answer.status == 200, (path, message, answer)
        return answer.json

    def put(self, key: str, value: str = "", **rest: object) -> Any:
        return self.ok("/v3/kv/put", {"key": b64(key), "value": b64(value), **rest})

    def stream(
        self, path: str, *messages: object, more: bool = False, headers: Mapping[str, str] | None = None
    ) -> "Stream":
        return Stream(self._address, path, messages, more=more, headers=headers or {})


class Stream:
    """One streaming call on its own connection. With `more` the request's body stays open for `send`."""

    def __init__(
        self,
        address: tuple[str, int],
        path: str,
        messages: tuple[object, ...],
        *,
        more: bool,
        headers: Mapping[str, str],
    ) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self._socket = socket.create_connection(address, timeout=PATIENCE_S)
        self._input = self._socket.makefile("rb")
        head = f"POST {path} HTTP/1.1\r\nHost: {address[0]}\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        bodies = [m if isinstance(m, bytes) else json.dumps(m).encode() for m in messages]
        if more:
            self._socket.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
            for body in bodies:
                self._send_chunk(body)
        else:
            content = b"".join(bodies)
            self._socket.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        with closing(self._socket):
            self._input.close()

    def send(self, message: object) -> None:
        """Another message on a body that is still open."""
        self._send_chunk(message if isinstance(message, bytes) else json.dumps(message).encode())

    def end_body(self) -> None:
        self._socket.sendall(b"0\r\n\r\n")

    def silent_for(self, timeout_s: float) -> bool:
        """Whether nothing at all arrives within that time."""
        return not select.select([self._socket], [], [], timeout_s)[0]

    def wait_for_head(self) -> None:
        if self.status:
            return
        status_line = self._input.readline()
        if not status_line.endswith(b"\n"):
            raise ConnectionResetError("the connection closed before an answer")
        self.status = int(status_line.split()[1])
        while (line := self._input.readline()) not in (b"\r\n", b""):
            name, _, value = line.decode().partition(":")
            self.headers[name.strip().lower()] = value.strip()

    def chunk(self, timeout_s: float = PATIENCE_S) -> bytes:
        """The next HTTP chunk as it was framed; empty at the end. Raises TimeoutError."""
        self._socket.settimeout(timeout_s)
        self.wait_for_head()
        if "chunked" not in self.headers.get("transfer-encoding", ""):
            return self._input.read(int(self.headers.get("content-length", 0)))
        size = int(self._input.readline() or b"0", 16)
        data = self._input.read(size)
        self._input.readline()
        return data

    def next(self, timeout_s: float = PATIENCE_S) -> Any:
        """The next message, one line, however many chunks it came in. Raises TimeoutError, EOFError."""
        line = b""
        while not line.endswith(b"\n"):
            data = self.chunk(timeout_s)
            if not data:
                break
            line += data
        if not line:
            raise EOFError("the stream ended")
        assert b"\n" not in line[:-1], f"more than one line in a chunk: {line!r}"
        return json.loads(line)

    def result(self, timeout_s: float = PATIENCE_S) -> Any:
        message = self.next(timeout_s)
        assert "result" in message, message
        return message["result"]

    def events(self, timeout_s: float = PATIENCE_S) -> Iterator[Any]:
        """Events of one watcher, batch boundaries forgotten."""
        while True:
            message = self.result(timeout_s)
            assert not message.get("canceled"), message
            yield from message.get("events", ())

    def _send_chunk(self, data: bytes) -> None:
        self._socket.sendall(f"{len(data):x}\r\n".encode() + data + b"\r\n")
