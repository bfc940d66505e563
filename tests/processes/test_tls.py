"""Nodes that speak nothing but TLS: a renewal of everything under load, a leader's death, and bad company."""

import os
import random
import socket
import ssl
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from signal import SIGTERM
from typing import Any

import pytest

from jobguard.client import Client
from tests.certificates import Authority, Tls
from tests.ports import free_ports
from tests.stopwatch import Stopwatch, best_of
from tests.stores import Cluster, Node, eventually, leader_of, running


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    return Tls.make(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def three(tls: Tls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running("jobguard", tmp_path_factory.mktemp("three"), 3, tls=tls) as cluster:
        yield cluster


class Load:
    """Puts one after the other; the first that fails is the last."""

    def __init__(self, client: Client, *, dials: bool) -> None:
        self.done = 0
        self.failure: Exception | None = None
        self._client = client
        self._dials = dials
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            while not self._ends.is_set():
                self._client.put("load", str(self.done))
                self.done += 1
                if self._dials:
                    self._client.close()
        except Exception as failure:  # noqa: BLE001 - the test looks at it
            self.failure = failure

    def goes_on(self, requests: int = 20) -> None:
        before = self.done
        eventually(lambda: self.failure or self.done >= before + requests, what="requests to be answered")
        assert self.failure is None, repr(self.failure)

    def end(self) -> None:
        self._ends.set()
        self._thread.join()


@contextmanager
def load(cluster: Cluster, tls: Tls) -> Iterator[list[Load]]:
    """One client that keeps its connection, and one at each node that dials for each request."""
    clients = [Client(cluster.endpoints, **tls.settings, timeout=30)]
    clients += [Client(url, **tls.settings, timeout=30) for url in cluster.endpoints]
    loads = [Load(client, dials=number > 0) for number, client in enumerate(clients)]
    try:
        yield loads
    finally:
        for each in loads:
            each.end()


def replace(path: Path, content: bytes) -> None:
    fresh = path.with_name(f"{path.name}.new")
    fresh.write_bytes(content)
    os.replace(fresh, path)


def test_everything_is_renewed_while_requests_flow_and_none_fails(
    three: Cluster, tls: Tls, tmp_path: Path
) -> None:
    """Certificates, and then their authority: trusted beside the old one, used, and at last alone."""
    new = Authority(tmp_path, "new")
    trusted = tls.authority.cacert
    old = trusted.read_bytes()
    with load(three, tls) as loads:

        def go_on() -> None:
            for each in loads:
                each.goes_on()

        go_on()
        tls.node.replace_by(tls.authority.issue("node-2", "127.0.0.1"))
        tls.client.replace_by(tls.authority.issue("client-2"))
        go_on()
        replace(trusted, old + new.cacert.read_bytes())
        go_on()
        tls.node.replace_by(new.issue("node-3", "127.0.0.1"))
        go_on()
        tls.client.replace_by(new.issue("client-3"))
        go_on()
        replace(trusted, new.cacert.read_bytes())
        go_on()
    vars(tls).pop("context", None)  # that of the tests' own requests is of before
    leader = leader_of(three.nodes)
    leader.kill()
    with Client(three.endpoints, **tls.settings, timeout=30) as client:
        client.put("after", "it")
        leader.start()  # all of its connections begin under the new authority
        leader.wait_until_ready()
        with client.at([leader.url]) as there:
            found = there.get("after")
            assert found is not None
            assert found.value == b"it"


def test_what_breaks_off_in_the_middle_of_tls_costs_nobody_else(three: Cluster, tls: Tls) -> None:
    """Resets while answers are on their way: uvloop's TLS may write to what is closed by then."""
    node = three.nodes[0]
    port = int(node.url.rpartition(":")[2])
    request = b'POST /v3/kv/range HTTP/1.1\r\nHost: h\r\nContent-Length: 13\r\n\r\n{"key":"aGVs"}'[:-1]
    draw = random.Random(26)
    with Client(node.url, **tls.settings, timeout=30) as client:
        client.put("hel", "x" * 100_000)
        for _ in range(60):
            plain = socket.create_connection(("127.0.0.1", port), timeout=30)
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            with tls.context.wrap_socket(plain, server_hostname="127.0.0.1") as secured:
                secured.sendall(request * draw.randrange(1, 30))
                if draw.random() < 0.5:
                    secured.recv(draw.randrange(1, 50_000))
        client.put("hel", "lo")
    assert node.process is not None
    assert node.process.poll() is None
    assert "this must not happen" not in node.log.read_text()
    assert "nobody expected" not in node.log.read_text()


def test_a_backup_comes_over_tls(three: Cluster, tls: Tls, tmp_path: Path) -> None:
    target = tmp_path / "backup"
    command = [sys.executable, "-m", "jobguard_store", "backup", str(target), "--endpoints"]
    endpoints = ",".join(three.endpoints)

    def backup(endpoints: str, **files: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, **files}
        return subprocess.run(
            [*command, endpoints], env=environment, capture_output=True, text=True, timeout=60
        )

    refused = backup(endpoints, JOBGUARD_CACERT=tls.settings["cacert"])
    assert refused.returncode == 1
    assert f"{three.endpoints[0]} refused our certificate: certificate required" in refused.stderr
    untrusting = backup(endpoints)
    assert "is not trusted: " in untrusting.stderr
    assert "; set --cacert" in untrusting.stderr
    done = backup(endpoints, **tls.environment)
    assert done.returncode == 0, done.stderr
    assert target.stat().st_size > 0


def test_a_node_with_idle_clients_stops_at_once(tls: Tls, tmp_path: Path) -> None:
    """It does not wait for their goodbyes, which never come."""
    with running("jobguard", tmp_path, tls=tls) as cluster:
        (node,) = cluster.nodes
        context: ssl.SSLContext = tls.context
        port = int(node.url.rpartition(":")[2])

        def stopped_s() -> float:
            if node.process is None:
                node.start()
                node.wait_until_ready()
            plain = socket.create_connection(("127.0.0.1", port), timeout=30)
            with context.wrap_socket(plain, server_hostname="127.0.0.1") as idle:
                idle.sendall(b"GET /health HTTP/1.1\r\nHost: h\r\n\r\n")
                assert idle.recv(100)
                with Stopwatch() as watch:
                    node.kill(15)
                    return watch.seconds

        # What is left then is told off, which takes two seconds each time. A slow disk does now and then.
        best_of(3, stopped_s, under=1.9)
        assert "timeout graceful shutdown exceeded" not in node.tail()


def test_a_running_cluster_goes_from_plain_peers_to_tls(tmp_path: Path) -> None:
    """As docs/security.md has it, one node after the other; requests are served all the while."""
    tls = Tls.make(tmp_path / "certificates")
    own = ["--peer-cert-file", str(tls.node.cert), "--peer-key-file", str(tls.node.key)]
    asking = ["--peer-client-cert-auth", "--peer-trusted-ca-file", str(tls.authority.cacert)]
    with running("jobguard", tmp_path, 3, ["--initial-cluster-state", "new"]) as cluster:
        plain = {node.name: flag(node, "--listen-peer-urls") for node in cluster.nodes}
        ports = dict(zip(plain, free_ports(3), strict=True))
        secured = {name: f"https://127.0.0.1:{port}" for name, port in ports.items()}
        members = {m["name"]: m["ID"] for m in ask(cluster.nodes[0], "/v3/cluster/member/list")["members"]}

        def restart(node: Node) -> None:
            node.kill(SIGTERM)
            node.start()
            cluster.wait_healthy()
            for each in cluster.nodes:
                with each.gateway() as gateway:
                    gateway.put("k", node.name)

        for node in cluster.nodes:
            set_flag(node, "--listen-peer-urls", f"{plain[node.name]},{secured[node.name]}")
            node.command = ["env", f"SSL_CERT_FILE={tls.authority.cacert}", *node.command, *own]
            restart(node)
        for node in cluster.nodes:
            update = {"ID": members[node.name], "peerURLs": [secured[node.name]]}
            ask(cluster.nodes[0], "/v3/cluster/member/update", update)
            cluster.wait_healthy()
        together = ",".join(f"{name}={url}" for name, url in secured.items())
        for node in cluster.nodes:
            set_flag(node, "--listen-peer-urls", secured[node.name])
            set_flag(node, "--initial-advertise-peer-urls", secured[node.name])
            set_flag(node, "--initial-cluster", together)
            set_flag(node, "--initial-cluster-state", "existing")
            node.command = [*node.command[2:], *asking]
            restart(node)
        listed = ask(cluster.nodes[2], "/v3/cluster/member/list")["members"]
        assert {m["name"]: m["peerURLs"] for m in listed} == {name: [url] for name, url in secured.items()}
        for url in plain.values():
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=30)


def ask(node: Node, path: str, message: object = None) -> Any:
    with node.gateway() as gateway:
        return gateway.ok(path, message)


def flag(node: Node, name: str) -> str:
    return node.command[node.command.index(name) + 1]


def set_flag(node: Node, name: str, value: str) -> None:
    node.command[node.command.index(name) + 1] = value
