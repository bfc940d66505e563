"""Some trouble that begins the same every time; `make chaos-celery SECONDS=600` makes another."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from jobguard.records import Done, Verdict
from tests.plugin.ledger import missing, run, wrong_effects, wrong_starts
from tests.plugin.ledger_outbox import STEPS, Effect

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)


@pytest.mark.timeout(600)
def test_each_effect_happens_once_through_kills_pauses_and_copies(tmp_path: Path) -> None:
    report = run(seconds=60, seed=1, folder=tmp_path, faults_min=25, copies_min=100)
    print(report)
    assert report.violations == [], str(report)
    assert report.faults.total() >= 25
    assert report.copies >= 100
    assert report.verdicts["ran"] >= 200


@pytest.mark.timeout(240)
def test_a_guard_that_lets_copies_run_is_found(tmp_path: Path) -> None:
    """The other plants take more than their share of a test run: make chaos-celery ARGS=--plant=…"""
    report = run(seconds=10, seed=1, folder=tmp_path, plant="copies_run")
    assert any("attempt 1 started" in each for each in report.violations), str(report)


# --- the judge sees what is wrong -----------------------------------------------------------------


def done(second: int, verdict: Verdict = Verdict.RAN) -> Done:
    nominal = NOON + timedelta(seconds=second)
    return Done(job="early", nominal=nominal, verdict=verdict, nonce="", finished=nominal)


def effect(step: str, token: int = 7, second: int = 0) -> Effect:
    return Effect(f"early {(NOON + timedelta(seconds=second)).isoformat()}", step, 1, token)


def test_an_effect_that_happened_twice_or_never_or_too_late() -> None:
    both = [effect(step) for step in STEPS]
    assert wrong_effects([done(0)], both) == []
    assert wrong_effects([done(0, Verdict.LOST)], both[:1]) == []
    assert wrong_effects([done(0)], both[:1])
    assert wrong_effects([done(0)], [*both, both[0]])
    assert wrong_effects([done(0)], [effect(STEPS[0], token=9), effect(STEPS[1], token=7)])


def test_an_occurrence_that_nobody_speaks_of() -> None:
    assert missing([done(0), done(1), done(2)], {"early": 1.0}) == []
    assert missing([done(0), done(2)], {"early": 1.0}) == ["early 2026-11-24T12:00:01+00:00 is missing"]


def test_an_attempt_that_started_twice() -> None:
    first, again = {"occurrence": "x", "n": 1}, {"occurrence": "x", "n": 2}
    assert wrong_starts([first, again]) == []
    assert wrong_starts([first, again, first]) == ["x attempt 1 started 2 times"]
