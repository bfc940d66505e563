"""A command's life, by a clock that the test moves: no definite answer for what may still happen."""

import asyncio
from collections.abc import Callable
from unittest.mock import Mock

import pytest

from jobguard_store import proposals as module
from jobguard_store.errors import (
    LeaderChanged,
    LeaseNotFound,
    NoLeader,
    RequestTimedOut,
    ServerStopped,
    TooManyRequests,
)
from jobguard_store.gathering import Gathering
from jobguard_store.machine.commands import Origin, Put, decode
from jobguard_store.machine.results import Applied, PutResult, Rows
from jobguard_store.peer_messages import Forward, ForwardRefused
from jobguard_store.proposals import WAITERS_MAX, Proposals
from jobguard_store.questions import Questions
from jobguard_store.reads import Reads
from tests.node.members import run
from tests.raft.alone import settled_leader

DONE = Applied(PutResult(2), 2, Rows(revision=2))


def story(test: Callable[[Proposals], None]) -> None:
    async def told() -> None:
        test(Proposals(member=1, boot=3, leader_wait_s=3.0, timeout_s=7.0))

    run(told())


def submit(proposals: Proposals, now: float = 0.0, value: bytes = b"") -> asyncio.Future[Applied]:
    return proposals.submit(Put(b"k", value), now)


def send(proposals: Proposals, term: int) -> list[bytes]:
    return proposals.take(term)


def test_an_answer_comes_from_the_own_apply_of_this_life() -> None:
    def test(proposals: Proposals) -> None:
        future = submit(proposals)
        (data,) = send(proposals, 5)
        origin, command = decode(data)
        assert (origin.member, origin.boot, command) == (1, 3, Put(b"k", b""))
        proposals.applied(Origin(2, 3, origin.sequence), DONE)
        proposals.applied(Origin(1, 2, origin.sequence), DONE)
        assert not future.done()
        proposals.applied(origin, DONE)
        assert future.result() is DONE
        proposals.applied(origin, DONE)
        assert len(proposals) == 0

    story(test)


def test_a_refusal_of_the_machine_is_the_answer() -> None:
    def test(proposals: Proposals) -> None:
        future = submit(proposals)
        origin, _ = decode(send(proposals, 5)[0])
        proposals.applied(origin, Applied(LeaseNotFound(), 1, Rows(revision=1)))
        assert isinstance(future.exception(), LeaseNotFound)

    story(test)


def test_a_newer_term_in_the_log_makes_a_lost_command_certain() -> None:
    def test(proposals: Proposals) -> None:
        lost = submit(proposals)
        send(proposals, 5)
        current = submit(proposals)
        send(proposals, 6)
        queued = submit(proposals)
        proposals.term_began(5)
        assert not lost.done()
        proposals.term_began(6)
        assert isinstance(lost.exception(), LeaderChanged)
        assert not current.done()
        assert not queued.done()

    story(test)


def test_sent_and_unanswered_is_unknown_for_as_long_as_it_may_happen() -> None:
    def test(proposals: Proposals) -> None:
        future = submit(proposals, now=10.0)
        send(proposals, 5)
        proposals.tick(16.9, has_leader=False)
        assert not future.done()
        proposals.tick(17.0, has_leader=False)
        assert isinstance(future.exception(), RequestTimedOut)

    story(test)


def test_never_sent_is_no_leader_and_gives_up_sooner() -> None:
    def test(proposals: Proposals) -> None:
        future = submit(proposals, now=10.0)
        proposals.tick(12.9, has_leader=False)
        assert not future.done()
        proposals.tick(13.0, has_leader=False)
        assert isinstance(future.exception(), NoLeader)
        assert send(proposals, 5) == []

    story(test)


def test_with_a_leader_at_hand_the_queue_is_not_given_up_before_the_whole_time_out() -> None:
    """After a pause of ours the tick comes first, and then the turn in which the leader is handed it."""

    def test(proposals: Proposals) -> None:
        future = submit(proposals, now=10.0)
        proposals.tick(16.9, has_leader=True)
        assert not future.done()
        proposals.tick(17.0, has_leader=True)
        assert isinstance(future.exception(), NoLeader), "nobody took it, so it certainly was not done"
        assert send(proposals, 5) == []

    story(test)


def test_refused_before_append_goes_to_the_next_leader_once_more() -> None:
    def test(proposals: Proposals) -> None:
        future = submit(proposals)
        (data,) = send(proposals, 5)
        sequence = decode(data)[0].sequence
        proposals.refused([sequence])
        proposals.refused([sequence])
        proposals.term_began(6)
        assert not future.done()
        assert send(proposals, 6) == [], "not before the next tick"
        proposals.tick(1.0, has_leader=False)
        assert send(proposals, 6) == [data]
        proposals.tick(1.1, has_leader=False)
        assert send(proposals, 6) == []

    story(test)


