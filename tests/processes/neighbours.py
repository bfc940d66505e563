"""What one client's puts cost while another client misbehaves, or only asks for much.

Place in the house   test_isolation, benchmarks/isolation.py -> neighbours -> gateway, sockets
Takes                a node with something in it (`furnish`)
Gives                of each neighbour the 99th percentile of a put beside it, round by round, in seconds
Never                compares what was not measured within moments of each other
"""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext
from urllib.parse import urlsplit

from tests.gateway import Gateway
from tests.messages import RANGE, TXN, WATCH, create, put_op, range_, txn
from tests.stopwatch import Stopwatch

KEYS = 100_000
HALVES = 500
LARGE = 60_000
QUIET = "nobody"

Times = dict[str, list[float]]
"""By neighbour, a 99th percentile per round."""


def furnish(url: str) -> None:
    """Keys for the large range, and enough of a past to fill the sockets of a watcher that begins there."""
    with Gateway(url) as gateway:
        for first in range(0, KEYS, 100):
            gateway.ok(
                TXN, txn(*(put_op(f"many/{number:06d}", "x" * 20) for number in range(first, first + 100)))
            )
        for number in range(200):
            gateway.put("large", f"{number:0{LARGE}d}")


@contextmanager
def a_watcher_that_reads_nothing(url: str) -> Iterator[None]:
    with Gateway(url) as gateway:
        past = int(gateway.ok(RANGE, range_("large"))["kvs"][0]["mod_revision"]) - 150
        with gateway.stream(WATCH, create("\0", "\0", start_revision=past)) as stream:
            stream.wait_for_head()
            yield


@contextmanager
def a_range_of_all_keys(url: str) -> Iterator[None]:
    """One after the other, each read to its end, by a process of its own: we are busy with puts."""
    asking = subprocess.Popen([sys.executable, "-m", __name__, url], stdout=subprocess.PIPE)
    try:
        assert asking.stdout is not None
        assert asking.stdout.readline() == b"asking\n"
        yield
        assert asking.poll() is None
    finally:
        asking.kill()
        asking.communicate()


def ask_on(url: str) -> None:
    print("asking", flush=True)
    with Gateway(url, timeout_s=60) as gateway:
        while gateway.post(RANGE, range_("many/", "many0")).status == 200:
            pass


def halves(count: int) -> Callable[[str], AbstractContextManager[None]]:
    @contextmanager
    def sent(url: str) -> Iterator[None]:
        where = urlsplit(url)
        assert where.hostname
        assert where.port
        half = b'POST /v3/kv/put HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{"key":"'
        with ExitStack() as stack:
            for _ in range(count):
                link = socket.create_connection((where.hostname, where.port), timeout=30)
                stack.enter_context(closing(link))
                link.sendall(half)
            yield

    return sent


NEIGHBOURS: dict[str, Callable[[str], AbstractContextManager[None]]] = {
    QUIET: lambda url: nullcontext(),
    "a watcher that reads nothing": a_watcher_that_reads_nothing,
    f"ranges of {KEYS:,} keys": a_range_of_all_keys,
    "half a request": halves(1),
    f"{HALVES} half requests": halves(HALVES),
}


def measure(url: str, puts: int) -> dict[str, float]:
    """One round: each neighbour's turn."""
    times = {}
    with Gateway(url) as gateway:
        for name, neighbour in NEIGHBOURS.items():
            with neighbour(url), Stopwatch() as watch:
                times[name] = percentile_99(gateway, puts, watch)
    return times


def percentile_99(gateway: Gateway, puts: int, watch: Stopwatch) -> float:
    times = []
    for number in range(puts):
        since = watch.seconds
        gateway.put("k", str(number))
        times.append(watch.seconds - since)
    return sorted(times)[puts * 99 // 100]


if __name__ == "__main__":
    ask_on(sys.argv[1])
