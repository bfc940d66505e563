"""A leader's term on a real store, with a clock and a broker made of lists."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from jobguard import runs
from jobguard.celery.definitions import Definitions
from jobguard.celery.entries import Job
from jobguard.celery.leader import Leader, Sent
from jobguard.celery.upkeep import Upkeep
from jobguard.client import Client
from jobguard.policy import policy_of
from jobguard.records import Attempt, Audit, Done, Keys, Occurrence, Open, Schedule, Verdict, decode
from jobguard.recovery import Workers
from jobguard.runs import Claimed
from jobguard.schedule import Every
from jobguard.steps import Fence

START = datetime(2026, 11, 24, 2, tzinfo=UTC)


class Fleet:
    """The workers, as the test says."""

    def __init__(self) -> None:
        self.state = Workers.UNKNOWN
        self.unguarded: tuple[str, ...] = ("w9@old",)
        self.asked = 0

    def ask(self) -> None:
        self.asked += 1


def job(name: str = "work", every_s: float = 60, reruns: int = 0, **policy: Any) -> Job:
    return Job(name, "t", Every(timedelta(seconds=every_s)), policy_of({name: policy}, name), reruns)


@dataclass
class Stage:
    """One namespace; beats come and go on it."""

    client: Client
    keys: Keys
    now: datetime = START
    sent: list[tuple[str, int, int]] = field(default_factory=list)  # nominal time, n, r
    tried: list[str] = field(default_factory=list)  # jobs, whatever came of it
    broker: Sent = Sent.YES
    fleet: Fleet = field(default_factory=Fleet)
    terms: Iterator[int] = field(default_factory=itertools.count)

    def term(self, *jobs: Job, version: int = 0, registered: datetime | None = None) -> Leader:
        """Another beat wins the election."""
        key = self.keys.key("elections", "beat", str(next(self.terms)), "nonce")
        self.client.delete(self.keys.prefix("elections"), self.keys.prefix("elections")[:-1] + b"0")
        fence = Fence(key, self.client.put(key, b"x").revision)
        known = {each.name: each for each in jobs or (job(),)}
        definitions = Definitions(
            self.client, self.keys, fence, known, version=version, registered=registered or START
        )
        leader = Leader(definitions, self._publish, lambda: self.now)
        leader.begin()
        return leader

    def _publish(self, record: Open, job: Job) -> Sent:
        self.tried.append(record.job)
        if self.broker is not Sent.NO:
            self.sent.append((f"{record.nominal:%H:%M:%S}", record.n, record.r))
        return self.broker

    def upkeep(self, leader: Leader) -> None:
        Upkeep(leader, self.fleet).round()  # type: ignore[arg-type]

    def at(self, seconds: float) -> None:
        self.now = START + timedelta(seconds=seconds)

    def audits(self) -> list[Audit]:
        """What operators changed; a beat's own changes are left out."""
        found = self.client.prefix(self.keys.prefix("audit")).kvs
        return [each for kv in found if (each := decode(kv.value, Audit)).via != "beat"]

    def open(self, job: str = "work") -> list[Open]:
        found = self.client.prefix(self.keys.prefix("open", job)).kvs
        return [decode(kv.value, Open) for kv in found]

    def done(self, job: str = "work") -> list[Done]:
        found = self.client.prefix(self.keys.prefix("done", job)).kvs
        return [decode(kv.value, Done) for kv in found]

    def schedule(self, job: str = "work") -> Schedule | None:
        kv = self.client.get(self.keys.schedule(job))
        return decode(kv.value, Schedule) if kv else None

    # --- a worker ---

    def claim(self, minute: int, n: int = 1, r: int = 0, job: str = "work") -> Claimed:
        occurrence = Occurrence(job, START + timedelta(minutes=minute))
        attempt = Attempt(n=n, r=r, host="h1", pid=7, nonce=f"{minute}/{n}/{r}", since=self.now)
        step = runs.claim(self.keys, occurrence, attempt, lease=0)
        outcome = step.read(self.client.txn(step.compare, step.success, step.failure))
        assert isinstance(outcome, Claimed), outcome
        return outcome

    def retry(self, claimed: Claimed, minute: int, eta_s: float) -> None:
        attempt = Attempt(n=1, r=0, host="h1", pid=7, nonce=f"{minute}/1/0", since=self.now, outcome="retry")
        eta = START + timedelta(seconds=eta_s)
        step = runs.retry(self.keys, claimed.open, token=claimed.token, attempt=attempt, eta=eta)
        self.client.txn(step.compare, step.success, step.failure)

    def lapse(self, minute: int, job: str = "work") -> None:
        """The worker's lease ends."""
        self.client.delete(self.keys.active(Occurrence(job, START + timedelta(minutes=minute))))


def finish(stage: Stage, claimed: Claimed) -> None:
    record = claimed.open.record
    done = Done(job=record.job, nominal=record.nominal, verdict=Verdict.RAN, nonce="f", finished=stage.now)
    step = runs.finish(stage.keys, record.occurrence, token=claimed.token, done=done)
    assert stage.client.txn(step.compare, step.success, step.failure).succeeded


def operators(stage: Stage) -> Client:
    """The stage's namespace as the CLI sees it."""
    return Client(stage.client.urls, namespace=stage.keys.namespace, timeout=30)
