"""A lease of our own: kept alive, doubted early, and given up before the store gives it up."""

import threading

import pytest

from jobguard.client import Client
from jobguard.errors import LeaseExpired
from jobguard.session import Session, SharedSession, State, boottime
from tests.client.proxy import proxied
from tests.stores import Cluster, eventually


def test_a_session_outlives_its_ttl_as_long_as_it_is_renewed(client: Client) -> None:
    with client.session(4) as session:
        first = session.deadline
        eventually(lambda: session.deadline > first + 4, what="a TTL and more of renewals")
        session.check()
        eventually(lambda: session.state is State.HELD)
        assert client.time_to_live(session.lease_id).TTL >= 0


def test_closing_ends_the_lease_and_its_keys_at_once(client: Client) -> None:
    session = client.session(30)
    client.put(client.key("k"), "x", session.lease_id)
    session.close()
    session.close()
    assert client.get(client.key("k")) is None
    assert session.state is State.LOST
    with pytest.raises(LeaseExpired):
        session.check()


def test_our_deadline_is_before_the_stores(client: Client) -> None:
    """We count from when we sent, the store from when it renewed."""
    before = boottime()
    with client.session(20) as session:
        assert before + 20 <= session.deadline <= boottime() + 20
        left_there = client.time_to_live(session.lease_id).TTL  # whole seconds, rounded down
        assert session.seconds_left() <= left_there + 1


def test_a_revoked_lease_is_noticed_at_the_next_renewal(
    client: Client, other: Client, caplog: pytest.LogCaptureFixture
) -> None:
    lost = threading.Event()
    with client.session(4) as session:
        session.on_lost(lost.set)
        other.revoke(session.lease_id)
        assert lost.wait(30)
        assert session.state is State.LOST
        assert f"lease {session.lease_id:x} is lost: the store says it has ended" in caplog.text


def test_silence_makes_it_suspect_and_then_lost_before_the_store_lets_go(store: Cluster) -> None:
    with (
        proxied(store.endpoints[0]) as wire,
        Client([wire.url]) as far,
        Client(store.endpoints, timeout=30) as near,
        near.watch("suspect", prefix=False) as watch,
    ):
        seen: list[State] = []
        session = far.session(4)
        near.put("suspect", "mine", session.lease_id)
        assert watch.poll(30) is not None
        session.on_suspect(lambda: seen.append(State.SUSPECT))
        session.on_lost(lambda: seen.append(State.LOST))
        wire.freeze()
        last = session.deadline
        eventually(lambda: session.state is not State.HELD)
        eventually(lambda: session.state is State.LOST)
        with pytest.raises(LeaseExpired):
            session.check()
        gone = watch.poll(30)
        assert gone is not None
        assert gone.events[0].type == "DELETE"
        assert boottime() > last
        eventually(lambda: seen[-2:] == [State.SUSPECT, State.LOST])
        wire.thaw()
        session.close()


def test_it_is_lost_for_good_even_if_the_store_comes_back(client: Client) -> None:
    with client.session(30) as session:
        session._deadline = boottime() - 1  # as after a suspend of the machine
        assert session.state is State.LOST
        assert not session._renew()
        assert session.state is State.LOST


def test_a_callback_that_hangs_does_not_hold_up_the_renewals(client: Client) -> None:
    release, returned = threading.Event(), threading.Event()

    def hang() -> None:
        release.wait(60)
        returned.set()

    with client.session(4) as session:
        session.on_suspect(hang)
        session._tell(State.SUSPECT)
        first = session.deadline
        eventually(lambda: session.deadline > first, what="a renewal")
        assert not returned.is_set()
        release.set()


def test_callbacks_registered_after_the_loss_are_called(client: Client, other: Client) -> None:
    session = client.session(2)
    other.revoke(session.lease_id)
    eventually(lambda: session.state is State.LOST)
    lost = threading.Event()
    session.on_lost(lost.set)
    assert lost.wait(30)


def test_a_deliberate_close_is_no_loss(client: Client) -> None:
    lost = threading.Event()
    session = client.session(30)
    session.on_lost(lost.set)
    session.close()
    assert session._watcher is not None
    session._watcher.join(20)
    assert not session._watcher.is_alive()
    assert not lost.is_set()


def test_a_discarded_lease_is_revoked_in_the_background(client: Client, other: Client) -> None:
    session = client.session(30)
    session.discard()
    assert session.state is State.LOST
    eventually(lambda: other.time_to_live(session.lease_id).TTL == -1)


def test_a_shared_session_reads_its_deadline_elsewhere() -> None:
    deadline = [boottime() + 10]
    shared = SharedSession(4711, 10, lambda: deadline[0])
    assert shared.state is State.HELD
    shared.check()
    deadline[0] = boottime() + 4
    assert shared.state is State.SUSPECT
    deadline[0] = 0.0  # unknown
    assert shared.state is State.LOST
    with pytest.raises(LeaseExpired):
        shared.check()


def test_the_renewing_thread_goes_with_its_session(client: Client) -> None:
    session = Session(client, 5)
    name = f"jobguard-lease-{session.lease_id:x}"
    assert name in {thread.name for thread in threading.enumerate()}
    session.close()
    eventually(lambda: name not in {thread.name for thread in threading.enumerate()})
