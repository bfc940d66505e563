"""The occurrences of a past window once more, by hand: counted first, then planned if that count is named.

Place in the house   jobguard.schedules, the CLI, the REST API  ->  backfill  ->  definition, schedule, client
Takes                a job, a window, the count the caller saw, who acts and why
Gives                occurrences that are open; the leading beat publishes them
Never                moves the cursor, or touches an occurrence that was: each has an identity of its own

That identity is the nominal time and a few microseconds, which no cron field and no second-wise interval
names: as many as there were backfills of the window, so that a second one is another one.
"""

import secrets
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice, takewhile
from typing import TYPE_CHECKING

import msgspec

from jobguard.definition import by_hand
from jobguard.errors import ConfigurationError, JobguardError
from jobguard.observe.reading import read
from jobguard.observe.schedules import no_such_job
from jobguard.operate import PATIENCE_S, Actor, found
from jobguard.ops import compare_absent, compare_mod, get_op, prefix_end, put_op
from jobguard.records import Keys, Occurrence, Open, Schedule, encode
from jobguard.schedule import DAY, times_of
from jobguard.steps import Seen, see
from jobguard.wire import RangeRequest

if TYPE_CHECKING:
    from jobguard.client import Client

LIMIT = 1000
"""Occurrences of one backfill."""

_STEP = 50  # of them in one transaction, with two compares each
_MICROSECOND = timedelta(microseconds=1)


class NotConfirmed(JobguardError):
    """The window holds another number of occurrences than the caller confirmed; nothing was planned."""


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """What a backfill would run."""

    job: str
    count: int
    first: datetime | None = None
    last: datetime | None = None
    overlap: str = ""  # wait: one after the other; allow: side by side


def preview(client: "Client", job: str, start: datetime, end: datetime) -> Window:
    """What lies from `start` until just before `end`. Raises NotFound, ConfigurationError."""
    schedule, nominals = _look(client, job, start, end)
    return Window(
        job=job,
        count=len(nominals),
        first=nominals[0] if nominals else None,
        last=nominals[-1] if nominals else None,
        overlap=_overlap(schedule.record),
    )


def backfill(
    client: "Client", job: str, start: datetime, end: datetime, *, count: int, actor: Actor
) -> list[Occurrence]:
    """Plan the `count` occurrences of the window, paused or not. The job's policies hold; where it must not
    overlap they run one after the other, and each must start within a day.

    Raises NotFound, ConfigurationError, NotConfirmed. What fails half way has planned the oldest, 50 at a
    time: the audit log has an entry for each 50.
    """
    schedule, nominals = _look(client, job, start, end)
    if len(nominals) != count:
        raise NotConfirmed(f"the window holds {len(nominals)} occurrences, and {count} were confirmed")
    now, shift = datetime.now(UTC), _shift(client, job, nominals)
    opens = [_open(schedule.record, nominal + shift, now) for nominal in nominals]
    for position in range(0, len(opens), _STEP):
        part = opens[position : position + _STEP]
        _plan(client, schedule, part, actor, f"{position + 1} to {position + len(part)} of {count}")
    return [each.occurrence for each in opens]


def _look(
    client: "Client", job: str, start: datetime, end: datetime
) -> tuple[Seen[Schedule], Sequence[datetime]]:
    if start >= end or end > datetime.now(UTC):
        raise ConfigurationError("a backfill needs a window of the past, its start before its end")
    (there,) = read(client, [RangeRequest(key=Keys(client.namespace).schedule(job))]).ranges
    seen = see(there[0] if there else None, Schedule)
    if seen is None:
        raise no_such_job(client, job)
    try:
        after = times_of(seen.record.fingerprint).after(start - _MICROSECOND)
        nominals = list(islice(takewhile(lambda each: each < end, after), LIMIT + 1))
    except (ValueError, OverflowError) as error:
        raise ConfigurationError(f"{job} cannot be backfilled: {error}") from None
    if len(nominals) > LIMIT:
        raise ConfigurationError(
            f"the window holds more than {LIMIT} occurrences: take a part of it at a time"
        )
    return seen, nominals


def _shift(client: "Client", job: str, nominals: Sequence[datetime]) -> timedelta:
    """By how much these differ from what was planned, or backfilled, before."""
    keys, shift = Keys(client.namespace), timedelta()
    if not nominals:
        return shift
    # Without its Z, a second's stamp begins those of all its fractions.
    first, last = (Occurrence(job, nominals[at].replace(microsecond=0)) for at in (0, -1))
    asked = [
        RangeRequest(key=of(first)[:-1], range_end=prefix_end(of(last)[:-1]), keys_only=True)
        for of in (keys.open, keys.done)
    ]
    wanted = set(nominals)
    for kv in (kv for each in read(client, asked).ranges for kv in each):
        nominal = keys.occurrence(kv.key).nominal
        if (whole := _without(nominal, wanted)) is not None:
            shift = max(shift, nominal - whole)
    return shift + _MICROSECOND


def _without(nominal: datetime, wanted: set[datetime]) -> datetime | None:
    """Of which of the `wanted` this is a backfill."""
    whole = nominal.replace(microsecond=nominal.microsecond // 1000 * 1000)
    return whole if whole in wanted else None


def _open(schedule: Schedule, nominal: datetime, now: datetime) -> Open:
    record = by_hand(schedule, nominal, now)
    deadline = max(record.deadline or now, now + DAY)
    return msgspec.structs.replace(record, trigger="backfill", overlap=_overlap(schedule), deadline=deadline)


def _overlap(schedule: Schedule) -> str:
    return "allow" if schedule.policy.get("overlap") == "allow" else "wait"


def _plan(client: "Client", schedule: Seen[Schedule], opens: Sequence[Open], actor: Actor, part: str) -> None:
    keys, job = Keys(client.namespace), schedule.record.job
    window = f"{part}: {opens[0].occurrence.stamp} to {opens[-1].occurrence.stamp}"
    audit = actor.audit("backfill", f"schedule {job}", after=window)
    entry = keys.audit(audit.at, secrets.token_hex(8))
    absent = [compare_absent(of(each.occurrence)) for each in opens for of in (keys.open, keys.done)]
    answer = client.txn_until_known(
        [compare_absent(entry), compare_mod(keys.schedule(job), schedule.mod_revision), *absent],
        [put_op(entry, encode(audit)), *(put_op(keys.open(each.occurrence), encode(each)) for each in opens)],
        [get_op(entry)],
        timeout=PATIENCE_S,
    )
    if not answer.succeeded and not found(answer.responses[0].response_range):
        raise NotConfirmed(
            f"{job} was changed, or backfilled, meanwhile: {part} and what follows is not planned"
        )
