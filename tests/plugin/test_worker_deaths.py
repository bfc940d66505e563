"""Children, workers and stores that die, hang or come late: the claim is freed, the late one is refused."""

import os
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from threading import Event, Thread

import pytest
from sqlalchemy import create_engine, text

from jobguard import runs
from jobguard.celery.deadline import DeadlineFile, WorkerDirectory
from jobguard.client import Client
from jobguard.fencing.sqlalchemy import advance, create_guards
from jobguard.records import Attempt, Done, Occurrence, Verdict
from jobguard.runs import Gone
from jobguard.session import boottime
from tests.broker import is_running
from tests.plugin.bench import PATIENCE_S, WORLDS, Bench, WorkerProcess, until
from tests.stopwatch import Stopwatch, best_of
from tests.stores import Node

TTL = 4.0  # where the end of a lease is the subject
SHORT = {"TEST_TTL": f"{TTL:.0f}"}
ENDLESS = {"TEST_TTL": "600"}  # what hangs on it goes because somebody takes it away


def freed(bench: Bench, occurrence: Occurrence) -> Attempt:
    """Wait until nobody is active and the attempt is known as lost: what the leader reruns from."""
    until(lambda: bench.active(occurrence) is None, "the claim is freed")
    attempt = bench.attempt(occurrence, 1)
    opened = bench.open(occurrence)
    assert attempt is not None
    assert opened is not None
    assert (opened.n, opened.r) == (1, 0)
    return attempt


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@contextmanager
def silent(store: Node) -> Iterator[None]:
    """A store that takes connections and answers nothing."""
    store.pause()
    try:
        yield
    finally:
        store.resume()
        store.wait_until_ready()


def test_a_child_that_is_told_to_end_leaves_its_last_word_to_who_buries_it(bench: Bench) -> None:
    """A hard limit ends the child first: an orphan's claim is given back as lost, a limit is a failure."""
    worker = bench.worker()
    occurrence = bench.plan("limited", "run_once")
    bench.send(occurrence, "run_once", 1, str(bench.gate("never")))
    bench.started(occurrence)
    active = bench.active(occurrence)
    assert active is not None
    (made,) = bench.directory.glob(f"jobguard-{worker.process.pid}-*")
    with stopped(worker.process.pid):
        os.kill(active.pid, signal.SIGTERM)
        until(lambda: not is_running(active.pid), "the child ends")
        assert WorkerDirectory(made).children()[active.pid].nonce == active.nonce


@WORLDS
def test_a_killed_child_frees_its_claim_at_once(bench: Bench) -> None:
    worker = bench.worker(**ENDLESS)
    occurrence = bench.plan("killed", "run_once")
    sent = bench.send(occurrence, "run_once", 1, str(bench.gate("never")))
    start = bench.started(occurrence)
    with Stopwatch() as watch:
        os.kill(start["pid"], signal.SIGKILL)
        attempt = freed(bench, occurrence)
        assert watch.seconds < 3  # not when its parent compares what it holds, a third of a TTL later
    assert attempt.outcome == "lost"
    assert "signal 9" in attempt.error
    until(lambda: bench.state(sent) == "FAILURE", "who waits for this attempt is told")
    _refuse_the_late(bench, occurrence, start["token"])
    # The next child claims under a name of its own.
    again = bench.plan("killed", "run_once", overlap="allow")
    bench.client.delete(bench.keys.running(occurrence))
    bench.send(again, "run_once")
    assert bench.verdict(again).pid != start["pid"]
    assert is_running(worker.process.pid)


def _refuse_the_late(bench: Bench, occurrence: Occurrence, token: int) -> None:
    """The dead one's token can no longer end anything."""
    done = Done(
        job=occurrence.job,
        nominal=occurrence.nominal,
        verdict=Verdict.RAN,
        nonce="a zombie's",
        finished=datetime.now(UTC),
    )
    step = runs.finish(bench.keys, occurrence, token=token, done=done)
    answer = step.read(bench.client.txn_until_known(step.compare, step.success, step.failure))
    assert isinstance(answer, Gone)
    assert bench.done(occurrence) is None


@WORLDS
def test_a_killed_worker_frees_its_claims_with_its_lease(bench: Bench) -> None:
    worker = bench.worker(**SHORT)
    occurrence = bench.plan("orphaned", "run_once")
    bench.send(occurrence, "run_once", 1, str(bench.gate("never")))
    pid = bench.started(occurrence)["pid"]
    with Stopwatch() as watch:
        worker.kill()
        until(lambda: not is_running(pid), "the child dies with its parent")
        assert watch.seconds < 1  # not when it sees that nobody renews
    attempt = freed(bench, occurrence)
    assert attempt.outcome == ""  # nobody was left to say more: claimed, not active, so lost
    assert bench.advertised() == {}


