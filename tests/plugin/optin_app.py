"""Tasks with a `jobguard` option, in the app of the worker tests.

Run as `celery -A tests.plugin.optin_app worker`.
"""

import ctypes
import json
import os
from typing import Any

from celery import Task, shared_task
from celery.exceptions import TimeLimitExceeded, WorkerLostError

import jobguard
from tests.plugin.worker_app import JOURNAL, app, plain, wait_for

__all__ = ["app", "plain"]

LOCK = {"lock": ["customer"]}

ENDS = {each.__name__: each for each in (SystemExit, TimeLimitExceeded, WorkerLostError)}


def note(event: str, **facts: Any) -> None:
    held = jobguard.held()
    if event == "started":
        held.check()
    line = {"event": event, "pid": os.getpid(), "job": held.name, "token": held.fencing_token, **facts}
    with JOURNAL.open("a") as journal:
        journal.write(json.dumps(line) + "\n")


def work(gate: str | None) -> str:
    note("started")
    if gate is not None:
        wait_for(gate)
    note("finished")
    return "result"


@app.task(name="alone", jobguard=LOCK)
def alone(customer: Any, gate: str | None = None, other: Any = None) -> str:
    return work(gate)


@app.task(name="late", acks_late=True, reject_on_worker_lost=True, jobguard=LOCK)
def late(customer: Any, gate: str | None = None) -> str:
    return work(gate)


@app.task(name="patient", jobguard={**LOCK, "wait": 60})
def patient(customer: Any, gate: str | None = None) -> str:
    return work(gate)


@app.task(name="impatient", jobguard={**LOCK, "wait": 0.2, "on_skip": "raise"})
def impatient(customer: Any, gate: str | None = None) -> str:
    return work(gate)


@app.task(name="once", bind=True, jobguard={"once": ["customer"], "window": 3600})
def once(self: Any, customer: Any, how: str = "return") -> str:
    note("started")
    if how == "fail":
        raise ValueError("as it must")
    return "result"


@app.task(name="once_a_second", jobguard={"once": "*", "window": 0.5})
def once_a_second(customer: Any) -> str:
    return work(None)


@app.task(name="once_gated", jobguard={"once": ["customer"], "window": 3600, "wait": 60})
def once_gated(customer: Any, gate: str) -> str:
    return work(gate)


@app.task(name="few", jobguard={"limit": ["customer"], "at_most": 2, "wait": 60})
def few(customer: Any, gate: str) -> str:
    return work(gate)


@app.task(name="few_now", jobguard={"limit": ["customer"], "at_most": 2})
def few_now(customer: Any, gate: str) -> str:
    return work(gate)


@app.task(name="again", bind=True, max_retries=5, jobguard=LOCK)
def again(self: Any, customer: Any) -> int:
    note("started")
    if self.request.retries < 4:
        raise self.retry(countdown=0)
    return int(self.request.retries)


@app.task(name="auto", bind=True, autoretry_for=(ValueError,), default_retry_delay=0, jobguard=LOCK)
def auto(self: Any, customer: Any) -> int:
    note("started")
    if self.request.retries < 2:
        raise ValueError("not yet")
    return int(self.request.retries)


@app.task(name="replaced", bind=True, jobguard=LOCK)
def replaced(self: Any, customer: Any, times: int) -> Any:
    note("started")
    if times:
        raise self.replace(self.s(customer, times - 1))
    return "replaced"


@app.task(name="killed_by_limit", time_limit=1, jobguard=LOCK)
def killed_by_limit(customer: Any, gate: str) -> str:
    return work(gate)


@app.task(name="softly", soft_time_limit=1, jobguard={**LOCK, "wait": 60})
def softly(customer: Any, gate: str) -> str:
    return work(gate)


@app.task(name="hogging", jobguard=LOCK)
def hogging(customer: Any, seconds: float) -> str:
    note("started")
    ctypes.PyDLL(None).poll(None, 0, int(1000 * seconds))
    note("finished")
    return "result"


@shared_task(name="shared", jobguard=LOCK)
def shared(customer: Any) -> str:
    return work(None)


class Based(Task):  # type: ignore[type-arg]
    name = "based"
    jobguard = {"lock": ["customer"]}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return f"called {super().__call__(*args, **kwargs)}"

    def run(self, customer: Any, gate: str | None = None) -> str:
        return work(gate)


app.register_task(Based())


@app.task(name="told")
def told(said: Any) -> Any:
    return said


@app.task(name="gather")
def gather(said: list[Any]) -> list[Any]:
    return said


@app.task(name="scheduled", jobguard={**LOCK})
def scheduled(customer: Any, gate: str | None = None) -> str:
    try:
        claim = jobguard.current().fencing_token
    except jobguard.NotGuarded:
        claim = 0
    note("started", claim=claim)
    if gate is not None:
        wait_for(gate)
    note("finished")
    return "result"


@app.task(name="ending", jobguard=LOCK)
def ending(customer: Any, how: str) -> None:
    note("started")
    raise ENDS[how]("as it must")


@app.task(name="heard")
def heard(how: str) -> None:
    jobguard.current().check()
    raise ENDS[how]("as it must")
