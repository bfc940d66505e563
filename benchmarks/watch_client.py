"""One writer and its watchers: `python -m benchmarks.watch_client URL WATCHERS WARM_UP_S SECONDS`.

Each watcher has a connection of its own. The writer puts again once every watcher has seen the put before:
so neither store is ever asked for more than it can do, and what counts is how soon all of them know. Events
are counted, not parsed: with a thousand watchers a reader that decodes JSON would be what is measured.
"""

import json
import select
import socket
import sys
import time
from urllib.parse import urlsplit

from benchmarks.filling import LENGTH
from benchmarks.results import spread
from tests.gateway import b64

PATIENCE_S = 60.0
KEY, VALUE = b64("key000000"), b64("fifteen--bytes!")
EVENT = b'"mod_revision"'  # once in each


class FanOut:
    def __init__(self, url: str, watchers: int) -> None:
        address = urlsplit(url)
        self._address = (address.hostname or "", address.port or 0)
        self._put = request("/v3/kv/put", {"key": KEY, "value": VALUE})
        self._writer = socket.create_connection(self._address, timeout=PATIENCE_S)
        self._poll = select.epoll()
        self._watchers = dict(self._watch() for _ in range(watchers))
        self._begun = dict.fromkeys(self._watchers, b"")  # a chunk whose end is still to come

    def _watch(self) -> tuple[int, socket.socket]:
        """One watcher, which has been told that it is one."""
        watcher = socket.create_connection(self._address, timeout=PATIENCE_S)
        watcher.sendall(request("/v3/watch", {"create_request": {"key": KEY}}))
        told = b""
        while not (b'"created":true' in told and told.endswith(b"\r\n")):
            told += received(watcher)
        self._poll.register(watcher, select.EPOLLIN)
        return watcher.fileno(), watcher

    def run(self, seconds: float) -> list[float]:
        """Of one put or more, each event's delay in seconds: from its put being sent until it was here."""
        delays: list[float] = []
        due = 0
        end = time.monotonic() + seconds
        while (sent := time.monotonic()) < end or not delays:
            self._writer.sendall(self._put)
            due += len(self._watchers)
            while len(delays) < due:
                delays += [at - sent for at in self._arrivals(sent + PATIENCE_S)]
            answered(self._writer)
        return delays

    def _arrivals(self, deadline: float) -> list[float]:
        """When each event came that is here now, or comes next."""
        arrivals = []
        for number, _ in self._poll.poll(max(0.0, deadline - time.monotonic())):
            data = self._begun[number] + received(self._watchers[number])
            whole = data.endswith(b"\r\n")
            self._begun[number] = b"" if whole else data
            if whole:
                arrivals += [time.monotonic()] * data.count(EVENT)
        if time.monotonic() > deadline:
            raise SystemExit(f"a watcher waited for its event for more than {PATIENCE_S:.0f} s")
        return arrivals


def request(path: str, message: object) -> bytes:
    body = json.dumps(message).encode()
    return b"POST %s HTTP/1.1\r\nHost: store\r\nContent-Length: %d\r\n\r\n%s" % (
        path.encode(),
        len(body),
        body,
    )


def received(connection: socket.socket) -> bytes:
    data = connection.recv(65536)
    if not data:
        raise SystemExit("the store closed a connection")
    return data


def answered(connection: socket.socket) -> None:
    """Read one answer; it has to be a success."""
    answer = b""
    while not ((head := answer.partition(b"\r\n\r\n"))[1] and len(head[2]) >= body_length(answer)):
        answer += received(connection)
    if not answer.startswith(b"HTTP/1.1 200 "):
        raise SystemExit(f"a put was refused: {answer!r}")


def body_length(answer: bytes) -> int:
    length = LENGTH.search(answer)
    return int(length[1]) if length else 0


def main(url: str, watchers: int, warm_up_s: float, seconds: float) -> None:
    fan_out = FanOut(url, watchers)
    fan_out.run(warm_up_s)
    begin = time.monotonic()
    delays = fan_out.run(seconds)
    print(json.dumps({"rate": len(delays) / (time.monotonic() - begin), **spread(delays)}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4]))
