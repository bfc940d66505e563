"""Clients that ask without reading, send in crumbs or go away: at most their own connection suffers."""

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest

from tests.api.conftest import Inside
from tests.gateway import PATIENCE_S, Gateway
from tests.messages import KEEPALIVE, PUT, RANGE, WATCH, put, range_
from tests.stores import eventually


@contextmanager
def connected(inside: Inside) -> Iterator[tuple[socket.socket, Any]]:
    """A client's end of a connection, and the node's."""
    host, _, port = inside.url.removeprefix("http://").partition(":")
    with closing(socket.create_connection((host, int(port)), timeout=PATIENCE_S)) as link:
        ours = link.getsockname()
        found = eventually(lambda: [lane for lane in lanes(inside) if lane.client == ours], what="its lane")
        yield link, found[0]


def lanes(inside: Inside) -> list[Any]:
    return inside.see(lambda: list(inside.server._server.server_state.connections))


def total(inside: Inside) -> int:
    """Of requests answered so far."""
    return inside.see(lambda: inside.server._server.server_state.total_requests)


def request(path: str, message: object) -> bytes:
    body = json.dumps(message).encode()
    return b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (path.encode(), len(body), body)


def send_until_stuck(link: socket.socket, data: bytes, times: int) -> None:
    """As much of it as the node takes."""
    link.settimeout(0.5)
    try:
        for _ in range(times):
            link.sendall(data)
    except TimeoutError:
        pass


def test_answers_that_nobody_reads_are_not_made(gateway: Gateway, inside: Inside) -> None:
    gateway.put("large", "x" * 90_000)
    with connected(inside) as (link, lane):
        served = total(inside)
        for number in range(400):  # one by one: pipelined requests are another story
            send_until_stuck(link, request(RANGE, range_("large")), 1)
            eventually(lambda n=number: total(inside) > served + n or lane.flow.write_paused)  # type: ignore[misc]
        assert inside.see(lambda: lane.transport.get_write_buffer_size()) < 2_000_000
        gateway.put("others", "are served")


def test_requests_are_not_read_far_ahead_of_their_answers(
    gateway: Gateway, inside: Inside, caplog: pytest.LogCaptureFixture
) -> None:
    gateway.put("large", "x" * 100_000)
    ask = request(RANGE, range_("large"))
    with connected(inside) as (link, lane):
        sender = threading.Thread(target=send_until_stuck, args=(link, ask * 100, 2000))
        sender.start()
        with link.makefile("rb") as answers:
            for _ in range(200):
                while (line := answers.readline()) != b"\r\n":
                    name, _, value = line.partition(b": ")
                    length = int(value) if name == b"content-length" else 0
                    if length:
                        size = length
                assert len(answers.read(size)) == size
        sender.join(PATIENCE_S)
        one_read = 256 * 1024 // len(ask)
        assert inside.see(lambda: len(lane.pipeline)) <= 2 * one_read
    eventually(lambda: lane not in lanes(inside), what="the end of the connection")
    assert not caplog.records, "and nothing is answered on a closed one"


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

    async def never(command: object) -> None:
        under_way.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    monkeypatch.setattr(inside.node, "propose", never)
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
    monkeypatch.setattr(inside.server._api, "connections_max", 2)
    with connected(inside), Gateway(inside.url) as third:
        with pytest.raises(OSError):
            third.put("k")
        gateway.put("k")
