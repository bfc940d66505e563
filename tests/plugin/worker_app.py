"""The app of the worker tests: it writes down what its bodies do, one line each.

Run as `celery -A tests.plugin.worker_app worker`, with its broker, store and journal from the environment.
"""

import contextlib
import ctypes
import itertools
import json
import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from celery import Celery, group
from celery.exceptions import Reject
from celery.signals import task_prerun

import jobguard

app = Celery("worker_app", broker=os.environ["TEST_BROKER"], backend=os.environ["TEST_BACKEND"])
if os.environ["TEST_BROKER"].startswith("amqp"):
    app.conf.broker_transport_options = {"confirm_publish": True}
if queue := os.environ.get("TEST_QUORUM_QUEUE"):
    app.conf.update(
        task_default_queue=queue, task_default_queue_type="quorum", task_default_exchange_type="topic"
    )
app.conf.update(
    broker_connection_retry_on_startup=True,
    worker_prefetch_multiplier=1,
    worker_proc_alive_timeout=60,  # a child that comes up slowly on a busy host is not replaced by another
    jobguard_namespace=os.environ["TEST_NAMESPACE"],
    jobguard_endpoints=[os.environ["TEST_STORE"]],
    # Longer than a host stands still: where the end of a lease is the subject, the test sets a short one.
    jobguard_session_ttl=float(os.environ.get("TEST_TTL", "10")),
    jobguard_claim_timeout=float(os.environ.get("TEST_CLAIM_TIMEOUT", "30")),
    jobguard_timeout=float(os.environ.get("TEST_TIMEOUT", "5")),
    task_track_started=bool(os.environ.get("TEST_TRACK_STARTED")),
    worker_soft_shutdown_timeout=float(os.environ.get("TEST_SOFT_SHUTDOWN", "0")),
    worker_pool_start_method=os.environ.get("TEST_START_METHOD", "fork"),
    jobguard_jobs=json.loads(os.environ.get("TEST_JOBS", "{}")),
)
jobguard.install(app)

JOURNAL = Path(os.environ["TEST_JOURNAL"])
DIALLED: list[tuple[int, int]] = []


def _on_audit(event: str, args: tuple[Any, ...]) -> None:
    if event == "socket.connect" and isinstance(args[1], tuple):
        DIALLED.append((os.getpid(), args[1][1]))


sys.addaudithook(_on_audit)


def note(event: str, **facts: Any) -> None:
    run = jobguard.current()
    line = {"event": event, "pid": os.getpid(), "job": run.job, "n": run.attempt, "token": run.fencing_token}
    with JOURNAL.open("a") as journal:
        journal.write(json.dumps({**line, **facts}) + "\n")


def wait_for(path: str) -> None:
    """The test decides when the body goes on."""
    while not Path(path).exists():
        time.sleep(0.02)


@task_prerun.connect
def hold(**_: Any) -> None:
    """A delivery is in its process, which has not claimed yet."""
    gate = os.environ.get("TEST_HOLD_AT")
    if gate is not None and not Path(gate).exists():
        whole = Path(f"{gate}.{os.getpid()}")
        whole.write_text(str(os.getpid()))
        whole.rename(f"{gate}.held")
        wait_for(gate)


@app.task(name="run_once")
def run_once(gate: str | None = None) -> str:
    note("started")
    if gate is not None:
        wait_for(gate)
    note("finished")
    return "result"


@app.task(name="run_late", acks_late=True)
def run_late(gate: str | None = None) -> str:
    return run_once.run(gate)


@app.task(name="retry_once", bind=True, max_retries=3)
def retry_once(self: Any) -> int:
    note("started", r=self.request.retries)
    if self.request.retries < 2:
        raise self.retry(countdown=0)
    return int(self.request.retries)


@app.task(name="retry_later", bind=True, max_retries=3)
def retry_later(self: Any, seconds: float) -> str:
    note("started", r=self.request.retries)
    if self.request.retries == 0:
        raise self.retry(countdown=seconds)
    return "result"


@app.task(name="retry_slowly", bind=True, max_retries=3)
def retry_slowly(self: Any, gate: str) -> str:
    """The backend stands still between reading the state and writing RETRY, for as long as the test likes."""
    note("started", r=self.request.retries)
    if self.request.retries == 0:
        hold_back("RETRY", gate)
        raise self.retry(countdown=0)
    return "result"


def hold_back(held: str, gate: str) -> None:
    write = app.backend._set_with_state

    def wait_and_write(key: Any, value: Any, state: str) -> None:
        if state == held:
            Path(f"{gate}.held").touch()
            wait_for(gate)
        write(key, value, state)

    app.backend._set_with_state = wait_and_write


@app.task(name="retry_and_go_on", bind=True, max_retries=3)
def retry_and_go_on(self: Any, how: str) -> str:
    """Asks for a retry, which is published at once, and does not end with it."""
    note("started", r=self.request.retries)
    if self.request.retries == 0:
        try:
            self.retry(countdown=0, throw=how == "swallowed")
        except Exception:  # noqa: BLE001 - that is the test
            note("swallowed")
        if how == "failed":
            raise ValueError("after it asked for a retry")
    return "result"


@app.task(name="fail")
def fail() -> None:
    note("started")
    raise ValueError("as it must")


@app.task(name="reject_first", acks_late=True)
def reject_first(marker: str) -> str:
    note("started")
    if not Path(marker).exists():
        Path(marker).touch()
        raise Reject("not now", requeue=True)
    return "second time"


