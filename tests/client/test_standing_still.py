"""A process that stands still at the wrong line, for its host does not run it: nothing is lost, or untrue."""

import select
import socket
import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest

from jobguard import session as sessions
from jobguard import watch as watches
from jobguard.client import Client, Known
from jobguard.endpoints import Node
from jobguard.errors import LeaseExists, LockLost
from jobguard.place import Place
from jobguard.session import Session, State, boottime
from jobguard.transport import AnswerLost, Connection, NotConnected
from tests.client.test_transport import answering

PATIENCE_S = 20


def test_a_watch_that_is_closed_while_it_connects_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is nothing to interrupt yet, and the thread that connects must not begin to wait then."""
    worked = Node.worked

    def closed_by_another(node: Node) -> None:
        worked(node)
        watch.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        watch = Client(f"http://127.0.0.1:{listener.getsockname()[1]}").watch("k", start_revision=1)
        monkeypatch.setattr(watches, "IDLE", 1000.0)
        monkeypatch.setattr(watches, "PATIENCE", 1000.0)
        monkeypatch.setattr(Node, "worked", closed_by_another)
        reader = threading.Thread(target=lambda: watch.poll(1000), daemon=True)
        reader.start()
        with listener.accept()[0] as node:  # it is slow, too
            node.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            reader.join(PATIENCE_S)
            assert not reader.is_alive()


def test_a_callback_that_comes_while_the_loss_is_told_is_called(
    client: Client, other: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    tell, lost = Session._tell, [threading.Event() for _ in range(2)]

    def register_another(session: Session, state: State) -> None:
        tell(session, state)
        if not lost[1].is_set() and state is State.LOST and session is ours:
            monkeypatch.setattr(Session, "_tell", tell)
            session.on_lost(lost[1].set)

    ours = client.session(2)
    monkeypatch.setattr(Session, "_tell", register_another)
    ours.on_lost(lost[0].set)
    other.revoke(ours.lease_id)
    assert all(each.wait(PATIENCE_S) for each in lost)


def test_what_was_seen_to_be_lost_is_not_held_again(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """The renewing thread finds its renewal in time, and before it says so another has seen the end."""
    seen: list[State] = []

    class Renewing:
        """Answers; and before the next line the deadline passes, and somebody looks."""

        def keepalive(self, lease: int, timeout: float) -> int:
            monkeypatch.setattr(sessions, "boottime", self.now)
            return 30

        def now(self) -> float:
            monkeypatch.setattr(sessions, "boottime", lambda: session._deadline + 1)
            seen.append(session.state)
            monkeypatch.setattr(sessions, "boottime", boottime)
            return boottime()

    with client.session(30) as session:
        monkeypatch.setattr(session, "_renewing", Renewing())
        assert not session._renew()
        assert (seen, session.state) == ([State.LOST], State.LOST)


class StandingStill:
    """A connection whose process is not run from when it has sent until long after its deadline."""

    def __init__(self, connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock, self.connection, self.send = 0.0, connection, connection._send
        monkeypatch.setattr("jobguard.transport.time", SimpleNamespace(monotonic=lambda: self.clock))
        monkeypatch.setattr(connection, "_send", self.stand_still)

    def stand_still(self, request: bytes) -> None:
        self.send(request)
        assert select.select([self.connection._socket], [], [], PATIENCE_S)[0]
        self.clock += 100


def test_an_answer_that_came_in_time_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    with answering(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", close=False) as endpoint:
        connection = Connection(endpoint, PATIENCE_S)
        StandingStill(connection, monkeypatch)
        assert connection.exchange(endpoint.request("/x", b"{}"), 1.0).body == b"{}"
        connection.close()


def test_who_never_ends_does_not_hold_us(monkeypatch: pytest.MonkeyPatch) -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    with answering(head, b"5\r\nabcde\r\n" * 40_000, close=False) as endpoint:
        connection = Connection(endpoint, PATIENCE_S)
        StandingStill(connection, monkeypatch)
        with pytest.raises(AnswerLost, match="timed out"):
            connection.exchange(endpoint.request("/x", b"{}"), 1.0)
        connection.close()


def test_what_was_not_sent_is_not_said_to_be_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    with answering(b"") as endpoint:
        connection = Connection(endpoint, PATIENCE_S)
        monkeypatch.setattr("jobguard.transport.time", SimpleNamespace(monotonic=lambda: 100.0))
        with pytest.raises(NotConnected, match="no time was left"):
            connection.exchange(endpoint.request("/x", b"{}"), 1.0)
        connection.close()


def test_a_lock_that_was_lost_before_its_release_is_lost_though_that_was_sent_twice(
    client: Client, other: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gone at the second sending: it need not have been the first that did it."""
    known = Client.txn_known

    def again(*args: Any, **options: Any) -> Known:
        return Known(known(*args, **options).response, repeated=True)

    lock = client.lock("l")
    assert lock.acquire()
    place = lock._place
    assert place is not None
    other.revoke(place.session.lease_id)
    place.session._deadline = boottime() - 1
    monkeypatch.setattr(Client, "txn_known", again)
    with pytest.raises(LockLost):
        lock.release()


def test_a_lock_that_was_free_in_time_is_had(
    client: Client, other: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who is not run until after its deadline has not waited in vain: others did not keep it for so long."""
    before, ended = other.lock("l"), Place._ended

    def stand_still(place: Place, key: bytes, deadline: float) -> bool:
        before.release()
        return ended(place, key, time.monotonic())

    assert before.acquire()
    monkeypatch.setattr(Place, "_ended", stand_still)
    lock = client.lock("l")
    assert lock.acquire(1000)
    lock.release()


def test_a_lease_that_ended_before_its_answer_was_read_is_not_given(
    client: Client, other: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = Client._call
    granted: list[int] = []

    def answer_lost(self: Client, path: str, request: Any, *args: Any, **options: Any) -> Any:
        answer = call(self, path, request, *args, **options)
        if path == "/v3/lease/grant" and not granted:
            granted.append(int(request.ID))
            other.revoke(granted[0])
            raise LeaseExists(9, "sent again after a while")
        return answer

    monkeypatch.setattr(Client, "_call", answer_lost)
    grant = client.grant(60)
    assert grant.id not in granted
    assert grant.ttl == 60
    assert client.keepalive(grant.id) == 60
