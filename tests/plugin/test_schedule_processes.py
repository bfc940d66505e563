"""Schedules made while beats run: the leading one plans them, and so does the one that takes over."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from jobguard import Client, schedules
from jobguard.operate import Actor
from jobguard.schedules import Definition
from tests.plugin.beats import Beats, Message, beats
from tests.plugin.bench import Bench, until

ANN = Actor(by="ann", via="test", reason="asked for")


@pytest.fixture
def stage(bench: Bench) -> Iterator[Beats]:
    with beats(bench) as found:
        yield found


@pytest.fixture
def hands(bench: Bench) -> Iterator[Client]:
    with Client([bench.store.url], namespace=bench.namespace) as client:
        yield client


def made(stage: Beats, more_than: int = 0, queue: str = "celery") -> list[Message]:
    def ask() -> list[Message] | None:
        found = [each for each in stage.messages(queue) if each.header.job == "made"]
        return found if len(found) > more_than else None

    return until(ask, "a message of the schedule that was made")


def test_it_is_planned_changed_and_removed_within_a_second(stage: Beats, hands: Client) -> None:
    leader = stage.start(TEST_SCHEDULE={"work": 3600})
    until(lambda: leader.leads, "it leads")
    wanted = Definition(task="beats.made", every_seconds=0.25, args=[1], kwargs={"a": 2})
    schedules.add(hands, "made", wanted, actor=ANN)
    began = time.monotonic()
    message = made(stage)[0]
    assert time.monotonic() - began < 1.5
    assert (message.headers["task"], message.headers["argsrepr"]) == ("beats.made", "[1]")
    follower = stage.start(TEST_SCHEDULE={"work": 3600})
    until(lambda: len(stage.bench.client.prefix(stage.bench.keys.prefix("elections")).kvs) == 2, "it follows")
    leader.terminate()
    until(lambda: follower.leads, "the other one leads")
    made(stage, more_than=len(made(stage)))
    moved = Definition(task="beats.made", every_seconds=0.25, options={"queue": "other"})
    schedules.change(hands, "made", moved, actor=ANN)
    made(stage, queue="other")
    schedules.remove(hands, "made", actor=ANN)
    removed = datetime.now(UTC)
    until(lambda: datetime.now(UTC) > removed + timedelta(seconds=2), "two seconds are over")
    assert made(stage, queue="other")[-1].occurrence.nominal < removed + timedelta(seconds=1)
