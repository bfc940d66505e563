"""RabbitMQ's quorum queues: a static prefetch count, and retries that RabbitMQ keeps until they are due."""

import os
import signal

import pytest
from celery import Celery
from kombu import Exchange, Queue

from jobguard.records import Verdict
from tests.plugin.bench import PATIENCE_S, Bench, until

NAME = "quorum"
QUEUE = Queue(
    NAME, Exchange(NAME, type="topic"), routing_key=NAME, queue_arguments={"x-queue-type": "quorum"}
)


@pytest.mark.timeout(180)  # it may have to set the broker up
@pytest.mark.parametrize("broker_url", ["rabbitmq"], indirect=True, scope="session")
def test_copies_retries_and_crashes(bench: Bench) -> None:
    environment = {"app": "tests.plugin.optin_app", "TEST_QUORUM_QUEUE": NAME}
    worker = bench.worker(**environment)
    assert "Global QoS is disabled" in worker.log
    for job, seconds in (("never", 3600), ("later", 1)):
        occurrence = bench.plan(job, "retry_later")
        bench.send(occurrence, "retry_later", 1, seconds, queue=QUEUE)
        bench.started(occurrence)
    assert bench.verdict(occurrence).verdict is Verdict.RAN, "the one that is not due is in nobody's way"
    once = bench.plan("once", "run_once")
    for _ in range(3):
        bench.send(once, "run_once", queue=QUEUE)
    assert bench.verdict(once).verdict is Verdict.RAN
    until(lambda: worker.log.count(" not run: ") == 2, "two copies are dropped")
    assert bench.events(once) == ["started", "finished"]

    gate = bench.gate("late")
    with Celery("sender", broker=bench.broker, backend=bench.backend, set_as_current=False) as app:
        sent = app.send_task("late", (1, str(gate)), queue=QUEUE)

        def starts() -> list[int]:
            return [line["pid"] for line in bench.journal() if line["job"] == "late(customer=1)"]

        until(lambda: len(starts()) == 1, "it runs")
        os.kill(starts()[0], signal.SIGKILL)
        until(lambda: len(starts()) == 2, "it is delivered again, and has its key")
        gate.touch()
        assert sent.get(PATIENCE_S) == "result"

    running, prefetched = bench.plan("running", "run_late"), bench.plan("prefetched", "run_late")
    bench.send(running, "run_late", 1, str(bench.gate("running")), queue=QUEUE)
    bench.started(running)
    bench.send(prefetched, "run_late", queue=QUEUE)
    worker.kill()
    second = bench.worker(**environment)
    assert bench.verdict(prefetched).verdict is Verdict.RAN
    until(lambda: second.log.count(" not run: ") == 1, "what was claimed is the leader's to repeat")
    assert bench.events(running) == ["started"]
