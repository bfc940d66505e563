"""How long a lost run is away: until its parent, or the end of its lease, has told the leading beat."""

import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from jobguard import Client, schedules
from jobguard.operate import Actor
from jobguard.records import Active, Occurrence
from tests.plugin.beats import Beats, beats
from tests.plugin.bench import Bench, until
from tests.stopwatch import Stopwatch, best_of

ANN = Actor(by="ann", via="test", reason="not to wait")
APP = "tests.plugin.beat_app"
TTL_S = 4


@pytest.fixture
def stage(bench: Bench) -> Iterator[Beats]:
    with beats(bench) as found:
        yield found


def guarded(stage: Beats) -> dict[str, Any]:
    return {"TEST_GUARD": "1", "TEST_GATE": str(stage.bench.gate("never"))}


def lead(stage: Beats) -> None:
    jobs = {"work": {"on_lost": {"rerun": 3}, "overlap": "allow"}}
    beat = stage.start(TEST_SCHEDULE={"work": 3e7}, TEST_JOBS=jobs, TEST_TTL="10")
    until(lambda: beat.leads, "it leads")


def away_s(stage: Beats, strike: Callable[[Active], None]) -> float:
    """Seconds from the stroke against what runs attempt 1 until attempt 2 runs."""
    bench = stage.bench
    with Client([bench.store.url], namespace=bench.namespace, timeout=30) as client:
        occurrence: Occurrence = schedules.trigger(client, "work", actor=ANN)
    active = until(lambda: bench.active(occurrence), "attempt 1 runs")
    with Stopwatch() as watch:
        strike(active)
        until(
            lambda: any(line["n"] == 2 and line["nominal"] == occurrence.stamp for line in bench.journal()),
            "attempt 2 runs",
        )
        return watch.seconds


def test_of_a_killed_child_a_second(stage: Beats) -> None:
    """Its parent sees it die, and does not find it when it compares what it holds, a third of a TTL later."""
    stage.bench.worker("-c", "2", app=APP, **guarded(stage), TEST_TTL="60")
    lead(stage)

    def kill(active: Active) -> None:
        os.kill(active.pid, signal.SIGKILL)

    best_of(6, lambda: away_s(stage, kill), under=1, each_under=10)


def test_of_a_killed_host_its_lease_and_two_seconds(stage: Beats) -> None:
    for _ in range(2):
        stage.bench.worker(app=APP, **guarded(stage), TEST_TTL=str(TTL_S))
    lead(stage)

    def kill(active: Active) -> None:
        next(each for each in stage.bench.workers if active.worker == f"{each.name}@test").kill()

    assert away_s(stage, kill) < TTL_S + 2
