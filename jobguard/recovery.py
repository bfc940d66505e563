"""What an open occurrence needs now: nothing, a publication, another attempt, or its verdict.

Place in the house   celery.upkeep  ->  recovery  ->  records
Takes                an open record, who is active on it, who claimed it, what is known of the workers, now
Gives                one Step
Never                reads a clock or the store, and never decides on a guess about the broker

The broker cannot be asked whether it still holds a message. So a message is sent a second time only where
a second copy is harmless: while every worker that answers guards its tasks. Else a roll-out with half of
the workers upgraded would run a job more often than stock beat does.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum, auto

from jobguard.records import Active, Attempt, Open, Verdict

RETRY_GRACE = timedelta(seconds=30)  # a retry's message may be this late
DEADLINE_GRACE = timedelta(seconds=2)  # a claim at the last moment is on its way
RERUN_PATIENCE = timedelta(days=1)  # a rerun or retry may wait this long for a worker; it blocks its job
_REPUBLISH_S = (30, 60, 120, 300, 600)
_RERUN_S = (0, 10, 60, 300, 600)


class Workers(Enum):
    """What `ping` said."""

    UNKNOWN = auto()  # not asked lately
    NONE = auto()  # nobody answered
    GUARDED = auto()  # every worker that answered guards its tasks
    MIXED = auto()  # some do not


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do before `until` (None: before something happens to it)."""

    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class AskWorkers:
    """What to do depends on the workers: ask them, then decide again."""


@dataclass(frozen=True, slots=True)
class Publish:
    """Hand (n, r) to the broker. `first`: certainly for the first time; write down the intent before."""

    first: bool


@dataclass(frozen=True, slots=True)
class Rerun:
    """The attempt is lost: open n + 1, to be published at `not_before`."""

    not_before: datetime
    reason: str


@dataclass(frozen=True, slots=True)
class End:
    verdict: Verdict
    reason: str


Step = Wait | AskWorkers | Publish | Rerun | End


def decide(
    record: Open,
    *,
    active: Active | None,
    attempt: Attempt | None,
    busy: bool,
    maybe_sent: bool,
    workers: Workers,
    now: datetime,
) -> Step:
    """One occurrence, seen at one revision.

    `attempt` is the claim of (n, r). `busy`: another one of the job runs, or comes first. `maybe_sent`: some
    leader wrote that it was about to publish (n, r).
    """
    if active is not None:
        return Wait()
    if attempt is not None:
        return _lost(record, attempt, now)
    if record.deadline and not record.claimed and now > record.deadline + DEADLINE_GRACE:
        return _late(record, workers)
    start = max(filter(None, (record.not_before, record.retry_at, record.nominal)))
    if now < start:
        return Wait(start)
    if record.claimed and now > start + RERUN_PATIENCE:
        return _unstarted(workers, Verdict.LOST, f"no worker started {attempt_text(record)} within a day")
    if busy and record.overlap == "wait":
        return Wait()
    if record.r == 0 and not maybe_sent:
        return Publish(first=True)
    return _again(record, workers, now)


def _lost(record: Open, attempt: Attempt, now: datetime) -> Step:
    reason = f"attempt {record.n} on {attempt.holder} was lost" + (attempt.error and f": {attempt.error}")
    if record.lost >= record.reruns:
        again = f" after {record.lost} reruns" if record.lost else ""
        return End(Verdict.LOST, reason + again)
    return Rerun(now + _brake(_RERUN_S, record.lost), reason)


def _late(record: Open, workers: Workers) -> Step:
    if record.published == 0:
        turn = "its turn did not come" if record.overlap == "wait" else "it could not be published"
        return End(Verdict.LATE, f"{turn} before its deadline")
    return _unstarted(workers, Verdict.LATE, "no worker started it before its deadline")


def _unstarted(workers: Workers, verdict: Verdict, reason: str) -> Step:
    if workers is Workers.UNKNOWN:
        return AskWorkers()
    if workers is Workers.MIXED:
        return End(Verdict.UNCLAIMED, "no guarded worker claimed it; an unguarded one may have run it")
    if workers is Workers.NONE:
        return End(verdict, f"{reason}, as far as is known: none answers")
    return End(verdict, reason)


def _again(record: Open, workers: Workers, now: datetime) -> Step:
    """It was published, or may have been: a leader wrote its intent and never came to note the success."""
    sent = record.published_at or record.not_before or record.nominal
    if record.retry_at and sent < record.retry_at:
        due = record.retry_at + RETRY_GRACE  # the retry's own message was sent by the attempt before it
    elif record.published == 0:
        due = sent
    else:
        due = sent + _brake(_REPUBLISH_S, record.published - 1)
    if now < due:
        return Wait(due)
    if workers is Workers.UNKNOWN:
        return AskWorkers()
    return Publish(first=False) if workers is Workers.GUARDED else Wait(now + timedelta(seconds=5))


def attempt_text(record: Open) -> str:
    return f"attempt {record.n}" + (f" retry {record.r}" if record.r else "")


def _brake(seconds: tuple[int, ...], count: int) -> timedelta:
    return timedelta(seconds=seconds[min(count, len(seconds) - 1)])
