"""Tasks with a `jobguard` option in real workers: one run per key at a time, n, or one per window."""

import itertools
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery, chain, chord
from celery.exceptions import ChordError, SoftTimeLimitExceeded, TimeLimitExceeded, WorkerLostError
from celery.result import AsyncResult

import jobguard
from jobguard import observe, operate
from jobguard.client import Client
from jobguard.records import Verdict
from tests.plugin.bench import PATIENCE_S, Bench, WorkerProcess, until
from tests.stopwatch import Stopwatch
from tests.stores import etcd, nodes

TTL = 5.0  # longer than a host stands still: no body but where a test says so outlives it
AT_ONCE_S = 3.0  # a few syncs of a slow disk, and less than a lease has left
HASTY = {"TEST_TTL": f"{TTL:.0f}", "TEST_CLAIM_TIMEOUT": "5", "TEST_TIMEOUT": "3"}

_customers = itertools.count(1)


class Fleet:
    """One worker for the tests of this module, each with a customer of its own."""

    def __init__(self, bench: Bench, worker: WorkerProcess, app: Celery, pool: str) -> None:
        self.bench, self.worker, self.app, self.pool = bench, worker, app, pool
        self.gates: list[Path] = []
        self.client = Client([bench.store.url], namespace=bench.namespace, timeout=30)

    def send(self, task: str, *args: Any, **options: Any) -> "AsyncResult[Any]":
        return self.app.send_task(task, args, **options)

    def gate(self) -> Path:
        self.gates.append(self.bench.gate(str(len(self.gates))))
        return self.gates[-1]

    def lines(self, task: str, customer: int, event: str = "started") -> list[dict[str, Any]]:
        name = f"{task}(customer={customer})"
        return [line for line in self.bench.journal() if line["job"] == name and line["event"] == event]

    def started(self, task: str, customer: int, times: int = 1) -> dict[str, Any]:
        until(lambda: len(self.lines(task, customer)) >= times, f"{task} {customer} started {times} times")
        return self.lines(task, customer)[times - 1]

    def locks(self, task: str, customer: int) -> list[observe.Lock]:
        return observe.locks(self.client, name=f"{task}(customer={customer})").items

    def free(self, task: str, customer: int) -> None:
        """At once, and not because a lease ended or the parent compared what it holds."""
        with Stopwatch() as watch:
            until(lambda: not self.locks(task, customer), "the key is free")
        assert watch.seconds < AT_ONCE_S

    def said(self, text: str) -> None:
        until(lambda: text in self.worker.log, f"the worker says {text!r}")


@pytest.fixture(scope="module", params=["etcd-prefork", "jobguard-prefork", "etcd-threads"])
def fleet(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, broker_url: str
) -> Iterator[Fleet]:
    kind, pool = request.param.split("-")
    with redis.Redis.from_url(broker_url) as connection:
        connection.flushdb()
    with etcd() if kind == "etcd" else nodes() as (node,):
        bench = Bench(tmp_path_factory.mktemp("optin"), node, broker_url, namespace="opt in")
        try:
            worker = bench.worker("-P", pool, "-c", "4", app="tests.plugin.optin_app", **HASTY)
            with Celery("sender", broker=broker_url, backend=broker_url, set_as_current=False) as app:
                yield Fleet(bench, worker, app, pool)
        finally:
            bench.close()


@pytest.fixture
def customer(fleet: Fleet) -> Iterator[int]:
    """Also after a test that failed no body stays in the worker."""
    yield next(_customers)
    for gate in fleet.gates:
        gate.touch()


in_prefork = pytest.mark.parametrize(
    "fleet", ["etcd-prefork", "jobguard-prefork"], indirect=True, scope="module"
)
in_one_prefork = pytest.mark.parametrize("fleet", ["etcd-prefork"], indirect=True, scope="module")


def test_one_at_a_time_and_the_others_are_skipped(fleet: Fleet, customer: int) -> None:
    gate = fleet.gate()
    running = fleet.send("alone", customer, str(gate))
    start = fleet.started("alone", customer)
    skipped = fleet.send("alone", customer, None, "another argument")
    assert skipped.get(PATIENCE_S) is None
    fleet.said(f"alone[{skipped.id}] skipped: alone(customer={customer}) is held by ")
    (lock,) = fleet.locks("alone", customer)
    assert lock.fencing_token == start["token"]
    assert (lock.pid, lock.worker) == (start["pid"], "w1@test")
    other = fleet.send("alone", next(_customers))
    assert other.get(PATIENCE_S) == "result"
    gate.touch()
    assert running.get(PATIENCE_S) == "result"
    fleet.free("alone", customer)
    assert fleet.send("alone", customer).get(PATIENCE_S) == "result"
    first, second = fleet.lines("alone", customer)
    assert second["token"] > first["token"]


