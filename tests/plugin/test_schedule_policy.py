"""What a user may choose per job, and what happens to what is misspelt."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from celery import Celery
from celery.beat import ScheduleEntry
from celery.schedules import crontab, schedule

from jobguard.celery.entries import Job, jobs
from jobguard.errors import ConfigurationError
from jobguard.policy import Policy, policies
from jobguard.schedule import upcoming
from jobguard.settings import Settings

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)


def planned(app: Celery, times: Any, **policy: Any) -> Job:
    entry = ScheduleEntry(name="digest", task="send_digest", schedule=times, app=app)
    return jobs(app, {"digest": entry}, Settings(jobs={"digest": policy}))["digest"]


@pytest.fixture
def app() -> Celery:
    app = Celery(set_as_current=False)
    app.conf.timezone = "Europe/Berlin"
    return app


# --- policies ---


def test_a_job_of_which_nothing_is_said_gets_the_defaults() -> None:
    assert policies({}, ["digest"]) == {"digest": Policy()}


def test_the_star_holds_for_all_and_a_name_for_itself() -> None:
    chosen = policies(
        {"*": {"overlap": "allow", "catch_up": "none"}, "a": {"catch_up": {"all": 3}}}, ["a", "b"]
    )
    assert (chosen["a"].overlap, chosen["a"].catch_up) == ("allow", 3)
    assert (chosen["b"].overlap, chosen["b"].catch_up) == ("allow", 0)


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        ({"digets": {}}, "did you mean 'digest'"),
        ({"digest": {"overlaps": "skip"}}, "did you mean 'overlap'"),
        ({"digest": {"overlap": "slip"}}, "did you mean 'skip'"),
        ({"digest": {"catch_up": "all"}}, '"all"'),
        ({"digest": {"catch_up": {"all": 5000}}}, "at most 50"),
        ({"digest": {"on_lost": {"rerun": -1}}}, '"rerun"'),
        ({"digest": {"start_deadline": 0}}, "above zero"),
        ({"digest": {"start_deadline": 3e11}}, "100 years at most"),
        ({"digest": {"zone": "Europe/Berln"}}, "no such time zone"),
        ({"digest": {"no_quorum": "run-ungarded"}}, "did you mean 'run-unguarded'"),
    ],
)
def test_what_is_misspelt_is_refused_and_something_is_suggested(setting: Any, text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        policies(setting, ["digest", "invoices"])


# --- Celery's schedules ---


def test_a_crontab_is_planned_in_the_zone_of_the_app(app: Celery) -> None:
    job = planned(app, crontab(minute="30", hour="2"))
    assert upcoming(job.times, NOON, 1) == [datetime(2026, 11, 25, 1, 30, tzinfo=UTC)]
    assert job.times.text == "30 2 * * * Europe/Berlin dst=once"


def test_the_zone_of_the_policy_wins(app: Celery) -> None:
    job = planned(app, crontab(minute="30", hour="2"), zone="Asia/Tokyo")
    assert upcoming(job.times, NOON, 1) == [datetime(2026, 11, 24, 17, 30, tzinfo=UTC)]


@pytest.mark.parametrize(
    "spelled",
    [
        {"minute": "*/15"},
        {"minute": "0", "hour": "*/3,8-17"},
        {"minute": {0, 30}, "hour": [6, 18]},
        {"minute": 5, "hour": 22, "day_of_week": "mon-fri"},
        {"minute": 5, "hour": 3, "day_of_week": "sunday"},
        {"minute": 0, "hour": 0, "day_of_month": "1-7,15-21", "day_of_week": "mon"},
        {"minute": 0, "hour": 7, "day_of_month": "*/10", "month_of_year": "*/3"},
    ],
)
def test_away_from_dst_changes_the_times_are_those_of_celery(app: Celery, spelled: dict[str, Any]) -> None:
    app.conf.timezone = "UTC"
    stock = crontab(**spelled, app=app)
    last, expected = NOON, []
    for _ in range(20):
        stock.nowfun = lambda moment=last: moment
        last = last + stock.remaining_estimate(last)
        expected.append(last)
    assert upcoming(planned(app, crontab(**spelled, app=app)).times, NOON, 20) == expected


def test_a_full_set_is_a_wildcard_too(app: Celery) -> None:
    assert planned(app, crontab(minute=0, hour="0-23")).times.wildcard  # type: ignore[union-attr]
    assert not planned(app, crontab(minute=0, hour="0-22")).times.wildcard  # type: ignore[union-attr]


@pytest.mark.parametrize("every", [30, 30.0, timedelta(seconds=30), schedule(30)])
def test_an_interval_may_be_spelled_as_celery_allows(app: Celery, every: Any) -> None:
    assert planned(app, every).times.text == "every 30 s"


@pytest.mark.parametrize("times", [schedule(0.01), schedule(0)])
def test_what_cannot_be_planned_is_refused_by_name(app: Celery, times: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^beat entry 'digest' .*use a crontab, an interval"):
        planned(app, times)


def test_a_lost_run_is_repeated_only_where_somebody_said_it_may_be(app: Celery) -> None:
    assert planned(app, 5).reruns == 0
    assert planned(app, 5, on_lost={"rerun": 7}).reruns == 7

    @app.task(name="send_digest", acks_late=True)
    def send_digest() -> None: ...

    app.finalize()
    assert planned(app, 5).reruns == 3
    assert planned(app, 5, on_lost="fail").reruns == 0
