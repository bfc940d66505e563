"""The pools beside prefork: they claim like it; what cannot be stopped there is told, and refused."""

import signal

import pytest
from celery import Celery

from jobguard.records import Occurrence, Verdict
from tests.broker import is_running
from tests.plugin.bench import Bench, WorkerProcess, until

TTL = 4.0  # where it is the subject
in_each_pool = pytest.mark.parametrize("pool", ["threads", "gevent", "solo"])


@pytest.fixture
def worker(bench: Bench, pool: str) -> WorkerProcess:
    return bench.worker("-P", pool, "-c", "4", TEST_TTL="6")


@pytest.fixture
def hasty(bench: Bench, pool: str) -> WorkerProcess:
    return bench.worker("-P", pool, "-c", "4", TEST_TTL=f"{TTL:.0f}")


def lost(bench: Bench, occurrence: Occurrence) -> None:
    """Freed, and known as lost: what the leader goes on from."""
    until(lambda: bench.active(occurrence) is None, "the claim is freed")
    attempt = bench.attempt(occurrence, 1)
    assert attempt is not None
    assert attempt.outcome == "lost", attempt


@in_each_pool
def test_of_four_copies_one_runs(bench: Bench, pool: str) -> None:
    worker = bench.worker("-P", pool, "-c", "4", TEST_TTL="600")
    occurrence, gate = bench.plan("digest", "run_once"), bench.gate("digest")
    for _ in range(4):
        bench.send(occurrence, "run_once", 1, str(gate))
    bench.started(occurrence)
    if pool != "solo":  # there the next comes when the first is done
        until(lambda: worker.log.count(": second delivery, already running on ") == 3, "three are told")
    gate.touch()
    assert bench.verdict(occurrence).verdict is Verdict.RAN
    until(lambda: worker.log.count(" not run: ") == 3, "three are dropped")
    assert bench.events(occurrence) == ["started", "finished"]
    assert worker.stop() == 0
    until(lambda: not bench.advertised(), "its lease goes with it")  # by itself it would live on


@in_each_pool
def test_a_claim_that_was_taken_is_told_and_its_outcome_refused(bench: Bench, worker: WorkerProcess) -> None:
    occurrence, gate = bench.plan("careful", "check"), bench.gate("careful")
    bench.send(occurrence, "check", 1, str(gate))
    bench.started(occurrence)
    bench.client.delete(bench.keys.active(occurrence))
    until(lambda: "cannot be stopped" in worker.log, "the worker says so")
    gate.touch()
    until(lambda: "refused" in bench.events(occurrence), "check() refuses")
    assert bench.events(occurrence) == ["started", "refused"]
    until(lambda: "was gone" in worker.log, "so does the store")
    assert bench.verdict(occurrence).verdict is Verdict.UNRECORDED
    until(lambda: not bench.shared_files("stop-*"), "the word to stop is forgotten")


@pytest.mark.parametrize("pool", ["threads", "gevent"])
def test_a_lease_that_ended_is_told_and_the_outcome_refused(bench: Bench, hasty: WorkerProcess) -> None:
    occurrence, gate = bench.plan("late", "check"), bench.gate("late")
    bench.send(occurrence, "check", 1, str(gate))
    bench.started(occurrence)
    hasty.process.send_signal(signal.SIGSTOP)
    until(lambda: bench.active(occurrence) is None, "its lease has ended")
    hasty.process.send_signal(signal.SIGCONT)
    until(lambda: "cannot be stopped" in hasty.log, "the worker says so")
    gate.touch()
    until(lambda: "refused" in bench.events(occurrence), "check() refuses")
    assert bench.verdict(occurrence).verdict is Verdict.UNRECORDED


@in_each_pool
def test_a_body_that_would_end_its_process_is_lost_and_the_worker_lives(
    bench: Bench, worker: WorkerProcess
) -> None:
    for how in ("SystemExit", "KeyboardInterrupt"):
        occurrence = bench.plan(how, "leave")
        sent = bench.send(occurrence, "leave", 1, how)
        bench.started(occurrence)
        lost(bench, occurrence)
        until(lambda sent=sent: bench.state(sent) == "FAILURE", "who waits for it is told")
    following = bench.plan("following", "run_once")
    bench.send(following, "run_once")
    assert bench.verdict(following).verdict is Verdict.RAN
    assert is_running(worker.process.pid)


@pytest.mark.parametrize("pool", ["gevent"])
@pytest.mark.usefixtures("hasty")
def test_a_body_that_computes_for_longer_than_the_ttl_keeps_its_claim(bench: Bench) -> None:
    """It lets no other greenlet run; the lease is renewed by a thread beside them all."""
    occurrence = bench.plan("computing", "spin")
    bench.send(occurrence, "spin", 1, 1.3 * TTL)
    assert bench.verdict(occurrence).verdict is Verdict.RAN
    assert bench.events(occurrence) == ["started", "finished"]


def test_in_prefork_a_body_may_even_hold_the_interpreter(bench: Bench) -> None:
    """In one call of C, so that no thread of its process gets a turn: its parent renews."""
    bench.worker(TEST_TTL=f"{TTL:.0f}")
    occurrence = bench.plan("hogging", "hog")
    bench.send(occurrence, "hog", 1, 1.3 * TTL)
    done = bench.verdict(occurrence)
    assert done.verdict is Verdict.RAN
    assert done.started is not None
    assert (done.finished - done.started).total_seconds() > TTL


@pytest.mark.parametrize("pool", ["gevent"])
def test_a_greenlet_that_was_revoked_or_took_too_long_has_a_verdict(
    bench: Bench, worker: WorkerProcess
) -> None:
    revoked, limited = bench.plan("revoked", "run_once"), bench.plan("limited", "limited")
    sent = bench.send(revoked, "run_once", 1, str(bench.gate("never")))
    bench.started(revoked)
    with Celery("operator", broker=bench.broker, set_as_current=False) as app:
        app.control.revoke(sent, terminate=True)
    done = bench.verdict(revoked)
    assert (done.verdict, done.reason) == (Verdict.FAILED, "terminated by a revoke")
    done = bench.run(limited, "limited", str(bench.gate("never")))
    assert (done.verdict, done.reason) == (Verdict.FAILED, "hard time limit: 1 second")
    assert is_running(worker.process.pid)