@WORLDS
def test_a_child_that_died_after_recording_does_not_fail(bench: Bench) -> None:
    """Killed between our finish and Celery's own: the parent sends the message again, which answers."""
    bench.worker()
    occurrence = bench.plan("recorded", "run_once")
    sent = bench.send(occurrence, "run_once", 1, str(bench.gate("never")))
    start = bench.started(occurrence)
    bench.record(occurrence, "recorded")
    os.kill(start["pid"], signal.SIGKILL)
    until(lambda: bench.state(sent) != "PENDING", "a result is stored")
    assert bench.result(sent)["result"] == "recorded"  # type: ignore[index]


def test_what_a_body_started_dies_with_it(bench: Bench) -> None:
    bench.worker()
    occurrence = bench.plan("clinging", "cling")
    bench.send(occurrence, "cling", 1, str(bench.gate("never")))
    pid = bench.started(occurrence)["pid"]
    (grandchild,) = _children_of(pid)
    os.kill(pid, signal.SIGKILL)
    freed(bench, occurrence)
    with Stopwatch() as watch:
        until(lambda: not is_running(grandchild), "its own process dies, too")
        assert watch.seconds < 0.5  # it was killed before, and needs a turn of the processor to be gone


def _children_of(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def test_a_revoked_run_is_not_run_again(bench: Bench) -> None:
    from celery import Celery

    bench.worker()
    occurrence = bench.plan("revoked", "run_once")
    sent = bench.send(occurrence, "run_once", 1, str(bench.gate("never")))
    bench.started(occurrence)
    with Celery("operator", broker=bench.broker, set_as_current=False) as app:
        app.control.revoke(sent, terminate=True)
    done = bench.verdict(occurrence)
    assert (done.verdict, done.reason) == (Verdict.FAILED, "terminated by a revoke")


def test_a_released_body_is_stopped(bench: Bench) -> None:
    """An operator takes the claim while the body runs: it stops long before the lease would end."""
    bench.worker()
    occurrence = bench.plan("released", "cling")
    bench.send(occurrence, "cling", 1, str(bench.gate("never")))
    start = bench.started(occurrence)
    bench.client.delete(bench.keys.active(occurrence))
    until(lambda: not bench.running_guarded(start["pid"]), "the body stops")
    assert bench.events(occurrence) == ["started"]
    assert is_running(start["pid"])


# --- the deadline -------------------------------------------------------------------------------

LONG_GRACE = {"TEST_TTL": "7"}  # a second between being asked to stop and being killed


@contextmanager
def hanging(bench: Bench, worker: WorkerProcess, occurrence: Occurrence) -> Iterator[Callable[[], float]]:
    """The worker's main process hangs. What follows must come about before the lease can pass on.

    By the worker's own clock: a host that stands still between the child's last moment and the lease's would
    let the store be first. So the store's lease is kept for as long as that takes.

    Gives by how many seconds that is over, by the real clock: below 0, in time. Where others are at work it
    runs ahead of a child that waits for its turn; the stopwatch, that stands while we wait for ours, behind.
    """
    active = bench.client.get(bench.keys.active(occurrence))
    assert active is not None
    with stopped(worker.process.pid), kept(bench.client, active.lease), Stopwatch() as watch:
        (lease,) = bench.shared_files("lease")
        ends = DeadlineFile(lease).read().at
        left = ends - boottime()
        yield lambda: boottime() - ends
        assert watch.seconds < left


@contextmanager
def kept(client: Client, lease: int) -> Iterator[None]:
    over = Event()

    def keep() -> None:
        while not over.wait(0.1):
            client.keepalive(lease)

    thread = Thread(target=keep)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_a_body_stops_before_its_lease_can_pass_on(bench: Bench) -> None:
    """The parent hangs, so nobody renews: the child's own watchdog stops the body, `except Exception` or
    not.
    """
    worker, jobs = bench.worker(**LONG_GRACE), count(1)

    def late_s() -> float:
        occurrence = bench.plan(f"clinging {next(jobs)}", "cling")
        sent = bench.send(occurrence, "cling", 1, str(bench.gate("never")))
        pid = bench.started(occurrence)["pid"]
        with hanging(bench, worker, occurrence) as ended:
            attempt, late = freed(bench, occurrence), ended()
            assert "not renewed in time" in attempt.error  # freed by the child, not by the lease's end
            assert is_running(pid)
        assert bench.events(occurrence) == ["started"]
        until(lambda: bench.state(sent) == "FAILURE", "the attempt failed, and says why")
        assert "was stopped" in str(bench.result(sent))
        return late

    best_of(5, late_s, under=0)


def test_a_body_that_clings_is_killed_before_its_lease_can_pass_on(bench: Bench) -> None:
    worker, jobs = bench.worker(**LONG_GRACE), count(1)

    def late_s() -> float:
        occurrence = bench.plan(f"clinging {next(jobs)}", "cling_to_all")
        bench.send(occurrence, "cling_to_all", 1, str(bench.gate("never")))
        pid = bench.started(occurrence)["pid"]
        with hanging(bench, worker, occurrence) as ended:
            until(lambda: not is_running(pid), "the child ends itself")
            late = ended()
            assert bench.active(occurrence) is not None
        freed(bench, occurrence)
        assert "swallowed" in bench.events(occurrence)
        return late

    best_of(5, late_s, under=0)


def test_a_body_that_may_go_on_goes_on_and_asks(bench: Bench) -> None:
    """on_suspect continue: not stopped, but check() refuses, and so does the store."""
    worker = bench.worker(TEST_JOBS='{"careful": {"on_suspect": "continue"}}', **SHORT)
    occurrence = bench.plan("careful", "check")
    gate = bench.gate("careful")
    bench.send(occurrence, "check", 1, str(gate))
    bench.started(occurrence)
    with stopped(worker.process.pid):
        until(lambda: bench.active(occurrence) is None, "the lease has ended")
        gate.touch()
        until(lambda: "refused" in bench.events(occurrence), "check() refuses")
    until(lambda: "its claim (token" in worker.log, "the refusal is in the log")
    done = bench.verdict(occurrence)
    assert (done.verdict, done.reason) == (Verdict.UNRECORDED, "failed, but too late")


def test_bodies_are_killed_by_the_parent_too(bench: Bench, store: Node) -> None:
    """The store is silent and the body deaf to exceptions: dead before the deadline all the same."""
    bench.worker(**SHORT)
    occurrence = bench.plan("clinging", "cling_to_all")
    bench.send(occurrence, "cling_to_all", 1, str(bench.gate("never")))
    pid = bench.started(occurrence)["pid"]
    with silent(store), Stopwatch() as watch:
        until(lambda: not is_running(pid), "the child is killed")
        assert watch.seconds < TTL
    freed(bench, occurrence)


def test_a_host_that_slept_too_long_writes_nothing_after_another(bench: Bench, tmp_path: Path) -> None:
    """After a stop the body may run for some moments before it is stopped: its fenced writes are refused."""
    worker = bench.worker(**SHORT)
    occurrence, gate = bench.plan("sleeping", "write_fenced"), bench.gate("sleeping")
    engine = create_engine(f"sqlite:///{tmp_path / 'outbox.db'}")
    with engine.begin() as tx:
        create_guards(tx)
        tx.execute(text("create table effects (number integer)"))
    bench.send(occurrence, "write_fenced", 1, str(tmp_path / "outbox.db"), str(gate))
    until(lambda: "written" in bench.events(occurrence), "the first effect")
    start = bench.started(occurrence)
    with stopped(worker.process.pid), stopped(start["pid"]):
        until(lambda: bench.active(occurrence) is None, "its lease has ended")
        with engine.begin() as tx:
            advance(tx, "outbox", start["token"] + 1, bench.client.cluster_id())  # whoever took over
        gate.touch()
    following = bench.plan("following", "run_once")
    bench.send(following, "run_once")
    bench.verdict(following)  # by its only child, or by the one that took the place of a killed one
    assert bench.events(occurrence) == ["started", "written"]
    with engine.begin() as tx:
        assert tx.execute(text("select number from effects")).scalars().all() == [0]
    engine.dispose()
    verdict = bench.done(occurrence)
    assert verdict is None or verdict.verdict is Verdict.UNRECORDED


# --- the store is away --------------------------------------------------------------------------


def test_an_outcome_waits_for_the_store(bench: Bench, store: Node) -> None:
    bench.worker(TEST_TTL="20")
    occurrence = bench.plan("waiting", "run_once")
    gate = bench.gate("waiting")
    sent = bench.send(occurrence, "run_once", 1, str(gate))
    bench.started(occurrence)
    with silent(store):
        gate.touch()
        until(lambda: bench.shared_files("unsent-*"), "the outcome is left to the parent, too")
    assert bench.verdict(occurrence).verdict is Verdict.RAN
    until(lambda: bench.state(sent) == "SUCCESS", "the result is stored once the outcome is")
    until(lambda: not bench.shared_files("unsent-*"), "nothing is left to send")


def test_a_soft_limit_is_for_the_body(bench: Bench, store: Node) -> None:
    """Its signal strikes while the outcome of a body that ended in time waits for the store."""
    bench.worker(TEST_TTL="20")
    occurrence = bench.plan("soft", "run_once")
    gate = bench.gate("soft")
    sent = bench.send(occurrence, "run_once", 1, str(gate))
    pid = bench.started(occurrence)["pid"]
    with silent(store):
        gate.touch()
        until(lambda: bench.shared_files("unsent-*"), "the body has ended")
        os.kill(pid, signal.SIGUSR1)  # as Celery does when the limit is over
    assert bench.verdict(occurrence).verdict is Verdict.RAN
    until(lambda: bench.state(sent) == "SUCCESS", "the result is that of the body")


@WORLDS
def test_the_parent_records_for_a_child_that_died(bench: Bench, store: Node) -> None:
    bench.worker(TEST_TTL="20")
    occurrence = bench.plan("waiting", "run_once")
    gate = bench.gate("waiting")
    sent = bench.send(occurrence, "run_once", 1, str(gate))
    pid = bench.started(occurrence)["pid"]
    with silent(store):
        gate.touch()
        until(lambda: bench.shared_files("unsent-*"), "the outcome is left to the parent")
        os.kill(pid, signal.SIGKILL)
        until(lambda: not is_running(pid), "the child is gone")
    assert bench.verdict(occurrence).verdict is Verdict.RAN
    until(lambda: bench.state(sent) == "SUCCESS", "the recorded result is given by another delivery")


def test_a_worker_boots_without_a_store_and_leaves_deliveries_unclaimed(bench: Bench, store: Node) -> None:
    occurrence = bench.plan("early", "run_once")
    with silent(store):
        worker = bench.worker(TEST_CLAIM_TIMEOUT="1")
        bench.send(occurrence, "run_once")
        until(lambda: "left unclaimed, to be published again" in worker.log, "the delivery is given up")
    assert bench.attempt(occurrence, 1) is None
    until(lambda: bench.advertised().get("w1@test"), "the worker finds its store")
    assert bench.run(occurrence, "run_once").verdict is Verdict.RAN


def test_a_claim_whose_answer_was_lost_is_taken_back(bench: Bench, store: Node) -> None:
    """Sent, not answered, given up: it may have landed. Nobody runs it, so it must not stay, nor count as
    lost.
    """
    worker = bench.worker(TEST_CLAIM_TIMEOUT="1", TEST_TTL="20")
    bench.run(bench.plan("warm", "run_once"), "run_once")
    occurrence = bench.plan("lost answer", "run_once")
    given_up = re.compile("lost answer .* left unclaimed, to be published again")
    with silent(store):
        bench.send(occurrence, "run_once")
        until(lambda: given_up.search(worker.log), "the delivery is given up")
    until(lambda: not bench.shared_files("unsent-*"), "the claim is taken back")
    assert (bench.active(occurrence), bench.attempt(occurrence, 1)) == (None, None)
    assert bench.run(occurrence, "run_once").verdict is Verdict.RAN
    assert bench.events(occurrence) == ["started", "finished"]


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGQUIT])
def test_a_worker_that_is_told_to_stop_leaves_nothing(bench: Bench, signum: signal.Signals) -> None:
    """Warm: the body ends first. Cold: the child is terminated, and the run is lost, not stuck."""
    worker = bench.worker(**ENDLESS)
    occurrence = bench.plan("stopped", "run_once")
    gate = bench.gate("stopped")
    bench.send(occurrence, "run_once", 1, str(gate))
    bench.started(occurrence)
    worker.process.send_signal(signum)
    if signum is signal.SIGTERM:
        until(lambda: "Warm shutdown" in worker.log, "the worker has heard it")
        assert bench.active(occurrence) is not None
        gate.touch()
        assert bench.verdict(occurrence).verdict is Verdict.RAN
    worker.process.wait(PATIENCE_S)
    if signum is signal.SIGQUIT:
        freed(bench, occurrence)
    until(lambda: not bench.advertised(), "its lease goes with it")
    assert bench.shared_files("*") == []
