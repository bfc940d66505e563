"""The short way for plain calls: the same answers as on the long one, in the same order."""

import json
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from jobguard_store.api.exchange import BODY_BYTES_MAX
from tests.gateway import b64
from tests.stores import Node, nodes


@pytest.fixture(scope="module")
def store() -> Iterator[Node]:
    with nodes(1) as (node,):
        yield node


class Wire:
    """A connection on which we spell HTTP ourselves."""

    def __init__(self, store: Node) -> None:
        parts = urlsplit(store.url)
        self.socket = socket.create_connection((parts.hostname, parts.port), timeout=15)
        self.input = self.socket.makefile("rb")

    def __enter__(self) -> "Wire":
        return self

    def __exit__(self, *_: object) -> None:
        self.input.close()
        self.socket.close()

    def send(self, *texts: bytes) -> None:
        self.socket.sendall(b"".join(texts))

    def head(self) -> tuple[int, dict[str, str]]:
        status = int(self.input.readline().split()[1])
        headers = {}
        while (line := self.input.readline().strip()) != b"":
            name, _, value = line.decode().partition(": ")
            headers[name] = value
        return status, headers

    def answer(self) -> tuple[int, dict[str, str], bytes]:
        status, headers = self.head()
        return status, headers, self.input.read(int(headers["content-length"]))

    def chunks(self) -> list[bytes]:
        found = []
        while length := int(self.input.readline(), 16):
            found.append(self.input.read(length))
            assert self.input.readline() == b"\r\n"
        assert self.input.readline() == b"\r\n"
        return found

    def ended(self) -> bool:
        return self.input.read(1) == b""


def put(value: str, *headers: str, path: str = "/v3/kv/put", version: str = "1.1") -> bytes:
    body = json.dumps({"key": b64("lane"), "value": b64(value)}).encode()
    lines = [f"POST {path} HTTP/{version}", "Host: x", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def revision(answer: tuple[int, dict[str, str], bytes]) -> int:
    status, _, body = answer
    assert status == 200, answer
    return int(json.loads(body)["header"]["revision"])


def test_a_plain_call_and_a_special_one_look_alike(store: Node) -> None:
    with Wire(store) as wire:
        wire.send(put("plain"))
        plain = wire.answer()
        wire.send(put("special", "Grpc-Timeout: 5S"))
        special = wire.answer()
        wire.send(put("long way", path="/v3/kv/put?x=1"))
        long_way = wire.answer()
    assert revision(plain) + 2 == revision(special) + 1 == revision(long_way)
    names = [[name for name in answer[1] if name != "date"] for answer in (plain, special, long_way)]
    assert names[0] == names[1] == names[2]


def test_a_keepalive_whose_length_is_known_looks_like_a_stream_all_the_same(store: Node) -> None:
    """A line, a chunk; the end of the request is the end of the answer, not of the connection."""
    body = b'{"ID":"77"}{"ID":"78"}'
    heads, chunks = [], []
    for length in (
        b"Content-Length: 22\r\n\r\n" + body,
        b"Content-Length: 22\r\nGrpc-Timeout: 5S\r\n\r\n" + body,
        b"Transfer-Encoding: chunked\r\n\r\nb\r\n%b\r\nb\r\n%b\r\n0\r\n\r\n" % (body[:11], body[11:]),
    ):
        with Wire(store) as wire:
            wire.send(b"POST /v3/lease/keepalive HTTP/1.1\r\nHost: x\r\n" + length)
            heads.append(wire.head())
            chunks.append([json.loads(chunk)["result"] for chunk in wire.chunks()])
            wire.send(put("again"))
            assert revision(wire.answer())
    assert [head[0] for head in heads] == [200] * 3
    names = [{name for name in head[1] if name != "date"} for head in heads]
    assert names[0] == names[1] == names[2] >= {"transfer-encoding"}
    assert [[line["ID"] for line in lines] for lines in chunks] == [["77", "78"]] * 3


def test_pipelined_calls_are_answered_in_order(store: Node) -> None:
    with Wire(store) as wire:
        wire.send(*(put(str(number)) for number in range(5)))
        revisions = [revision(wire.answer()) for _ in range(5)]
        assert revisions == list(range(revisions[0], revisions[0] + 5))
        wire.send(put("again"))
        assert revision(wire.answer()) == revisions[-1] + 1


def test_a_request_may_come_in_pieces_and_in_chunks(store: Node) -> None:
    with Wire(store) as wire:
        text = put("piece by piece")
        for start in range(0, len(text), 7):
            wire.send(text[start : start + 7])
        first = revision(wire.answer())
        wire.send(b"POST /v3/kv/put HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        for part in (b'{"key":"bGFuZQ=', b'=","value":', b'"dg=="}'):
            wire.send(b"%x\r\n%b\r\n" % (len(part), part))
        wire.send(b"0\r\n\r\n")
        assert revision(wire.answer()) == first + 1


def test_a_connection_is_kept_or_closed_as_asked(store: Node) -> None:
    with Wire(store) as wire:
        wire.send(put("kept", "Connection: keep-alive"))
        assert "connection" not in wire.answer()[1]
        wire.send(put("last", "Connection: close"))
        assert wire.answer()[1]["connection"] == "close"
        assert wire.ended()
    with Wire(store) as wire:
        wire.send(put("old", version="1.0"))
        revision(wire.answer())
        assert wire.ended()


def test_who_expects_to_be_told_to_continue_is(store: Node) -> None:
    with Wire(store) as wire:
        text = put("x", "Expect: 100-continue")
        head, _, body = text.partition(b"\r\n\r\n")
        wire.send(head, b"\r\n\r\n")
        assert wire.input.readline() == b"HTTP/1.1 100 Continue\r\n"
        assert wire.input.readline() == b"\r\n"
        wire.send(body)
        revision(wire.answer())


def test_a_refusal_keeps_the_connection(store: Node) -> None:
    with Wire(store) as wire:
        wire.send(b"POST /v3/kv/put HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}")
        status, _, body = wire.answer()
        assert (status, json.loads(body)["code"]) == (400, 3)
        wire.send(b"GET /v3/kv/put HTTP/1.1\r\nHost: x\r\n\r\n")
        assert wire.answer()[0] == 405
        wire.send(put("x"))
        revision(wire.answer())


def test_what_is_too_large_is_refused_before_its_end(store: Node) -> None:
    size = 2 * BODY_BYTES_MAX
    with Wire(store) as wire:
        wire.send(b"POST /v3/kv/put HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size)
        wire.send(bytes(BODY_BYTES_MAX + 100_000))
        status, _, body = wire.answer()
        assert (status, json.loads(body)["code"]) == (429, 8)
        wire.send(bytes(size - BODY_BYTES_MAX - 100_000), put("after"))
        revision(wire.answer())


def test_a_large_answer_arrives_whole(store: Node) -> None:
    with store.gateway() as gateway:
        for number in range(6):
            gateway.put(f"large/{number}", "x" * 1_000_000)
        answer = gateway.ok("/v3/kv/range", {"key": b64("large/"), "range_end": b64("large0")})
        assert [len(pair["value"]) for pair in answer["kvs"]] == [len(b64("x" * 1_000_000))] * 6
