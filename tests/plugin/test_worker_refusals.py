"""Deliveries that are told no: the worker drops them, and what it dropped can be seen."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from jobguard import Client, observe
from jobguard.celery import deadline
from jobguard.celery.burial import Store
from jobguard.celery.deadline import REFUSALS_MAX, WorkerDirectory
from jobguard.celery.refusals import Ring
from jobguard.observe import Refusal
from jobguard.records import Keys, ToldNo, encode
from tests.faces import NOW
from tests.plugin.bench import Bench, until
from tests.stopwatch import Stopwatch
from tests.stores import KINDS, Node

both_stores = pytest.mark.parametrize("store", KINDS, indirect=True, scope="session")


def told_no(bench: Bench, times: int, what: str) -> list[Refusal]:
    """What the store tells once there are so many."""
    with Client([bench.store.url], namespace=bench.namespace, timeout=30) as client:

        def ask() -> list[Refusal] | None:
            found = observe.refusals(client).items
            return found if len(found) >= times else None

        return until(ask, what)


@both_stores
def test_the_same_message_three_times_is_one_run_and_two_refusals(bench: Bench) -> None:
    worker = bench.worker("-c", "3", TEST_TTL="600")
    occurrence, gate = bench.plan("digest", "run_once"), bench.gate("digest")
    sent = [bench.send(occurrence, "run_once", 1, str(gate)) for _ in range(3)]
    started = bench.started(occurrence)
    refusals = told_no(bench, 2, "two refusals")
    active = bench.active(occurrence)
    assert active is not None
    for refusal in refusals:
        assert (refusal.job, refusal.nominal_time, refusal.attempt) == ("digest", occurrence.nominal, 1)
        assert (refusal.reason, refusal.task_id, refusal.worker) == ("running", sent[0], "w1@test")
        assert refusal.pid in bench.children(worker)
        assert refusal.holder is not None
        assert refusal.holder.pid == started["pid"] != refusal.pid
        assert (refusal.holder.fencing_token, refusal.holder.host) == (started["token"], active.host)
        assert f"already running on {active.host} pid {started['pid']}" in refusal.why
    gate.touch()
    bench.verdict(occurrence)
    assert len(told_no(bench, 2, "the refusals stay")) == 2
    assert bench.events(occurrence) == ["started", "finished"]
    assert worker.stop() == 0
    until(lambda: not bench.client.prefix(bench.keys.prefix("refusals")).kvs, "they go with its lease")


@both_stores
@pytest.mark.parametrize("pool", ["solo", "threads"])
def test_other_pools_tell_too(bench: Bench, pool: str) -> None:
    bench.worker("-P", pool)
    occurrence = bench.plan("digest", "run_once")
    for _ in range(2):
        bench.send(occurrence, "run_once")
    (refusal,) = told_no(bench, 1, "the second delivery is told no")
    assert refusal.reason in ("running", "done")
    assert refusal.holder is not None
    assert refusal.holder.fencing_token == bench.started(occurrence)["token"]


def test_a_storm_leaves_the_last_few_and_stops_nobody(bench: Bench) -> None:
    worker = bench.worker("-c", "2")
    occurrence, gate = bench.plan("digest", "run_once"), bench.gate("digest")
    for _ in range(40):
        bench.send(occurrence, "run_once", 1, str(gate))
    until(lambda: worker.log.count(" not run: ") == 39, "all others are dropped")
    last = bench.plan("report", "run_once")
    bench.send(last, "run_once")
    assert bench.verdict(last).worker == "w1@test"
    told_no(bench, REFUSALS_MAX, "a full ring")
    until(lambda: bench.shared_files("refusal-*") == [] or None, "all were taken")
    assert len(told_no(bench, REFUSALS_MAX, "the ring")) == REFUSALS_MAX
    assert bench.shared_files("draft-*") == []
    gate.touch()
    bench.verdict(occurrence)
    assert bench.events(occurrence) == ["started", "finished"]


# --- without a worker ---


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WorkerDirectory]:
    monkeypatch.setattr(deadline.tempfile, "tempdir", str(tmp_path))
    made = WorkerDirectory.make()
    yield made
    made.remove()


def record(text: str) -> bytes:
    return encode(
        ToldNo(job="a", nominal=NOW, n=1, reason="running", text=text, at=NOW, worker="w", host="h", pid=1)
    )


def test_files_are_bounded_whole_and_taken_once(directory: WorkerDirectory) -> None:
    for number in range(REFUSALS_MAX + 4):
        directory.leave_refusal(f"nonce{number}", record(str(number)))
    assert sorted(directory.take_refusals()) == sorted(record(str(n)) for n in range(REFUSALS_MAX))
    assert directory.take_refusals() == []
    assert [path.name for path in directory.path.iterdir()] == ["lease"]
    directory.remove()
    directory.leave_refusal("late", record("after the worker's end"))  # no place to leave it, and no error


def test_a_ring_never_outgrows_its_slots(directory: WorkerDirectory, store: Node) -> None:
    keys = Keys("a ring of refusals")
    with Client([store.url], namespace=keys.namespace, timeout=30) as client:
        ring, lease = Ring(Store(client, keys), directory, "w1@test"), client.grant(600).id
        for number in range(3 * 9):
            directory.leave_refusal(f"nonce{number}", record(str(number)))
            if number % 9 == 8:
                ring.write(lease)
        kept = {kv.value for kv in client.prefix(keys.prefix("refusals")).kvs}
        assert len(kept) == REFUSALS_MAX
        assert {record(str(number)) for number in range(18, 27)} <= kept
        client.revoke(lease)
        directory.leave_refusal("nonce", record("the lease has ended"))
        ring.write(lease)
        directory.leave_refusal("nonce", record("there is no lease"))
        ring.write(0)
        assert client.prefix(keys.prefix("refusals")).kvs == ()


def test_a_store_that_is_away_costs_one_call_and_the_record(directory: WorkerDirectory) -> None:
    with Client(["http://127.0.0.1:9"], timeout=0.5) as nowhere:
        ring = Ring(Store(nowhere, Keys()), directory, "w1@test")
        directory.leave_refusal("nonce", record("nobody hears"))
        with Stopwatch() as watch:
            ring.write(7)
            assert watch.seconds < 5
    assert directory.take_refusals() == []
