"""Clients that ask without reading, send in crumbs or go away: at most their own connection suffers."""

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from jobguard_store.api import server
from jobguard_store.api.watch import MESSAGE_BYTES
from jobguard_store.watchers import QUEUE_WEIGHT_MAX
from tests.api.conftest import Inside
from tests.gateway import PATIENCE_S, Gateway, Stream
from tests.messages import KEEPALIVE, PUT, RANGE, WATCH, create, put, range_
from tests.stores import eventually


@contextmanager
def connected(inside: Inside) -> Iterator[tuple[socket.socket, Any]]:
    """A client's end of a connection, and the node's."""
    with closing(link_to(inside)) as link:
        ours = link.getsockname()
        found = eventually(lambda: [lane for lane in lanes(inside) if lane.client == ours], what="its lane")
        yield link, found[0]


def link_to(inside: Inside) -> socket.socket:
    host, _, port = inside.url.removeprefix("http://").partition(":")
    return socket.create_connection((host, int(port)), timeout=PATIENCE_S)


def lanes(inside: Inside) -> list[Any]:
    return inside.see(lambda: list(inside.server._server.server_state.connections))


def total(inside: Inside) -> int:
    """Of requests answered so far."""
    return inside.see(lambda: inside.server._server.server_state.total_requests)


def request(path: str, message: object) -> bytes:
    body = json.dumps(message).encode()
    return b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (path.encode(), len(body), body)


def test_answers_that_nobody_reads_are_not_made(gateway: Gateway, inside: Inside) -> None:
    gateway.put("large", "x" * 90_000)
    with connected(inside) as (link, lane):
        served = total(inside)
        for number in range(400):  # one by one: pipelined requests are another story
            link.sendall(request(RANGE, range_("large")))
            eventually(lambda n=number: total(inside) > served + n or lane.flow.write_paused)  # type: ignore[misc]
        assert inside.see(lambda: lane.transport.get_write_buffer_size()) < 2_000_000
        gateway.put("others", "are served")


def test_watchers_that_read_nothing_hold_little(gateway: Gateway, inside: Inside) -> None:
    """What they have not taken waits in the file, not in memory."""
    watchers, changes, size = 5, 400, 60_000
    with ExitStack() as stack:
        for _ in range(watchers):
            stack.enter_context(gateway.stream(WATCH, create("k"))).result()
        for number in range(changes):
            gateway.put("k", f"{number:0{size}d}")

        eventually(lambda: inside.see(lambda: inside.node.load().slow_watchers) == watchers)
        subscriptions = inside.node._replica.watchers._all
        queued = inside.see(lambda: sum(each._queued for each in subscriptions))
        connections = lanes(inside)
        unsent = inside.see(lambda: sum(each.transport.get_write_buffer_size() for each in connections))
        message = 2 * MESSAGE_BYTES  # in base64, and what is said around it
        assert queued + unsent <= watchers * (QUEUE_WEIGHT_MAX + message) < watchers * changes * size


def test_requests_are_not_read_far_ahead_of_their_answers(
    gateway: Gateway, inside: Inside, caplog: pytest.LogCaptureFixture
) -> None:
    gateway.put("large", "x" * 100_000)
    ask = request(RANGE, range_("large"))
    with connected(inside) as (link, lane):
        sender = threading.Thread(target=send_until_closed, args=(link, ask * 200_000))
        sender.start()
        with link.makefile("rb") as answers:
            for _ in range(200):
                while (line := answers.readline()) != b"\r\n":
                    name, _, value = line.partition(b": ")
                    length = int(value) if name == b"content-length" else 0
                    if length:
                        size = length
                assert len(answers.read(size)) == size
        eventually(lambda: lane.flow.write_paused, what="answers that nobody reads")
        one_read = 256 * 1024 // len(ask)
        for _ in range(20):  # turns of the loop, in each of which it may read
            assert inside.see(lambda: len(lane.pipeline)) <= 2 * one_read
        assert sender.is_alive(), "there was more to read"
        link.shutdown(socket.SHUT_RDWR)
        sender.join(PATIENCE_S)
    eventually(lambda: lane not in lanes(inside), what="the end of the connection")
    # A client of the test before may say something yet.
    said = [record for record in caplog.records if not record.name.startswith("jobguard.")]
    assert not said, "and nothing is answered on a closed one"


def send_until_closed(link: socket.socket, data: bytes) -> None:
    with suppress(OSError):
        link.sendall(data)


def test_a_body_in_crumbs_is_put_together_once(gateway: Gateway, inside: Inside) -> None:
    """Each crumb copying all that came before it would hold up everybody for minutes."""
    body = json.dumps(put("crumbs", "x" * 1_500_000)).encode()
    head, tail = body[:-400_000], body[-400_000:]
    with connected(inside) as (link, _):
        link.sendall(b"POST %b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" % PUT.encode())
        link.sendall(b"%x\r\n%b\r\n" % (len(head), head))
        link.sendall(b"".join(b"1\r\n%c\r\n" % byte for byte in tail) + b"0\r\n\r\n")
        assert link.recv(100).startswith(b"HTTP/1.1 200 ")
    assert gateway.ok(RANGE, range_("crumbs", keys_only=True))["count"] == "1"


