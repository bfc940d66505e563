"""A broker, a store and workers for the plugin's tests: real processes, each stopped by its own id."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest
import redis
from celery import Celery
from celery.canvas import Signature

from jobguard import planning, runs
from jobguard.celery.deadline import ChildState, WorkerDirectory
from jobguard.client import Client
from jobguard.records import (
    HEADER,
    Active,
    Attempt,
    Cursor,
    Done,
    Keys,
    Occurrence,
    Open,
    Verdict,
    Worker,
    decode,
    header,
    task_id,
)
from jobguard.steps import Fence, Written, see
from tests.stores import Node, eventually

T = TypeVar("T")

PATIENCE_S = 60.0
PUBLISHED_AGAIN_S = 3.0

# Broker and store know nothing of one another, so each of the four is in one of two worlds.
WORLDS = pytest.mark.parametrize(
    ("store", "broker_url"),
    [("jobguard", "rabbitmq"), ("etcd", "redis")],
    indirect=True,
    scope="session",
)


def until(ask: Callable[[], T | None], what: str, patience_s: float = PATIENCE_S) -> T:
    """What `ask` gives once it gives something; the test fails after a while without it."""
    found = eventually(ask, patience_s, what)
    assert found is not None
    return found


@dataclass
class WorkerProcess:
    """One `celery worker`, and what it wrote."""

    name: str
    process: subprocess.Popen[bytes]
    log_path: Path

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def wait_until_ready(self) -> None:
        until(lambda: self.process.poll() is not None or " ready." in self.log, f"{self.name} is ready")
        assert self.process.poll() is None, self.log

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(PATIENCE_S)

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(PATIENCE_S)


@dataclass
class Bench:
    """Everything a worker needs, with the store's content at hand."""

    directory: Path
    store: Node
    broker: str
    namespace: str = "default"
    backend: str = ""  # of results; the broker, where it keeps them
    workers: list[WorkerProcess] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.keys = Keys(self.namespace)
        self.backend = self.backend or self.broker
        files = {} if self.store.tls is None else self.store.tls.settings
        self.client = Client([self.store.url], timeout=30, **files)
        self.journal_path = self.directory / "journal"
        self.journal_path.touch()

    @property
    def on_rabbitmq(self) -> bool:
        """Which delivers again, at once, what was not acknowledged when a connection ended."""
        return self.broker.startswith("amqp")

    # --- processes ---

    def environment(self, **extra: str) -> dict[str, str]:
        return {
            **os.environ,
            "PYTHONUNBUFFERED": "1",
            "TEST_BROKER": self.broker,
            "TEST_BACKEND": self.backend,
            "TEST_STORE": self.store.url,
            "TEST_NAMESPACE": self.namespace,
            "TEST_JOURNAL": str(self.journal_path),
            "TMPDIR": str(self.directory),
            **extra,
        }

    def worker(
        self, *options: str, app: str = "tests.plugin.worker_app", ready: bool = True, **environment: str
    ) -> WorkerProcess:
        name = f"w{len(self.workers) + 1}"
        path = self.directory / f"{name}.log"
        command = [sys.executable, "-m", "celery", "-A", app, "worker", "-n", f"{name}@test", "-l", "INFO"]
        pool = () if "-P" in options else ("-P", "prefork")  # Celery patches for the first that it finds
        command += [*pool, "-c", "1", "--without-gossip", "--without-mingle", *options]
        with path.open("wb") as log:
            process = subprocess.Popen(
                command,
                cwd=Path(__file__).parents[2],
                env=self.environment(**environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,  # as a shell or a supervisor starts it
            )
        worker = WorkerProcess(name, process, path)
        self.workers.append(worker)
        if ready:
            worker.wait_until_ready()
        return worker

    def close(self) -> None:
        """Bodies may still wait for their gates; the children die with their parents."""
        for worker in self.workers:
            worker.kill()

    def children(self, worker: WorkerProcess) -> list[int]:
        """The pool processes of a worker."""
        listed = Path(f"/proc/{worker.process.pid}/task/{worker.process.pid}/children").read_text()
        return [int(pid) for pid in listed.split()]

    def word(self, pid: int) -> ChildState:
        """What a child tells its parent."""
        return WorkerDirectory(self.shared_files(f"child-{pid}")[0].parent).children()[pid]

    def running_guarded(self, pid: int) -> bool:
        """Whether it says that a body runs under a claim."""
        return bool(self.word(pid).running)

    def shared_files(self, pattern: str) -> list[Path]:
        """What the workers of this bench and their children share."""
        return list(self.directory.glob(f"jobguard-*/{pattern}"))

    # --- the broker ---

    def send(
        self,
        occurrence: Occurrence,
        task: str,
        n: int = 1,
        *args: Any,
        overlap: str = "skip",
        **options: Any,
    ) -> str:
        """Publish attempt n, as a beat does."""
        return self._publish(
            task,
            args,
            task_id=task_id(self.namespace, occurrence, n),
            headers={HEADER: header(self.namespace, occurrence, n, overlap)},
            **options,
        )

    def signature(self, app: Celery, occurrence: Occurrence, task: str, *args: Any, n: int = 1) -> Signature:
        """The message of attempt n, to be put into a chain, a group or a chord of `app`."""
        headers = {HEADER: header(self.namespace, occurrence, n)}
        return app.signature(task, args, headers=headers).set(task_id=task_id(self.namespace, occurrence, n))

    def send_plain(self, number: int) -> str:
        """Publish a task that nobody scheduled."""
        return self._publish("plain", (number,))

    def dialled(self) -> set[int]:
        """To which ports the only child of the only worker has connected since it was made."""
        sent = self._publish("dialled", ())
        until(lambda: self.state(sent) == "SUCCESS", "it tells its connections")
        return set((self.result(sent) or {})["result"])

    def _publish(self, task: str, args: Sequence[Any], **options: Any) -> str:
        with Celery("sender", broker=self.broker, backend=self.backend, set_as_current=False) as app:
            return str(app.send_task(task, args, **options).id)

    def result(self, task_id: str) -> dict[str, Any] | None:
        with redis.Redis.from_url(self.backend) as connection:
            stored = connection.get(f"celery-task-meta-{task_id}")
        return None if stored is None else json.loads(stored)  # type: ignore[arg-type]

    def state(self, task_id: str) -> str:
        stored = self.result(task_id)
        return stored["status"] if stored else "PENDING"

    # --- the store ---

    def plan(self, job: str, task: str, **facts: Any) -> Occurrence:
        """Open the next occurrence of a job, as the leading beat does."""
        self.client.put(self.keys.key("test"), b"1")
        leader = self.client.get(self.keys.key("test"))
        assert leader is not None
        fence = Fence(self.keys.key("test"), leader.create_revision)
        cursor_kv = self.client.get(self.keys.cursor(job))
        seen = see(cursor_kv, Cursor)
        nominal = seen.record.nominal + timedelta(minutes=1) if seen else datetime(2026, 11, 24, tzinfo=UTC)
        cursor = Cursor(nominal=nominal, nonce=f"{job}-{nominal}")
        opened = Open(n=1, r=0, job=job, nominal=nominal, task=task, published=1, **facts)
        step = planning.plan(self.keys, fence, cursor, seen.mod_revision if seen else 0, [opened], [])
        answer = step.read(self.client.txn_until_known(step.compare, step.success, step.failure))
        assert isinstance(answer, Written)
        return opened.occurrence

    def _record(self, key: bytes, kind: type[T]) -> T | None:
        kv = self.client.get(key)
        return decode(kv.value, kind) if kv else None  # type: ignore[type-var]

    def open(self, occurrence: Occurrence) -> Open | None:
        return self._record(self.keys.open(occurrence), Open)

    def active(self, occurrence: Occurrence) -> Active | None:
        return self._record(self.keys.active(occurrence), Active)

    def attempt(self, occurrence: Occurrence, n: int, r: int = 0) -> Attempt | None:
        return self._record(self.keys.attempt(occurrence, n, r), Attempt)

    def done(self, occurrence: Occurrence) -> Done | None:
        return self._record(self.keys.done(occurrence), Done)

    def verdict(self, occurrence: Occurrence) -> Done:
        return until(lambda: self.done(occurrence), f"{occurrence} has a verdict")

    def advertised(self) -> dict[str, Worker]:
        entries = [decode(kv.value, Worker) for kv in self.client.prefix(self.keys.prefix("workers")).kvs]
        return {entry.worker: entry for entry in entries}

    def record(self, occurrence: Occurrence, result: str) -> None:
        """What the process of the started body does when that has returned, just before it dies."""
        done = Done(
            job=occurrence.job,
            nominal=occurrence.nominal,
            verdict=Verdict.RAN,
            nonce="the child's",
            finished=datetime.now(UTC),
            n=1,
            result=f'"{result}"',
        )
        step = runs.finish(self.keys, occurrence, token=self.started(occurrence)["token"], done=done)
        self.client.txn_until_known(step.compare, step.success, step.failure)

    def run(self, occurrence: Occurrence, task: str, *args: Any) -> Done:
        """Publish attempt 1 until it has a verdict: again while nobody claims it, as a beat does.

        On a host that stands still a limit or a deadline of this delivery may strike before its claim.
        """
        published = float("-inf")

        def ask() -> Done | None:
            nonlocal published
            if time.monotonic() - published > PUBLISHED_AGAIN_S and not self.attempt(occurrence, 1):
                self.send(occurrence, task, 1, *args)
                published = time.monotonic()
            return self.done(occurrence)

        return until(ask, f"{occurrence} has a verdict")

    # --- what the bodies did ---

    def journal(self, occurrence: Occurrence | None = None) -> list[dict[str, Any]]:
        whole = self.journal_path.read_text().rpartition("\n")[0]
        lines = [json.loads(line) for line in whole.splitlines()]
        return [line for line in lines if occurrence is None or line["job"] == occurrence.job]

    def events(self, occurrence: Occurrence) -> list[str]:
        return [line["event"] for line in self.journal(occurrence)]

    def started(self, occurrence: Occurrence, times: int = 1) -> dict[str, Any]:
        """The line of the last start, once there were `times`."""

        def ask() -> dict[str, Any] | None:
            starts = [line for line in self.journal(occurrence) if line["event"] == "started"]
            return starts[times - 1] if len(starts) >= times else None

        return until(ask, f"{occurrence.job} started {times} times")

    def gate(self, name: str) -> Path:
        return self.directory / f"gate-{name}"
