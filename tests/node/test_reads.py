"""Read points: a reader is served by a round begun after it came, once that is applied here."""

import asyncio
from collections.abc import Callable

from jobguard_store.errors import NoLeader, RequestTimedOut, ServerStopped
from jobguard_store.peer_messages import Ask, Question
from jobguard_store.reads import ROUND_TICKS_MAX, Reads
from tests.node.members import run


def story(test: Callable[[Reads], None]) -> None:
    async def told() -> None:
        test(Reads(leader_wait_s=3.0, timeout_s=7.0))

    run(told())


def test_all_who_came_in_a_turn_share_a_round_and_later_ones_do_not() -> None:
    def test(reads: Reads) -> None:
        early = [reads.wait(0.0), reads.wait(0.0)]
        first = reads.begin()
        late = reads.wait(0.0)
        reads.confirmed(first.context, index=5)
        reads.applied(5)
        assert all(future.done() for future in early)
        assert not late.done()
        assert reads.begin().context > first.context

    story(test)


def test_nobody_reads_before_the_index_is_applied() -> None:
    def test(reads: Reads) -> None:
        future = reads.wait(0.0)
        reads.confirmed(reads.begin().context, index=5)
        reads.applied(4)
        assert not future.done()
        reads.applied(6)
        assert future.done()

    story(test)


def test_a_round_confirms_the_lost_ones_before_it() -> None:
    def test(reads: Reads) -> None:
        one = reads.wait(0.0)
        reads.begin()
        two = reads.wait(0.0)
        second = reads.begin()
        three = reads.wait(0.0)
        reads.begin()
        reads.confirmed(second.context, index=5)
        reads.applied(5)
        assert [one.done(), two.done(), three.done()] == [True, True, False]

    story(test)


def test_an_answer_of_the_past_confirms_nobody_who_came_since() -> None:
    def test(reads: Reads) -> None:
        future = reads.wait(0.0)
        old = reads.begin()
        reads.lost()
        new = reads.begin()
        reads.confirmed(old.context, index=5)
        reads.applied(5)
        assert not future.done(), "its round went on under a new context"
        reads.confirmed(new.context, index=5)
        reads.applied(5)
        assert future.done()

    story(test)


def test_followers_are_answered_with_the_index_they_must_reach() -> None:
    def test(reads: Reads) -> None:
        ask = Ask(sender=2, to=1, context=77, question=Question.BARRIER)
        reads.asked(ask)
        reads.confirmed(reads.begin().context, index=5)
        assert reads.applied(4) == []
        assert reads.applied(8) == [(5, ask)]
        assert reads.applied(9) == []

    story(test)


def test_a_follower_asks_again_when_an_answer_stays_out() -> None:
    def test(reads: Reads) -> None:
        future = reads.wait(0.0)
        first = reads.begin()
        for _ in range(ROUND_TICKS_MAX):
            assert not reads.gathered
            reads.tick(0.1, has_leader=True, leading=False)
        assert reads.gathered
        again = reads.begin()
        assert again.context != first.context
        reads.confirmed(again.context, index=1)
        reads.applied(1)
        assert future.done()

    story(test)


def test_waiting_has_an_end() -> None:
    def test(reads: Reads) -> None:
        leaderless, slow, until = reads.wait(0.0), reads.wait(2.0), reads.until_applied(9, 2.0)
        reads.tick(2.9, has_leader=False, leading=False)
        assert not leaderless.done()
        reads.tick(3.0, has_leader=False, leading=False)
        assert isinstance(leaderless.exception(), NoLeader)
        reads.tick(8.9, has_leader=True, leading=True)
        assert not slow.done()
        reads.tick(9.0, has_leader=True, leading=True)
        assert isinstance(slow.exception(), RequestTimedOut)
        assert isinstance(until.exception(), RequestTimedOut)
        last = reads.wait(10.0)
        reads.stop()
        assert isinstance(last.exception(), ServerStopped)

    story(test)


def test_who_went_away_is_skipped() -> None:
    def test(reads: Reads) -> None:
        gone: asyncio.Future[None] = reads.wait(0.0)
        gone.cancel()
        reads.confirmed(reads.begin().context, index=1)
        assert reads.applied(1) == []
        reads.tick(100.0, has_leader=False, leading=False)

    story(test)
