"""The Celery application of the demonstration: an ordinary digest job, and the three lines of jobguard.

Place in the house   celery -A jobguard.demo.app worker|beat -> here -> jobguard, demo.outbox
Never                imports the store or the web UI: it is what a user's own module looks like
"""

import os
import socket
import time
from functools import cache
from pathlib import Path

from celery import Celery
from celery.signals import worker_process_init
from sqlalchemy import Engine

import jobguard
from jobguard.demo import outbox
from jobguard.fencing.sqlalchemy import create_guards, fence

PROCFILE_STORES = "http://127.0.0.1:2379,http://127.0.0.1:2381,http://127.0.0.1:2383"

app = Celery("jobguard_demo", broker=os.environ.get("JOBGUARD_DEMO_BROKER", "redis://127.0.0.1:6390/0"))
app.conf.beat_schedule = {
    "digest": {"task": "send_digest", "schedule": float(os.environ.get("JOBGUARD_DEMO_PERIOD", "10"))}
}
# The digest guards its writes, so a lost run may be repeated, and two occurrences may overlap; every
# occurrence of the last minute is caught up, however long the schedulers were away.
app.conf.jobguard_jobs = {
    "digest": {"on_lost": {"rerun": 5}, "overlap": "allow", "catch_up": {"all": 10}, "start_deadline": 60}
}
app.conf.broker_connection_retry_on_startup = True

app.conf.beat_scheduler = "jobguard"
app.conf.jobguard_endpoints = os.environ.get("JOBGUARD_ENDPOINTS", PROCFILE_STORES).split(",")
jobguard.install(app)


@app.task(name="send_digest")  # type: ignore[untyped-decorator]
def send_digest() -> int:
    """Send the digest of this occurrence to everyone who has not had it; return how many that were."""
    run = jobguard.current()
    occurrence = f"{run.job} {run.nominal_time:%H:%M:%S}"
    # The guard is advanced before the first read: from here on a predecessor that still runs somewhere
    # cannot slip an e-mail in between what we read and what we send.
    with outbox_engine().begin() as tx:
        fence(tx, f"outbox/{occurrence}", run)
        done = {email.recipient for email in outbox.sent(tx, occurrence)}
    for recipient in outbox.RECIPIENTS:
        if recipient not in done:
            deliver(run, occurrence, recipient)
    return len(outbox.RECIPIENTS) - len(done)


def deliver(run: "jobguard.Run", occurrence: str, recipient: str) -> None:
    """Send one e-mail, slowly; refused if a newer run of this occurrence has taken over."""
    time.sleep(float(os.environ.get("JOBGUARD_DEMO_SECONDS_PER_EMAIL", "0.5")))
    with outbox_engine().begin() as tx:
        fence(tx, f"outbox/{occurrence}", run)
        outbox.send(
            tx,
            outbox.Email(
                occurrence=occurrence,
                recipient=recipient,
                sender=configuration().get("sender", outbox.FIRST_SENDER),
                attempt=run.attempt,
                fencing_token=run.fencing_token,
                worker=worker_name(),
            ),
        )


@cache
def outbox_engine() -> Engine:
    """This process's own connection pool to the outbox."""
    engine = outbox.open_outbox(Path(os.environ.get("JOBGUARD_DEMO_OUTBOX", ".demo/outbox.sqlite")))
    create_guards(engine)
    return engine


@cache
def configuration() -> "jobguard.Config":
    """The digest's live configuration, the same on every worker."""
    return jobguard.Config("digest", client=jobguard.client())


def worker_name() -> str:
    """Which worker this is, as the demonstration names its processes."""
    return os.environ.get("JOBGUARD_DEMO_NAME", socket.gethostname())


@worker_process_init.connect  # type: ignore[untyped-decorator]
def follow_configuration(**_: object) -> None:
    """Note in the outbox each sender this worker takes up, so that the demonstration can show it."""

    def note(key: str, value: object) -> None:
        if key == "sender":
            with outbox_engine().begin() as tx:
                outbox.note_sender(tx, worker_name(), str(value))

    configuration().on_change(note)