def test_forwards_are_cut_by_size() -> None:
    def test(proposals: Proposals) -> None:
        for _ in range(5):
            submit(proposals, value=bytes(400))
        submit(proposals, value=bytes(5000))
        sizes = []
        for group in proposals.groups(1000):
            sizes.append(len(group))
            proposals.sent(group, 5)
        assert sizes == [2, 2, 1, 1]

    story(test)


def test_stopping_tells_what_is_certain_and_no_more() -> None:
    def test(proposals: Proposals) -> None:
        sent = submit(proposals)
        send(proposals, 5)
        queued = submit(proposals)
        proposals.stop()
        assert isinstance(sent.exception(), RequestTimedOut)
        assert isinstance(queued.exception(), ServerStopped)

    story(test)


def test_there_is_a_limit_to_what_waits() -> None:
    def test(proposals: Proposals) -> None:
        for _ in range(WAITERS_MAX):
            submit(proposals)
        with pytest.raises(TooManyRequests):
            submit(proposals)

    story(test)


def test_an_asker_that_went_away_is_nobody_to_answer() -> None:
    def test(proposals: Proposals) -> None:
        future = submit(proposals)
        origin, _ = decode(send(proposals, 5)[0])
        future.cancel()
        proposals.applied(origin, DONE)
        proposals.tick(100.0, has_leader=False)
        assert len(proposals) == 0

    story(test)


def test_the_refusal_of_a_former_lifes_forward_hands_on_nothing_again() -> None:
    """A leader that lost its term with our Forward in hand may refuse it after we crashed and came back."""

    async def told() -> None:
        lives = [Proposals(member=1, boot=boot, leader_wait_s=3.0, timeout_s=7.0) for boot in (4, 5)]
        for proposals in lives:
            submit(proposals)
        (old,), (new,) = (send(proposals, 5) for proposals in lives)
        assert decode(old)[0].boot < decode(new)[0].boot
        lives[1].refused([decode(old)[0].sequence])
        lives[1].tick(1.0, has_leader=False)
        assert send(lives[1], 5) == [], "it would be applied twice"

    run(told())


def test_a_forward_for_an_earlier_reign_is_refused() -> None:
    """Its asker may have been told by then that it never will be, and have asked again."""

    def test(proposals: Proposals) -> None:
        raft, posted = settled_leader(term=4), Mock()
        reads = Reads(boot=3, leader_wait_s=3.0, timeout_s=7.0)
        questions = Questions(boot=3, leader_wait_s=3.0, timeout_s=7.0)
        gathering = Gathering(raft, proposals, questions, reads, posted, Mock())
        before = raft.last_index
        for sequence, term in ((1, raft.term - 1), (2, raft.term), (3, raft.term + 1)):
            gathering.forwarded(Forward(sender=2, to=1, term=term, sequences=(sequence,), commands=(b"x",)))
        gathering.turn(0.0, disk_full=False)
        assert raft.last_index == before + 1
        refused = [ForwardRefused(sender=1, to=2, sequences=(sequence,)) for sequence in (1, 3)]
        assert [each.args[0] for each in posted.post.call_args_list] == refused

    story(test)


def test_who_went_away_before_anything_was_sent_is_forgotten() -> None:
    def test(proposals: Proposals) -> None:
        gone, there = submit(proposals, value=b"gone"), submit(proposals, value=b"there")
        gone.cancel()
        assert [decode(data)[1] for data in send(proposals, 5)] == [Put(b"k", b"there")]
        assert len(proposals) == 1
        waiting = [submit(proposals) for _ in range(3)]
        for future in waiting:
            future.cancel()
        proposals.tick(0.1, has_leader=False)
        assert len(proposals) == 1, "they do not fill the queue until a leader comes"
        there.cancel()
        proposals.tick(0.2, has_leader=False)
        assert len(proposals) == 1, "it was sent, and may be applied"

    story(test)


def test_large_commands_are_held_only_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAITING_BYTES_MAX", 2500)

    def test(proposals: Proposals) -> None:
        futures = [submit(proposals, value=bytes(1000)) for _ in range(3)]
        with pytest.raises(TooManyRequests):
            submit(proposals)
        origin, _ = decode(send(proposals, 5)[0])
        proposals.applied(origin, DONE)
        futures.append(submit(proposals, value=bytes(1000)))
        with pytest.raises(TooManyRequests):
            submit(proposals)
        proposals.tick(7.0, has_leader=False)
        proposals.tick(7.0, has_leader=False)
        assert [future.exception() is None for future in futures] == [True, False, False, False]
        submit(proposals)

    story(test)
