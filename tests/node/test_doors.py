"""The port that only TLS gets through: who does not finish a handshake holds up nobody, and does not stay."""

import asyncio
import errno
import logging
import socket
import ssl
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from jobguard_store import doors
from jobguard_store.__main__ import unexpected
from jobguard_store.config import Address
from jobguard_store.doors import Door, bound
from jobguard_store.security import TlsFiles
from tests.certificates import Authority, Pair
from tests.node.members import eventually, run, soon


class Echo(asyncio.Protocol):
    open = 0

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        Echo.open += 1

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        Echo.open -= 1


class House:
    def __init__(self, door: Door, where: tuple[str, int], authority: Authority, pair: Pair) -> None:
        self.door = door
        self.where = where
        self.authority = authority
        self.pair = pair
        self.trusting = ssl.create_default_context(cafile=str(authority.cacert))

    async def echoes(self) -> None:
        reader, writer = await soon(asyncio.open_connection(*self.where, ssl=self.trusting))
        writer.write(b"hello")
        assert await soon(reader.readexactly(5)) == b"hello"
        writer.transport.abort()

    def silent(self) -> socket.socket:
        return socket.create_connection(self.where)

    def silent_ones(self, count: int) -> list[socket.socket]:
        """One of them fell silent in the middle of its ClientHello."""
        silent = [self.silent() for _ in range(count)]
        silent[-1].send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
        return silent


@asynccontextmanager
async def house(directory: Path, handshakes_max: int = doors.HANDSHAKES_MAX) -> AsyncIterator[House]:
    authority = Authority(directory)
    pair = authority.issue("node")
    files = TlsFiles(cert=str(pair.cert), key=str(pair.key))
    listener = bound(Address("127.0.0.1", 0))
    where = listener.getsockname()
    door = Door(listener, files.serving(), Echo, handshakes_max=handshakes_max)
    try:
        yield House(door, where, authority, pair)
    finally:
        door.close()
        await eventually(lambda: not door._handshakes and not Echo.open, "everybody to be gone")


async def closed(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return await soon(asyncio.get_running_loop().sock_recv(connection, 1)) == b""
    except ConnectionError:
        return True
    finally:
        connection.close()


def test_the_silent_hold_up_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doors, "HANDSHAKE_S", 60.0)

    async def story() -> None:
        async with house(tmp_path) as it:
            silent = it.silent_ones(51)
            await it.echoes()
            assert len(it.door._handshakes) == 51
            for each in silent:
                each.close()

    run(story())


def test_who_comes_in_the_moment_of_the_end_is_sent_away(tmp_path: Path) -> None:
    """A task that is cancelled before it begins closes nothing: its connection was left to the collector."""

    async def story() -> None:
        async with house(tmp_path) as it:
            late = it.silent()
            it.door._accept()
            it.door.close()
            assert await closed(late)

    run(story())


def test_the_silent_are_sent_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        async with house(tmp_path) as it:
            with monkeypatch.context() as in_a_moment:
                in_a_moment.setattr(doors, "HANDSHAKE_S", 0.1)
                assert all([await closed(each) for each in it.silent_ones(51)])
            await it.echoes()

    run(story())


def test_of_too_many_the_slowest_makes_room(tmp_path: Path) -> None:
    async def story() -> None:
        async with house(tmp_path, handshakes_max=3) as it:
            silent = []
            for number in range(3):
                silent.append(it.silent())
                await eventually(lambda number=number: len(it.door._handshakes) == number + 1)  # type: ignore[misc]
            await it.echoes()
            assert await closed(silent[0])
            assert len(it.door._handshakes) == 2
            for each in silent[1:]:
                each.close()

    run(story())


def test_who_goes_away_in_the_middle_is_no_matter(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "jobguard_store.doors")

    async def story() -> None:
        async with house(tmp_path) as it:
            for reset in (False, True):
                gone = it.silent()
                if reset:
                    gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                gone.close()
            await eventually(lambda: caplog.text.count("ended before its handshake") == 2)
            talks = it.silent()
            talks.send(b"GET / HTTP/1.1\r\n\r\n")
            await eventually(lambda: "it does not speak TLS" in caplog.text)
            talks.close()
            await it.echoes()

    run(story())


def test_without_files_to_open_it_waits_for_some(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doors, "ACCEPT_AGAIN_S", 0.05)

    class Exhausted:
        """The listener, while this process may open nothing more."""

        def __init__(self, listener: socket.socket) -> None:
            self._listener = listener
            self.refusals = 3

        def accept(self) -> Any:
            if self.refusals:
                self.refusals -= 1
                raise OSError(errno.EMFILE, "Too many open files")
            return self._listener.accept()

        def __getattr__(self, name: str) -> Any:
            return getattr(self._listener, name)

    async def story() -> None:
        async with house(tmp_path) as it:
            listener: Any = Exhausted(it.door._listener)
            monkeypatch.setattr(it.door, "_listener", listener)
            await it.echoes()
            assert caplog.text.count("cannot accept a connection: Too many open files") == 3

    run(story())


def test_a_write_inside_tls_that_came_too_late_does_not_end_the_node() -> None:
    """It is uvloop's own, of which it tells the loop. A RuntimeError of another kind is a bug, and does."""

    class Failed:
        failures: list[BaseException] = []

        def fail(self, error: BaseException) -> None:
            self.failures.append(error)

    node: Any = Failed()
    late = RuntimeError("unable to perform operation on <TCPTransport closed=True>; the handler is closed")
    unexpected(node, {"message": "Fatal error on SSL protocol", "exception": late})
    assert node.failures == []
    bug = RuntimeError("dictionary changed size during iteration")
    unexpected(node, {"message": "Fatal error on SSL protocol", "exception": bug})
    assert node.failures == [bug]


def test_after_a_renewal_no_session_of_before_is_resumed(tmp_path: Path) -> None:
    """Else who is not trusted any more would be let in by what it was given when it was."""

    async def story() -> None:
        async with house(tmp_path) as it:
            it.trusting.maximum_version = ssl.TLSVersion.TLSv1_2
            sessions = []
            for renewed in (False, False, True):
                if renewed:
                    it.pair.replace_by(it.authority.issue("renewed"))
                sessions.append(await asyncio.to_thread(resumed, it, sessions[-1][0] if sessions else None))
            assert [again for _, again in sessions] == [False, True, False]

    run(story())


def resumed(it: House, session: ssl.SSLSession | None) -> tuple[ssl.SSLSession | None, bool]:
    with (
        socket.create_connection(it.where, timeout=30) as plain,
        it.trusting.wrap_socket(plain, server_hostname="localhost", session=session) as secured,
    ):
        secured.sendall(b"x")
        secured.recv(1)
        return secured.session, bool(secured.session_reused)
