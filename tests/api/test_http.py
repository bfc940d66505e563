"""The transport: paths, methods, headers, bodies, connections."""

import json
import socket
from urllib.parse import urlsplit

import pytest

from tests.api.conftest import Inside
from tests.gateway import PATIENCE_S, Gateway, b64
from tests.messages import KEEPALIVE, LEASES, PUT, RANGE, WATCH, put, range_


def test_both_prefixes_and_both_families_of_lease_paths(gateway: Gateway) -> None:
    for prefix in ("/v3", "/v3beta"):
        for path in ("kv/put", "kv/range"):
            assert gateway.post(f"{prefix}/{path}", put("k")).status == 200
        for family in ("lease", "kv/lease"):
            assert gateway.ok(f"{prefix}/{family}/timetolive", {"ID": 1})["TTL"] == "-1"
            assert gateway.post(f"{prefix}/{family}/revoke", {"ID": 1}).status == 404
            assert "header" in gateway.ok(f"{prefix}/{family}/leases")
    assert gateway.post("/v3alpha/kv/put", put("k")).body == b"404 page not found\n"


@pytest.mark.parametrize("path", [PUT, WATCH, KEEPALIVE])
def test_other_methods_and_paths_are_told_so(gateway: Gateway, path: str) -> None:
    for method in ("GET", "PUT", "DELETE"):
        answer = gateway.send(method, path)
        assert (answer.status, answer.body) == (405, b"Method Not Allowed\n")
    unknown = gateway.post("/v3/kv/nothing")
    assert (unknown.status, unknown.body) == (404, b"Not Found\n")
    options = gateway.send("OPTIONS", path)
    assert (options.status, options.body) == (200, b"")
    assert options.headers["access-control-allow-origin"] == "*"
    assert gateway.send("HEAD", path).status == 405


def test_answers_say_when_and_what(gateway: Gateway) -> None:
    """Clients compare their clock with the date."""
    headers = gateway.post(PUT, put("k")).headers
    assert headers["content-type"] == "application/json"
    assert headers["grpc-metadata-content-type"] == "application/grpc"
    assert headers["access-control-allow-methods"] == "POST, GET, OPTIONS, PUT, DELETE"
    assert headers["date"].endswith("GMT")


def test_a_body_may_come_in_chunks_and_be_announced(gateway: Gateway, inside: Inside) -> None:
    body = json.dumps(put("k", "in parts")).encode()
    with connected(inside) as link:
        link.sendall(
            b"POST /v3/kv/put HTTP/1.1\r\nHost: x\r\n"
            b"Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n"
        )
        assert link.recv(1000).startswith(b"HTTP/1.1 100 ")
        for start in range(0, len(body), 7):
            part = body[start : start + 7]
            link.sendall(b"%x\r\n%b\r\n" % (len(part), part))
        link.sendall(b"0\r\n\r\n")
        assert link.recv(1000).startswith(b"HTTP/1.1 200 ")
    assert gateway.ok(RANGE, range_("k"))["kvs"][0]["value"] == b64("in parts")


def test_requests_may_be_sent_ahead(inside: Inside) -> None:
    """Pipelined requests are answered in their order."""
    request = b"POST /v3/kv/put HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b"
    bodies = [json.dumps(put("k", str(number))).encode() for number in range(20)]
    with connected(inside) as link, link.makefile("rb") as answers:
        link.sendall(b"".join(request % (len(body), body) for body in bodies))
        revisions = []
        for _ in bodies:
            length = 0
            while (line := answers.readline()) != b"\r\n":
                if line.lower().startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
            revisions.append(int(json.loads(answers.read(length))["header"]["revision"]))
    assert revisions == list(range(revisions[0], revisions[0] + len(bodies)))


def test_a_body_that_is_too_large_is_refused_while_it_comes(gateway: Gateway) -> None:
    answer = gateway.post(PUT, put("k", "x" * (4 * 1024 * 1024)))
    status, code, text = answer.error
    assert (status, code) == (429, 8)
    assert text.startswith("grpc: received message larger than max (")
    assert text.endswith(" vs. 2097152)")
    assert gateway.ok(LEASES) is not None, "the connection is still good"


def test_a_connection_is_kept(gateway: Gateway, inside: Inside) -> None:
    """An idle connection that the server closes races every renewal of a lease."""
    with connected(inside) as link:
        for _ in range(3):
            link.sendall(b"POST /v3/lease/leases HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}")
            answer = link.recv(1000)
            assert answer.startswith(b"HTTP/1.1 200 ")
            assert b"connection: close" not in answer.lower()


def connected(inside: Inside) -> socket.socket:
    parts = urlsplit(inside.url)
    assert parts.hostname
    assert parts.port
    return socket.create_connection((parts.hostname, parts.port), timeout=PATIENCE_S)
