"""Real stores for tests: a process of etcd 3.5, and processes of our node, on free ports of loopback.

Every store is stopped by its own process id, its files go with it, and it is ready when it answers.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.gateway import Gateway
from tests.ports import free_ports

ETCD = str(Path(sys.executable).with_name("etcd"))
START_PATIENCE_S = 20.0


class Store:
    """A running process and where it answers."""

    def __init__(self, name: str, url: str, command: Sequence[str], log: Path) -> None:
        self.name = name
        self.url = url
        self.command = list(command)
        self.log = log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, f"{self.name} is not running"
        return self._process

    def start(self) -> None:
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )

    def wait_until_ready(self) -> None:
        """Ready means: a linearizable read is answered."""
        deadline = time.monotonic() + START_PATIENCE_S
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                break
            try:
                with Gateway(self.url) as gateway:
                    if gateway.post("/v3/kv/range", {"key": "AA=="}).status == 200:
                        return
            except OSError:
                pass
            time.sleep(0.02)
        raise AssertionError(f"{self.name} is not ready; its log ends:\n{self.tail()}")

    def tail(self) -> str:
        return self.log.read_bytes()[-3000:].decode(errors="replace")

    def gateway(self) -> Gateway:
        return Gateway(self.url)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self.kill()
                raise AssertionError(f"{self.name} ignores SIGTERM; its log ends:\n{self.tail()}") from None
        self._process.wait()


def _commands(program: Sequence[str], size: int, directory: Path, extra: Sequence[str]) -> list[Store]:
    ports = free_ports(2 * size)
    names = [f"s{number}" for number in range(1, size + 1)]
    clients = [f"http://127.0.0.1:{port}" for port in ports[:size]]
    peers = [f"http://127.0.0.1:{port}" for port in ports[size:]]
    cluster = ",".join(f"{name}={peer}" for name, peer in zip(names, peers, strict=True))
    return [
        Store(
            name,
            client,
            [
                *program,
                *("--name", name, "--data-dir", str(directory / name)),
                *("--listen-client-urls", client, "--advertise-client-urls", client),
                *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
                *("--initial-cluster", cluster, *extra),
            ],
            directory / f"{name}.log",
        )
        for name, client, peer in zip(names, clients, peers, strict=True)
    ]


@contextmanager
def _running(program: Sequence[str], size: int, extra: Sequence[str]) -> Iterator[list[Store]]:
    with tempfile.TemporaryDirectory(prefix="jobguard-test-") as directory, ExitStack() as stack:
        stores = _commands(program, size, Path(directory), extra)
        for store in stores:
            stack.callback(store.stop)
            store.start()
        for store in stores:
            store.wait_until_ready()
        yield stores


@contextmanager
def etcd(size: int = 1) -> Iterator[list[Store]]:
    """A cluster of real etcd, its disk syncs left out: it serves to compare answers, not to survive."""
    with _running([ETCD], size, ["--log-level", "error", "--unsafe-no-fsync"]) as stores:
        yield stores


@contextmanager
def nodes(size: int = 1, extra: Sequence[str] = ()) -> Iterator[list[Store]]:
    """A cluster of our own nodes, each a process."""
    with _running([sys.executable, "-m", "jobguard_store"], size, extra) as stores:
        yield stores
