"""What is to come, for people: the next nominal times of a job, and what the clocks do to them.

Place in the house   observe and the CLI  ->  preview  ->  schedule
Takes                nominal times, a moment, a number
Gives                fires: the UTC time, the time on the wall, and a note where the clocks change
Never                reads a clock, or plans anything
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from jobguard.schedule import Cron, Times, upcoming


@dataclass(frozen=True, slots=True)
class Fire:
    """One nominal time. `note` is empty unless the clocks change at it, or since the one before."""

    nominal: datetime
    local: datetime
    note: str = ""


def preview(times: Times, moment: datetime, count: int) -> list[Fire]:
    """The next `count` nominal times after `moment`; fewer if they end."""
    fires, before = [], moment
    for nominal in upcoming(times, moment, count):
        notes = _notes(times, before, nominal) if isinstance(times, Cron) else []
        zone = times.zone if isinstance(times, Cron) else UTC
        fires.append(Fire(nominal, nominal.astimezone(zone), "; ".join(notes)))
        before = nominal
    return fires


def _notes(times: Cron, before: datetime, nominal: datetime) -> list[str]:
    local, last = nominal.astimezone(times.zone), before.astimezone(times.zone)
    shift = (local.utcoffset() or timedelta()) - (last.utcoffset() or timedelta())
    notes = []
    if shift:
        ahead = "forward" if shift > timedelta() else "back"
        notes.append(f"the clocks have gone {ahead} by {_minutes(shift)} min")
    for wall in times.missing(before, nominal):
        kept = "is left out" if times.dst == "skip" else "runs here instead"
        notes.append(f"{wall:%Y-%m-%d %H:%M} does not exist and {kept}")
    first, second = (local.replace(fold=fold).astimezone(UTC) for fold in (0, 1))
    if first < second:  # in a gap, which no fire is in, the first would be the later one
        which = "first" if nominal == first else "second"
        notes.append(f"{local:%H:%M} comes twice; this is the {which}")
    return notes


def _minutes(shift: timedelta) -> int:
    return abs(shift) // timedelta(minutes=1)
