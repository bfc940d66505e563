"""Between two steps: a child that dies there, a lease that ends there, a message that comes again there."""

import os
import signal

import pytest
from celery import Celery

from jobguard.records import Verdict
from tests.broker import is_running
from tests.plugin.bench import WORLDS, Bench, until
from tests.stores import Node


@WORLDS
def test_a_child_killed_between_its_claim_and_the_answer_leaves_no_claim(bench: Bench, store: Node) -> None:
    """Whether the claim lands after all or not: nobody holds it, and the parent has taken its name away."""
    bench.worker(TEST_TTL="20")
    warm = bench.plan("warm", "run_once")
    bench.send(warm, "run_once")
    bench.verdict(warm)
    occurrence = bench.plan("between", "run_once")
    (path,) = bench.shared_files("child-*")
    pid = int(path.name.removeprefix("child-"))
    until(lambda: not bench.word(pid).nonce, "the child is done with the first")
    store.pause()
    try:
        sent = bench.send(occurrence, "run_once")
        until(lambda: bench.word(pid).nonce, "the child is about to claim")
        os.kill(pid, signal.SIGKILL)
        until(lambda: not is_running(pid), "it is gone")
    finally:
        store.resume()
    until(lambda: not bench.shared_files(f"child-{pid}"), "the parent buries it")
    assert bench.active(occurrence) is None
    attempt = bench.attempt(occurrence, 1)
    assert bench.events(occurrence) == []
    if attempt is not None:
        assert attempt.outcome == "lost"
        until(lambda: bench.state(sent) == "FAILURE", "who waits for this attempt is told")
        return
    bench.send(occurrence, "run_once")
    assert bench.verdict(occurrence).verdict is Verdict.RAN
    until(lambda: bench.state(sent) == "SUCCESS", "who waits for it has its result")


def test_a_lease_that_somebody_revoked_stops_the_body_and_another_takes_its_place(bench: Bench) -> None:
    bench.worker()
    occurrence = bench.plan("revoked lease", "cling")
    bench.send(occurrence, "cling", 1, str(bench.gate("never")))
    start = bench.started(occurrence)
    kv = bench.client.get(bench.keys.active(occurrence))
    assert kv
    bench.client.revoke(kv.lease)
    until(lambda: not bench.running_guarded(start["pid"]), "the body stops")
    until(lambda: bench.advertised().get("w1@test"), "the worker has a lease again")
    assert bench.events(occurrence) == ["started"]
    following = bench.plan("following", "run_once")
    bench.send(following, "run_once")
    assert bench.verdict(following).verdict is Verdict.RAN


def test_a_child_whose_name_is_gone_takes_another_and_the_delivery_runs(bench: Bench) -> None:
    """Names go with a lease that was revoked, and a delivery may come before the next lease is there."""
    bench.worker()
    warm, occurrence = bench.plan("warm", "run_once"), bench.plan("nameless", "run_once")
    bench.send(warm, "run_once")
    bench.verdict(warm)
    (name,) = bench.client.prefix(bench.keys.prefix("children"), keys_only=True).kvs
    bench.client.delete(name.key)
    bench.send(occurrence, "run_once")
    assert bench.verdict(occurrence).verdict is Verdict.RAN
    (other,) = bench.client.prefix(bench.keys.prefix("children"), keys_only=True).kvs
    assert other.key != name.key


def test_children_that_are_replaced_after_each_task_leave_nothing(bench: Bench) -> None:
    bench.worker("-c", "2", "--max-tasks-per-child", "1", TEST_TTL="6")
    done = [bench.plan("replaced", "run_once", overlap="allow") for _ in range(6)]
    for occurrence in done:
        bench.send(occurrence, "run_once", overlap="allow")
    assert {bench.verdict(occurrence).verdict for occurrence in done} == {Verdict.RAN}
    until(lambda: len(bench.shared_files("child-*")) <= 2, "the files of those replaced are gone")
    assert len(bench.client.prefix(bench.keys.prefix("running")).kvs) == 0


@WORLDS
def test_a_late_acknowledgement_and_a_kill_leave_the_run_to_the_leader(bench: Bench) -> None:
    """The broker has another copy: dropped while the first runs, and dropped after its child was killed."""
    worker = bench.worker("-c", "2")
    occurrence = bench.plan("acknowledged late", "run_late")
    for _ in range(2):
        bench.send(occurrence, "run_late", 1, str(bench.gate("never")))
    start = bench.started(occurrence)
    until(lambda: "second delivery" in worker.log, "the copy is dropped")
    os.kill(start["pid"], signal.SIGKILL)
    until(lambda: bench.active(occurrence) is None, "the claim is freed")
    bench.send(occurrence, "run_late", 1, str(bench.gate("never")))
    until(lambda: worker.log.count("second delivery") == 2, "so is a third copy")
    assert bench.events(occurrence) == ["started"]
    attempt = bench.attempt(occurrence, 1)
    assert attempt
    assert attempt.outcome == "lost"


@pytest.mark.parametrize("how", ["SystemExit", "KeyboardInterrupt"])
def test_a_body_that_ends_its_process_is_lost_and_not_stuck(bench: Bench, how: str) -> None:
    bench.worker()
    occurrence = bench.plan("leaving", "leave")
    bench.send(occurrence, "leave", 1, how)
    bench.started(occurrence)
    until(lambda: bench.active(occurrence) is None, "the claim is freed")
    attempt = bench.attempt(occurrence, 1)
    assert attempt
    assert attempt.outcome == "lost"
    following = bench.plan("following", "run_once")
    bench.send(following, "run_once")
    assert bench.verdict(following).verdict is Verdict.RAN


def test_a_message_that_a_lost_worker_gives_back_is_the_leaders_to_repeat(bench: Bench) -> None:
    """With reject_on_worker_lost the broker delivers it again at once: claimed already, so dropped."""
    worker = bench.worker("-c", "2")
    occurrence = bench.plan("given back", "run_rejected_when_lost")
    sent = bench.send(occurrence, "run_rejected_when_lost", 1, str(bench.gate("never")))
    os.kill(bench.started(occurrence)["pid"], signal.SIGKILL)
    until(lambda: " not run: second delivery" in worker.log, "the broker delivers it again")
    until(lambda: bench.state(sent) == "REVOKED", "who waits for this attempt is told")
    assert bench.events(occurrence) == ["started"]
    attempt = bench.attempt(occurrence, 1)
    assert attempt
    assert attempt.outcome == "lost"
    assert bench.open(occurrence), "the leader says whether it runs again"


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_bodies_of_one_worker_hold_a_lock_one_after_the_other(bench: Bench, pool: str) -> None:
    """They share a process's client in threads, and the worker's name everywhere: neither is the lock's."""
    bench.worker("-P", pool, "-c", "2")
    with Celery("sender", broker=bench.broker, backend=bench.broker, set_as_current=False) as app:
        sent = [app.send_task("hold_the_lock").id for _ in range(6)]
    until(lambda: {bench.state(each) for each in sent} == {"SUCCESS"}, "all had it")
    said = bench.journal()
    assert [line["event"] for line in said] == ["enters", "leaves"] * 6
    tokens = [line["token"] for line in said]
    assert tokens == sorted(tokens)
    assert len(set(tokens)) == 6
