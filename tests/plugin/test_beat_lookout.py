"""What is behind is seen from outside: by a beat that does not lead, on the command line, in REST."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from celery import Celery

from jobguard.celery.beat import Scheduler
from jobguard.celery.leader import Sent
from jobguard.celery.leadership import Leadership
from jobguard.celery.lookout import Lookout
from jobguard.client import Client
from jobguard.observe.late import Lateness
from jobguard.records import Keys, Schedule, encode
from jobguard.settings import Settings
from tests.plugin.bench import Bench, until
from tests.plugin.stage import Stage, job, operators

AGO = timedelta(hours=1)


@pytest.fixture
def hands(stage: Stage) -> Iterator[Client]:
    """An hour ago a beat led, and nothing was planned since."""
    stage.now = datetime.now(UTC) - AGO
    with operators(stage) as client:
        yield client


def states(lateness: Lateness) -> dict[str, str]:
    return {each.job: each.state for each in lateness.look().items}


def test_what_nobody_plans_publishes_or_starts_is_behind(stage: Stage, hands: Client) -> None:
    lateness = Lateness(hands)
    assert states(lateness) == {}
    jobs = job("work", every_s=60), job("rare", every_s=86400 * 365 * 50)
    leader = stage.term(*jobs)
    (late,) = lateness.look().items
    assert (late.job, late.state) == ("work", "not planned")
    assert late.seconds > 3500
    assert late.nominal_time == leader.definitions.cursors["work"].record.nominal.replace(
        second=0, microsecond=0
    ) + timedelta(minutes=1)
    stage.now += timedelta(minutes=1)
    stage.broker = Sent.NO
    leader.plan_due()
    assert {each.state: each.why for each in lateness.look().items} == {
        "not planned": late.why,  # the next one, by now
        "not published": "the broker has not taken it",
    }
    stage.broker = Sent.YES
    stage.now += timedelta(seconds=10)
    stage.upkeep(leader)
    assert {each.state for each in lateness.look().items} == {"not planned", "not started"}


def test_what_is_on_time_is_not_behind(stage: Stage, hands: Client) -> None:
    leader = stage.term(job("work", every_s=60))
    stage.now = datetime.now(UTC)
    leader.plan_due()
    assert states(Lateness(hands)) == {}


def test_it_is_said_once_and_its_end_too(
    stage: Stage, hands: Client, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    leader = stage.term(*(job(f"j{number:02}", every_s=60) for number in range(13)))
    settings = Settings(endpoints=tuple(hands.urls), namespace=hands.namespace, timeout=30)
    lookout = Lookout(settings, lambda: False)
    for _ in range(3):
        lookout.look()
    assert caplog.text.count("is not planned") == 10
    assert caplog.text.count("and 3 more are behind") == 1
    stage.now = datetime.now(UTC)
    leader.plan_due()
    for _ in range(3):
        lookout.look()
    assert caplog.text.count("nothing is behind any more") == 1


def test_a_beat_that_does_not_lead_says_that_the_leader_does_not_work(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("jobguard.celery.lookout.LOOK_S", 0.05)
    since = datetime.now(UTC) - AGO
    stuck = Schedule(job="work", task="t", text="", fingerprint="every 60000000 us", since=since)
    keys = Keys(bench.namespace)
    bench.client.put(keys.schedule("work"), encode(stuck))
    settings = Settings(endpoints=(bench.store.url,), namespace=bench.namespace)
    idle = Leadership(settings)
    until(idle.fence, "somebody leads and does nothing")
    with Celery("beats", broker="memory://", set_as_current=False) as app:
        app.conf.jobguard_endpoints = [bench.store.url]
        app.conf.jobguard_namespace = bench.namespace
        scheduler = Scheduler(app)
        until(lambda: scheduler.tick() and "work of " in caplog.text, "it is said")
        scheduler.close()
    idle.close()
    assert "is not planned" in caplog.text
    assert "leads, and has not planned it" in caplog.text