def test_a_call_ends_with_its_client(inside: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    under_way, ended = threading.Event(), threading.Event()

    async def never(command: object, caller: object) -> None:
        under_way.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    monkeypatch.setattr(inside.node._replica, "propose", never)
    with connected(inside) as (link, _):
        link.sendall(request(PUT, put("k", "v")))
        assert under_way.wait(PATIENCE_S)
    assert ended.wait(PATIENCE_S)


def test_text_that_is_no_text_is_a_bad_request(gateway: Gateway) -> None:
    for path, body in (
        (PUT, b'{"key":"\\ud800"}'),
        (RANGE, b'{"key":"\\ud800"}'),
        (KEEPALIVE, b'{"ID":"\\ud800"}'),
        (WATCH, b'{"create_request":{"key":"\\ud800"}}'),
    ):
        status, code, text = gateway.post(path, body).error
        assert (status, code) == (400, 3), text


def test_clients_do_not_take_the_files_that_the_node_needs(
    gateway: Gateway, inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway.put("k")
    eventually(lambda: len(lanes(inside)) == 1, what="the end of all connections but ours")
    monkeypatch.setattr(inside.server._api, "connections_max", 2)
    with connected(inside), Gateway(inside.url) as third:
        with pytest.raises(OSError):
            third.put("k")
        gateway.put("k")


HALVES = {
    "nothing": b"",
    "half a head": b"POST /v3/kv/put HTT",
    "half a body": request(PUT, put("half", "x" * 100))[:-50],
    "half a body, chunked": b'POST /v3/kv/put HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{"key',
    "half a body, to be told to go on": b"POST /v3/kv/put HTTP/1.1\r\nExpect: 100-continue\r\n"
    b"Content-Length: 9\r\n\r\n",
    "half a lock": request("/v3/lock/lock", {"name": "bmFtZQ=="})[:-5],
}


@pytest.fixture
def hurried_by_hand(inside: Inside) -> None:
    """No look of the server's own comes between two of the test's."""
    inside.see(inside.server._hurrying.cancel)


@pytest.mark.parametrize("what", HALVES)
@pytest.mark.parametrize("after", [b"", request(PUT, put("k", "v"))], ids=["at first", "after another"])
def test_half_a_request_is_not_waited_for(
    gateway: Gateway, inside: Inside, hurried_by_hand: None, what: str, after: bytes
) -> None:
    with connected(inside) as (link, lane):
        if after:
            link.sendall(after)
            answer = link.recv(65_536)
            assert answer.startswith(b"HTTP/1.1 200 ")
        link.sendall(HALVES[what])
        eventually(lambda: not HALVES[what] or inside.see(lambda: lane._late is False and lane._coming))
        inside.see(lane.hurry)
        assert not inside.see(lane.transport.is_closing), "it has just begun"
        gateway.put("others", "are served")
        inside.see(lane.hurry)
        if after and not HALVES[what]:
            assert not inside.see(lane.transport.is_closing), "idle, which is not half"
            return
        told = b""
        while received := link.recv(65_536):
            told += received
        if b"100 Continue" in told:
            told = told.partition(b"\r\n\r\n")[2]
        assert told.startswith(b"HTTP/1.1 408 " if HALVES[what] else b"")


def test_what_goes_on_while_it_is_answered_may_take_its_time(
    gateway: Gateway, inside: Inside, hurried_by_hand: None
) -> None:
    with begun_streams(inside) as streams:
        for lane in lanes(inside):
            for _ in range(3):
                inside.see(lane.hurry)
        for stream, more in streams:
            stream.send(more)
            assert stream.result()


@contextmanager
def begun_streams(inside: Inside) -> Iterator[list[tuple[Stream, Any]]]:
    """Of each kind one whose request has begun, and what is to come of it."""
    with (
        Gateway(inside.url) as gateway,
        gateway.stream(WATCH, b'{"create_', more=True) as watch,
        gateway.stream(KEEPALIVE, b'{"ID', more=True) as keepalive,
    ):
        eventually(lambda: inside.see(lambda: len(inside.server._api._streams)) == 2, what="both")
        yield [(watch, b'request":{"key":"aw=="}}'), (keepalive, b'":"7"}')]


def test_it_is_looked_for_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "HURRY_S", 0.05)
    inside = Inside(tmp_path)

    def told() -> bytes:
        """Nothing, if it looked twice before the half request came."""
        with suppress(ConnectionError), link_to(inside) as link:
            link.sendall(HALVES["half a body"])
            return link.recv(65_536)
        return b""

    try:
        assert eventually(told, what="a word on half a request").startswith(b"HTTP/1.1 408 ")
    finally:
        inside.stop()
