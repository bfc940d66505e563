"""The app of the ledger: jobs whose every effect is a row in an outbox, guarded by the run's token.

No constraint forbids a second effect: it must show. The starts are written down too, without a guard.
"""

import json
import os
import random
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from celery import Celery

import jobguard
from jobguard import recovery
from jobguard.demo.outbox import open_outbox
from jobguard.fencing.sqlalchemy import create_guards, fence
from tests.plugin.ledger_outbox import STEPS, Effect, effects_of, metadata, write
from tests.plugin.ledger_plants import PLANTS

JOBS = {"early": 1.0, "late": 1.0, "slow": 2.0, "often": 0.5}

# A slice of half a minute shall see what otherwise takes many: messages sent again, reruns of reruns.
recovery._REPUBLISH_S = (4, 4, 8)
recovery._RERUN_S = (0, 1, 2)
recovery.RETRY_GRACE = timedelta(seconds=4)

app = Celery("ledger", broker=os.environ["TEST_BROKER"])
app.conf.update(
    task_ignore_result=True,
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    worker_prefetch_multiplier=4,  # so that a killed worker takes some with it
    broker_transport_options={"visibility_timeout": 3},
    worker_cancel_long_running_tasks_on_connection_loss=False,
    beat_scheduler="jobguard",
    beat_schedule={name: {"task": f"ledger.{name}", "schedule": period} for name, period in JOBS.items()},
    jobguard_namespace=os.environ["TEST_NAMESPACE"],
    jobguard_endpoints=os.environ["TEST_STORE"].split(","),
    jobguard_session_ttl=3.0,
    jobguard_jobs={
        "*": {
            "on_lost": {"rerun": 1000},
            "overlap": "allow",
            "catch_up": {"all": 50},
            "start_deadline": 3600,
        }
    },
)
jobguard.install(app)
if plant := os.environ.get("TEST_PLANT"):
    PLANTS[plant]()


def work(seconds: float) -> None:
    """Each effect in a transaction of its own, with time to die between.

    A rerun leaves alone what the attempts before it did. A first attempt does not look: if there are two of
    it, or if it writes after a rerun began, it shows.
    """
    run = jobguard.current()
    occurrence = f"{run.job} {run.nominal_time.isoformat()}"
    with Path(os.environ["TEST_JOURNAL"]).open("a") as journal:
        line = {"occurrence": occurrence, "n": run.attempt, "token": run.fencing_token, "pid": os.getpid()}
        journal.write(json.dumps(line) + "\n")
    engine = open_outbox(Path(os.environ["TEST_OUTBOX"]))
    metadata.create_all(engine)
    create_guards(engine)
    try:
        for step in STEPS:
            time.sleep(random.uniform(0, seconds))
            with engine.begin() as tx:
                fence(tx, occurrence, run)
                if run.attempt == 1 or step not in effects_of(tx, occurrence):
                    write(tx, Effect(occurrence, step, run.attempt, run.fencing_token))
    finally:
        engine.dispose()


@app.task(name="ledger.early")
def early() -> None:
    work(0.2)


@app.task(name="ledger.late", acks_late=True)
def late() -> None:
    work(0.4)


@app.task(name="ledger.slow", acks_late=True)
def slow() -> None:
    work(4.0)


@app.task(name="ledger.often", bind=True, max_retries=None)
def often(self: Any) -> None:
    if self.request.retries < 1:
        raise self.retry(countdown=0)
    work(0.1)
