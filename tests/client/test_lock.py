"""The lock: one at a time, in order, with a token that only grows."""

import threading

import pytest

from jobguard.client import Client, put_op
from jobguard.errors import LeaseExpired, LockLost, NotAcquired, NotHolder, Unavailable
from jobguard.lock import holders, root
from jobguard.place import Contender, Place
from jobguard.session import boottime
from tests.client.proxy import proxied
from tests.stopwatch import Stopwatch
from tests.stores import Cluster, eventually


def waiters(client: Client) -> int:
    return sum(len(queue.waiters) for queue in holders(client))


def test_one_at_a_time(client: Client, other: Client) -> None:
    lock, rival = client.lock("l"), other.lock("l")
    assert lock.acquire()
    assert lock.is_valid()
    lock.check()
    assert not rival.acquire(timeout=0)
    assert not rival.acquire(timeout=0.05)
    lock.release()
    assert rival.acquire(timeout=0)
    rival.release()
    assert holders(client) == []


def test_it_is_released_at_the_end_of_the_block_whatever_happens(client: Client) -> None:
    with pytest.raises(ZeroDivisionError), client.lock("l"):
        _ = 1 / 0
    assert holders(client) == []


def test_a_block_that_may_not_wait_raises(client: Client, other: Client) -> None:
    with client.lock("l"), pytest.raises(NotAcquired), other.lock("l", timeout=0):
        pytest.fail("both inside")


def test_locks_of_different_names_do_not_meet(client: Client) -> None:
    with client.lock("a"), client.lock("a/b", timeout=0), client.lock("a%2Fb", timeout=0):
        assert [queue.name for queue in holders(client)] == ["a", "a%2Fb", "a/b"]
        assert [queue.name for queue in holders(client, "a/")] == ["a/b"]


def test_the_token_grows_from_holder_to_holder(client: Client, other: Client) -> None:
    tokens = []
    for turn in range(10):
        with (client if turn % 2 else other).lock("l") as lock:
            tokens.append(lock.fencing_token)
    assert tokens == sorted(set(tokens))


def test_those_who_wait_come_in_the_order_they_came(client: Client) -> None:
    order: list[int] = []
    first = client.lock("l")
    first.acquire()

    def wait(number: int) -> None:
        with client.lock("l"):
            order.append(number)

    threads = []
    for number in range(6):
        thread = threading.Thread(target=wait, args=(number,))
        thread.start()
        threads.append(thread)
        eventually(lambda number=number: waiters(client) == number + 1)
    first.release()
    for thread in threads:
        thread.join(30)
    assert order == list(range(6))


def test_one_who_leaves_the_queue_lets_nobody_past_the_holder(client: Client, other: Client) -> None:
    """The next in line watches the one before it; that one leaving out of turn is not its own turn."""
    holder = client.lock("l")
    holder.acquire()
    inside = threading.Event()

    def wait() -> None:
        with other.lock("l"):
            inside.set()

    impatient = Place.enter(client, root(client, "lock", "l"), Contender.ours("lock", "l"), 15)
    assert impatient is not None
    patient = threading.Thread(target=wait)
    patient.start()
    eventually(lambda: waiters(client) == 2)
    assert impatient.leave()
    assert waiters(client) == 1
    assert not inside.wait(0.2)
    holder.release()
    assert inside.wait(30)
    patient.join()


def test_eight_threads_count_without_a_mistake(client: Client) -> None:
    """Each reads and writes back, which loses counts unless they exclude each other. One Lock serves all."""
    shared, count = client.lock("l"), client.key("count")
    client.put(count, "0")

    def work() -> None:
        own = client.lock("l")
        for turn in range(6):
            with shared if turn % 2 else own:
                found = client.get(count)
                assert found is not None
                client.put(count, str(int(found.value) + 1))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    found = client.get(count)
    assert found is not None
    assert found.value == b"48"


