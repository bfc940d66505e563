"""Deliveries and outcomes, on real workers: each attempt runs once, and every end is written down."""

import os
import re
import signal
from datetime import timedelta
from urllib.parse import urlsplit

import pytest

from jobguard import runs
from jobguard.records import Active, Attempt, Done, Occurrence, Verdict
from jobguard.runs import Claimed
from jobguard.steps import Written
from tests.plugin.bench import Bench, until
from tests.stores import KINDS

pytestmark = pytest.mark.parametrize("store", KINDS, indirect=True, scope="session")


def test_the_same_message_four_times_runs_once(bench: Bench) -> None:
    worker = bench.worker("-c", "2")
    occurrence = bench.plan("digest", "run_once")
    sent = [bench.send(occurrence, "run_once") for _ in range(4)]
    done = bench.verdict(occurrence)
    until(lambda: worker.log.count(" not run: ") == 3, "three deliveries are dropped, with a reason")
    assert bench.events(occurrence) == ["started", "finished"]
    assert (done.verdict, done.n, done.r, done.worker) == (Verdict.RAN, 1, 0, "w1@test")
    until(lambda: bench.state(sent[0]) == "SUCCESS", "its result is stored")  # after the verdict
    assert bench.result(sent[0])["result"] == "result"  # type: ignore[index]
    attempt = bench.attempt(occurrence, 1)
    assert attempt is not None
    assert attempt.task_id == sent[0]
    assert (bench.open(occurrence), bench.active(occurrence)) == (None, None)


def test_a_second_worker_is_told_who_runs_it(bench: Bench) -> None:
    first = bench.worker()
    occurrence = bench.plan("digest", "run_late")
    gate = bench.gate("digest")
    sent = bench.send(occurrence, "run_late", 1, str(gate))
    pid = bench.started(occurrence)["pid"]
    second = bench.worker()
    bench.send(occurrence, "run_late", 1, str(gate))
    until(lambda: f"already running on {_host(bench, occurrence)} pid {pid}" in second.log, "the reason")
    assert bench.state(sent) == "PENDING"  # the live one owns the result
    gate.touch()
    assert bench.verdict(occurrence).worker == "w1@test"
    assert bench.events(occurrence) == ["started", "finished"]
    assert first.log.count(" not run: ") == 0


def _host(bench: Bench, occurrence: Occurrence) -> str:
    active = bench.active(occurrence)
    assert active is not None
    return active.host


def test_a_retry_is_a_successor_and_no_duplicate(bench: Bench) -> None:
    """The retry is published before the attempt has handed over, and with two children it is met early."""
    bench.worker("-c", "2")
    occurrence = bench.plan("retried", "retry_once")
    sent = bench.send(occurrence, "retry_once")
    done = bench.verdict(occurrence)
    assert (done.verdict, done.n, done.r) == (Verdict.RAN, 1, 2)
    assert [line["r"] for line in bench.journal(occurrence)] == [0, 1, 2]
    outcomes = [bench.attempt(occurrence, 1, r) for r in range(3)]
    assert [attempt.outcome if attempt else None for attempt in outcomes] == ["retry", "retry", ""]
    tokens = [line["token"] for line in bench.journal(occurrence)]
    assert tokens == sorted(set(tokens))
    until(lambda: bench.state(sent) == "SUCCESS", "the result of the last retry is stored")


def test_a_retry_begins_when_celery_has_stored_that_its_predecessor_asked_for_it(bench: Bench) -> None:
    """Both write the same result: a successor that ended before RETRY was written was lost for ever."""
    bench.worker("-c", "2")
    occurrence, gate = bench.plan("retried", "retry_slowly"), bench.gate("retry")
    held = gate.with_name(f"{gate.name}.held")
    sent = bench.send(occurrence, "retry_slowly", 1, str(gate))
    until(held.exists, "the backend is about to write RETRY")
    asked = bench.attempt(occurrence, 1, 0)
    assert asked is None or asked.outcome != "retry"
    gate.touch()
    assert bench.verdict(occurrence).r == 1
    until(lambda: bench.state(sent) == "SUCCESS", "the result of the retry is stored")


