"""HTTP on our own socket: understood wherever it is cut, and garbage costs the connection it came on."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobguard_store.api.lane import HEAD_BYTES_MAX
from jobguard_store.api.server import PAGES
from tests.fuzz.conftest import ANSWER_S, Victim
from tests.fuzz.garbage import damaged, fuzzed, in_pieces
from tests.gateway import b64
from tests.messages import KEEPALIVE, PUT, RANGE, put, range_


def request(path: str, message: object, *headers: str, method: str = "POST") -> bytes:
    body = json.dumps(message).encode()
    lines = [f"{method} {path} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def chunked(path: str, *parts: bytes) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    return head + b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


# Each is answered with 200 and a Content-Length, or in chunks.
GOOD = [
    request(PUT, put("http", "plain")),
    request(PUT, put("http", "long way"), "Grpc-Timeout: 5S"),
    request(PUT + "?x=1", put("http", "also")),
    request(PUT, put("http", "known elsewhere"), "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c"),
    request(RANGE, range_("http")),
    request(KEEPALIVE, {"ID": 1}),
    chunked(PUT, b'{"key":"' + b64("http").encode(), b'","value":"', b'dg=="}'),
    chunked(KEEPALIVE, b'{"ID":', b'1}{"ID":2}'),
    b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n",
    b"OPTIONS /v3/kv/put HTTP/1.1\r\nHost: x\r\n\r\n",
    b"\r\n\r\nGET /livez?verbose HTTP/1.1\r\nHost: x\r\n\r\n",
]
STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")


def statuses(said: bytes) -> list[int]:
    return [int(each) for each in STATUS.findall(said)]


@given(st.lists(st.sampled_from(GOOD), min_size=1, max_size=5), st.lists(st.integers(0, 10_000), max_size=8))
@fuzzed(40, shrink=False)
def test_requests_are_understood_wherever_they_are_cut(
    victim: Victim, asked: list[bytes], cuts: list[int]
) -> None:
    last = request(PUT, put("http", "the end"), "Connection: close")
    said, closed = victim.hear(*in_pieces(b"".join((*asked, last)), cuts), silence_s=ANSWER_S)
    assert closed
    assert statuses(said) == [200] * (len(asked) + 1)
    victim.is_well()


@given(
    st.lists(damaged(st.sampled_from(GOOD)), min_size=1, max_size=3),
    st.lists(st.integers(0, 10_000), max_size=4),
)
@fuzzed(150, shrink=False)
def test_damaged_requests_are_answered_or_the_end(
    victim: Victim, asked: list[bytes], cuts: list[int]
) -> None:
    said, _ = victim.hear(*in_pieces(b"".join(asked), cuts))
    assert said == b"" or said.startswith((b"HTTP/1.1 ", b"HTTP/1.0 "))
    assert not [status for status in statuses(said) if status in (500, 501, 502)], said
    victim.is_well()


@given(st.binary(max_size=300))
@fuzzed(30, shrink=False)
def test_noise_is_refused(victim: Victim, data: bytes) -> None:
    said, closed = victim.hear(data + b"\r\n\r\n")
    assert not closed or b" 400 " in said or said == b""
    victim.is_well()


@pytest.mark.parametrize(
    "garbage",
    [
        b"POST /v3/kv/put HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /v3/kv/put HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999999\r\n\r\n",
        b"POST /v3/kv/put HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST /v3/kv/put HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}",
        b"POST /v3/kv/put HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n",
        b"POST /v3/watch HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET http://[ HTTP/1.1\r\nHost: x\r\n\r\n",
        b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
)
def test_what_is_no_request_is_told_so_and_closed(victim: Victim, garbage: bytes) -> None:
    said, closed = victim.hear(garbage, silence_s=ANSWER_S)
    assert closed
    assert statuses(said) == [400]
    victim.is_well()


@pytest.mark.parametrize("page", PAGES)
def test_a_query_may_be_any_bytes(victim: Victim, page: str) -> None:
    asked = b"GET %b?\xff%%ff&serializable=\xfe&exclude=%%c3 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    said, closed = victim.hear(asked % page.encode(), silence_s=ANSWER_S)
    assert closed
    assert statuses(said) in ([200], [400]), said
    victim.is_well()


@pytest.mark.parametrize(
    "begin",
    [
        b"POST /v3/kv/put HTTP/1.1\r\nHost: x\r\nX-Long: ",
        b"GET /",
        b"POST /v3/kv/put HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nX-Long: ",
        b"POST /v3/kv/put HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2;x=",
    ],
    ids=["header", "path", "trailer", "extension"],
)
def test_a_head_has_an_end(victim: Victim, begin: bytes) -> None:
    """The parser gathers a line until it ends: one that never does would fill the node's memory."""
    said, closed = victim.hear(begin, *[b"x" * 50_000] * 40, silence_s=ANSWER_S)
    assert closed
    assert statuses(said) in ([], [400], [431])
    victim.is_well()


def test_many_small_headers_have_an_end_too(victim: Victim) -> None:
    line = b"X-Some: thing\r\n"
    head = b"POST /v3/kv/put HTTP/1.1\r\nHost: x\r\n"
    lines = [line * 1000] * (40 * HEAD_BYTES_MAX // (1000 * len(line)))
    _, closed = victim.hear(head, *lines, silence_s=ANSWER_S)
    assert closed
    victim.is_well()


@pytest.mark.parametrize(
    "garbage", [b"\0\0\0\0", b"PUT\r\n\r\n", b"POST / HTTP/1.1\r\nContent-Length: x\r\n\r\n"]
)
def test_garbage_behind_a_request_is_not_its_answer(victim: Victim, garbage: bytes) -> None:
    """A 400 says that nothing happened, and the put before it may have."""
    said, closed = victim.hear(request(PUT, put("http", "before garbage")) + garbage, silence_s=ANSWER_S)
    assert closed
    assert 400 not in statuses(said)[:1]
    victim.is_well()