@app.task(name="replace", bind=True)
def replace(self: Any) -> Any:
    note("started")
    return self.replace(run_once.s())


@app.task(name="cling")
def cling(gate: str) -> None:
    """Swallows what it can, waits in a call, and has a process of its own."""
    sleeper = subprocess.Popen(["sleep", "300"])
    note("started")
    try:
        wait_for(gate)
        note("finished")
    except Exception:  # noqa: BLE001 - that is the test
        note("swallowed")
    finally:  # of a body that is stopped; with one that is killed it must die by itself
        sleeper.kill()
        sleeper.wait()


@app.task(name="cling_to_all")
def cling_to_all(gate: str) -> None:
    """Swallows even what must not be swallowed."""
    note("started")
    while True:
        try:
            wait_for(gate)
        except BaseException:  # noqa: BLE001 - even more so
            note("swallowed")


@app.task(name="loop_in_c")
def loop_in_c() -> None:
    """One call that never looks for signals, and holds the interpreter."""
    note("started")
    sum(itertools.repeat(0, 10**15))


@app.task(name="query_for_long")
def query_for_long() -> None:
    """One call that never looks for signals, and lets the interpreter go."""
    note("started")
    with contextlib.closing(sqlite3.connect(":memory:")) as database:
        database.execute(
            "with recursive n(x) as (select 1 union all select x + 1 from n) select count(*) from n"
        )


class Clinging:
    """What is raised in a finaliser, nobody hears of."""

    def __init__(self, gate: str) -> None:
        self.gate = gate

    def __del__(self) -> None:
        wait_for(self.gate)


@app.task(name="cling_in_a_finaliser")
def cling_in_a_finaliser(gate: str) -> None:
    note("started")
    Clinging(gate)
    wait_for(gate)
    note("finished")


@app.task(name="soft", soft_time_limit=1)
def soft(gate: str) -> str:
    note("started")
    wait_for(gate)
    note("finished")
    return "in time"


@app.task(name="leave")
def leave(how: str) -> None:
    """Ends its process instead of returning."""
    note("started")
    raise {"SystemExit": SystemExit, "KeyboardInterrupt": KeyboardInterrupt}[how]


@app.task(name="limited", time_limit=1)
def limited(gate: str) -> None:
    note("started")
    wait_for(gate)


@app.task(name="check")
def check(gate: str) -> None:
    """Asks whether it still holds, as a careful body does."""
    note("started")
    wait_for(gate)
    try:
        jobguard.current().check()
    except jobguard.LockLost:
        note("refused")
        raise
    note("finished")


@app.task(name="write_fenced")
def write_fenced(outbox: str, gate: str) -> None:
    """One effect, and after the gate another, each guarded by the run's token; no word from check()."""
    from sqlalchemy import create_engine, text  # a quarter of what a worker's start costs, and few fence

    from jobguard.fencing.sqlalchemy import fence

    note("started")
    engine = create_engine(f"sqlite:///{outbox}")
    for number in range(2):
        with engine.begin() as tx:
            fence(tx, "outbox", jobguard.current())
            tx.execute(text("insert into effects values (:number)"), {"number": number})
        note("written")
        if number == 0:
            wait_for(gate)
    note("finished")


@app.task(name="hog")
def hog(seconds: float) -> str:
    """Holds the interpreter in one call of C: no other thread of the process gets a turn."""
    note("started")
    ctypes.PyDLL(None).poll(None, 0, int(1000 * seconds))
    note("finished")
    return "result"


@app.task(name="spin")
def spin(seconds: float) -> str:
    """Python all the time, and never a wait: no other greenlet of the process gets a turn."""
    note("started")
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass
    note("finished")
    return "result"


@app.task(name="retry_many", bind=True, max_retries=None)
def retry_many(self: Any, times: int) -> int:
    note("started", r=self.request.retries)
    if self.request.retries < times:
        raise self.retry(countdown=0)
    return int(self.request.retries)


@app.task(name="autoretry", bind=True, autoretry_for=(ValueError,), default_retry_delay=0, max_retries=3)
def autoretry(self: Any) -> int:
    note("started", r=self.request.retries)
    if self.request.retries < 2:
        raise ValueError("not yet")
    return int(self.request.retries)


@app.task(name="replace_by_many", bind=True)
def replace_by_many(self: Any) -> Any:
    note("started")
    return self.replace(group(plain.s(1), plain.s(2)))


@app.task(name="tell")
def tell(said: Any) -> Any:
    """A link of a chain, or the body of a chord: nobody scheduled it."""
    with JOURNAL.open("a") as journal:
        journal.write(json.dumps({"event": "told", "job": "", "said": said}) + "\n")
    return said


@app.task(name="plain")
def plain(number: int) -> int:
    return number + 1


@app.task(name="dialled")
def dialled() -> list[int]:
    """The ports that this process has ever connected to."""
    return sorted({port for pid, port in DIALLED if pid == os.getpid()})


@app.task(name="run_rejected_when_lost", acks_late=True, reject_on_worker_lost=True)
def run_rejected_when_lost(gate: str | None = None) -> str:
    return run_once.run(gate)


@app.task(name="hold_the_lock")
def hold_the_lock() -> None:
    """A lock of the user's own, which the worker's other bodies want too."""
    with jobguard.client().lock("shared") as lock, JOURNAL.open("a") as journal:
        for event in ("enters", "leaves"):
            line = {"event": event, "job": "", "pid": os.getpid(), "token": lock.fencing_token}
            journal.write(json.dumps(line) + "\n")
            journal.flush()
            time.sleep(0.05)
