"""What an open occurrence needs, decided from what is known and nothing else."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from jobguard.records import Active, Attempt, Open, Verdict
from jobguard.recovery import AskWorkers, End, Publish, Rerun, Step, Wait, Workers, decide

DUE = datetime(2026, 11, 24, 2, tzinfo=UTC)


def after(seconds: float) -> datetime:
    return DUE + timedelta(seconds=seconds)


def opened(**facts: Any) -> Open:
    return Open(**{"n": 1, "r": 0, "job": "j", "nominal": DUE, "task": "t", "deadline": after(3600), **facts})


def attempt(**facts: Any) -> Attempt:
    return Attempt(**{"n": 1, "r": 0, "host": "h1", "pid": 7, "nonce": "x", "since": DUE, **facts})


def needs(record: Open, now: float, **facts: Any) -> Step:
    known = {"active": None, "attempt": None, "busy": False, "maybe_sent": False, "workers": Workers.UNKNOWN}
    if record.published:
        known["maybe_sent"] = True
    return decide(record, now=after(now), **{**known, **facts})


# --- the first publication ---


def test_what_nobody_has_published_is_published() -> None:
    assert needs(opened(), 0) == Publish(first=True)


def test_what_a_dead_leader_may_have_published_waits_for_word_from_the_workers() -> None:
    """It wrote its intent, and died before it could note the success."""
    record = opened(planner="dead")
    assert needs(record, 1, maybe_sent=True) == AskWorkers()
    assert needs(record, 1, maybe_sent=True, workers=Workers.GUARDED) == Publish(first=False)


@pytest.mark.parametrize("workers", [Workers.MIXED, Workers.NONE])
def test_a_second_message_is_never_sent_where_it_could_run_twice(workers: Workers) -> None:
    for record in (opened(planner="dead"), opened(published=1, published_at=DUE)):
        assert isinstance(needs(record, 600, maybe_sent=True, workers=workers), Wait)


def test_one_that_must_wait_its_turn_waits() -> None:
    assert needs(opened(overlap="wait"), 5, busy=True) == Wait()
    assert needs(opened(overlap="wait"), 5) == Publish(first=True)


# --- published, and nobody claims it ---


def test_an_unclaimed_one_is_sent_again_with_growing_pauses() -> None:
    waits = []
    for published in (1, 2, 3, 4, 5, 9):
        record = opened(published=published, published_at=DUE, deadline=after(86400))
        pause = next(
            s for s in range(0, 4000, 5) if needs(record, s, workers=Workers.GUARDED) == Publish(first=False)
        )
        waits.append(pause)
    assert waits == [30, 60, 120, 300, 600, 600]


def test_until_its_deadline_and_then_it_is_late() -> None:
    record = opened(published=3, published_at=after(3500))
    assert needs(record, 3601, workers=Workers.GUARDED) == Wait(after(3620))
    assert needs(record, 3603) == AskWorkers()
    late = needs(record, 3603, workers=Workers.GUARDED)
    assert late == End(Verdict.LATE, "no worker started it before its deadline")


def test_where_an_unguarded_worker_may_have_run_it_the_verdict_says_so() -> None:
    ended = needs(opened(published=1, published_at=DUE), 3603, workers=Workers.MIXED)
    assert isinstance(ended, End)
    assert ended.verdict is Verdict.UNCLAIMED


def test_where_no_worker_answers_the_verdict_does_not_vouch_for_them() -> None:
    """One without a guard may have run it, and have been too busy to answer."""
    ended = needs(opened(published=1, published_at=DUE), 3603, workers=Workers.NONE)
    text = "no worker started it before its deadline, as far as is known: none answers"
    assert ended == End(Verdict.LATE, text)


def test_one_that_could_never_be_published_is_late_without_asking_anybody() -> None:
    ended = needs(opened(), 3603)
    assert ended == End(Verdict.LATE, "it could not be published before its deadline")


# --- running, lost ---


def test_what_runs_is_left_alone_however_late_it_is() -> None:
    active = Active(n=1, r=0, host="h1", pid=7, nonce="x", since=DUE)
    assert needs(opened(published=1), 99999, active=active, attempt=attempt()) == Wait()


def test_a_lost_run_goes_again_at_once_then_ever_slower_then_never() -> None:
    pauses = []
    for lost in range(4):
        step = needs(opened(published=1, reruns=3, lost=lost), 100, attempt=attempt())
        pauses.append((step.not_before - after(100)).seconds if isinstance(step, Rerun) else step)
    assert pauses[:3] == [0, 10, 60]
    assert pauses[3] == End(Verdict.LOST, "attempt 1 on h1 pid 7 was lost after 3 reruns")


def test_a_job_that_must_not_repeat_is_lost_with_the_reason() -> None:
    ended = needs(opened(published=1), 5, attempt=attempt(error="signal 9"))
    assert ended == End(Verdict.LOST, "attempt 1 on h1 pid 7 was lost: signal 9")


def test_a_rerun_waits_for_its_brake_and_knows_no_deadline() -> None:
    record = opened(n=2, reruns=3, lost=1, not_before=after(4000))
    assert needs(record, 3990) == Wait(after(4000))
    assert needs(record, 4000) == Publish(first=True)


@pytest.mark.parametrize(
    ("facts", "what"),
    [
        ({"n": 2, "lost": 1, "not_before": after(100)}, "attempt 2"),
        ({"r": 1, "retry_at": after(100)}, "attempt 1 retry 1"),
    ],
)
def test_a_rerun_or_retry_that_nobody_starts_ends_too(facts: dict[str, Any], what: str) -> None:
    """It counts as running, so for as long as it stays open no other occurrence of the job may start."""
    record, day = opened(published=3, published_at=after(80_000), **facts), 24 * 3600
    assert needs(record, day + 99, workers=Workers.GUARDED) == Publish(first=False)
    assert needs(record, day + 101) == AskWorkers()
    for workers, known in ((Workers.GUARDED, ""), (Workers.NONE, ", as far as is known: none answers")):
        ended = needs(record, day + 101, workers=workers)
        assert ended == End(Verdict.LOST, f"no worker started {what} within a day{known}")
    ended = needs(record, day + 101, workers=Workers.MIXED)
    assert isinstance(ended, End)
    assert ended.verdict is Verdict.UNCLAIMED


# --- retries ---


def test_a_retry_is_left_to_its_own_message() -> None:
    record = opened(r=1, published=1, published_at=DUE, retry_at=after(60))
    assert needs(record, 59, workers=Workers.GUARDED) == Wait(after(60))
    assert needs(record, 89, workers=Workers.GUARDED) == Wait(after(90))


def test_a_retry_that_never_came_is_sent_by_the_leader() -> None:
    record = opened(r=1, published=1, published_at=DUE, retry_at=after(60))
    assert needs(record, 90, workers=Workers.GUARDED) == Publish(first=False)
    assert isinstance(needs(record, 90, workers=Workers.MIXED), Wait)
    again = opened(r=1, published=2, published_at=after(90), retry_at=after(60))
    assert needs(again, 140, workers=Workers.GUARDED) == Wait(after(150))


def test_a_retry_knows_no_start_deadline() -> None:
    record = opened(r=1, published=1, published_at=DUE, retry_at=after(4000))
    assert needs(record, 3999) == Wait(after(4000))
