"""Schedules made while beats run: the leading one plans them, and so does the one that takes over."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from jobguard import Client, schedules
from jobguard.operate import Actor
from jobguard.schedules import Definition
from tests.plugin.beats import Beats, Message, beats
from tests.plugin.bench import Bench, until
from tests.stopwatch import Stopwatch

ANN = Actor(by="ann", via="test", reason="asked for")


@pytest.fixture
def stage(bench: Bench) -> Iterator[Beats]:
    with beats(bench) as found:
        yield found


@pytest.fixture
def hands(bench: Bench) -> Iterator[Client]:
    with Client([bench.store.url], namespace=bench.namespace, timeout=30) as client:
        yield client


def there(stage: Beats, queue: str = "celery") -> list[Message]:
    return [each for each in stage.messages(queue) if each.header.job == "made"]


def made(stage: Beats, more_than: int = 0, queue: str = "celery") -> list[Message]:
    def ask() -> list[Message] | None:
        found = there(stage, queue)
        return found if len(found) > more_than else None

    return until(ask, "a message of the schedule that was made")


EVERY_QUARTER = Definition(task="beats.made", every_seconds=0.25, args=[1], kwargs={"a": 2})


def test_it_is_planned_changed_and_removed_within_a_second(stage: Beats, hands: Client) -> None:
    """Each measured from before it is said, where others may be at work: the best of some tries."""
    leader = stage.start(TEST_SCHEDULE={"work": 3600})
    until(lambda: leader.leads, "it leads")
    added, changed = [], []
    for number in range(6):
        known = len(there(stage))
        with Stopwatch() as watch:
            schedules.add(hands, "made", EVERY_QUARTER, actor=ANN)
            message = made(stage, known)[-1]
            added.append(watch.seconds)
        assert (message.headers["task"], message.headers["argsrepr"]) == ("beats.made", "[1]")
        moved = Definition(task="beats.made", every_seconds=0.25, options={"queue": f"other {number}"})
        with Stopwatch() as watch:
            schedules.change(hands, "made", moved, actor=ANN)
            made(stage, queue=f"other {number}")
            changed.append(watch.seconds)
        schedules.remove(hands, "made", actor=ANN)
        removed = datetime.now(UTC)
        until(lambda removed=removed: datetime.now(UTC) > removed + timedelta(seconds=1.5), "it is over")  # type: ignore[misc]
        last = made(stage, queue=f"other {number}")[-1].occurrence.nominal
        assert last < removed + timedelta(seconds=1)
        if min(added) < 1.0 and min(changed) < 1.0:
            break
    assert min(added) < 1.0, added
    assert min(changed) < 1.0, changed


def test_who_takes_over_plans_it_too(stage: Beats, hands: Client) -> None:
    leader, follower = (stage.start(TEST_SCHEDULE={"work": 3600}) for _ in range(2))
    until(lambda: leader.leads or follower.leads, "one leads")
    until(
        lambda: len(stage.bench.client.prefix(stage.bench.keys.prefix("elections")).kvs) == 2, "one follows"
    )
    if follower.leads:
        leader, follower = follower, leader
    schedules.add(hands, "made", EVERY_QUARTER, actor=ANN)
    made(stage)
    leader.terminate()
    until(lambda: follower.leads, "the other one leads")
    made(stage, more_than=len(made(stage)))
