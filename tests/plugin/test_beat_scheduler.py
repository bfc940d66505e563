"""The scheduler as Celery sees it: inert until it ticks, unbreakable when it does, open to hooks."""

import copy
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import celery.beat
import pytest
from celery import Celery
from celery.utils.imports import load_extension_class_names
from kombu.exceptions import OperationalError

from jobguard.celery.beat import Scheduler, _Term
from jobguard.celery.leader import Sent
from jobguard.errors import ConfigurationError, Unavailable
from jobguard.records import Open, read_header, task_id

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
NOWHERE = ["http://127.0.0.1:9"]  # discard: nothing listens


@pytest.fixture
def app() -> Iterator[Celery]:
    with Celery("beats", broker="memory://", set_as_current=False) as app:
        app.conf.jobguard_endpoints = NOWHERE
        app.conf.jobguard_timeout = 0.2
        app.conf.beat_schedule = {"work": {"task": "beats.work", "schedule": 5.0, "args": (1,)}}
        yield app


def record(**facts: Any) -> Open:
    return Open(**{"n": 1, "r": 0, "job": "work", "nominal": NOON, "task": "beats.work", **facts})


@pytest.fixture
def published(app: Celery, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What reaches the broker."""
    found: list[dict[str, Any]] = []

    def send_task(name: str, args: Any, kwargs: Any, **options: Any) -> Any:
        found.append({"name": name, "args": args, **options})

    monkeypatch.setattr(app, "send_task", send_task)
    return found


def publish(scheduler: Scheduler, open_: Open) -> Sent:
    return scheduler._publish(open_, scheduler._jobs[open_.job])


def test_it_is_found_under_its_name() -> None:
    assert dict(load_extension_class_names("celery.beat_schedulers"))["jobguard"] == (
        "jobguard.celery.beat:Scheduler"
    )


@pytest.mark.parametrize("lazy", [True, False])
def test_making_one_touches_nothing(app: Celery, lazy: bool) -> None:
    """Beat makes one for its banner and another to work with; web processes may make one to look at it."""
    before = set(threading.enumerate())
    scheduler = Scheduler(app, lazy=lazy)
    assert "http://127.0.0.1:9" in scheduler.info
    assert set(threading.enumerate()) <= before  # one of another test may end meanwhile
    scheduler.close()


def test_a_tick_without_a_store_ends_in_a_short_pause(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobguard.celery.beat._EXIT_S", 60.0)
    scheduler = Scheduler(app)
    for _ in range(3):
        assert 0 < scheduler.tick() <= 1
    scheduler.close()
    scheduler.close()  # beat does: once in its signal handler, once at its end
    assert scheduler.tick() <= 1


def test_one_that_was_closed_and_whose_exit_was_swallowed_ends_all_the_same(
    app: Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Raised by a signal handler inside a finalizer, SystemExit goes no further."""
    monkeypatch.setattr("jobguard.celery.beat._EXIT_S", 60.0)
    scheduler = Scheduler(app)
    scheduler.close()
    assert scheduler.tick() <= 1
    monkeypatch.setattr("jobguard.celery.beat._EXIT_S", 0.0)
    with pytest.raises(SystemExit):
        scheduler.tick()
    scheduler.close()


@pytest.mark.parametrize("failure", [Unavailable("no quorum"), ZeroDivisionError("a bug")])
def test_no_exception_leaves_a_tick(
    app: Celery, failure: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    scheduler = Scheduler(app)

    def turn() -> float:
        raise failure

    monkeypatch.setattr(scheduler, "_turn", turn)
    assert 0 < scheduler.tick() <= 1
    scheduler.close()
    assert str(failure) in caplog.text


def test_only_a_turn_that_succeeded_counts_as_work(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    worked: list[bool] = []
    monkeypatch.setattr("jobguard.celery.leadership.Leadership.worked", lambda self: worked.append(True))
    scheduler = Scheduler(app)
    turns = iter([0.1, ZeroDivisionError("a bug"), Unavailable("no quorum"), 0.1])

    def lead(term: Any) -> float:
        match next(turns):
            case Exception() as error:
                raise error
            case pause:
                return float(pause)

    monkeypatch.setattr(scheduler, "_current_term", lambda: _Term(None, None))  # type: ignore[arg-type]
    monkeypatch.setattr(scheduler, "_lead", lead)
    found = []
    for _ in range(4):
        worked.clear()
        scheduler.tick()
        found.append(bool(worked))
    scheduler.close()
    assert found == [True, False, False, True]


def test_who_hears_from_the_store_again_sends_nothing_more_alone(
    app: Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another may lead by now, and every further look would cost a question."""
    asked, turns = iter(range(9)), []
    monkeypatch.setattr(Scheduler, "_store_is_away", lambda self: next(asked) == 0)
    scheduler = Scheduler(app)
    monkeypatch.setattr(scheduler, "_current_term", lambda: None)
    scheduler._alone = SimpleNamespace(turn=lambda: turns.append(1))  # type: ignore[assignment]
    for _ in range(4):
        assert scheduler.tick() > 0
    scheduler.close()
    assert (turns, next(asked)) == ([1], 2)


def test_celerys_own_entry_is_planned_too(app: Celery) -> None:
    """Backends that do not expire results by themselves get a daily clean-up from beat."""
    assert list(Scheduler(app).schedule) == ["work", "celery.backend_cleanup"]


def test_periodic_tasks_are_planned_whatever_they_are_called(app: Celery) -> None:
    @app.task(name="beats.say")
    def say(text: str) -> None: ...

    @app.on_after_configure.connect
    def setup(sender: Celery, **_: Any) -> None:
        sender.add_periodic_task(10.0, say.s('a/b "c" %2F'))
        sender.add_periodic_task(10.0, say.s("ü"), name="grüße/täglich")

    app.finalize()
    names = set(Scheduler(app).schedule)
    assert {"beats.say('a/b \"c\" %2F')", "grüße/täglich"} <= names


def test_an_entry_added_later_is_understood_or_refused(app: Celery, caplog: pytest.LogCaptureFixture) -> None:
    scheduler = Scheduler(app)
    scheduler.add(name="late", task="beats.work", schedule=0.001)
    for _ in range(3):
        assert scheduler.tick() > 0
    assert caplog.text.count("beat entry 'late' cannot be planned") == 1
    assert set(scheduler._jobs) == {"work", "celery.backend_cleanup"}  # planned as before
    scheduler.add(name="good", task="beats.work", schedule=10.0)
    del scheduler.schedule["late"]
    scheduler.tick()
    assert "good" in scheduler._jobs
    scheduler.close()


def test_a_message_carries_our_header_and_id_beside_what_the_entry_says(
    app: Celery, published: list[dict[str, Any]]
) -> None:
    app.conf.beat_schedule["work"]["options"] = {"queue": "slow", "headers": {"mine": 1}}
    scheduler = Scheduler(app)
    assert publish(scheduler, record(deadline=NOON)) is Sent.YES
    (message,) = published
    assert (message["args"], message["queue"], message["expires"]) == ([1], "slow", NOON)
    assert message["task_id"] == task_id("default", record().occurrence, 1)
    assert message["headers"]["mine"] == 1
    assert message["confirm_timeout"] > 0
    header = read_header(message["headers"]["jobguard"])
    assert header
    assert header.occurrence == record().occurrence
    assert "jobguard" not in app.conf.beat_schedule["work"]["options"]["headers"]


def test_an_expiry_of_the_entrys_own_is_kept(app: Celery, published: list[dict[str, Any]]) -> None:
    app.conf.beat_schedule["work"]["options"] = {"expires": 3}
    publish(Scheduler(app), record(deadline=NOON))
    assert published[0]["expires"] == 3


def test_a_retry_is_sent_as_that_retry_and_never_expires(
    app: Celery, published: list[dict[str, Any]]
) -> None:
    publish(Scheduler(app), record(r=2, deadline=NOON))
    assert published[0]["retries"] == 2
    assert "expires" not in published[0]


def test_a_hook_around_apply_entry_sees_every_message(
    app: Celery, published: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Sentry does: patched on Celery's class, called with (self, entry) by position, updates the headers.

    Not those of the entry itself: they are the job's definition, and a check-in's id is no deploy.
    """
    original = celery.beat.Scheduler.apply_entry
    seen = []

    def patched(*args: Any, **kwargs: Any) -> Any:
        scheduler, entry = args
        seen.append((entry.name, entry.schedule))
        headers = entry.options.pop("headers", {})
        headers.update({"sentry-monitor": "x"})
        entry.options["headers"] = headers
        return original(scheduler, entry, **kwargs)

    monkeypatch.setattr(celery.beat.Scheduler, "apply_entry", patched)
    app.conf.beat_schedule["work"]["options"] = {"headers": {"mine": 1}}
    scheduler = Scheduler(app)
    definition = scheduler._jobs["work"].definition(NOON, 0)
    before = copy.deepcopy(scheduler.schedule["work"].options)
    assert publish(scheduler, record()) is Sent.YES
    assert seen[0][0] == "work"
    assert {"mine", "sentry-monitor", "jobguard"} <= set(published[0]["headers"])
    assert scheduler.schedule["work"].options == before
    assert definition.options == {"headers": {"mine": 1}}


def test_a_publication_that_fails_may_have_happened(
    app: Celery, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def send_task(*args: Any, **kwargs: Any) -> Any:
        raise OSError("connection reset")

    monkeypatch.setattr(app, "send_task", send_task)
    assert publish(Scheduler(app), record()) is Sent.MAYBE
    assert "connection reset" in caplog.text


def test_one_that_the_broker_does_not_answer_may_have_happened_and_the_next_one_waits(
    app: Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    def send_task(*args: Any, **kwargs: Any) -> Any:
        raise OperationalError("timed out") from TimeoutError()

    monkeypatch.setattr(app, "send_task", send_task)
    assert publish(Scheduler(app), record()) is Sent.UNANSWERED


def test_without_a_connection_nothing_was_sent(app: Celery) -> None:
    app.conf.broker_url = "redis://127.0.0.1:9/0"
    assert publish(Scheduler(app), record()) is Sent.NO


def test_an_entry_that_cannot_be_planned_is_refused_at_the_start(app: Celery) -> None:
    app.conf.beat_schedule["bad"] = {"task": "beats.work", "schedule": 0.001}
    with pytest.raises(ConfigurationError, match="beat entry 'bad'"):
        Scheduler(app)
