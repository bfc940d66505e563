"""Schedules beside crontab and interval: once, solar, a user's own; with jobguard and under stock beat."""

import pickle
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

import celery.beat
import pytest
from celery import Celery
from celery.beat import ScheduleEntry
from celery.schedules import BaseSchedule, crontab, schedstate, solar

import jobguard
from jobguard.celery.entries import Job, jobs
from jobguard.errors import ConfigurationError
from jobguard.schedule import At, due, next_look, times_of
from jobguard.settings import Settings
from tests.plugin.stage import Stage, job

NOON = datetime(2026, 6, 21, 12, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.fixture
def app() -> Iterator[Celery]:
    with Celery("beats", broker="memory://", set_as_current=False) as app:
        app.conf.jobguard_endpoints = ["http://127.0.0.1:9"]
        yield app


def planned(app: Celery, times: Any, **policy: Any) -> Job:
    entry = ScheduleEntry(name="digest", task="send_digest", schedule=times, app=app)
    return jobs(app, {"digest": entry}, Settings(jobs={"digest": policy}))["digest"]


class OfficeHours(BaseSchedule):  # type: ignore[misc]
    """A user's own: every 20 minutes from 9 to 11; it knows no more than how long to wait before a look."""

    def is_due(self, last_run_at: datetime) -> Any:
        now = self.now()
        open_ = 9 <= now.hour < 11
        ran_lately = now - last_run_at < timedelta(minutes=20)
        return schedstate(is_due=open_ and not ran_lately, next=60)

    def __repr__(self) -> str:
        return "<office hours>"


# --- once ---


def test_once_is_due_once(app: Celery) -> None:
    times = planned(app, jobguard.at(NOON)).times
    assert times == At(NOON)
    assert list(times.after(NOON - DAY)) == [NOON]
    assert list(times.after(NOON)) == []
    assert times_of(times.fingerprint) == times
    assert times.text == "once, 2026-06-21T12:00:00Z"


def test_a_moment_without_a_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="needs a time zone"):
        jobguard.at(datetime(2026, 6, 21))


def test_a_job_that_is_due_once_is_planned_once_whoever_leads(stage: Stage) -> None:
    once = Job("work", "t", At(stage.now + timedelta(seconds=90)), job().policy, 0)
    stage.term(once)
    stage.at(89)
    stage.term(once).plan_due()
    assert stage.sent == []
    for seconds in (90, 91, 200):
        stage.at(seconds)
        assert stage.term(once).plan_due() is None
    assert stage.sent == [("02:01:30", 1, 0)]


@pytest.mark.parametrize("away_s", [0, 3600, 2 * 86400])
def test_one_that_was_due_while_nobody_led_is_caught_up_or_missed(stage: Stage, away_s: float) -> None:
    once = Job("work", "t", At(stage.now + timedelta(seconds=90)), job().policy, 0)
    stage.term(once)
    stage.at(90 + away_s)
    stage.term(once).plan_due()
    assert len(stage.sent) == (1 if away_s < 86400 else 0)
    assert len(stage.sent) + len(stage.done()) == 1


