"""A Celery project with one scheduled job, and the three lines that make it start once."""

import os

from celery import Celery
from sqlalchemy import create_engine, text

import jobguard
from jobguard.fencing.sqlalchemy import create_guards, fence

REDIS = os.environ.get("REDIS_URL", "redis://127.0.0.1:6379/0")

app = Celery("proj", broker=REDIS, backend=REDIS)
app.conf.beat_schedule = {"digest": {"task": "proj.send_digest", "schedule": 10.0}}

app.conf.beat_scheduler = "jobguard"
app.conf.jobguard_endpoints = os.environ.get("JOBGUARD_ENDPOINTS", "http://127.0.0.1:2379").split(",")
jobguard.install(app)

# A run whose worker died is dispatched again: its writes are fenced, so a late twin of it does no harm.
app.conf.jobguard_jobs = {"digest": {"on_lost": "rerun"}}


def outbox():
    """The database that the digest writes to. Made for each run, since a worker forks."""
    engine = create_engine(f"sqlite:///{os.environ.get('OUTBOX', 'outbox.db')}")
    with engine.begin() as tx:
        create_guards(tx)
        tx.execute(text("create table if not exists outbox (occurrence text primary key, worker text)"))
    return engine


@app.task(name="proj.send_digest")
def send_digest():
    """Send the digest of this occurrence; if its predecessor died half-way, what that one left undone."""
    run = jobguard.current()
    with outbox().begin() as tx:
        fence(
            tx, "digest", run
        )  # before the first read: a twin that still runs somewhere is refused from here on
        tx.execute(
            text("insert or ignore into outbox values (:occurrence, :worker)"),
            {"occurrence": run.nominal_time.isoformat(), "worker": os.uname().nodename},
        )
