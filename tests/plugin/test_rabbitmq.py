"""The main path on RabbitMQ: planned, published, claimed once, recovered; whatever it delivers again."""

import os
import signal
from pathlib import Path

import pytest

from jobguard.records import Done, Verdict, decode
from tests.plugin.beats import beats
from tests.plugin.bench import Bench, until

pytestmark = pytest.mark.parametrize("broker_url", ["rabbitmq"], indirect=True, scope="session")


@pytest.mark.timeout(180)  # the first sets the broker up
def test_copies_and_crashes(bench: Bench, tmp_path: Path) -> None:
    worker = bench.worker("-c", "2")
    once = bench.plan("once", "run_once")
    sent = [bench.send(once, "run_once") for _ in range(4)]
    assert bench.verdict(once).verdict is Verdict.RAN
    until(lambda: worker.log.count(" not run: ") == 3, "three copies are dropped")
    assert bench.events(once) == ["started", "finished"]
    until(lambda: bench.state(sent[0]) == "SUCCESS", "its result is stored")

    late = bench.plan("late", "run_late")
    bench.send(late, "run_late", 1, str(bench.gate("never")))
    os.kill(bench.started(late)["pid"], signal.SIGKILL)
    until(lambda: bench.active(late) is None, "the claim of a killed child is freed")
    attempt = bench.attempt(late, 1)
    assert attempt is not None
    assert attempt.outcome == "lost"

    running, waiting = bench.plan("running", "run_late"), bench.plan("waiting", "run_late")
    gate = bench.gate("waiting")
    for occurrence in (running, waiting):
        bench.send(occurrence, "run_late", 1, str(gate))
        bench.started(occurrence)
    prefetched = bench.plan("prefetched", "run_late")
    bench.send(prefetched, "run_late", 1)
    worker.kill()  # RabbitMQ delivers all three again
    gate.touch()
    second = bench.worker("-c", "2")
    assert bench.verdict(prefetched).verdict is Verdict.RAN
    until(lambda: second.log.count(" not run: ") == 2, "what had been claimed is the leader's to repeat")
    assert bench.events(running) == bench.events(waiting) == ["started"]


def test_a_beat_and_a_worker(bench: Bench) -> None:
    with beats(bench) as on:
        on.start(TEST_GUARD="1")
        bench.worker(app="tests.plugin.beat_app", TEST_GUARD="1")

        def ran() -> list[Done] | None:
            found = [decode(kv.value, Done) for kv in bench.client.prefix(bench.keys.prefix("done")).kvs]
            return found if len(found) >= 2 else None

        assert {done.verdict for done in until(ran, "two occurrences ended")} == {Verdict.RAN}
