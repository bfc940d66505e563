"""What hangs on a guarded task: results, chains, groups and chords, whoever dies and whatever comes twice."""

import gc
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery, chain, chord, group
from celery.exceptions import ChordError, TaskRevokedError, WorkerLostError

from jobguard.records import Verdict
from tests.plugin.bench import PATIENCE_S, WORLDS, Bench, until
from tests.plugin.test_worker_deaths import stopped

# Celery leaves the connection it heard results on to the collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")


@pytest.fixture
def app(bench: Bench) -> Iterator[Celery]:
    """Of whoever waits for results."""
    gc.freeze()  # the collector looks through what is made from here on, and not each time through all
    with Celery("caller", broker=bench.broker, backend=bench.backend, set_as_current=False) as app:
        yield app
        for waiting in app.backend._pending_results:
            waiting.clear()  # whom nobody asked: the app would keep them
        gc.collect()  # results unsubscribe as they go, while there is a broker
        app.backend.result_consumer.stop()
        app.backend.client.connection_pool.disconnect()
    gc.collect()  # connections that Celery forgot when one was lost: here, where that is no error
    gc.unfreeze()


def told(bench: Bench) -> list[Any]:
    return [line["said"] for line in bench.journal() if line["event"] == "told"]


def get(result: Any) -> Any:
    """As a caller waits: what never comes is a test that fails, and no hang."""
    return result.get(timeout=PATIENCE_S, interval=0.02)


def test_copies_cost_no_link_and_add_none(bench: Bench, app: Celery) -> None:
    """A chain, a group and a chord, each with a guarded task whose message comes three times."""
    bench.worker("-c", "2")
    chained, grouped, counted = (bench.plan(job, "run_once") for job in ("chained", "grouped", "counted"))

    link = bench.signature(app, chained, "run_once") | app.signature("tell")
    assert get(link.apply_async()) == "result"

    together = group(bench.signature(app, grouped, "run_once"), app.signature("plain", (1,)))
    assert get(together.apply_async()) == ["result", 2]

    header = [bench.signature(app, counted, "run_once"), app.signature("plain", (2,))]
    assert get(chord(header)(app.signature("tell"))) == ["result", 3]

    for occurrence in (chained, grouped, counted):
        for _ in range(2):
            bench.send(occurrence, "run_once")
        assert bench.verdict(occurrence).verdict is Verdict.RAN
        assert bench.events(occurrence) == ["started", "finished"]
    until(lambda: bench.workers[0].log.count(" not run: ") == 6, "the copies are dropped")
    assert told(bench) == ["result", ["result", 3]]


def test_a_copy_that_is_dropped_leaves_the_state_as_it_is(bench: Bench, app: Celery) -> None:
    """STARTED is written before any gate; not over SUCCESS, and a live one is STARTED anyway."""
    bench.worker("-c", "2", TEST_TRACK_STARTED="1")
    occurrence, gate = bench.plan("tracked", "run_once"), bench.gate("tracked")
    waiting = bench.signature(app, occurrence, "run_once", str(gate)).apply_async()
    bench.started(occurrence)
    bench.send(occurrence, "run_once", 1, str(gate))
    until(lambda: bench.workers[0].log.count(" not run: ") == 1, "the copy is dropped")
    assert bench.state(waiting.id) == "STARTED"
    gate.touch()
    assert get(waiting) == "result"
    bench.send(occurrence, "run_once", 1, str(gate))
    until(lambda: bench.workers[0].log.count(" not run: ") == 2, "so is the next")
    assert bench.state(waiting.id) == "SUCCESS"


def test_a_link_is_nobodys_occurrence(bench: Bench, app: Celery) -> None:
    """Celery gives a link none of our headers: it is a plain task, and may come twice like any."""
    bench.worker()
    occurrence = bench.plan("first", "run_once")
    again = bench.signature(app, occurrence, "run_once") | app.signature("run_once", immutable=True)
    with pytest.raises(Exception, match="not the body of a scheduled run"):
        get(again.apply_async())  # its body asks for `current()`
    assert bench.verdict(occurrence).verdict is Verdict.RAN


@WORLDS
def test_who_waits_for_a_run_whose_process_was_killed_is_told(bench: Bench, app: Celery) -> None:
    """get() raises, the chain ends, the chord fails: the attempt is lost, and what follows has another id."""
    bench.worker("-c", "2")
    for job, build in (
        ("alone", lambda first: first),
        ("chained", lambda first: chain(first, app.signature("tell"))),
        ("counted", lambda first: chord([first, app.signature("plain", (1,))], app.signature("tell"))),
    ):
        occurrence = bench.plan(job, "run_once")
        first = bench.signature(app, occurrence, "run_once", str(bench.gate("never")))
        waiting = build(first).apply_async()
        os.kill(bench.started(occurrence)["pid"], signal.SIGKILL)
        with pytest.raises((WorkerLostError, ChordError)):
            get(waiting)
        until(lambda occurrence=occurrence: bench.active(occurrence) is None, "the claim is freed")  # type: ignore[misc]
        attempt = bench.attempt(occurrence, 1)
        assert attempt is not None
        assert attempt.outcome == "lost"
    assert told(bench) == []


