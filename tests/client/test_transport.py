"""HTTP as it may come: in pieces, chunked or not, cut off, and not HTTP at all."""

import socket
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from jobguard.endpoints import Node
from jobguard.transport import Answer, AnswerLost, Connection, Endpoint, NotConnected
from tests.ports import free_ports
from tests.stopwatch import Stopwatch

PATIENCE_S = 30.0


@contextmanager
def answering(*pieces: bytes, close: bool = True) -> Iterator[Endpoint]:
    """A server that answers any request with these pieces, each in a packet of its own."""
    listener = socket.create_server(("127.0.0.1", 0))
    done = threading.Event()

    def serve() -> None:
        peer, _ = listener.accept()
        with peer:
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            peer.recv(65536)
            for piece in pieces:
                peer.sendall(piece)
            if not close:
                done.wait(60)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield Endpoint.parse(f"http://127.0.0.1:{listener.getsockname()[1]}")
    finally:
        done.set()
        thread.join()
        listener.close()


def exchange(
    pieces: Sequence[bytes], *, close: bool = True, timeout: float = PATIENCE_S
) -> tuple[Answer, bool]:
    with answering(*pieces, close=close) as endpoint:
        connection = Connection(endpoint, PATIENCE_S)
        try:
            answer = connection.exchange(endpoint.request("/x", b"{}"), time.monotonic() + timeout)
            return answer, connection.reusable
        finally:
            connection.close()


def test_a_body_with_a_length() -> None:
    answer, reusable = exchange([b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nDate: D\r\n\r\n{}"], close=False)
    assert answer == Answer(200, b"D", b"{}")
    assert reusable


def test_a_chunked_body_torn_at_every_byte() -> None:
    whole = (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\n"
    )
    answer, reusable = exchange([whole[at : at + 1] for at in range(len(whole))], close=False)
    assert answer.body == b"abc0123456789"
    assert reusable


def test_what_trails_a_chunked_body_is_not_taken_for_the_next_answer() -> None:
    """etcd 3.4 sends a trailer after each refusal, and the write that followed on the connection was lost."""
    refusal = b"HTTP/1.1 412 \r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nGrpc-Trailer: x\r\n\r\n"
    whole = refusal + b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]"
    with answering(*(whole[at : at + 1] for at in range(len(whole))), close=False) as endpoint:
        connection = Connection(endpoint, PATIENCE_S)
        request = endpoint.request("/x", b"{}")
        answers = [connection.exchange(request, time.monotonic() + PATIENCE_S) for _ in range(2)]
        connection.close()
    assert answers == [Answer(412, b"", b"{}"), Answer(200, b"", b"[]")]


def test_a_body_that_ends_with_the_connection() -> None:
    answer, reusable = exchange([b"HTTP/1.0 503 Unavailable\r\n\r\nsorry"])
    assert (answer.status, answer.body) == (503, b"sorry")
    assert not reusable


def test_a_server_that_means_to_close_is_not_asked_again() -> None:
    _, reusable = exchange([b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"])
    assert not reusable


@pytest.mark.parametrize(
    "pieces",
    [
        [],
        [b"HTTP/1.1 200 OK\r\nContent-Le"],
        [b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc"],
        [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc"],
        [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"],
        [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + b"x: y\r\n" * 20_000],
        [b"SSH-2.0-OpenSSH_9.2\r\n\r\n"],
        [b"HTTP/1.1 abc\r\n\r\n"],
        [b"x" * 100_000],
    ],
)
def test_half_an_answer_or_none_is_a_lost_answer(pieces: list[bytes]) -> None:
    with pytest.raises(AnswerLost):
        exchange(pieces)


def test_silence_ends_at_the_deadline() -> None:
    with Stopwatch() as watch:
        with pytest.raises(AnswerLost, match="timed out"):
            exchange([b"HTTP/1.1 200 OK\r\n"], close=False, timeout=0.1)
        assert watch.seconds < 1


def test_a_stream_goes_on_after_a_timeout_in_the_middle_of_a_chunk() -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    resume = threading.Event()
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        peer, _ = listener.accept()
        with peer:
            peer.recv(65536)
            peer.sendall(head + b"5\r\nab")
            resume.wait(60)
            peer.sendall(b"cde\r\n2\r\nfg\r\n0\r\n\r\n")

    thread = threading.Thread(target=serve)
    thread.start()
    endpoint = Endpoint.parse(f"http://127.0.0.1:{listener.getsockname()[1]}")
    connection = Connection(endpoint, PATIENCE_S)
    assert connection.open_stream(endpoint.request("/x", b""), time.monotonic() + PATIENCE_S) is None
    with pytest.raises(TimeoutError):
        connection.chunk(time.monotonic() + 0.05)
    resume.set()
    assert [connection.chunk(time.monotonic() + PATIENCE_S) for _ in range(3)] == [b"abcde", b"fg", None]
    connection.close()
    thread.join()
    listener.close()


def test_a_refused_stream_is_an_answer() -> None:
    with answering(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 2\r\n\r\n{}") as endpoint:
        connection = Connection(endpoint, PATIENCE_S)
        answer = connection.open_stream(endpoint.request("/x", b""), time.monotonic() + PATIENCE_S)
        assert answer == Answer(400, b"", b"{}")
        connection.close()


def test_nobody_listening_is_not_connected() -> None:
    (port,) = free_ports(1)
    with pytest.raises(NotConnected, match=f"http://127.0.0.1:{port}"):
        Connection(Endpoint.parse(f"127.0.0.1:{port}"), 1)


def test_a_node_is_closed_while_another_thread_takes_the_last_idle_connection() -> None:
    class Taken(deque[Connection]):
        """Between the look whether there is one, and the next line."""

        def __len__(self) -> int:
            return 1

    node = Node(Endpoint.parse("127.0.0.1:1"))
    node._idle = Taken()
    node.close()


def test_endpoints_are_read_as_people_write_them() -> None:
    assert Endpoint.parse("https://store.example") == Endpoint(
        "https://store.example:2379", "store.example", 2379, True
    )
    assert Endpoint.parse("http://[::1]:1/") == Endpoint("http://[::1]:1", "::1", 1, False)
