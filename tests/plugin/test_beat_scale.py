"""What a turn of the scheduler costs, counted in work: a busy machine says the same as an idle one."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import celery.beat
import pytest
from celery import Celery

from jobguard.celery.beat import Scheduler
from jobguard.celery.definitions import Definitions
from jobguard.celery.entries import Job
from jobguard.celery.leader import Leader, Sent
from jobguard.client import Client
from jobguard.policy import Policy
from jobguard.records import Cursor, Deploy, Keys, Open, decode, encode
from jobguard.schedule import Every
from jobguard.steps import Fence
from jobguard.wire import KeyValue, RangeResponse, RequestOp, ResponseHeader, ResponseOp, TxnResponse
from tests.stopwatch import Stopwatch, best_of
from tests.stores import KINDS, Kind, running

START = datetime(2026, 11, 24, 2, tzinfo=UTC)
MANY, DUE = 10_000, 7
KEYS = Keys("scale")
EVERY_MINUTE = Every(timedelta(minutes=1))


@dataclass
class Store:
    """A store in which everything is installed already; it counts the transactions it is asked for."""

    jobs: dict[str, Job]
    asked: int = 0

    def prefix(self, prefix: bytes) -> RangeResponse:
        kvs: tuple[KeyValue, ...] = ()
        if prefix == KEYS.prefix("schedules"):
            kvs = tuple(
                KeyValue(key=KEYS.schedule(name), value=encode(job.definition(START, 0)), mod_revision=1)
                for name, job in self.jobs.items()
            )
        if prefix == KEYS.prefix("cursors"):
            cursor = encode(Cursor(nominal=START, nonce="x"))
            kvs = tuple(KeyValue(key=KEYS.cursor(name), value=cursor, mod_revision=1) for name in self.jobs)
        return RangeResponse(kvs=kvs)

    def get(self, key: bytes) -> KeyValue:
        return KeyValue(key=key, value=encode(Deploy(registered=START)), mod_revision=1)

    def txn_until_known(self, compare: Any, success: tuple[RequestOp, ...], failure: Any) -> TxnResponse:
        self.asked += 1
        yes = TxnResponse(succeeded=True)
        return TxnResponse(
            succeeded=True,
            header=ResponseHeader(revision=self.asked),
            responses=tuple(ResponseOp(response_txn=yes if each.request_txn else None) for each in success),
        )


@dataclass
class Stage:
    store: Store
    now: datetime = START
    sent: list[str] = field(default_factory=list)

    def leader(self) -> Leader:
        definitions = Definitions(self.store, KEYS, Fence(b"lead", 1), self.store.jobs, registered=START)  # type: ignore[arg-type]
        leader = Leader(definitions, self.publish, lambda: self.now)
        leader.begin()
        return leader

    def publish(self, record: Any, job: Any) -> Sent:
        self.sent.append(record.job)
        return Sent.YES


def job(number: int) -> Job:
    """A few are due every minute, the others once a day."""
    period = timedelta(minutes=1) if number < DUE else timedelta(days=1)
    return Job(f"job {number}", "t", Every(period), Policy(), 0)


def test_a_turn_costs_by_what_is_due_not_by_what_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(Store({each.name: each for each in map(job, range(MANY))}))
    leader = stage.leader()
    assert stage.store.asked == 0  # a takeover by equal code writes nothing

    computed: list[Every] = []
    after = Every.after

    def counted(self: Every, moment: datetime) -> Any:
        computed.append(self)
        return after(self, moment)

    monkeypatch.setattr(Every, "after", counted)
    stage.now += timedelta(seconds=59)
    leader.plan_due()
    assert (stage.store.asked, len(computed)) == (0, 0)
    stage.now += timedelta(seconds=1)
    leader.plan_due()
    assert sorted(stage.sent) == [f"job {number}" for number in range(DUE)]
    assert stage.store.asked == 2  # planned, and noted as published
    assert len(computed) <= 4 * DUE


def test_a_turn_compares_no_entry_that_nobody_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    app = Celery("beats", broker="memory://", set_as_current=False)
    app.conf.jobguard_endpoints = ["http://127.0.0.1:9"]
    app.conf.jobguard_timeout = 0.2
    app.conf.beat_schedule = {f"job {number}": {"task": "t", "schedule": 60} for number in range(100)}
    scheduler = Scheduler(app)
    compared: list[Any] = []
    equal = celery.beat.ScheduleEntry.editable_fields_equal

    def counted(self: Any, other: Any) -> bool:
        compared.append(self)
        return bool(equal(self, other))

    monkeypatch.setattr(celery.beat.ScheduleEntry, "editable_fields_equal", counted)
    scheduler.tick()
    assert compared == []
    scheduler.schedule["job 7"] = scheduler.Entry(name="job 7", task="t", schedule=5, app=app)
    scheduler.tick()
    assert scheduler._jobs["job 7"].times == Every(timedelta(seconds=5))
    scheduler.close()
    app.close()


@pytest.mark.parametrize("kind", KINDS)
def test_a_thousand_that_are_due_at_once_are_planned_in_two_seconds(kind: Kind, tmp_path: Path) -> None:
    """All are in the store before the first is published. The best of some tries: each waits for the disk."""
    jobs = {f"job {number}": Job(f"job {number}", "t", EVERY_MINUTE, Policy(), 0) for number in range(1000)}
    tries = count(1)

    def planned_s() -> float:
        keys = Keys(f"scale {next(tries)}")
        now, sent, planned_by = START, [], []

        def publish(record: Any, job: Any) -> Sent:
            if not sent:
                planned_by.append(watch.seconds)
                assert client.prefix(keys.prefix("open"), keys_only=True).count == 1000
            sent.append(record.job)
            return Sent.YES

        client.put(b"lead", b"")
        lead = client.get(b"lead")
        assert lead
        definitions = Definitions(client, keys, Fence(b"lead", lead.create_revision), jobs)
        leader = Leader(definitions, publish, lambda: now)
        leader.begin()
        now += timedelta(minutes=1)
        with Stopwatch() as watch:
            leader.plan_due()
        opened = [decode(kv.value, Open) for kv in client.prefix(keys.prefix("open")).kvs]
        assert len(opened) == len(set(sent)) == len(sent) == 1000
        assert {each.published for each in opened} == {1}
        assert {each.planner for each in opened} == {leader.nonce}
        return planned_by[0]

    with running(kind, tmp_path) as cluster, Client(cluster.endpoints, timeout=30) as client:
        best_of(3, planned_s, under=2.0)