def test_they_wait_for_their_turn_in_order(fleet: Fleet, customer: int) -> None:
    gate = fleet.gate()
    first = fleet.send("patient", customer, str(gate))
    fleet.started("patient", customer)
    others = []
    for number in range(2):
        others.append(fleet.send("patient", customer))
        until(lambda n=number: fleet.locks("patient", customer)[0].waiters == n + 1, "it waits")
    gate.touch()
    assert [each.get(PATIENCE_S) for each in (first, *others)] == ["result"] * 3
    events = [
        line["event"] for line in fleet.bench.journal() if line["job"] == f"patient(customer={customer})"
    ]
    assert events == ["started", "finished"] * 3
    fleet.free("patient", customer)


def test_who_waited_for_long_enough_is_skipped_and_leaves_the_line(fleet: Fleet, customer: int) -> None:
    gate = fleet.gate()
    running = fleet.send("impatient", customer, str(gate))
    fleet.started("impatient", customer)
    with pytest.raises(jobguard.Skipped, match=r"is held by .*, after 0.2 s"):
        fleet.send("impatient", customer).get(PATIENCE_S)
    (lock,) = fleet.locks("impatient", customer)
    assert lock.waiters == 0
    gate.touch()
    assert running.get(PATIENCE_S) == "result"


def test_a_skipped_one_hangs_neither_a_chord_nor_a_chain(fleet: Fleet, customer: int) -> None:
    gate = fleet.gate()
    running = fleet.send("alone", customer, str(gate))
    fleet.started("alone", customer)
    task = fleet.app.signature
    header = [task("alone", (customer,)), task("told", ("other",))]
    assert chord(header, app=fleet.app)(task("gather")).get(PATIENCE_S) == [None, "other"]
    assert chain(task("alone", (customer,)), task("told"), app=fleet.app)().get(PATIENCE_S) is None
    blocked = fleet.send("impatient", customer, str(gate))
    fleet.started("impatient", customer)
    failed = chord([task("impatient", (customer,)), task("told", (1,))], app=fleet.app)(task("gather"))
    with pytest.raises((ChordError, jobguard.Skipped)):
        failed.get(PATIENCE_S)
    gate.touch()
    assert [running.get(PATIENCE_S), blocked.get(PATIENCE_S)] == ["result", "result"]


def test_one_completes_per_window(fleet: Fleet, customer: int) -> None:
    with pytest.raises(ValueError, match="as it must"):
        fleet.send("once", customer, "fail").get(PATIENCE_S)
    done = fleet.send("once", customer)
    assert done.get(PATIENCE_S) == "result"
    skipped = fleet.send("once", customer)
    assert skipped.get(PATIENCE_S) is None
    fleet.said(f"once[{skipped.id}] skipped: once(customer={customer}) was completed by ")
    assert len(fleet.lines("once", customer)) == 2
    # A second delivery of what completed leaves its result alone.
    fleet.send("once", customer, task_id=done.id)
    fleet.said(f"once[{done.id}] not run: it completed already")
    assert done.get(PATIENCE_S) == "result"


def test_a_window_ends(fleet: Fleet, customer: int) -> None:
    assert fleet.send("once_a_second", customer).get(PATIENCE_S) == "result"
    until(lambda: fleet.send("once_a_second", customer).get(PATIENCE_S) == "result", "another window begins")
    first, second = fleet.lines("once_a_second", customer)
    assert second["token"] > first["token"]


def test_who_waits_for_one_that_completes_is_skipped(fleet: Fleet, customer: int) -> None:
    gate = fleet.gate()
    first = fleet.send("once_gated", customer, str(gate))
    fleet.started("once_gated", customer)
    second = fleet.send("once_gated", customer, str(gate))
    until(lambda: fleet.locks("once_gated", customer)[0].waiters == 1, "it waits")
    gate.touch()
    assert first.get(PATIENCE_S) == "result"
    assert second.get(PATIENCE_S) is None
    assert len(fleet.lines("once_gated", customer)) == 1


