"""The answer got lost. Was it done? Nothing is guessed, and nothing is done twice."""

import time

import pytest

from jobguard.client import Client, compare_absent, get_op, put_op
from jobguard.errors import OutcomeUnknown
from jobguard.lock import holders
from tests.client.proxy import Proxy, proxied
from tests.stopwatch import Stopwatch
from tests.stores import Cluster, eventually


@pytest.fixture
def wire(store: Cluster):  # type: ignore[no-untyped-def]
    with proxied(store.endpoints[0]) as proxy:
        yield proxy


@pytest.fixture
def far(wire: Proxy, namespace: str):  # type: ignore[no-untyped-def]
    """A client behind the wire."""
    with Client([wire.url], namespace=namespace, timeout=30) as client:
        yield client


def test_a_put_whose_answer_is_lost_is_unknown_and_not_repeated(
    far: Client, client: Client, wire: Proxy
) -> None:
    key = client.key("k")
    wire.lose(1)
    with pytest.raises(OutcomeUnknown):
        far.put(key, "v")
    assert wire.seen == ["/v3/kv/put"]
    found = client.get(key)
    assert found is not None
    assert found.version == 1


def test_a_transaction_is_sent_again_until_known_and_done_once(
    far: Client, client: Client, wire: Proxy
) -> None:
    key = client.key("claim")
    wire.lose(2)
    answer = far.txn_until_known([compare_absent(key)], [put_op(key, "nonce")], [get_op(key)])
    assert wire.seen == ["/v3/kv/txn"] * 3
    assert not answer.succeeded  # the first sending had made the compare false
    assert answer.responses[0].response_range is not None
    assert answer.responses[0].response_range.kvs[0].value == b"nonce"  # and it was ours
    found = client.get(key)
    assert found is not None
    assert found.version == 1


def test_what_stays_unknown_is_said_at_the_deadline(far: Client, wire: Proxy) -> None:
    wire.lose(1000)
    started = time.monotonic()
    with Stopwatch() as watch:
        with pytest.raises(OutcomeUnknown):
            far.txn_until_known([compare_absent("x")], [put_op(far.key("x"), "1")], timeout=0.5)
        assert watch.seconds < 3  # one attempt may take ten
    assert time.monotonic() - started >= 0.5
    assert len(wire.seen) < 12  # a node in trouble is asked at growing intervals, not as fast as we can


def test_a_refusal_of_the_second_sending_does_not_speak_for_the_first(far: Client, wire: Proxy) -> None:
    """The first may have been done before the lease ended."""
    lease = far.grant(60).id
    key = far.key("leased")
    real = far._call

    def revoking(path, request, kind, **options):  # type: ignore[no-untyped-def]
        try:
            return real(path, request, kind, **options)
        except OutcomeUnknown:
            real_client.revoke(lease)
            raise

    with Client([wire.url], timeout=30) as real_client:
        far._call = revoking  # type: ignore[method-assign]
        wire.lose(1)
        with pytest.raises(OutcomeUnknown, match="requested lease not found"):
            far.txn_until_known([compare_absent(key)], [put_op(key, "1", lease)])


def test_a_grant_whose_answer_is_lost_makes_one_lease(far: Client, wire: Proxy) -> None:
    wire.lose(1)
    lease = far.grant(70)
    assert wire.seen == ["/v3/lease/grant", "/v3/lease/grant", "/v3/lease/keepalive"]
    assert lease.ttl == 70
    assert far.time_to_live(lease.id).grantedTTL == 70


def test_a_lock_whose_answer_is_lost_is_held_once(far: Client, client: Client, wire: Proxy) -> None:
    lock = far.lock("l")
    with lock:
        pass  # so that a spare lease is there, and the next request is the lock's own
    wire.lose(1)
    assert lock.acquire()
    (queue,) = holders(client)
    assert queue.holder.token == lock.fencing_token
    assert queue.waiters == ()
    wire.lose(1)
    lock.release()  # its answer is lost too, and the second sending finds nothing: that was us
    assert holders(client) == []


def test_trying_a_free_lock_whose_answer_is_lost_gets_it(far: Client, wire: Proxy) -> None:
    with far.lock("l"):
        pass
    wire.lose(1)
    lock = far.lock("l")
    assert lock.acquire(timeout=0)
    lock.release()


def test_a_lock_that_stays_unknown_leaves_nothing_behind(far: Client, client: Client, wire: Proxy) -> None:
    with far.lock("l"):
        pass
    far.timeout = 0.5
    wire.lose(1_000)
    with pytest.raises(OutcomeUnknown):
        far.lock("l").acquire()
    wire.lose(0)
    eventually(lambda: holders(client) == [], what="the lease, revoked behind our back, takes the key along")
