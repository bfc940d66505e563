"""The app of the beat tests: schedule and settings come from the environment; guarded if TEST_GUARD says so.

Its task writes down each run, and waits for a gate on its first run if there is one.
"""

import json
import os
import time
from pathlib import Path
from typing import Any

from celery import Celery
from celery.signals import after_task_publish, before_task_publish
from kombu import Queue

import jobguard

app = Celery("beats", broker=os.environ["TEST_BROKER"])
app.conf.broker_connection_retry_on_startup = True
if os.environ["TEST_BROKER"].startswith("amqp"):
    app.conf.broker_transport_options = {"confirm_publish": True}
if limit := os.environ.get("TEST_QUEUE_LIMIT"):
    full = {"x-max-length": int(limit), "x-overflow": "reject-publish"}
    app.conf.task_queues = [Queue("celery", routing_key="celery", queue_arguments=full)]
app.conf.worker_prefetch_multiplier = 1
if not os.environ.get("TEST_STOCK_BEAT"):
    app.conf.beat_scheduler = "jobguard"
app.conf.jobguard_namespace = os.environ["TEST_NAMESPACE"]
app.conf.jobguard_endpoints = [os.environ["TEST_STORE"]]
app.conf.jobguard_session_ttl = float(os.environ.get("TEST_TTL", "4"))
app.conf.jobguard_timeout = float(os.environ.get("TEST_TIMEOUT", "5"))
app.conf.jobguard_jobs = json.loads(os.environ.get("TEST_JOBS", "{}"))
OPTIONS = json.loads(os.environ.get("TEST_OPTIONS", "{}"))
app.conf.beat_schedule = {
    name: {"task": "beats.work", "schedule": period, "options": OPTIONS}
    for name, period in json.loads(os.environ.get("TEST_SCHEDULE", '{"work": 1.0}')).items()
}
if os.environ.get("TEST_GUARD"):
    jobguard.install(app)


def hold(**_: Any) -> None:
    """Where the test wants to have us; it goes on when the gate opens, or never."""
    gate = Path(os.environ["TEST_HOLD_AT"])
    Path(f"{gate}.held").touch()
    while not gate.exists():
        time.sleep(0.02)


if held := os.environ.get("TEST_HOLD"):
    {"before publishing": before_task_publish, "after publishing": after_task_publish}[held].connect(hold)


@app.task(name="beats.work", bind=True)
def work(self: Any) -> None:
    header = getattr(self.request, "jobguard", {"nominal": "", "n": 1})
    line = {
        "id": self.request.id,
        "worker": self.request.hostname,
        "nominal": header["nominal"],
        "n": header["n"],
    }
    with Path(os.environ["TEST_JOURNAL"]).open("a") as journal:
        journal.write(json.dumps(line) + "\n")
    gate = os.environ.get("TEST_GATE")
    while gate and header["n"] == 1 and not Path(gate).exists():
        time.sleep(0.02)