@pytest.mark.parametrize("how", ["returned", "failed", "swallowed"])
def test_a_retry_counts_however_the_body_that_asked_for_it_ends(bench: Bench, how: str) -> None:
    """`retry(throw=False)`, or a Retry that the body swallows: the message is out, so it is the successor."""
    worker = bench.worker("-c", "2")
    occurrence = bench.plan("going on", "retry_and_go_on")
    sent = bench.send(occurrence, "retry_and_go_on", 1, how)
    done = bench.verdict(occurrence)
    assert (done.verdict, done.n, done.r) == (Verdict.RAN, 1, 1), worker.log
    assert [line["r"] for line in bench.journal(occurrence) if "r" in line] == [0, 1]
    until(lambda: bench.state(sent) == "SUCCESS", "the result of the retry is stored")


def test_a_failure_is_a_verdict(bench: Bench) -> None:
    bench.worker()
    occurrence = bench.plan("failing", "fail")
    sent = bench.send(occurrence, "fail")
    done = bench.verdict(occurrence)
    assert (done.verdict, done.error) == (Verdict.FAILED, "ValueError: as it must")
    until(lambda: bench.state(sent) == "FAILURE", "celery stores the failure, too")


def test_a_rejected_message_runs_when_it_comes_again(bench: Bench) -> None:
    bench.worker()
    occurrence = bench.plan("rejecting", "reject_first")
    sent = bench.send(occurrence, "reject_first", 1, str(bench.gate("marker")))
    assert bench.verdict(occurrence).verdict is Verdict.RAN
    assert bench.events(occurrence) == ["started", "started"]
    until(lambda: bench.state(sent) == "SUCCESS", "the result of the second time is stored")


def test_a_replacement_runs_under_the_same_occurrence(bench: Bench) -> None:
    bench.worker()
    occurrence = bench.plan("replaced", "replace")
    sent = bench.send(occurrence, "replace")
    done = bench.verdict(occurrence)
    assert (done.verdict, done.n, done.r) == (Verdict.RAN, 1, 1)
    assert bench.events(occurrence) == ["started", "started", "finished"]
    until(lambda: bench.state(sent) == "SUCCESS", "the replacement's result is stored under the id")


def test_an_overlapping_occurrence_ends_as_skipped(bench: Bench) -> None:
    bench.worker("-c", "2")
    first, second = bench.plan("slow", "run_once"), bench.plan("slow", "run_once")
    gate = bench.gate("slow")
    bench.send(first, "run_once", 1, str(gate))
    pid = bench.started(first)["pid"]
    sent = bench.send(second, "run_once", 1, str(gate))
    done = bench.verdict(second)
    assert done.verdict is Verdict.SKIPPED
    assert f" is running on {_host(bench, first)} pid {pid} since " in done.reason
    assert re.search(r", renewed \d\d? s ago$", done.reason), done.reason
    until(lambda: bench.state(sent) == "REVOKED", "who waits for the skipped one is told")
    gate.touch()
    assert bench.verdict(first).verdict is Verdict.RAN


def test_one_that_waits_to_run_again_overlaps_too_and_is_not_said_to_run(bench: Bench) -> None:
    worker = bench.worker("-c", "2")
    first, second = bench.plan("lost", "run_once"), bench.plan("lost", "run_once")
    bench.send(first, "run_once", 1, str(bench.gate("never")))
    pid = bench.started(first)["pid"]
    os.kill(pid, signal.SIGKILL)
    until(lambda: bench.active(first) is None, "its claim is freed")
    bench.send(second, "run_once", 1)
    done = bench.verdict(second)
    assert done.verdict is Verdict.SKIPPED
    assert re.fullmatch(rf"{first.stamp} is to run again, last on \S+ pid {pid} since \S+", done.reason), done
    until(lambda: f"skipped: {done.reason}" in worker.log, "the log says it, too")  # after the verdict


def test_a_hard_limit_is_a_failure_and_no_loss(bench: Bench) -> None:
    bench.worker()
    occurrence = bench.plan("limited", "limited")
    done = bench.run(occurrence, "limited", str(bench.gate("never")))
    assert done.verdict is Verdict.FAILED
    assert "hard time limit" in done.reason


def test_a_soft_limit_is_a_failure(bench: Bench) -> None:
    bench.worker()
    occurrence = bench.plan("soft", "soft")
    done = bench.run(occurrence, "soft", str(bench.gate("never")))
    assert (done.verdict, done.error) == (Verdict.FAILED, "SoftTimeLimitExceeded: SoftTimeLimitExceeded()")


def test_a_message_that_expired_ends_its_occurrence(bench: Bench) -> None:
    occurrence = bench.plan("expired", "run_once")
    bench.send(occurrence, "run_once", expires=-1)
    bench.worker()
    assert bench.verdict(occurrence).verdict is Verdict.EXPIRED
    assert bench.events(occurrence) == []