def test_free_lock_and_unlock_are_one_round_trip_each(store: Cluster, namespace: str) -> None:
    with proxied(store.endpoints[0]) as wire, Client([wire.url], namespace=namespace, timeout=30) as client:
        with client.lock("l", ttl=60):
            pass
        assert wire.seen == ["/v3/lease/grant", "/v3/kv/txn", "/v3/kv/txn"]
        wire.seen.clear()
        with client.lock("l", ttl=60):
            pass
        assert wire.seen == ["/v3/kv/txn", "/v3/kv/txn"]  # on the lease the first one left


def test_trying_a_busy_lock_is_one_round_trip_and_leaves_no_key(
    store: Cluster, client: Client, namespace: str
) -> None:
    with (
        client.lock("l"),
        proxied(store.endpoints[0]) as wire,
        Client([wire.url], namespace=namespace, timeout=30) as rival,
    ):
        rival.lock("l", ttl=60).acquire(timeout=0)
        wire.seen.clear()
        assert not rival.lock("l", ttl=60).acquire(timeout=0)
        assert wire.seen == ["/v3/kv/txn"]
        assert waiters(client) == 0


def test_closing_the_client_ends_the_leases_it_kept_for_the_next_lock(store: Cluster, other: Client) -> None:
    client = Client(store.endpoints, namespace=other.namespace, timeout=30)
    with client.lock("l"):
        (queue,) = holders(other)
    assert other.time_to_live(queue.holder.lease).TTL >= 0
    client.close()
    assert other.time_to_live(queue.holder.lease).TTL == -1
    with client.lock("l"):  # and it is usable again
        pass
    client.close()


def test_a_spare_lease_that_nobody_takes_is_given_up(client: Client, other: Client) -> None:
    with client.lock("l"):
        (queue,) = holders(other)
    (spare,) = client.spare_sessions[15.0]
    assert boottime() < spare._spare_until <= boottime() + 15
    spare._spare_until = boottime()  # its TTL is over, and a renewal is due
    spare._wake.set()
    eventually(lambda: other.time_to_live(queue.holder.lease).TTL == -1)
    assert not client.spare_sessions[15.0]


def test_two_held_locks_never_share_a_lease(client: Client) -> None:
    with client.lock("a"), client.lock("b"):
        leases = {queue.holder.lease for queue in holders(client)}
        assert len(leases) == 2


def test_a_lost_lease_is_a_lost_lock_before_the_next_holder_is_in(store: Cluster, namespace: str) -> None:
    with (
        proxied(store.endpoints[0]) as wire,
        Client(store.endpoints, namespace=namespace, timeout=30) as near,
    ):
        far = Client([wire.url], namespace=namespace)
        lock = far.lock("l", ttl=2)
        lock.acquire()
        token = lock.fencing_token
        wire.freeze()
        valid_when_taken: list[bool] = []

        def take_over() -> None:
            with near.lock("l") as successor:
                valid_when_taken.append(lock.is_valid())
                assert successor.fencing_token > token

        heir = threading.Thread(target=take_over)
        heir.start()
        eventually(lambda: not lock.is_valid())
        with pytest.raises(LockLost):
            lock.check()
        heir.join(30)
        assert valid_when_taken == [False]
        wire.thaw()
        with pytest.raises(LockLost):
            lock.release()
        far.close()


def test_a_holder_that_an_operator_released_is_told_at_its_release(client: Client, other: Client) -> None:
    lock = client.lock("l")
    lock.acquire()
    (queue,) = holders(other)
    other.delete(queue.holder.key)
    with other.lock("l", timeout=30):
        with pytest.raises(LockLost):
            lock.release()
        assert len(holders(other)) == 1  # the late holder deleted nothing of its successor's


def test_the_guard_refuses_a_late_holders_transaction(client: Client, other: Client) -> None:
    lock = client.lock("l")
    lock.acquire()
    guard = lock.guard
    assert client.txn([guard], [put_op(client.key("k"), "1")]).succeeded
    lock.release()
    with other.lock("l"):
        assert not client.txn([guard], [put_op(client.key("k"), "2")]).succeeded


