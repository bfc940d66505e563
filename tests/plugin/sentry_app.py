"""The app of the beat tests with Sentry's SDK, as its documentation says; what it would send is kept."""

import json
import os
from pathlib import Path

import sentry_sdk
from sentry_sdk.envelope import Envelope
from sentry_sdk.integrations.celery import CeleryIntegration
from sentry_sdk.transport import Transport

from tests.plugin.beat_app import app


class Journal(Transport):
    def capture_envelope(self, envelope: Envelope) -> None:
        with Path(os.environ["TEST_CHECK_INS"]).open("a") as journal:
            for item in envelope.items:
                if item.type == "check_in":
                    journal.write(json.dumps(item.payload.json) + "\n")


sentry_sdk.init(
    dsn="http://key@127.0.0.1:9/1",
    transport=Journal,
    integrations=[CeleryIntegration(monitor_beat_tasks=True)],
    traces_sample_rate=1.0,
    auto_session_tracking=False,
)


@app.task(name="beats.fail")
def fail() -> None:
    raise ValueError("as it must")
