"""Elections: one leads, the others wait or look on."""

import itertools
import sys
import threading
from types import FrameType
from typing import Any

import pytest

from jobguard.client import Client, put_op
from jobguard.election import Election
from jobguard.errors import NotHolder
from jobguard.lock import Seat, holders
from jobguard.place import Place
from tests.stores import eventually


def test_one_leads_and_says_what_it_wants_to(client: Client, other: Client) -> None:
    ours, theirs = client.election("beat"), other.election("beat")
    assert ours.leader() is None
    assert ours.campaign("host-1")
    assert ours.campaign("again")  # we lead already: nothing to do
    assert not theirs.campaign("host-2", timeout=0.05)
    leader = theirs.leader()
    assert leader is not None
    assert (leader.contender.value, leader.contender.kind) == ("host-1", "election")
    assert (leader.key, leader.token) == (ours.key, ours.create_revision)
    assert ours.is_leader()
    assert not theirs.is_leader()
    ours.resign()
    assert not ours.is_leader()
    assert theirs.leader() is None


def test_the_next_candidate_leads_when_the_leader_resigns(client: Client, other: Client) -> None:
    ours, theirs = client.election("beat"), other.election("beat")
    ours.campaign()
    first = ours.create_revision
    waiting = threading.Thread(target=theirs.campaign)
    waiting.start()
    eventually(lambda: candidates(client) == 2)
    ours.resign()
    waiting.join(30)
    assert theirs.is_leader()
    assert theirs.create_revision > first
    theirs.resign()


def test_resigning_ends_a_campaign_at_once(client: Client, other: Client) -> None:
    with client.election("beat"):
        candidate = other.election("beat", ttl=300)  # at each third of it, it would look again by itself
        won: list[bool] = []
        waiting = threading.Thread(target=lambda: won.append(candidate.campaign()))
        waiting.start()
        eventually(lambda: candidates(client) == 2)
        candidate.resign()
        waiting.join(30)
        assert won == [False]
        assert candidates(client) == 1


def test_a_lost_lease_is_a_lost_lead(client: Client, other: Client) -> None:
    leader = client.election("beat", ttl=4)
    leader.campaign()
    lost = threading.Event()
    leader.session.on_lost(lost.set)
    other.revoke(leader.session.lease_id)
    assert lost.wait(30)
    assert not leader.is_leader()
    with pytest.raises(NotHolder):
        leader.check()
    assert leader.campaign(timeout=30)  # in the same process, on a new lease
    leader.check()
    leader.resign()


def test_what_a_leader_writes_is_fenced_by_its_key(client: Client, other: Client) -> None:
    old, new = client.election("beat"), other.election("beat")
    old.campaign()
    guard = old.guard
    assert client.txn([guard], [put_op(client.key("plan"), "old")]).succeeded
    other.delete(old.key)
    new.campaign()
    assert old.is_leader()  # it cannot know yet
    assert not client.txn([guard], [put_op(client.key("plan"), "late")]).succeeded
    assert other.txn([new.guard], [put_op(client.key("plan"), "new")]).succeeded
    old.resign()
    assert new.is_leader()
    assert other.txn([new.guard]).succeeded
    new.resign()


def test_the_audience_sees_each_leader_and_what_it_proclaims(client: Client, other: Client) -> None:
    seen: list[str | None] = []
    election = other.election("beat")

    def watch() -> None:
        for seat in client.election("beat").observe():
            seen.append(None if seat is None else seat.contender.value)
            if seat is not None and seat.contender.value == "bye":
                return

    audience = threading.Thread(target=watch)
    audience.start()
    eventually(lambda: seen == [None])
    election.campaign("first")
    eventually(lambda: seen[-1] == "first")
    election.proclaim("bye")
    audience.join(30)
    assert seen == [None, "first", "bye"]
    election.resign()
    with pytest.raises(NotHolder):
        election.proclaim("too late")


def test_resigning_twice_and_without_leading_is_nothing(client: Client) -> None:
    election = client.election("beat")
    election.resign()
    election.campaign()
    election.resign()
    election.resign()
    with pytest.raises(NotHolder):
        _ = election.key


def test_a_resignation_between_winning_and_knowing_it_holds(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal handler may run between any two steps of the campaign."""
    election = client.election("beat")
    real = Election.__setattr__

    def at_the_worst_moment(self: Election, name: str, value: object) -> None:
        real(self, name, value)
        if name == "_elected" and value is not None:
            self.resign()

    monkeypatch.setattr(Election, "__setattr__", at_the_worst_moment)
    assert not election.campaign()
    assert not election.is_leader()
    assert election.leader() is None
    assert sum(len(spare) for spare in client.spare_sessions.values()) == 1


def test_a_signal_may_strike_anywhere_in_a_resignation() -> None:
    """Its handler resigns, too, and must not wait for what the one that it interrupts holds."""
    client = Client("http://127.0.0.1:9")
    struck: list[int] = []

    def strike(at: int) -> bool:
        """Before the line of that number; False if there are not so many."""
        election, lines = client.election("beat"), itertools.count()
        election._standing = place = Place(client, None, "root", "key")  # type: ignore[arg-type]
        place._watch = client.watch("key", start_revision=1)

        def trace(frame: FrameType, event: str, arg: object) -> Any:
            if event == "line" and next(lines) == at:
                election.resign()
            return trace

        sys.settrace(trace)
        try:
            election.resign()
        finally:
            sys.settrace(None)
        assert place._watch.poll(30) is None
        return next(lines) > at

    def strike_everywhere() -> None:
        struck.append(sum(1 for _ in itertools.takewhile(strike, itertools.count())))

    threading.Thread(target=strike_everywhere, daemon=True).start()
    eventually(lambda: struck, what="the end of all resignations")
    assert struck[0] > 20


def candidates(client: Client) -> int:
    seats: list[Seat] = []
    for queue in holders(client, "beat", kind="election"):
        seats += [queue.holder, *queue.waiters]
    return len(seats)
