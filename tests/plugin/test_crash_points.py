"""Processes killed at a moment that is over at once: the gates in their apps hold them there.

What takes its time, they are killed at in test_worker_deaths, test_worker_corners and test_worker_canvas.
"""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from celery.canvas import Signature

from jobguard.records import Occurrence, Verdict
from tests.broker import is_running
from tests.plugin.beats import PATIENT, Beats, beats
from tests.plugin.bench import WORLDS, Bench, until

pytestmark = WORLDS


@pytest.fixture
def stage(bench: Bench) -> Iterator[Beats]:
    with beats(bench) as found:
        yield found


@pytest.mark.parametrize("moment", ["before publishing", "after publishing"])
def test_a_leader_that_dies_beside_its_publication_costs_no_run_and_adds_none(
    stage: Beats, moment: str
) -> None:
    """Planned and not published, or published and not noted: its successor cannot tell which."""
    gate, held = held_at(stage.bench)
    jobs = {"TEST_JOBS": PATIENT["TEST_JOBS"]}
    victim = stage.start(TEST_HOLD=moment, TEST_HOLD_AT=str(gate), **jobs)
    until(held.exists, moment)
    victim.kill()
    ((occurrence, left),) = stage.opened().items()
    assert left.published == 0
    assert [each.occurrence for each in stage.messages()] == [occurrence] * moment.startswith("after")
    stage.bench.worker(app="tests.plugin.beat_app", TEST_GUARD="1", **jobs)
    stage.start(**jobs)
    assert stage.bench.verdict(occurrence).verdict is Verdict.RAN
    following = until(lambda: later(stage, occurrence), "the next ones are planned")
    assert stage.bench.verdict(following).verdict is Verdict.RAN
    ran = [line["nominal"] for line in stage.bench.journal()]
    assert ran.count(occurrence.stamp) == 1


def later(stage: Beats, than: Occurrence) -> Occurrence | None:
    return next((each for each in stage.opened() if each.nominal > than.nominal), None)


def held_at(bench: Bench) -> tuple[Path, Path]:
    """The gate, and the file that says that somebody waits there."""
    gate = bench.gate("held")
    return gate, gate.with_name(f"{gate.name}.held")


@pytest.mark.parametrize("task", ["run_once", "run_late"])
@pytest.mark.parametrize("victim", ["child", "worker"])
def test_a_process_that_dies_before_it_claims_leaves_the_run_to_the_next_delivery(
    bench: Bench, task: str, victim: str
) -> None:
    """Nobody has claimed, so nothing is lost, and whoever waits for this id waits for that delivery."""
    gate, held = held_at(bench)
    worker = bench.worker(TEST_HOLD_AT=str(gate))
    occurrence = bench.plan("received", task)
    sent = bench.send(occurrence, task)
    pid = int(until(lambda: held.exists() and held.read_text(), "a child has it"))
    if victim == "child":
        os.kill(pid, signal.SIGKILL)
        gate.touch()
        until(
            lambda: "left to the next delivery" in worker.log or "Task handler raised" in worker.log, "buried"
        )
    else:
        worker.kill()
        gate.touch()
        until(lambda: not is_running(pid), "the child dies with its parent")
    assert bench.attempt(occurrence, 1) is None
    assert bench.state(sent) == "PENDING"
    if victim == "worker":
        bench.worker()
    if (bench.on_rabbitmq, task, victim) != (True, "run_late", "worker"):
        bench.send(occurrence, task)
    assert bench.verdict(occurrence).verdict is Verdict.RAN
    until(lambda: bench.state(sent) == "SUCCESS", "who waits for it has its result")
    assert bench.events(occurrence) == ["started", "finished"]


def test_a_worker_killed_after_its_outcome_was_recorded_gives_it_with_the_next_delivery(bench: Bench) -> None:
    """Recorded, and no process is left to store it: RabbitMQ delivers again what was acknowledged late."""
    worker = bench.worker()
    occurrence = bench.plan("recorded", "run_late")
    never = str(bench.gate("never"))
    sent = bench.send(occurrence, "run_late", 1, never, link=Signature("tell"))
    bench.started(occurrence)
    bench.record(occurrence, "kept")
    worker.kill()
    assert bench.state(sent) == "PENDING"
    bench.worker()
    if not bench.on_rabbitmq:
        bench.send(occurrence, "run_late", 1, never, link=Signature("tell"))
    until(lambda: bench.state(sent) == "SUCCESS", "who waits for it has its result")
    until(lambda: any(line.get("said") == "kept" for line in bench.journal()), "its link has it, too")
    assert bench.events(occurrence) == ["started"]
