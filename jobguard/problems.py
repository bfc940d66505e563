"""Every error's lasting name, for programs: the REST API's problem types and the CLI's exit codes.

Place in the house   the web UI, the REST API and the CLI  ->  problems  ->  errors
Never                changes a name or a number that was released
"""

from dataclasses import dataclass
from typing import Any

import msgspec

from jobguard.backfill import NotConfirmed
from jobguard.errors import (
    ConfigurationError,
    JobguardError,
    NotAcquired,
    OutcomeUnknown,
    ServerError,
    Unavailable,
)
from jobguard.observe import BadCursor, NotFound
from jobguard.operate import HolderChanged, ValueChanged
from jobguard.registry import OlderSchedule, ScheduleChanged, ScheduleExists


@dataclass(frozen=True, slots=True)
class Kind:
    """What went wrong: its lasting name, the HTTP status, a title for people, the CLI's exit code."""

    name: str
    status: int
    title: str
    exit_code: int = 1
    next_step: str = ""


# The first family that an error belongs to names it.
KINDS: tuple[tuple[type[JobguardError], Kind], ...] = (
    (NotFound, Kind("not-found", 404, "Not found", 3)),
    (
        HolderChanged,
        Kind("holder-changed", 412, "The holder has changed", 4, "Look at the new holder first."),
    ),
    (
        ScheduleChanged,
        Kind("schedule-changed", 412, "The schedule has changed", 4, "Look at what it is now first."),
    ),
    (ValueChanged, Kind("value-changed", 412, "The value has changed", 4, "Look at what it is now first.")),
    (ScheduleExists, Kind("schedule-exists", 409, "The name is taken", 4)),
    (OlderSchedule, Kind("older-schedule", 409, "A newer schedule is in force", 4)),
    (NotConfirmed, Kind("not-confirmed", 409, "Another number than was confirmed", 4)),
    (BadCursor, Kind("bad-cursor", 400, "Bad cursor", 2)),
    (ConfigurationError, Kind("bad-request", 400, "Bad request", 2)),
    (NotAcquired, Kind("timed-out", 409, "Not acquired in time", 8)),
    (
        Unavailable,
        Kind(
            "unavailable",
            503,
            "The store does not answer",
            6,
            "It goes on as soon as a majority of the store's nodes answers again, if that is its address.",
        ),
    ),
    (
        OutcomeUnknown,
        Kind(
            "unknown-outcome",
            504,
            "It is not known whether this was done",
            7,
            "Look at the current state before you try again.",
        ),
    ),
    (ServerError, Kind("refused-by-store", 502, "The store refused")),
    (JobguardError, Kind("failed", 500, "This did not work")),
)


def kind_of(error: JobguardError) -> Kind:
    return kind_of_family(type(error))


def kind_of_family(family: type[JobguardError]) -> Kind:
    return next(kind for known, kind in KINDS if issubclass(family, known))


def current(error: JobguardError) -> object:
    """What else a program needs to go on: who holds the lock instead, how the schedule or value is now."""
    return error.now if isinstance(error, HolderChanged | ScheduleChanged | ValueChanged) else None


class Problem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An error as RFC 9457 writes it. `type` never changes, `detail` is for people and may.

    `instance` is the path that was asked; `current` what is there instead, where that has changed.
    """

    type: str
    title: str
    status: int
    detail: str
    instance: str = ""
    current: Any = None


def body(kind: Kind, detail: str, *, instance: str = "", current: object = None) -> Problem:
    return Problem(
        type=f"urn:jobguard:problem:{kind.name}",
        title=kind.title,
        status=kind.status,
        detail=detail,
        instance=instance,
        current=current,
    )
