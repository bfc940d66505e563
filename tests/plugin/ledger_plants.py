"""Bugs that the ledger must find: each is planted in every process of the cast.

Place in the house   ledger_app -> ledger_plants -> jobguard
Takes                a name, from the environment of the cast
Gives                the library with that bug
Never                is imported by anything but the ledger's app and its tests
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from jobguard import recovery, runs
from jobguard.celery import upkeep
from jobguard.records import Attempt, Keys, Occurrence


def copies_run() -> None:
    """A claim compares neither whether this attempt was claimed before, nor whether it runs."""
    claim = runs.claim

    def uncompared(keys: Keys, occurrence: Occurrence, attempt: Attempt, **named: Any) -> Any:
        step = claim(keys, occurrence, attempt, **named)
        taken = keys.attempt(occurrence, attempt.n, attempt.r), keys.active(occurrence)
        return replace(step, compare=tuple(each for each in step.compare if each.key not in taken))

    runs.claim = uncompared


def lost_runs_are_forgotten() -> None:
    """The leader waits for a run whose worker died."""
    decide = recovery.decide

    def patient(record: Any, *, attempt: Attempt | None, **named: Any) -> recovery.Step:
        if attempt is not None:
            return recovery.Wait()
        return decide(record, attempt=attempt, **named)

    upkeep.decide = patient  # type: ignore[attr-defined]


PLANTS: dict[str, Callable[[], None]] = {
    each.__name__: each for each in (copies_run, lost_runs_are_forgotten)
}