def test_a_completed_attempt_gives_its_recorded_result(bench: Bench) -> None:
    """The child died after it recorded the outcome, before Celery stored it: the redelivery answers."""
    occurrence = bench.plan("recorded", "run_once")
    attempt = _claimed_elsewhere(bench, occurrence)
    done = Done(
        job=occurrence.job,
        nominal=occurrence.nominal,
        verdict=Verdict.RAN,
        nonce=attempt.nonce,
        finished=attempt.since + timedelta(seconds=1),
        n=1,
        result='"of the dead"',
    )
    active = bench.client.get(bench.keys.active(occurrence))
    assert active is not None
    _send(bench, runs.finish(bench.keys, occurrence, token=active.create_revision, done=done))
    bench.worker()
    sent = bench.send(occurrence, "run_once")
    until(lambda: bench.state(sent) == "SUCCESS", "the recorded result is stored")
    assert bench.result(sent)["result"] == "of the dead"  # type: ignore[index]
    assert bench.events(occurrence) == []


def test_a_superseded_attempt_is_revoked(bench: Bench) -> None:
    occurrence = bench.plan("old", "run_once")
    bench.client.put(bench.keys.open(occurrence), _reopened(bench, occurrence))
    worker = bench.worker()
    sent = bench.send(occurrence, "run_once", 1)
    until(lambda: bench.state(sent) == "REVOKED", "who waits for the old id is told")
    assert "attempt 2 retry 0 is open by now" in worker.log
    bench.send(occurrence, "run_once", 2)
    assert bench.verdict(occurrence).n == 2


def _reopened(bench: Bench, occurrence: Occurrence) -> bytes:
    import msgspec

    opened = bench.open(occurrence)
    assert opened is not None
    return msgspec.json.encode(msgspec.structs.replace(opened, n=2))


def _claimed_elsewhere(bench: Bench, occurrence: Occurrence) -> Attempt:
    attempt = Attempt(n=1, r=0, host="elsewhere", pid=1, nonce="dead", since=occurrence.nominal)
    lease = bench.client.grant(600)
    answer = _send(bench, runs.claim(bench.keys, occurrence, attempt, lease=lease.id))
    assert isinstance(answer, Claimed)
    return attempt


def _send(bench: Bench, step: "runs.Transaction[object]") -> object:
    answer = step.read(bench.client.txn_until_known(step.compare, step.success, step.failure))
    assert isinstance(answer, Written | Claimed), answer
    return answer


def test_a_guarded_worker_says_so(bench: Bench) -> None:
    worker = bench.worker("-c", "2", TEST_TTL="600")
    entry = until(lambda: bench.advertised().get("w1@test"), "the worker's entry")
    assert (entry.pid, entry.pool, entry.concurrency) == (worker.process.pid, "prefork", 2)
    assert entry.version
    assert worker.stop() == 0
    until(lambda: not bench.advertised(), "its lease goes with it")  # by itself it would live on


def test_plain_tasks_never_touch_the_store(bench: Bench) -> None:
    """Without our header a child makes no client, no file and no thread: there is nothing to wait for."""
    worker = bench.worker(TEST_STORE="http://127.0.0.1:9", TEST_CLAIM_TIMEOUT="600")  # nobody listens there
    sent = bench.send_plain(1)
    until(lambda: bench.state(sent) == "SUCCESS", "a plain task runs without a store")
    assert bench.shared_files("child-*") == []
    until(lambda: "no lease, so claims wait" in worker.log, "the worker says what it lacks")


def test_plain_tasks_make_no_call_to_a_store_that_is_there(bench: Bench) -> None:
    """Every connection of the child is counted, by Python itself. The guarded task shows that it would be."""
    bench.worker()
    store = urlsplit(bench.store.url).port
    for number in range(20):
        bench.send_plain(number)
    assert bench.dialled() == {urlsplit(bench.broker).port}
    occurrence = bench.plan("digest", "run_once")
    bench.send(occurrence, "run_once")
    bench.verdict(occurrence)
    assert store in bench.dialled()


def test_spawned_children_guard_too(bench: Bench) -> None:
    bench.worker(TEST_START_METHOD="spawn")
    occurrence = bench.plan("digest", "run_once")
    bench.send(occurrence, "run_once")
    assert bench.verdict(occurrence).verdict is Verdict.RAN
    assert isinstance(bench.attempt(occurrence, 1), Active)
