"""Prefork workers fork with a live client: nothing of the parent's may be used, or harmed, by a child."""

import os
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

import jobguard
from jobguard.client import Client
from jobguard.errors import LeaseExpired, NotHolder
from jobguard.session import State
from jobguard.transport import _open


def in_child(work: Callable[[], None]) -> None:
    """Run `work` in a forked child; fails with what it raised."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        try:
            work()
        except BaseException:  # noqa: BLE001 - the parent reports it
            os.write(writer, traceback.format_exc().encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as report:
        failure = report.read()
    os.waitpid(child, 0)
    assert not failure, failure


def test_parent_and_children_never_read_each_others_answers(client: Client) -> None:
    def work(name: str) -> None:
        for turn in range(50):
            client.put(client.key(name), f"{name}{turn}")
            found = client.get(client.key(name))
            assert found is not None
            assert found.value == f"{name}{turn}".encode()

    work("before")
    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(work, name) for name in ("thread one", "thread two")]
        in_child(lambda: work("child one"))
        in_child(lambda: work("child two"))
        for each in running:
            each.result()


def test_a_child_closes_its_copies_of_the_parents_sockets(client: Client) -> None:
    """Else the store would not notice the parent's death while a child lives."""
    client.get("k")
    inherited = [connection._socket.fileno() for connection in _open]
    assert inherited

    def work() -> None:
        for number in inherited:
            with pytest.raises(OSError):
                os.fstat(number)

    in_child(work)
    client.get("k")


def test_a_session_is_the_parents_alone(client: Client) -> None:
    with client.session(60) as session:

        def work() -> None:
            assert session.state is State.LOST
            with pytest.raises(LeaseExpired):
                session.check()
            session.close()

        in_child(work)
        assert session.state is State.HELD
        assert client.keepalive(session.lease_id) > 0


def test_a_lock_held_by_the_parent_is_not_held_by_the_child(client: Client) -> None:
    lock = client.lock("l")
    with lock:
        token = lock.fencing_token

        def work() -> None:
            assert not lock.is_valid()
            with pytest.raises(NotHolder):
                lock.release()
            assert not lock.acquire(timeout=0)

        in_child(work)
        assert lock.is_valid()
        lock.check()

    def after() -> None:
        assert lock.acquire(timeout=30)
        assert lock.fencing_token > token
        lock.release()

    in_child(after)


def test_a_spare_lease_is_not_inherited(client: Client) -> None:
    with client.lock("l"):
        pass
    (spare,) = client.spare_sessions[15.0]

    def work() -> None:
        other = client.lock("l")
        with other:
            assert other._place is not None
            assert other._place.session.lease_id != spare.lease_id

    in_child(work)


def test_a_watch_goes_on_in_the_child_by_itself(client: Client) -> None:
    key = client.key("w")
    with client.watch(key) as watch:
        client.put(key, "1")
        assert watch.poll(30) is not None

        def work() -> None:
            client.put(key, "2")
            batch = watch.poll(30)
            assert batch is not None
            assert [event.kv.value for event in batch.events if event.kv] == [b"2"]

        in_child(work)
        batch = watch.poll(30)
        assert batch is not None


def test_configuration_is_followed_in_the_child_too(client: Client) -> None:
    config = jobguard.Config("app", client)
    config["a"] = 1

    def work() -> None:
        config["a"] = 2
        assert config["a"] == 2

    in_child(work)
    with config._live()._follower()._changed:
        config._live()._follower()._changed.wait_for(lambda: config["a"] == 2, 30)
    assert config["a"] == 2
    config.close()
