"""`jobguard doctor`: each thing that would cost once-only is found, with a word on what to do."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import msgspec
import pytest
from celery import Celery
from celery.schedules import crontab
from click.testing import CliRunner, Result
from kombu import Queue

import jobguard
from jobguard import schedules
from jobguard.celery.doctor import Fleet, of_app, turns
from jobguard.celery.parent import advertisement
from jobguard.celery.transports import handed_out_again_after
from jobguard.cli import main
from jobguard.client import Client
from jobguard.doctor import Finding, diagnosis, of_store
from jobguard.records import Done, Verdict, Worker, decode, encode
from tests.plugin.beats import beats
from tests.plugin.bench import Bench, until

Found = dict[str, list[Finding]]


@pytest.fixture
def app(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Iterator[Celery]:
    """A project as it should be, but for the one thing that a test spoils."""
    app = Celery("project", broker=bench.broker, set_as_current=False)
    app.conf.update(
        beat_scheduler="jobguard",
        beat_schedule={"digest": {"task": "digest", "schedule": 60.0}},
        beat_schedule_filename=str(bench.directory / "stock-schedule"),
        jobguard_endpoints=[bench.store.url],
        jobguard_namespace=bench.namespace,
    )
    jobguard.install(app)
    task(app, "digest", acks_late=True)
    monkeypatch.setattr("jobguard.celery.doctor._INSPECT_S", 0.1)  # mostly nobody is there to answer
    yield app
    app.close()


def task(app: Celery, name: str, **options: Any) -> None:
    def body() -> None: ...

    app.task(name=name, shared=False, **options)(body)


def find(app: Celery, bench: Bench) -> Found:
    found: Found = {}
    with Client([bench.store.url], namespace=bench.namespace, timeout=30) as client:
        for finding in of_app(app, client):
            assert finding.fix or finding.status == "pass", finding
            found.setdefault(finding.check, []).append(finding)
    return found


def said(found: Found, check: str) -> tuple[str, str]:
    (finding,) = found[check]
    return finding.status, finding.text


def cli(*options: str, **environment: str) -> Result:
    return CliRunner(env=environment).invoke(main, ["doctor", *options], catch_exceptions=False)


# --- a system that runs -------------------------------------------------------------------------


def test_a_project_with_one_of_each_kind_of_worker(bench: Bench) -> None:
    """By the command itself, as an operator calls it: two beats, a prefork worker, one in threads, and one
    that guards nothing.
    """
    environment = {"TEST_GUARD": "1", "TEST_SCHEDULE": '{"work": 3e7}'}  # not due meanwhile, and so not late
    with beats(bench) as on:
        on.start(**environment)
        on.start(**environment)
        app = "tests.plugin.beat_app"
        bench.worker(app=app, ready=False, **environment)
        bench.worker("-P", "threads", app=app, ready=False, **environment)
        bench.worker(app=app, ready=False, TEST_SCHEDULE=environment["TEST_SCHEDULE"])
        until(lambda: any(beat.leads for beat in on.beats), "a beat leads")
        for worker in bench.workers:
            worker.wait_until_ready()
        until(lambda: len(bench.advertised()) == 2, "two guard")
        until(lambda: len(bench.client.prefix(bench.keys.prefix("elections")).kvs) == 2, "one stands by")

        def ask() -> dict[str, Any] | None:
            """All findings; None while there are others: where the host stands still, some answer late."""
            asked = subprocess.run(
                [sys.executable, "-m", "celery", "-A", app, "jobguard", "doctor", "-o", "json"],
                env=bench.environment(**environment),
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert asked.returncode == 1, asked.stdout + asked.stderr
            print(asked.stdout)
            found = {each["check"]: each for each in json.loads(asked.stdout)["findings"]}
            by_status = {
                status: {name for name, each in found.items() if each["status"] == status}
                for status in ("fail", "warn")
            }
            return found if by_status == {"fail": {"workers"}, "warn": {"quorum", "pools"}} else None

        found = until(ask, "one thing to mend and two to know")
    assert "w3@test answers and guards nothing" in found["workers"]["text"]
    assert "jobguard.install(app)" in found["workers"]["fix"]
    assert "w2@test (thread)" in found["pools"]["text"]
    for name in ("endpoints", "versions", "clock", "beats", "install", "broker", "schedulers", "tasks"):
        assert found[name]["status"] == "pass", found[name]


# --- the store ----------------------------------------------------------------------------------


def test_without_a_store_the_rest_is_looked_at_all_the_same(bench: Bench, app: Celery) -> None:
    with Client(["http://127.0.0.1:9"], namespace=bench.namespace) as client:
        found = {each.check: each for each in of_app(app, client)}
    assert found["endpoints"].status == "fail"
    assert "Connection refused" in found["endpoints"].text
    assert found["broker"].status == "pass"
    assert "quorum" not in found


def test_an_endpoint_that_is_away_and_nobody_who_leads(bench: Bench) -> None:
    with Client([bench.store.url, "http://127.0.0.1:9"], namespace=bench.namespace) as client:
        found = {each.check: each for each in of_store(client)}
    assert (found["endpoints"].status, found["endpoints"].text) == (
        "warn",
        "1 of 2 endpoints answer; not http://127.0.0.1:9",
    )
    assert (found["beats"].status, found["beats"].text) == ("fail", "no beat leads: nothing is planned")


def clock_finding(client: Client, expected: str) -> Finding | None:
    """None while it is another: a host that stands still before it reads the answer has an older one."""
    (found,) = (each for each in of_store(client) if each.check == "clock")
    return found if found.status == expected else None


def test_a_clock_that_is_off(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    for ahead, expected in ((60.0, "fail"), (4.0, "warn"), (0.0, "pass")):
        clock = time.time
        with monkeypatch.context() as patched, Client([bench.store.url], timeout=30) as client:
            patched.setattr("jobguard.client.time.time", lambda ahead=ahead, clock=clock: clock() + ahead)
            found = until(partial(clock_finding, client, expected), f"{ahead} s off: {expected}")
    assert diagnosis([found]).worst == "pass"


def test_the_command_without_an_app_says_what_it_did_not_see(bench: Bench) -> None:
    seen = cli(JOBGUARD_ENDPOINTS=bench.store.url)
    assert seen.exit_code == 1
    assert "fail  beats" in seen.stdout
    assert "fix: celery -A proj jobguard doctor" in seen.stdout
    misspelt = cli("-o", "json", JOBGUARD_SESSION_TTL="soon")
    (finding,) = json.loads(misspelt.stdout)["findings"]
    assert (finding["check"], finding["status"]) == ("settings", "fail")
    assert "JOBGUARD_SESSION_TTL = 'soon' cannot be used" in finding["text"]


# --- the app ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spoilt", "check", "status", "text"),
    [
        ({"beat_scheduler": "celery.beat:PersistentScheduler"}, "schedulers", "fail", "publishes unguarded"),
        ({"task_always_eager": True}, "eager", "fail", "past every guard"),
        ({"task_protocol": 1}, "protocol", "fail", "do not carry the headers"),
        ({"jobguard_jobs": {"digets": {}}}, "schedule", "fail", "did you mean 'digest'"),
        ({"broker_url": "redis://127.0.0.1:9/0"}, "broker", "fail", "cannot be reached"),
        (
            {"worker_cancel_long_running_tasks_on_connection_loss": True},
            *("acks", "warn", "a blip of the broker ends the bodies of digest"),
        ),
        ({"broker_transport_options": {"visibility_timeout": 100}}, "redelivery", "fail", "run for 120 s"),
        (
            {"result_backend_transport_options": {"visibility_timeout": 200}},
            *("redelivery", "warn", "after 200 s"),
        ),
        ({}, "redelivery", "pass", "visibility_timeout is 3600 s; jobs that acknowledge late: 1"),
        ({}, "schedulers", "pass", "no other scheduler"),
        ({}, "workers", "warn", "no worker answers"),
    ],
)  # fmt: skip
def test_a_setting_that_costs_once_only(
    bench: Bench, app: Celery, spoilt: dict[str, Any], check: str, status: str, text: str
) -> None:
    _ran_for(bench, "digest", 120)
    app.conf.update(spoilt)
    found = find(app, bench)
    assert said(found, check)[0] == status
    assert text in said(found, check)[1]
    assert ("workers" in found) is ("broker_url" not in spoilt)  # nobody is away who cannot be asked


def _ran_for(bench: Bench, job: str, seconds: float) -> None:
    finished = datetime.now(UTC)
    started = finished - timedelta(seconds=seconds)
    done = Done(
        job=job, nominal=started, verdict=Verdict.RAN, nonce="n", finished=finished, started=started
    )  # fmt: skip
    bench.client.put(bench.keys.done(done.occurrence), encode(done))


def test_a_run_that_still_runs_counts(bench: Bench, app: Celery) -> None:
    bench.worker()
    occurrence = bench.plan("digest", "run_once")
    bench.send(occurrence, "run_once", 1, str(bench.gate("never")))
    bench.started(occurrence)
    app.conf.broker_transport_options = {"visibility_timeout": 0.1}
    found = until(lambda: find(app, bench)["redelivery"], "it is looked at")
    assert found[0].status == "fail"


def test_rabbitmq_has_settings_of_its_own(app: Celery) -> None:
    app.conf.task_queues = [Queue("celery", queue_arguments={"x-consumer-timeout": 60_000})]
    assert handed_out_again_after(Celery(set_as_current=False), "amqp")[0] == 1800
    assert handed_out_again_after(app, "pyamqp")[0] == 60


def test_rabbitmq_is_asked_to_confirm(app: Celery) -> None:
    from jobguard.celery.transports import messages

    app.conf.broker_url = "amqp://127.0.0.1:9//"
    found = {each.check: each.status for each in messages(app, {"digest": "digest"}, {})}
    assert found["confirm"] == "warn"
    app.conf.broker_transport_options = {"confirm_publish": True}
    found = {each.check: each.status for each in messages(app, {"digest": "digest"}, {})}
    assert found["confirm"] == "pass"


def test_a_quorum_queue_that_keeps_no_retry_until_it_is_due(app: Celery) -> None:
    from jobguard.celery.transports import messages

    app.conf.update(broker_url="amqp://127.0.0.1:9//", task_default_queue_type="quorum")
    found = {each.check: each for each in messages(app, {}, {})}
    assert found["countdown"].text.startswith("celery: a quorum queue of a direct exchange")
    topical = Celery(broker="amqp://127.0.0.1:9//", set_as_current=False)
    topical.conf.update(task_default_queue_type="quorum", task_default_exchange_type="topic")
    assert "countdown" not in {each.check for each in messages(topical, {}, {})}


def test_tasks_that_nothing_guards(bench: Bench, app: Celery) -> None:
    task(app, "importer", acks_late=True, reject_on_worker_lost=True)
    task(app, "short", acks_late=True, time_limit=60)
    task(app, "early")
    task(app, "in turn", acks_late=True, jobguard={"lock": []})
    found = find(app, bench)["unguarded"]
    assert [each.text.partition(":")[0] for each in found] == ["importer", "importer"]


def test_an_app_that_guards_nothing(bench: Bench) -> None:
    app = Celery("unguarded", broker=bench.broker, set_as_current=False)
    assert said(find(app, bench), "install")[0] == "fail"


def test_a_schedule_where_the_clocks_change(bench: Bench, app: Celery) -> None:
    app.conf.update(
        timezone="Europe/Berlin",
        beat_schedule={
            "gap": {"task": "digest", "schedule": crontab(hour=2, minute=30)},
            "meant": {"task": "digest", "schedule": crontab(hour=2, minute=15)},
            "noon": {"task": "digest", "schedule": crontab(hour=12, minute=0)},
        },
        jobguard_jobs={"meant": {"dst": "skip"}},
    )
    status, text = said(find(app, bench), "dst")
    assert (status, text.partition(" ")[0]) == ("warn", "gap")
    assert "does not exist" in text or "comes twice" in text
    app.conf.jobguard_jobs = {"*": {"dst": "once"}}
    assert said(find(app, bench), "dst")[0] == "pass"


def test_a_schedule_made_at_run_time_where_the_clocks_change(bench: Bench, app: Celery) -> None:
    actor = schedules.Actor(by="ann", via="test", reason="to see it found")
    at_half_past_two = schedules.Definition(task="digest", cron="30 2 * * *", zone="Europe/Berlin")
    said_so = msgspec.structs.replace(at_half_past_two, dst="once")
    with Client([bench.store.url], namespace=bench.namespace, timeout=30) as client:
        assert "dst" not in {each.check for each in of_store(client)}, "there is none to look at"
        schedules.add(client, "made", at_half_past_two, actor=actor)
        schedules.add(client, "meant", said_so, actor=actor)
        schedules.add(client, "often", schedules.Definition(task="digest", every_seconds=60), actor=actor)
        (alone,) = (each for each in of_store(client) if each.check == "dst")
        beside_the_code = find(app, bench)["dst"]
        assert [schedules.get(client, job).dst for job in ("made", "meant")] == ["", "once"]
        schedules.change(client, "made", said_so, actor=actor)
        (mended,) = (each for each in of_store(client) if each.check == "dst")
    assert (alone.status, alone.text.partition(" ")[0]) == ("warn", "made")
    assert "does not exist" in alone.text or "comes twice" in alone.text
    assert "jobguard schedules change made --dst once" in alone.fix
    assert alone in beside_the_code
    assert [each.status for each in beside_the_code] == ["warn", "pass"]
    assert mended.status == "pass"


# --- other schedulers ---------------------------------------------------------------------------


def test_a_stock_beat_and_a_redbeat_beside_ours(bench: Bench, app: Celery) -> None:
    import redis

    (bench.directory / "stock-schedule.db").touch()
    with redis.Redis.from_url(bench.broker) as connection:
        connection.set("redbeat::lock", "x", ex=60)
        found = find(app, bench)["schedulers"]
        connection.delete("redbeat::lock")
    assert {each.status for each in found} == {"fail"}
    assert ["a stock beat wrote" in found[0].text, "redbeat" in found[1].text] == [True, True]


def test_a_job_whose_task_no_worker_knows(bench: Bench, app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobguard.celery.doctor._INSPECT_S", 1.0)
    bench.worker()
    made = schedules.Definition(task="nightyl", every_seconds=60)
    actor = schedules.Actor(by="ann", via="test", reason="to see it found")
    with Client([bench.store.url], namespace=bench.namespace, timeout=30) as client:
        schedules.add(client, "nightly", made, actor=actor)
    app.conf.beat_schedule = {"digest": {"task": "digets", "schedule": 60.0}}

    def ask() -> Found | None:
        found = find(app, bench)
        return found if "tasks" in found and said(found, "workers")[0] == "pass" else None

    found = until(ask, "the worker answers")
    assert [each.text for each in found["tasks"]] == [
        "digest: no worker that answers knows task digets",
        "nightly: no worker that answers knows task nightyl",
    ]
    assert "set differently on w1@test (celery.beat:PersistentScheduler)" in said(found, "schedulers")[1]


def test_workers_that_give_no_turns(app: Celery) -> None:
    """They know the task, and run it with no key: they guard nothing, or are older than the option."""
    task(app, "alone", jobguard={"lock": []})
    now = advertisement("now@test", "prefork", 1)
    older = {key: value for key, value in json.loads(encode(now)).items() if key != "turns"}
    guarding = {"now@test": now, "older@test": decode(json.dumps(older).encode(), Worker)}
    knows = ["alone [rate_limit=10/s]", "digest"]

    def found(*nodes: str) -> list[tuple[str, str]]:
        fleet = Fleet(
            answered={}, tasks={"other@test": ["digest"]} | dict.fromkeys(nodes, knows), guarding=guarding
        )
        return [(each.status, each.text) for each in turns(app, fleet)]

    assert found() == []
    assert found("now@test") == [("pass", "each worker that knows alone gives it its turn")]
    ((status, text),) = found("now@test", "older@test", "plain@test")
    assert status == "fail"
    assert text.startswith("older@test, plain@test would run alone without a turn")