def test_a_completed_one_whose_result_nobody_stored_gives_it(fleet: Fleet, customer: int) -> None:
    done = fleet.send("once", customer)
    assert done.get(PATIENCE_S) == "result"
    done.forget()  # as if its process had died before Celery stored the result
    again = fleet.send("once", customer, task_id=done.id)
    assert again.get(PATIENCE_S) == "result"
    assert len(fleet.lines("once", customer)) == 1


def test_at_most_two_at_a_time(fleet: Fleet, customer: int) -> None:
    gate = fleet.gate()
    three = [fleet.send("few", customer, str(gate)) for _ in range(3)]
    fleet.started("few", customer, 2)
    until(lambda: [lock.waiters for lock in fleet.locks("few", customer)] == [1, 1], "the third waits")
    assert len(fleet.lines("few", customer)) == 2
    gate.touch()
    assert [each.get(PATIENCE_S) for each in three] == ["result"] * 3
    now = fleet.gate()
    two = [fleet.send("few_now", customer, str(now)) for _ in range(2)]
    fleet.started("few_now", customer, 2)
    assert fleet.send("few_now", customer, str(now)).get(PATIENCE_S) is None
    now.touch()
    assert [each.get(PATIENCE_S) for each in two] == ["result"] * 2
    fleet.free("few_now", customer)


def test_a_retry_takes_its_key_again(fleet: Fleet, customer: int) -> None:
    """Its message is out before the one before has let go."""
    assert fleet.send("again", customer).get(PATIENCE_S) == 4
    assert fleet.send("auto", customer).get(PATIENCE_S) == 2
    assert fleet.send("replaced", customer, 2).get(PATIENCE_S) == "replaced"
    assert [len(fleet.lines(task, customer)) for task in ("again", "auto", "replaced")] == [5, 3, 3]


def test_a_second_delivery_of_what_runs_changes_nothing(fleet: Fleet, customer: int) -> None:
    gate = fleet.gate()
    running = fleet.send("alone", customer, str(gate))
    fleet.started("alone", customer)
    fleet.send("alone", customer, str(gate), task_id=running.id)
    fleet.said(f"alone[{running.id}] not run: second delivery")
    assert running.state == "PENDING"
    gate.touch()
    assert running.get(PATIENCE_S) == "result"
    assert len(fleet.lines("alone", customer)) == 1


def test_shared_and_class_based_ones(fleet: Fleet, customer: int) -> None:
    assert fleet.send("shared", customer).get(PATIENCE_S) == "result"
    gate = fleet.gate()
    running = fleet.send("based", customer, str(gate))
    fleet.started("based", customer)
    assert fleet.app.send_task("based", (), {"customer": customer}).get(PATIENCE_S) is None
    gate.touch()
    assert running.get(PATIENCE_S) == "called result"


def test_one_that_was_released_by_hand_is_refused(fleet: Fleet, customer: int) -> None:
    gate = fleet.gate()
    running = fleet.send("alone", customer, str(gate))
    fleet.started("alone", customer)
    (lock,) = fleet.locks("alone", customer)
    actor = operate.Actor(by="ann", via="test", reason="stuck")
    operate.release(fleet.client, lock.id, revision=lock.revision, actor=actor)
    assert fleet.send("alone", customer).get(PATIENCE_S) == "result"  # the next has it at once
    if fleet.pool == "threads":  # cannot be stopped, and is refused at its end
        until(lambda: "cannot be stopped" in fleet.worker.log, "the worker says so")
        gate.touch()
    with pytest.raises(jobguard.LockLost, match=r"was stopped|not its own"):
        running.get(PATIENCE_S)


def test_a_scheduled_one_is_an_occurrence_and_ends_as_skipped(fleet: Fleet, customer: int) -> None:
    bench, gate = fleet.bench, fleet.gate()
    ran = bench.plan(f"job {customer}", "scheduled")
    bench.send(ran, "scheduled", 1, customer)
    done = bench.verdict(ran)
    assert done.verdict is Verdict.RAN
    (start,) = fleet.lines("scheduled", customer)
    assert start["claim"] == done.token != start["token"]
    running = fleet.send("scheduled", customer, str(gate))
    fleet.started("scheduled", customer, 2)
    skipped = bench.plan(f"job {customer}", "scheduled")
    sent = bench.send(skipped, "scheduled", 1, customer)
    done = bench.verdict(skipped)
    assert (done.verdict, len(fleet.lines("scheduled", customer))) == (Verdict.SKIPPED, 2)
    assert done.reason.startswith(f"scheduled(customer={customer}) is held by ")
    until(lambda: bench.state(sent) == "SUCCESS", "who waits for it is told")
    gate.touch()
    assert running.get(PATIENCE_S) == "result"


