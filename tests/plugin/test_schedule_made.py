"""Schedules made, changed and removed at run time, beside those of the code: what a leader makes of them."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from celery.schedules import crontab

from jobguard import schedules
from jobguard.celery.entries import Plain
from jobguard.celery.lead import Stale
from jobguard.client import Client
from jobguard.errors import ConfigurationError
from jobguard.observe import NotFound, schedule_changes
from jobguard.operate import Actor
from jobguard.schedule import cron
from jobguard.schedules import Definition, ScheduleChanged, ScheduleExists
from tests.plugin.stage import Stage, job, operators

ANN = Actor(by="ann", via="test", reason="asked for")
NIGHTLY = Definition(task="t.nightly", cron="30 2 * * *", zone="Europe/Berlin", kwargs={"to": "all"})


@pytest.fixture
def hands(stage: Stage) -> Client:
    stage.now = datetime.now(UTC)
    return operators(stage)


def seconds_later(stage: Stage, seconds: float) -> None:
    """From now on: what operators changed has the time of the real clock."""
    stage.now = datetime.now(UTC) + timedelta(seconds=seconds)


# --- the definition ---


@pytest.mark.parametrize(
    "definition",
    [
        NIGHTLY,
        Definition(task="t", every_seconds=0.5, args=[1, "a"], options={"queue": "slow"}),
        Definition(task="t", at=datetime(2199, 1, 1, tzinfo=UTC), policy={"overlap": "allow"}),
        Definition(task="t", cron="*/15 9-17 1,15 jan-mar mon-fri", policy={"catch_up": {"all": 3}}),
    ],
)
def test_what_was_made_is_given_back(hands: Client, definition: Definition) -> None:
    made = schedules.add(hands, "made", definition, actor=ANN)
    assert (made.source, made.by, made.task) == ("run time", "ann", definition.task)
    back = schedules.get(hands, "made")
    assert definition.policy.items() <= back.policy.items()
    assert replace_policy(back) == replace_policy(definition)


def replace_policy(definition: Definition) -> Definition:
    return Definition(
        **{name: getattr(definition, name) for name in definition.__struct_fields__ if name != "policy"}
    )


@pytest.mark.parametrize(
    ("facts", "text"),
    [
        ({}, "exactly one of"),
        ({"cron": "30 2 * *"}, "five fields"),
        ({"cron": "30 25 * * *"}, "names no times"),
        ({"cron": "30 2 L * *"}, "L and # are not known"),
        ({"cron": "30 2 * * *", "zone": "Mars/Olympus"}, "no such time zone"),
        ({"cron": "30 2 * * *", "dst": "twice"}, "dst"),
        ({"cron": "30 2 * * *", "every_seconds": 5}, "exactly one of"),
        ({"every_seconds": 0}, "cannot be used"),
        ({"at": datetime(2199, 1, 1)}, "needs an offset"),
        ({"at": datetime(2020, 1, 1, tzinfo=UTC)}, "over already"),
        ({"every_seconds": 5, "policy": {"overlapp": "skip"}}, "did you mean 'overlap'"),
        ({"every_seconds": 5, "policy": {"on_suspect": "stop"}}, "cannot be chosen at run time"),
        ({"every_seconds": 5, "args": [object()]}, "plain JSON"),
    ],
)
def test_what_could_not_be_planned_is_refused(hands: Client, facts: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        schedules.add(hands, "made", Definition(task="t", **facts), actor=ANN)
    with pytest.raises(NotFound):
        schedules.get(hands, "made")


@pytest.mark.parametrize("fields", ["30 2 * * *", "*/15 9-17 1,15 1-3 1-5", "0 0 * * sun"])
def test_five_fields_mean_what_they_mean_to_celery(fields: str) -> None:
    read = cron(fields)
    theirs = crontab.from_string(fields)
    assert (read.minutes, read.hours, read.weekdays) == (theirs.minute, theirs.hour, theirs.day_of_week)
    assert (read.days, read.months) == (theirs.day_of_month, theirs.month_of_year)


# --- beside the code's ---


def test_a_name_is_taken_by_who_comes_first(stage: Stage, hands: Client, caplog: Any) -> None:
    leader = stage.term(job("work"))
    with pytest.raises(ScheduleExists, match="work already: it comes from the code"):
        schedules.add(hands, "work", NIGHTLY, actor=ANN)
    schedules.add(hands, "made", Definition(task="t", every_seconds=60), actor=ANN)
    with pytest.raises(ScheduleExists, match="made already: it was made at run time by ann"):
        schedules.add(hands, "made", NIGHTLY, actor=ANN)
    leader = stage.term(job("work"), job("made", every_s=10))
    assert "made was made at run time by ann; the beat entry of that name is not planned" in caplog.text
    assert leader.jobs["made"].times == job(every_s=60).times


def test_the_codes_are_changed_in_the_code(stage: Stage, hands: Client) -> None:
    stage.term(job("work"))
    with pytest.raises(ConfigurationError, match="comes from the code"):
        schedules.change(hands, "work", NIGHTLY, actor=ANN)
    with pytest.raises(ConfigurationError, match="comes from the code"):
        schedules.remove(hands, "work", actor=ANN)


def test_a_deploy_never_removes_it(stage: Stage, hands: Client) -> None:
    schedules.add(hands, "made", Definition(task="t", every_seconds=60, options={"queue": "q"}), actor=ANN)
    stage.term(job("work"), version=1)
    leader = stage.term(job("other"), version=2)
    assert set(leader.jobs) == {"other", "made"}
    seconds_later(stage, 61)
    leader.plan_due()
    assert {each.job for each in stage.open("made")} == {"made"}
    assert leader.jobs["made"].stored
    assert leader.jobs["made"].stored.options == {"queue": "q"}


def test_other_times_owe_nothing_for_before_and_other_words_change_no_time(
    stage: Stage, hands: Client
) -> None:
    schedules.add(hands, "made", Definition(task="t", every_seconds=3600), actor=ANN)
    stage.term(job("work")).plan_due()
    seconds_later(stage, 60)
    before = stage.schedule("made")
    schedules.change(hands, "made", Definition(task="t2", every_seconds=3600), actor=ANN)
    after = stage.schedule("made")
    assert before
    assert after
    assert (after.since, after.task) == (before.since, "t2")
    schedules.change(hands, "made", Definition(task="t2", every_seconds=5), actor=ANN)
    third = stage.schedule("made")
    assert third
    assert third.since != before.since
    assert third.since > before.since - timedelta(seconds=3)  # as exact as the store's clock can be read


def test_a_plan_made_in_ignorance_of_a_change_is_refused(stage: Stage, hands: Client) -> None:
    schedules.add(hands, "made", Definition(task="t", every_seconds=1), actor=ANN)
    leader = stage.term(job("work", every_s=86400))
    schedules.change(hands, "made", Definition(task="t", at=datetime(2199, 1, 1, tzinfo=UTC)), actor=ANN)
    seconds_later(stage, 5)
    with pytest.raises(Stale):
        leader.plan_due()
    leader.begin()
    leader.plan_due()
    assert stage.open("made") == stage.done("made") == []
    schedules.remove(hands, "made", actor=ANN)
    leader.look_again("made")
    assert "made" not in leader.jobs


def test_a_change_of_what_somebody_else_changed_is_refused(hands: Client) -> None:
    made = schedules.add(hands, "made", NIGHTLY, actor=ANN)
    schedules.change(hands, "made", Definition(task="t", every_seconds=5), actor=ANN, revision=made.revision)
    for attempt in (
        lambda: schedules.change(hands, "made", NIGHTLY, actor=ANN, revision=made.revision),
        lambda: schedules.remove(hands, "made", actor=ANN, revision=made.revision),
    ):
        with pytest.raises(ScheduleChanged, match="changed by ann"):
            attempt()
    with pytest.raises(NotFound):
        schedules.remove(hands, "nothing", actor=ANN)


def test_a_job_that_comes_again_under_its_name_is_not_paused(hands: Client) -> None:
    schedules.add(hands, "made", NIGHTLY, actor=ANN)
    schedules.pause(hands, "made", actor=ANN)
    schedules.remove(hands, "made", actor=ANN)
    assert not schedules.add(hands, "made", NIGHTLY, actor=ANN).paused


# --- deploys ---


def test_an_older_beat_brings_nothing_back_that_newer_code_removed(stage: Stage) -> None:
    stage.term(job("work"), job("gone"), version=1)
    stage.term(job("work"), version=2)
    leader = stage.term(job("work"), job("gone"), version=1)
    assert set(leader.jobs) == {"work"}
    assert stage.schedule("gone") is None


def test_without_versions_the_one_that_registered_last_wins(stage: Stage) -> None:
    old, new = stage.now, stage.now + timedelta(seconds=5)
    stage.term(job("work", every_s=10), registered=old)
    stage.term(job("work", every_s=30), registered=new)
    leader = stage.term(job("work", every_s=10), registered=old)
    installed = stage.schedule("work")
    assert installed
    assert installed.text == "every 30 s"
    assert leader.jobs == {}  # it knows neither its arguments nor its own version of it
    stage.term(job("work", every_s=10), registered=new + timedelta(seconds=5))
    installed = stage.schedule("work")
    assert installed
    assert installed.text == "every 10 s"


def test_an_older_beat_plans_what_newer_code_installed_by_the_stores_word(stage: Stage) -> None:
    newer = replace(job("work", every_s=30), plain=Plain([1], {"a": 2}, {}))
    stage.term(newer, version=2)
    leader = stage.term(job("work", every_s=10), version=1)
    stage.at(31)
    leader.plan_due()
    assert stage.sent == [("02:00:30", 1, 0)]
    stored = leader.jobs["work"].stored
    assert stored
    assert (stored.args, stored.kwargs) == ([1], {"a": 2})


def test_what_a_deploy_changed_is_told(stage: Stage) -> None:
    stage.term(job("work"), job("gone"), version=1)
    stage.at(1)
    stage.term(job("work", every_s=30, overlap="allow"), version=2)
    with operators(stage) as hands:
        page = schedule_changes(hands)
        first = schedule_changes(hands, limit=1)
        rest = schedule_changes(hands, cursor=first.next_cursor)
        one = schedule_changes(hands, job="gone")
    told = {(each.action, each.job, each.reason): each.what for each in page.items}
    assert told == {
        ("install", "work", "version 1"): "every 60 s, task t",
        ("install", "gone", "version 1"): "every 60 s, task t",
        ("install", "work", "version 2"): (
            "times from every 60 s to every 30 s, version from 1 to 2, overlap from skip to allow"
        ),
        ("withdraw", "gone", "version 2"): "every 60 s, task t",
    }
    assert [*first.items, *rest.items] == page.items
    assert [each.action for each in one.items] == ["withdraw", "install"]


def test_a_deploy_that_changes_nothing_writes_nothing_but_its_version(stage: Stage) -> None:
    stage.term(job("work"), version=1)
    before = stage.client.get(stage.keys.schedule("work"))
    stage.term(job("work"), version=2)
    assert stage.client.get(stage.keys.schedule("work")) == before


def test_a_deploy_is_rolled_back_and_stays_so(stage: Stage) -> None:
    stage.term(job("work", every_s=10), version=5)
    newer = stage.term(job("work", every_s=30), version=6)
    with operators(stage) as hands:
        with pytest.raises(schedules.OlderSchedule, match="version 6 is in force"):
            schedules.install(hands, 5, actor=ANN)
        assert schedules.install(hands, 7, actor=ANN) is None
        schedules.install(hands, 5, actor=ANN, force=True)
        assert schedules.install(hands, 5, actor=ANN, force=True) is None
        newer.begin()
        assert text_in_force(stage) == "every 30 s"  # it installs nothing, and neither removes anything
        stage.term(job("work", every_s=10), version=5)
        assert text_in_force(stage) == "every 10 s"
        stage.term(job("work", every_s=30), version=6)
        assert text_in_force(stage) == "every 10 s"
        stage.term(job("work", every_s=70), version=7)
        assert text_in_force(stage) == "every 70 s"
        actions = [(each.action, each.what) for each in schedule_changes(hands).items if not each.job]
    assert actions == [("roll back", "from version 6 to version 5")]


def test_what_was_rolled_back_is_not_installed_by_a_leader_that_has_not_heard_of_it(stage: Stage) -> None:
    stage.term(job("work", every_s=10), version=5)
    leader = stage.term(job("work", every_s=30), version=6)
    leader.client.delete(stage.keys.schedule("work"))
    with operators(stage) as hands:
        schedules.install(hands, 5, actor=ANN, force=True)
    with pytest.raises(Stale):
        leader.look_again("work")


def text_in_force(stage: Stage) -> str:
    found = stage.schedule("work")
    assert found
    return found.text
