"""The end of a node, as its clients see it."""

import time
from pathlib import Path

import pytest

from jobguard_store.api.server import serve
from jobguard_store.errors import StartupError
from tests.api.conftest import Inside
from tests.gateway import Gateway
from tests.messages import KEEPALIVE, WATCH, create


def test_streams_are_told_and_idle_connections_closed(tmp_path: Path) -> None:
    inside = Inside(tmp_path)
    with Gateway(inside.url) as idle:
        idle.put("k")
        stream = idle.stream(WATCH, create("k"))
        open_body = idle.stream(KEEPALIVE, {"ID": 1}, more=True)
        silent = idle.stream(WATCH, {})
        stream.result()
        open_body.result()
        started = time.monotonic()
        inside.stop()
        assert time.monotonic() - started < 2.0
        told = stream.next()["error"]
        assert (told["grpc_code"], told["http_code"]) == (14, 503)
        assert told["message"] == "etcdserver: server stopped"
        assert open_body.next()["error"]["message"] == "etcdserver: server stopped"
        for each in (stream, open_body):
            with pytest.raises(EOFError):
                each.next()
        silent.chunk()
        assert silent.status == 503
        with pytest.raises(OSError):
            idle.put("k")
        for each in (stream, open_body, silent):
            each.close()
    with pytest.raises(OSError, match="refused"):
        idle.put("k")


def test_a_busy_port_is_one_sentence(tmp_path: Path) -> None:
    first = Inside(tmp_path / "first")
    try:
        with pytest.raises(StartupError, match=r"--listen-client-urls http://\S+: [Aa]ddress already in use"):
            first.run(serve(first.node, first.config))
    finally:
        first.stop()
