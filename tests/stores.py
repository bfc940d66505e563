"""Real stores for tests: our own and real etcd, one node or three, started and stopped by pid.

Place in the house   tests/client, tests/plugin, tests/webui, tests/cli … -> stores -> the programs
Gives                Cluster: its endpoints, and its nodes: each can be killed, paused, started again
Never                kills by name, uses a fixed port, waits without a deadline
"""

import json
import os
import signal
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Any, Literal, TypeVar

from tests import debian
from tests.certificates import Tls
from tests.gateway import Gateway, b64
from tests.ports import free_ports

Kind = Literal["jobguard", "etcd", "etcd34"]
KINDS: tuple[Kind, ...] = ("jobguard", "etcd")
# What our client promises to work with: real etcd 3.4, as Debian has it, too.
CLIENTS_KINDS: tuple[Kind, ...] = (*KINDS, "etcd34")

# For clusters whose elections are not the subject: a leader that the host lets stand for a second leads on.
CALM = ("--election-timeout", "2000")

# For clusters that a test kills. A real etcd 3.5.1 may write down that it has applied an entry just before it
# does; killed within the tenth of a second until it writes again, it has forgotten that entry
# (etcd-io/etcd#13766). One that writes once an hour applies its whole log again.
SURVIVES_KILLS: dict[Kind, tuple[str, ...]] = {
    "jobguard": (),
    "etcd": ("--backend-batch-interval", "1h"),
    "etcd34": (),
}

BIN = Path(sys.executable).parent
T = TypeVar("T")


def eventually(condition: Callable[[], T], within: float = 30.0, what: str = "the condition") -> T:
    """Ask until the answer is truthy; fails when it still is not after `within` seconds."""
    deadline = time.monotonic() + within
    while not (answer := condition()):
        assert time.monotonic() < deadline, f"{what} did not come true within {within} s"
        time.sleep(0.01)
    return answer


@dataclass
class Node:
    """One process of a store."""

    name: str
    url: str
    command: list[str]
    log: Path
    tls: Tls | None = None
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, or start it again on the data it left."""
        assert self.process is None
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log)

    def kill(self, signal_number: int = signal.SIGKILL) -> None:
        """End the process, by default without a chance to say goodbye."""
        if self.process is not None:
            self.process.send_signal(signal_number)
            self.process.send_signal(signal.SIGCONT)
            self.process.wait(timeout=60)
            self.process = None

    def pause(self) -> None:
        """SIGSTOP: connections stay open and nothing answers."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def healthy(self) -> bool:
        """Does it answer a linearizable read?"""
        assert self.process is None or self.process.poll() is None, f"{self.name} ended:\n{self.tail()}"
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=5, context=self.context) as answer:
                return bool(json.load(answer)["health"] == "true")
        except (OSError, HTTPException):
            return False

    def knows_its_version(self) -> bool:
        """Of an etcd: it serves before its cluster has agreed on one."""
        with self.gateway() as gateway:
            return bool(gateway.get("/version").json["etcdcluster"] == "3.5.0")

    def status(self) -> Any:
        with self.gateway() as gateway:
            return gateway.ok("/v3/maintenance/status")

    def leads(self) -> bool:
        status = self.status()
        return bool(status.get("leader") == status["header"]["member_id"])

    def wait_until_ready(self, within: float = 60.0) -> None:
        eventually(self.healthy, within, f"health of {self.name}")

    def gateway(self) -> Gateway:
        return Gateway(self.url, context=self.context)

    @property
    def context(self) -> ssl.SSLContext | None:
        return None if self.tls is None else self.tls.context

    def tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-30:])


def leader_of(stores: Sequence[Node]) -> Node:
    """The one of them that leads; all must be there to be asked."""
    return eventually(lambda: [store for store in stores if store.leads()], what="a leader")[0]


@dataclass
class Cluster:
    kind: Kind
    nodes: list[Node] = field(default_factory=list)

    @property
    def endpoints(self) -> list[str]:
        return [node.url for node in self.nodes]

    def wait_healthy(self, within: float = 60.0) -> None:
        for node in self.nodes:
            if node.process is not None:
                node.wait_until_ready(within)

    def crash(self) -> None:
        """Kill the only node, which has kept what it acknowledged.

        A lone etcd 3.5.1 answers before its log is written (etcd-io/etcd#14370), but not the next write.
        """
        (node,) = self.nodes
        if self.kind == "etcd":
            with node.gateway() as gateway:
                gateway.ok("/v3/kv/put", {"key": b64("one more")})
        node.kill()

    def stop(self) -> None:
        for node in self.nodes:
            node.kill()


@contextmanager
def running(
    kind: Kind, directory: Path, nodes: int = 1, extra: Sequence[str] = (), tls: Tls | None = None
) -> Iterator[Cluster]:
    """A store of `nodes` processes with its data below `directory`, healthy when you get it."""
    cluster = make(kind, directory, nodes, extra, tls)
    try:
        for node in cluster.nodes:
            node.start()
        cluster.wait_healthy()
        yield cluster
    finally:
        cluster.stop()


@contextmanager
def etcd(size: int = 1) -> Iterator[list[Node]]:
    """Real etcd as an oracle: it leaves out its disk syncs, for it is to answer, not to survive."""
    with (
        tempfile.TemporaryDirectory(prefix="jobguard-test-") as directory,
        running("etcd", Path(directory), size, ["--unsafe-no-fsync"]) as cluster,
    ):
        for node in cluster.nodes:
            eventually(node.knows_its_version, 60, f"the cluster's version at {node.name}")
        yield cluster.nodes


@contextmanager
def nodes(size: int = 1, extra: Sequence[str] = ()) -> Iterator[list[Node]]:
    """Our own nodes, on files that go with them."""
    with (
        tempfile.TemporaryDirectory(prefix="jobguard-test-") as directory,
        running("jobguard", Path(directory), size, extra) as cluster,
    ):
        yield cluster.nodes


def make(
    kind: Kind, directory: Path, nodes: int = 1, extra: Sequence[str] = (), tls: Tls | None = None
) -> Cluster:
    """The same, not started; `extra` are more flags for every process."""
    scheme, secured = ("http", []) if tls is None else ("https", tls.flags)
    directory.mkdir(parents=True, exist_ok=True)
    ports = free_ports(2 * nodes)
    names = [f"s{number + 1}" for number in range(nodes)]
    clients = [f"{scheme}://127.0.0.1:{port}" for port in ports[:nodes]]
    peers = [f"{scheme}://127.0.0.1:{port}" for port in ports[nodes:]]
    together = ",".join(f"{name}={peer}" for name, peer in zip(names, peers, strict=True))
    return Cluster(
        kind,
        [
            Node(
                name=name,
                url=client,
                command=[
                    *_program(kind),
                    *("--name", name),
                    *("--data-dir", str(directory / name)),
                    *("--listen-client-urls", client),
                    *("--advertise-client-urls", client),
                    *("--listen-peer-urls", peer),
                    *("--initial-advertise-peer-urls", peer),
                    *("--initial-cluster", together, *secured, *extra),
                ],
                log=directory / f"{name}.log",
                tls=tls,
            )
            for name, client, peer in zip(names, clients, peers, strict=True)
        ],
    )


def _program(kind: Kind) -> list[str]:
    match kind:
        case "etcd" | "etcd34":
            program = BIN / "etcd" if kind == "etcd" else debian.program(*debian.ETCD_3_4)
            return [str(program), "--log-level", "warn", "--initial-cluster-token", str(os.getpid())]
        case "jobguard":
            return [sys.executable, "-m", "jobguard_store"]
