"""A past window once more: counted, confirmed, and run as occurrences of its own."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from jobguard import schedules
from jobguard.client import Client
from jobguard.errors import ConfigurationError
from jobguard.observe import NotFound
from jobguard.operate import Actor
from jobguard.records import Verdict
from tests.plugin.stage import START, Stage, finish, job, operators

ANN = Actor(by="ann", via="test", reason="the import was wrong")
HOUR = timedelta(hours=1)
LONG_AGO = START - timedelta(days=365)


@pytest.fixture
def hands(stage: Stage) -> Iterator[Client]:
    with operators(stage) as client:
        yield client


def test_the_window_is_counted_and_nothing_is_planned(stage: Stage, hands: Client) -> None:
    stage.term(job(every_s=60))
    window = schedules.preview_backfill(hands, "work", LONG_AGO, LONG_AGO + HOUR)
    last = LONG_AGO + timedelta(minutes=59)
    assert (window.count, window.first, window.last, window.overlap) == (60, LONG_AGO, last, "wait")
    assert (
        schedules.preview_backfill(hands, "work", LONG_AGO + timedelta(seconds=1), LONG_AGO + HOUR).count
        == 59
    )
    assert stage.open() == []


def test_they_run_one_after_the_other_beside_what_was_and_move_no_cursor(stage: Stage, hands: Client) -> None:
    leader = stage.term()
    stage.at(60)
    leader.plan_due()
    finish(stage, stage.claim(1))
    cursor = stage.client.get(stage.keys.cursor("work"))
    start, end = START + timedelta(seconds=60), START + timedelta(seconds=180)
    for again in (1, 2):
        planned = schedules.backfill(hands, "work", start, end, count=2, actor=ANN)
        shift = timedelta(microseconds=again)
        assert [each.nominal for each in planned] == [start + shift, start + timedelta(minutes=1) + shift]
    stage.now = datetime.now(UTC)
    stage.sent.clear()
    for _ in range(3):
        stage.upkeep(leader)
    assert stage.sent == [("02:01:00", 1, 0)]
    assert {(each.trigger, each.overlap) for each in stage.open()} == {("backfill", "wait")}
    assert stage.client.get(stage.keys.cursor("work")) == cursor
    assert [each.verdict for each in stage.done()] == [Verdict.RAN]
    assert [each.after for each in stage.audits()] == [
        f"1 to 2 of 2: 2026-11-24T02:01:00.00000{again}Z to 2026-11-24T02:02:00.00000{again}Z"
        for again in (1, 2)
    ]


def test_policies_hold_and_each_has_its_day(stage: Stage, hands: Client) -> None:
    stage.term(job(overlap="allow", start_deadline=5, reruns=2))
    schedules.backfill(hands, "work", LONG_AGO, LONG_AGO + HOUR, count=60, actor=ANN)
    opened = stage.open()
    assert {(each.overlap, each.reruns) for each in opened} == {("allow", 2)}
    assert all(each.deadline and each.deadline > datetime.now(UTC) + 23 * HOUR for each in opened)
    assert len(opened) == 60
    assert len(stage.audits()) == 2


def test_another_count_than_was_shown_plans_nothing(stage: Stage, hands: Client) -> None:
    stage.term()
    with pytest.raises(schedules.NotConfirmed, match="holds 60 occurrences, and 59 were confirmed"):
        schedules.backfill(hands, "work", LONG_AGO, LONG_AGO + HOUR, count=59, actor=ANN)
    assert stage.open() == []


@pytest.mark.parametrize(
    ("start", "end", "text"),
    [
        (LONG_AGO, LONG_AGO, "its start before its end"),
        (LONG_AGO, datetime(2199, 1, 1, tzinfo=UTC), "a window of the past"),
        (LONG_AGO, LONG_AGO + 100 * HOUR, "more than 1000 occurrences"),
    ],
)
def test_a_window_that_cannot_be(
    stage: Stage, hands: Client, start: datetime, end: datetime, text: str
) -> None:
    stage.term()
    with pytest.raises(ConfigurationError, match=text):
        schedules.preview_backfill(hands, "work", start, end)
    with pytest.raises(NotFound):
        schedules.preview_backfill(hands, "wrok", LONG_AGO, LONG_AGO + HOUR)
