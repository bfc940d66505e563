"""The port of those who watch: pages and nothing else, and no room to hold."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobguard_store.api import scrape
from jobguard_store.api.scrape import Scraped
from jobguard_store.errors import StartupError
from tests.api.conftest import Inside
from tests.gateway import Gateway
from tests.messages import RANGE, range_
from tests.ports import free_ports
from tests.stores import KINDS, Kind, running


@pytest.fixture
def port(inside: Inside) -> Iterator[int]:
    (port,) = free_ports(1)
    scraped = Scraped(inside.node)
    inside.run(scraped.listen((f"http://127.0.0.1:{port}",)))
    yield port
    inside.see(scraped.stop)


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_where_etcd_has_it(kind: Kind, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_ports(1)[0]}"
    with running(kind, tmp_path, extra=["--listen-metrics-urls", url]) as cluster, Gateway(url) as watcher:
        assert b"\netcd_server_has_leader 1\n" in watcher.get("/metrics").body
        assert watcher.get("/health").json["health"] == "true"
        assert watcher.post(RANGE, range_("a")).status == 404
        with cluster.nodes[0].gateway() as gateway:
            assert gateway.get("/metrics").status == 200, "as before"


def test_a_page_is_the_same_through_either_door(inside: Inside, gateway: Gateway, port: int) -> None:
    with Gateway(f"http://127.0.0.1:{port}") as watcher:
        for path in ("/version", "/health?serializable=true", "/readyz?verbose"):
            ours, theirs = watcher.get(path), gateway.get(path)
            assert (ours.status, ours.body) == (theirs.status, theirs.body)
            assert ours.headers["content-type"] == theirs.headers["content-type"]
        assert watcher.send("PUT", "/metrics").status == 405
        assert watcher.get("/").status == 404


@pytest.mark.parametrize(
    "what", [b"GET /metr", b"\r\n\r\n", b"GET http://[ HTTP/1.1\r\n\r\n", b"x" * 100_000]
)
def test_what_is_no_request_is_closed(port: int, monkeypatch: pytest.MonkeyPatch, what: bytes) -> None:
    monkeypatch.setattr(scrape, "REQUEST_S", 0.1)
    with socket.create_connection(("127.0.0.1", port), timeout=10) as link:
        try:
            link.sendall(what)
            assert link.recv(100) == b""
        except ConnectionError:
            pass


def test_a_taken_port_is_one_sentence(inside: Inside, port: int) -> None:
    url = f"http://127.0.0.1:{port}"
    with pytest.raises(StartupError, match=f"^--listen-metrics-urls {url}: .*\\.$"):
        inside.run(Scraped(inside.node).listen((url,)))
