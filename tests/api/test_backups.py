"""A backup on its way: clients that hang or leave, endpoints that are none, folders that are not there."""

import asyncio
import base64
import json
import stat
import threading
from collections.abc import Iterator
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner

from jobguard_store.api import maintenance, server
from jobguard_store.commands import backup
from jobguard_store.download import download
from jobguard_store.errors import StartupError
from jobguard_store.storage.database import Database
from jobguard_store.storage.snapshot import Cut
from tests.api.conftest import Inside
from tests.api.test_misbehaving import connected, request
from tests.gateway import PATIENCE_S, Gateway
from tests.stores import eventually

SNAPSHOT = "/v3/maintenance/snapshot"


@pytest.mark.parametrize("client", ["hangs", "leaves", "leaves before its turn"])
def test_nobody_waits_for_a_client_that_does_not_take_its_backup(
    gateway: Gateway, inside: Inside, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, client: str
) -> None:
    monkeypatch.setattr(maintenance, "PART_TAKEN_S", 120)  # longer than anything here is waited for
    for number in range(80):  # more than the sockets between us take
        gateway.put(f"large/{number}", "x" * 90_000)
    there = inside.config.data_dir / "node.backup.sqlite"
    with connected(inside) as (link, lane):
        link.sendall(request(SNAPSHOT, {}))
        eventually(lambda: lane.flow.write_paused, what="a client that does not read")
        assert there.exists()
        if client == "leaves before its turn":
            with connected(inside) as (second, waiting):
                second.sendall(request(SNAPSHOT, {}))
                eventually(lambda: inside.see(lambda: len(inside.server._api._streams)) == 2)
            eventually(lambda: inside.see(lambda: len(inside.server._api._streams)) == 1)
            assert waiting.transport.is_closing()
        with monkeypatch.context() as patched:
            if client == "hangs":
                patched.setattr(maintenance, "PART_TAKEN_S", 0.3)  # from the next part on
                sent = inside.node.counts.sent
                eventually(lambda: link.recv(65_536) and inside.node.counts.sent > sent, what="the next")
            else:
                link.close()  # a shutdown would be noticed only if there were room for more to come
            eventually(lambda: not there.exists(), what="its file to go")
            eventually(lane.transport.is_closing, what="the end of who takes nothing")
        download([inside.url], tmp_path / "the next", lambda came, left: None)


def test_one_that_is_given_up_as_it_begins_is_not_in_the_way_of_the_next(
    inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No cancellation ends a thread: it was still at the file when the next one made it anew, and failed."""
    go_on, real = threading.Event(), Database.cut
    under_way: list[Path] = []
    crowd: list[int] = []
    cuts: list[Cut] = []

    def slowly(self: Database, target: Path) -> Cut:
        under_way.append(target)
        crowd.append(len(under_way))
        assert go_on.wait(PATIENCE_S)
        cuts.append(real(self, target))
        under_way.pop()
        return cuts[-1]

    async def taken() -> bytes:
        return b"".join([part.data async for part in inside.node.backup()])

    monkeypatch.setattr(Database, "cut", slowly)
    first = asyncio.run_coroutine_threadsafe(taken(), inside.loop)
    eventually(lambda: crowd, what="the first")
    first.cancel()
    second = asyncio.run_coroutine_threadsafe(taken(), inside.loop)
    threading.Timer(0.2, go_on.set).start()
    assert second.result(PATIENCE_S)
    assert crowd == [1, 1], "one at a time"
    assert cuts[0]._source.closed


def test_a_stop_ends_one_that_reads_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "STOP_GRACE_S", 0.3)
    inside = Inside(tmp_path)
    try:
        with Gateway(inside.url) as gateway:
            for number in range(80):
                gateway.put(f"large/{number}", "x" * 90_000)
        with connected(inside) as (link, lane):
            link.sendall(request(SNAPSHOT, {}))
            eventually(lambda: lane.flow.write_paused, what="a client that does not read")
            inside.run(inside.server.stop())
    finally:
        inside.stop()
    assert [record for record in caplog.records if record.exc_info] == []
    assert not (tmp_path / "node.backup.sqlite").exists()


def test_a_backup_is_for_its_owner_alone(inside: Inside, tmp_path: Path) -> None:
    size = download([inside.url], tmp_path / "backup", lambda came, left: None)
    (kept,) = tmp_path.iterdir()
    assert (stat.S_IMODE(kept.stat().st_mode), kept.stat().st_size) == (0o600, size)


def test_endpoints_are_read_as_by_every_other_command(inside: Inside, tmp_path: Path) -> None:
    bare = inside.url.removeprefix("http://")
    said = CliRunner().invoke(
        backup, [str(tmp_path / "backup")], env={"JOBGUARD_ENDPOINTS": f"127.0.0.1:1, {bare},"}
    )
    assert said.exit_code == 0, said.output
    assert "whole and durable" in said.output


@pytest.fixture
def stranger() -> Iterator[tuple[str, list[str]]]:
    """Answers as an etcd does, with a file of its own; and what it was asked."""
    asked: list[str] = []

    class Etcd(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            blob = b"\0" * 4096
            for part in (blob, sha256(blob).digest()):
                message = {"remaining_bytes": "0", "blob": base64.b64encode(part).decode()}
                self.wfile.write(json.dumps({"result": message}).encode() + b"\n")

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Etcd) as etcd:
        thread = threading.Thread(target=etcd.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{etcd.server_address[1]}", asked
        etcd.shutdown()
        thread.join()


def test_what_restore_could_not_read_is_no_backup(stranger: tuple[str, list[str]], tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="what it sends is no backup that restore could read"):
        download([stranger[0]], tmp_path / "backup", lambda came, left: None)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("folder", ["missing", "a file"])
def test_nobody_is_asked_for_what_cannot_be_kept(
    stranger: tuple[str, list[str]], tmp_path: Path, folder: str
) -> None:
    if folder == "a file":
        (tmp_path / folder).touch()
    with pytest.raises(StartupError, match=r"backup cannot be written: (No such file|Not a) .*directory\.$"):
        download([stranger[0]], tmp_path / folder / "backup", lambda came, left: None)
    assert stranger[1] == []