def test_a_waiter_whose_lease_is_revoked_does_not_get_in(client: Client, other: Client) -> None:
    """Its key is gone, so it has no turn: without the second look at its own key it would walk in."""
    failures: list[BaseException] = []

    def wait() -> None:
        try:
            client.lock("l").acquire()
        except LeaseExpired as error:
            failures.append(error)

    with other.lock("l"):
        thread = threading.Thread(target=wait)
        thread.start()
        eventually(lambda: waiters(other) == 1)
        (queue,) = holders(other)
        other.revoke(queue.waiters[0].lease)
    thread.join(30)
    assert len(failures) == 1
    assert holders(other) == []


def test_a_spare_lease_that_was_revoked_is_replaced(client: Client, other: Client) -> None:
    with client.lock("l"):
        (queue,) = holders(other)
    other.revoke(queue.holder.lease)
    with client.lock("l", timeout=30):
        pass


def test_an_exception_while_waiting_leaves_the_queue(
    client: Client, other: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as a soft time limit, which Celery raises in the middle of whatever runs."""

    class SoftTimeLimit(BaseException):
        pass

    def interrupted(self: object, timeout: float) -> None:
        assert waiters(client) == 1
        raise SoftTimeLimit

    lock = other.lock("l")
    with client.lock("l"):
        monkeypatch.setattr("jobguard.place.Watch.poll", interrupted)
        with pytest.raises(SoftTimeLimit):
            lock.acquire()
        eventually(lambda: waiters(client) == 0)
    assert lock.acquire(timeout=30)
    lock.release()


def test_what_takes_a_holder_says_so(client: Client) -> None:
    lock = client.lock("l")
    assert not lock.is_valid()
    for ask in (lambda: lock.fencing_token, lambda: lock.guard, lock.check, lock.release):
        with pytest.raises(NotHolder):
            ask()


def test_a_store_that_is_not_there_is_unavailable_at_acquire_and_only_logged_at_the_end(
    own_store: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    with Client(own_store.endpoints, timeout=30) as client:
        with client.lock("l", ttl=20):
            own_store.crash()
            client.timeout = 0.5
        assert "lock 'l' frees itself within 20 s" in caplog.text
        with pytest.raises(Unavailable):
            client.lock("l", ttl=20).acquire()


def test_holders_tell_who_and_since_when(client: Client) -> None:
    with client.lock("nightly/digest", ttl=60) as lock:
        (queue,) = holders(client)
        contender = queue.holder.contender
        assert queue.name == contender.name == "nightly/digest"
        assert queue.holder.token == lock.fencing_token
        assert contender.kind == "lock"
        assert contender.pid > 0
        assert contender.host
        assert contender.since.endswith("Z")
        assert 30 < lock.seconds_left() <= 60


def test_a_foreign_key_in_the_queue_counts(client: Client) -> None:
    """etcdctl's lock, or a newer version of ours, puts values we cannot read."""
    client.put(client.key("locks", "l", "abc"), "not json")
    assert not client.lock("l").acquire(timeout=0.05)
    (queue,) = holders(client)
    assert queue.holder.contender.host == ""


def test_a_waiter_survives_the_stores_restart(own_store: Cluster) -> None:
    with Client(own_store.endpoints, timeout=30) as client, Client(own_store.endpoints, timeout=30) as other:
        holder = client.lock("l", ttl=60)
        holder.acquire()
        heir, inside = other.lock("l", ttl=60), threading.Event()
        waiting = threading.Thread(target=lambda: heir.acquire() and inside.set())
        waiting.start()
        eventually(lambda: waiters(client) == 1)
        own_store.crash()
        own_store.nodes[0].start()
        own_store.wait_healthy()
        assert not inside.is_set()
        holder.check()
        holder.release()
        assert inside.wait(30)
        waiting.join()
        heir.release()  # else its lease is renewed on, when the store is gone, into others' tests


def test_the_time_allowed_is_kept(client: Client, other: Client) -> None:
    with client.lock("l"), Stopwatch() as watch:
        started = boottime()
        assert not other.lock("l").acquire(timeout=0.3)
        assert boottime() - started >= 0.3
        assert watch.seconds < 4.5  # it looks at its lease every five
        eventually(lambda: waiters(client) == 0)