@WORLDS
@pytest.mark.parametrize("task", ["run_once", "run_late"])
def test_a_process_killed_after_its_outcome_was_recorded_costs_nobody_anything(
    bench: Bench, app: Celery, task: str
) -> None:
    """Recorded, neither stored nor handed on: another delivery gives the outcome, and the chain goes on."""
    bench.worker("-c", "2")
    for job, build, expected in (
        ("chained", lambda first: chain(first, app.signature("tell")), "kept"),
        (
            "counted",
            lambda first: chord([first, app.signature("plain", (1,))], app.signature("tell")),
            ["kept", 2],
        ),
    ):
        occurrence = bench.plan(job, task)
        waiting = build(bench.signature(app, occurrence, task, str(bench.gate("never")))).apply_async()
        start = bench.started(occurrence)
        bench.record(occurrence, "kept")
        os.kill(start["pid"], signal.SIGKILL)
        assert get(waiting) == expected
        assert told(bench)[-1] == expected
    assert len(told(bench)) == 2


def test_who_waits_for_a_dead_attempt_is_told(bench: Bench, app: Celery) -> None:
    """Superseded or skipped: revoked, so get() raises and the chord fails. Documented, and no hang."""
    bench.worker("-c", "2")
    slow, gate = bench.plan("slow", "run_once"), bench.gate("slow")
    bench.send(slow, "run_once", 1, str(gate))
    bench.started(slow)
    skipped, counted = bench.plan("slow", "run_once"), bench.plan("slow", "run_once")
    with pytest.raises(TaskRevokedError):
        get(bench.signature(app, skipped, "run_once").apply_async())
    header = [bench.signature(app, counted, "run_once"), app.signature("plain", (1,))]
    with pytest.raises((TaskRevokedError, ChordError)):
        get(chord(header)(app.signature("tell")))
    gate.touch()
    assert [bench.verdict(each).verdict for each in (slow, skipped, counted)] == [
        Verdict.RAN,
        Verdict.SKIPPED,
        Verdict.SKIPPED,
    ]
    assert told(bench) == []


def test_a_task_that_is_replaced_by_many_ends_its_occurrence_and_they_its_result(
    bench: Bench, app: Celery
) -> None:
    bench.worker("-c", "2")
    occurrence = bench.plan("replaced", "replace_by_many")
    assert get(bench.signature(app, occurrence, "replace_by_many").apply_async()) == [2, 3]
    done = bench.verdict(occurrence)
    assert (done.verdict, "replaced by a workflow" in done.reason) == (Verdict.RAN, True)


def test_autoretry_is_a_retry(bench: Bench, app: Celery) -> None:
    bench.worker("-c", "2")
    occurrence = bench.plan("again", "autoretry")
    assert get(bench.signature(app, occurrence, "autoretry").apply_async()) == 2
    assert (bench.verdict(occurrence).verdict, bench.verdict(occurrence).r) == (Verdict.RAN, 2)
    assert [line["r"] for line in bench.journal(occurrence)] == [0, 1, 2]


@pytest.mark.timeout(400)
def test_a_thousand_retries_at_once(bench: Bench, app: Celery) -> None:
    """Each is published before its predecessor has handed over, and met by the other children."""
    jobs, times = 10, 100
    bench.worker("-c", "4", "--prefetch-multiplier", "4")
    occurrences = [bench.plan(f"job {number}", "retry_many") for number in range(jobs)]
    waiting = [bench.signature(app, each, "retry_many", times).apply_async() for each in occurrences]
    assert [result.get(timeout=300, interval=0.1) for result in waiting] == [times] * jobs
    for occurrence in occurrences:
        assert bench.verdict(occurrence).r == times
        assert [line["r"] for line in bench.journal(occurrence)] == list(range(times + 1))


def test_a_soft_shutdown_lets_a_body_end(bench: Bench) -> None:
    """SIGQUIT and a time to end in: the body that uses it has run, and the worker then leaves nothing."""
    worker = bench.worker(TEST_SOFT_SHUTDOWN="2", TEST_TTL="600")
    occurrence, gate = bench.plan("ending", "run_once"), bench.gate("ending")
    bench.send(occurrence, "run_once", 1, str(gate))
    bench.started(occurrence)
    worker.process.send_signal(signal.SIGQUIT)
    until(lambda: "Initiating Soft Shutdown" in worker.log, "the worker waits")
    with stopped(worker.process.pid):  # its time would be over before a busy host runs the body
        gate.touch()
        assert bench.verdict(occurrence).verdict is Verdict.RAN
    worker.process.wait(PATIENCE_S)
    until(lambda: not bench.advertised(), "nothing is left")
