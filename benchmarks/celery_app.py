"""The Celery app of the benchmark's workers and beats, as BENCH_MODE has it: plain, jobguard or redbeat."""

import os

from celery import Celery

import jobguard
from benchmarks.celery_process import TASK

PERIOD_S = 0.2

redis = os.environ["BENCH_REDIS"]
app = Celery("benchmark", broker=f"{redis}/0", backend=f"{redis}/1")
app.conf.broker_connection_retry_on_startup = True
app.conf.beat_schedule = {"nothing": {"task": TASK, "schedule": PERIOD_S}}
match os.environ["BENCH_MODE"]:
    case "jobguard":
        app.conf.beat_scheduler = "jobguard"
        app.conf.jobguard_endpoints = os.environ["BENCH_STORE"].split(",")
        app.conf.jobguard_session_ttl = float(os.environ["BENCH_SESSION_TTL"])
        app.conf.jobguard_jobs = {"*": {"overlap": "allow"}}
        jobguard.install(app)
    case "redbeat":
        app.conf.beat_scheduler = "redbeat.RedBeatScheduler"
        app.conf.redbeat_redis_url = f"{redis}/2"


@app.task(name=TASK)  # type: ignore[untyped-decorator]
def nothing() -> None:
    """What costs nothing, so that all there is to measure is what is around it."""
