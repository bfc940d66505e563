"""Sentry Crons with a beat and a worker of ours: the SDK itself, and every check-in that it would send."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobguard import Client, schedules
from jobguard.operate import Actor
from jobguard.schedules import Definition
from tests.plugin.beats import Beats, beats
from tests.plugin.bench import Bench, until

APP = "tests.plugin.sentry_app"
ANN = Actor(by="ann", via="test", reason="not to wait")


@pytest.fixture
def stage(bench: Bench) -> Iterator[Beats]:
    with beats(bench) as found:
        yield found


def test_each_run_is_checked_in_when_it_is_sent_and_when_it_has_ended(stage: Beats, tmp_path: Path) -> None:
    """Of the code's entries and of those made at run time. Sentry knows no intervals below a minute.

    Both are started by hand: one that came by itself meanwhile would be a third.
    """
    path = tmp_path / "check-ins"
    path.touch()
    environment = {"TEST_CHECK_INS": str(path), "TEST_GUARD": "1"}
    environment |= {"TEST_SCHEDULE": f'{{"work": {30_000 * 86_400}}}'}  # next in 2052

    def said(job: str) -> list[dict[str, Any]]:
        whole = path.read_text().rpartition("\n")[0]  # the last one may be half written
        lines = (json.loads(line) for line in whole.splitlines())
        return [each for each in lines if each["monitor_slug"] == job]

    stage.bench.worker(app=APP, **environment)
    beat = stage.start(APP, **environment)
    until(lambda: beat.leads, "it leads")
    with Client([stage.bench.store.url], namespace=stage.bench.namespace, timeout=30) as client:
        schedules.add(client, "made", Definition(task="beats.fail", cron="30 2 1 1 *"), actor=ANN)
        for _ in range(2):
            for job in ("work", "made"):
                schedules.trigger(client, job, actor=ANN)
    for job, end in (("work", "ok"), ("made", "error")):
        until(lambda job=job: len(said(job)) >= 4, f"four check-ins of {job}")  # type: ignore[misc]
        by_id: dict[str, list[str]] = {}
        for each in said(job):
            by_id.setdefault(each["check_in_id"], []).append(each["status"])
        assert list(by_id.values()) == [["in_progress", end]] * 2
    assert said("work")[0]["monitor_config"]["schedule"] == {
        "type": "interval",
        "value": 30_000,
        "unit": "day",
    }
    assert said("made")[0]["monitor_config"]["schedule"] == {"type": "crontab", "value": "30 2 1 1 *"}