# --- where bodies can be stopped -----------------------------------------------------------------


@in_prefork
def test_a_killed_childs_key_is_free_at_once(fleet: Fleet, customer: int) -> None:
    running = fleet.send("alone", customer, str(fleet.gate()))
    start = fleet.started("alone", customer)
    os.kill(start["pid"], signal.SIGKILL)
    fleet.free("alone", customer)
    with pytest.raises(WorkerLostError):
        running.get(PATIENCE_S)
    assert fleet.send("alone", customer).get(PATIENCE_S) == "result"


@in_prefork
def test_a_killed_child_that_only_waited_leaves_the_line(fleet: Fleet, customer: int) -> None:
    gate = fleet.gate()
    running = fleet.send("patient", customer, str(gate))
    start = fleet.started("patient", customer)
    fleet.send("patient", customer)
    until(lambda: fleet.locks("patient", customer)[0].waiters == 1, "it waits")
    (waiter,) = fleet.locks("patient", customer)[0].waiting
    assert waiter.pid != start["pid"]
    os.kill(waiter.pid, signal.SIGKILL)
    with Stopwatch() as watch:
        until(lambda: fleet.locks("patient", customer)[0].waiters == 0, "it left")
    assert watch.seconds < AT_ONCE_S
    gate.touch()
    assert running.get(PATIENCE_S) == "result"


@in_prefork
def test_what_is_delivered_again_after_a_kill_runs(fleet: Fleet, customer: int) -> None:
    gate = fleet.gate()
    running = fleet.send("late", customer, str(gate))
    start = fleet.started("late", customer)
    os.kill(start["pid"], signal.SIGKILL)
    fleet.started("late", customer, 2)
    gate.touch()
    assert running.get(PATIENCE_S) == "result"


@in_prefork
def test_limits_and_a_revoke_free_it(fleet: Fleet, customer: int) -> None:
    hard = fleet.send("killed_by_limit", customer, str(fleet.gate()))
    gate = fleet.gate()
    running = fleet.send("softly", next(_customers), str(gate))
    waiting = customer + 10**6
    holder = fleet.send("patient", waiting, str(gate))
    fleet.started("patient", waiting)
    revoked = fleet.send("alone", customer, str(fleet.gate()))
    fleet.started("alone", customer)
    fleet.app.control.revoke(revoked.id, terminate=True)
    fleet.free("alone", customer)
    with pytest.raises(TimeLimitExceeded):
        hard.get(PATIENCE_S)
    fleet.free("killed_by_limit", customer)
    with pytest.raises(SoftTimeLimitExceeded):
        running.get(PATIENCE_S)
    gate.touch()
    assert holder.get(PATIENCE_S) == "result"


@in_one_prefork
def test_a_body_that_holds_the_interpreter_keeps_its_key(fleet: Fleet, customer: int) -> None:
    running = fleet.send("hogging", customer, 1.3 * TTL)
    fleet.started("hogging", customer)
    assert fleet.send("hogging", customer, 0).get(PATIENCE_S) is None
    assert running.get(PATIENCE_S) == "result"


@in_one_prefork
def test_when_the_lease_ends_the_body_is_stopped_and_those_in_line_go_on(fleet: Fleet, customer: int) -> None:
    running = fleet.send("patient", customer, str(fleet.gate()))
    fleet.started("patient", customer)
    following = fleet.send("patient", customer)
    until(lambda: fleet.locks("patient", customer)[0].waiters == 1, "it waits")
    (lock,) = fleet.locks("patient", customer)
    fleet.client.revoke(int(lock.lease_id, 16))
    with pytest.raises(jobguard.LockLost, match="was stopped"):
        running.get(PATIENCE_S)
    assert following.get(PATIENCE_S) == "result"


@in_one_prefork
def test_without_the_store_it_fails_and_runs_for_nobody(fleet: Fleet, customer: int) -> None:
    store = fleet.bench.store
    store.pause()
    try:
        with pytest.raises((jobguard.Unavailable, jobguard.OutcomeUnknown)):
            fleet.send("alone", customer).get(PATIENCE_S)
    finally:
        store.resume()
        store.wait_until_ready()
    assert fleet.lines("alone", customer) == []
    # What the store had received before it stood still may be done now; then the parent takes it away.
    until(lambda: fleet.send("alone", customer).get(PATIENCE_S) == "result", "nothing stays in the way")
    fleet.free("alone", customer)
