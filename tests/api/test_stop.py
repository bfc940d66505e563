"""The end of a node, as its clients see it."""

import asyncio
import threading
from pathlib import Path

import pytest

from jobguard_store.api.server import bind
from jobguard_store.errors import StartupError
from tests.api.conftest import Inside
from tests.gateway import PATIENCE_S, Gateway
from tests.messages import KEEPALIVE, PUT, WATCH, create, put
from tests.stopwatch import Stopwatch
from tests.stores import eventually


def test_streams_are_told_and_idle_connections_closed(tmp_path: Path) -> None:
    inside = Inside(tmp_path)
    with Gateway(inside.url) as idle:
        idle.put("k")
        stream = idle.stream(WATCH, create("k"))
        open_body = idle.stream(KEEPALIVE, {"ID": 1}, more=True)
        silent = idle.stream(WATCH, {})
        stream.result()
        open_body.result()
        eventually(lambda: inside.see(lambda: len(inside.server._api._streams)) == 3, what="all three")
        with Stopwatch() as watch:
            inside.run(inside.server.stop())
            assert watch.seconds < 2.0
        inside.stop()  # its last batches take as long as the disk does
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
            bind(first.config)
    finally:
        first.stop()


def test_a_write_cut_short_by_the_end_is_answered_as_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits for a quorum, say, and may still be committed by the others: no definite error will do."""
    inside = Inside(tmp_path)
    under_way = threading.Event()

    async def never(command: object, caller: object) -> None:
        under_way.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(inside.node._replica, "propose", never)
    answers: list[tuple[int, int, str]] = []
    with Gateway(inside.url) as gateway:
        writer = threading.Thread(target=lambda: answers.append(gateway.post(PUT, put("k", "v")).error))
        writer.start()
        assert under_way.wait(PATIENCE_S)
        inside.stop()
        writer.join(PATIENCE_S)
    assert answers == [(503, 14, "etcdserver: request timed out")]
