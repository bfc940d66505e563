"""Read points: a reader is served by a round begun after it came, once that is applied here."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from jobguard_store.errors import NoLeader, RequestTimedOut, ServerStopped
from jobguard_store.peer_messages import Ask, Question
from jobguard_store.questions import Questions
from jobguard_store.raft.core import Raft
from jobguard_store.reads import ROUND_TICKS_MAX, Reads
from tests.node.members import get, members, put, run


def story(test: Callable[[Reads], None]) -> None:
    async def told() -> None:
        test(Reads(boot=1, leader_wait_s=3.0, timeout_s=7.0))

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


def test_an_answer_to_a_former_life_confirms_nobody_in_this_one() -> None:
    """The leader's round was held up while we crashed and came back: its index is older than our readers."""

    async def told() -> None:
        lives = [Reads(boot=boot, leader_wait_s=3.0, timeout_s=7.0) for boot in (4, 5)]
        for _ in range(1000):
            lives[0].wait(0.0)
            old = lives[0].begin()
        future = lives[1].wait(0.0)
        lives[1].begin()
        lives[1].confirmed(old.context, index=1)
        lives[1].applied(1)
        assert not future.done()

    run(told())


def test_a_lease_is_not_renewed_by_the_answer_about_another_in_a_former_life() -> None:
    async def told() -> None:
        lives = [Questions(boot=boot, leader_wait_s=3.0, timeout_s=7.0) for boot in (4, 5)]
        for questions, lease_id in zip(lives, (7, 8), strict=True):
            future = questions.put(Question.RENEW, lease_id, 0.0)
        (old,) = lives[0].to_ask(0.0)
        lives[1].to_ask(0.0)
        lives[1].told(old.ask(1, 2).reply(5, remaining=60, granted=60))
        assert not future.done()

    run(told())


def test_a_question_does_not_outlive_the_leadership_it_was_asked_of() -> None:
    def test(reads: Reads) -> None:
        reads.asked(Ask(sender=2, to=1, context=1, question=Question.RENEW, lease_id=7))
        own = reads.wait(0.0)
        reads.confirmed(reads.begin().context, index=5)
        reads.lost()
        assert reads.applied(5) == []
        assert own.done(), "a read point stays one"

    story(test)


@pytest.mark.parametrize("at", ["the leader", "a follower"])
def test_many_readers_share_few_rounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str) -> None:
    rounds: list[int] = []
    begin = Raft.read_index

    def counted(raft: Raft, context: int) -> None:
        rounds.append(context)
        begin(raft, context)

    async def story() -> None:
        async with members(tmp_path) as three:
            node = three[await three.leader() if at == "the leader" else (await three.followers())[0]]
            await put(node, "a", "1")
            monkeypatch.setattr(Raft, "read_index", counted)
            await asyncio.gather(*(get(node, "a") for _ in range(200)))
            assert len(rounds) < 10  # one, and one for each leader that the host keeps from its heartbeats

            async def reader() -> None:
                for _ in range(10):
                    await get(node, "a")

            rounds.clear()
            await asyncio.gather(*(reader() for _ in range(100)))
            assert 10 <= len(rounds) < 100  # they go in step, but for those whom a turn of the loop parts

    run(story())
