"""The app of the beat tests: its schedule and settings come from the environment, its task does nothing."""

import json
import os

from celery import Celery

app = Celery("beats", broker=os.environ["TEST_BROKER"])
app.conf.broker_connection_retry_on_startup = True
app.conf.beat_scheduler = "jobguard"
app.conf.jobguard_endpoints = [os.environ["TEST_STORE"]]
app.conf.jobguard_session_ttl = float(os.environ.get("TEST_TTL", "3"))
app.conf.jobguard_jobs = json.loads(os.environ.get("TEST_JOBS", "{}"))
app.conf.beat_schedule = {
    name: {"task": "beats.work", "schedule": period}
    for name, period in json.loads(os.environ.get("TEST_SCHEDULE", '{"work": 1.0}')).items()
}


@app.task(name="beats.work")
def work() -> None: ...