def test_the_same_config_under_stock_beat(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[str] = []
    monkeypatch.setattr(app, "send_task", lambda name, *args, **how: sent.append(name))
    now = NOON - timedelta(seconds=1)
    app.conf.beat_schedule = {
        "once": {"task": "t.once", "schedule": jobguard.at(NOON, nowfun=lambda: now)},
    }
    stock = celery.beat.Scheduler(app)
    stock.schedule["once"].last_run_at = now
    assert stock.tick() <= 1
    assert sent == []
    now = NOON + timedelta(seconds=1)
    for _ in range(3):
        stock._heap = None
        stock.tick()
    assert sent == ["t.once"]
    late = celery.beat.Scheduler(app)  # started after it: it was never this beat's to run
    late.schedule["once"].last_run_at = now
    late.tick()
    assert sent == ["t.once"]


def test_it_can_be_stored_and_compared() -> None:
    assert pickle.loads(pickle.dumps(jobguard.at(NOON))) == jobguard.at(NOON)
    assert jobguard.at(NOON) != jobguard.at(NOON + DAY)
    assert len({jobguard.at(NOON), jobguard.at(NOON)}) == 1


# --- those that can only be asked ---


def test_the_sun_is_asked_and_gives_whole_seconds(app: Celery) -> None:
    times = planned(app, solar("sunset", 52.5, 13.4)).times
    evenings = list(islice(times.after(NOON), 3))
    assert [each.date().isoformat() for each in evenings] == ["2026-06-21", "2026-06-22", "2026-06-23"]
    assert all(each.hour == 19 and each.microsecond == 0 for each in evenings)
    assert times.text == "as solar says: <solar: sunset at latitude 52.5, longitude: 13.4>"
    with pytest.raises(ValueError, match="not known in advance"):
        times_of(times.fingerprint)


def test_every_beat_finds_the_same_times_whenever_it_looks(app: Celery) -> None:
    for own in (solar("sunset", 52.5, 13.4), OfficeHours()):
        times = planned(app, own).times
        found = []
        cursor = now = NOON
        while now < NOON + DAY:  # a beat that looks when it should
            now = next_look(times, cursor, now) or now
            assert now > cursor
            for nominal in due(times, cursor, now).starts:
                found.append(cursor := nominal)
        late = due(times, NOON, NOON + DAY, catch_up=50)  # one that comes a day late
        assert list(late.starts) == [each for each in found if each <= NOON + DAY]
        assert found


def test_a_users_own_runs_when_it_says(app: Celery) -> None:
    times = planned(app, OfficeHours()).times
    assert [f"{each:%d %H:%M}" for each in islice(times.after(NOON), 7)] == [
        *("22 09:00", "22 09:20", "22 09:40", "22 10:00", "22 10:20", "22 10:40"),
        "23 09:00",
    ]


def test_one_that_is_silent_for_long_is_asked_about_the_present(app: Celery) -> None:
    class Flag(BaseSchedule):  # type: ignore[misc]
        up = False

        def is_due(self, last_run_at: datetime) -> Any:
            return schedstate(is_due=self.up, next=1)

    flag = Flag()
    times = planned(app, flag).times
    now = NOON + DAY
    assert list(times.after(NOON)) == []
    assert due(times, NOON, now).starts == ()
    assert next_look(times, NOON, now) == now + timedelta(seconds=1)
    flag.up = True
    assert due(times, now - timedelta(seconds=3), now).starts[-1] == now


def test_a_subclass_that_says_itself_when_is_asked(app: Celery) -> None:
    class NotOnSundays(crontab):  # type: ignore[misc]
        def is_due(self, last_run_at: datetime) -> Any:
            state = super().is_due(last_run_at)
            return schedstate(state.is_due and self.now().weekday() != 6, state.next)

    times = planned(app, NotOnSundays(minute=0, hour=6, app=app)).times  # NOON is one
    assert next(iter(times.after(NOON - DAY))) == datetime(2026, 6, 22, 6, tzinfo=UTC)


def test_what_is_no_schedule_of_celerys_is_refused(app: Celery) -> None:
    class Odd:
        def is_due(self, last_run_at: datetime) -> Any:
            return True, 1

    entry = ScheduleEntry(name="odd", task="t", schedule=5, app=app)
    entry.schedule = Odd()
    with pytest.raises(ConfigurationError, match=r"'odd' has a schedule of type .*Odd, which is none of"):
        jobs(app, {"odd": entry}, Settings())


def test_a_leader_plans_what_it_must_ask(stage: Stage, app: Celery) -> None:
    own = Job("work", "t", planned(app, OfficeHours()).times, job().policy, 0)
    leader = stage.term(own)  # at two in the night
    assert leader.plan_due() == stage.now + timedelta(minutes=1)
    while stage.now.hour < 9 or stage.now.minute < 25:
        stage.now = leader.plan_due() or stage.now
    assert stage.sent == [("09:00:00", 1, 0), ("09:20:00", 1, 0)]
    assert {each.verdict for each in stage.done()} == set()
