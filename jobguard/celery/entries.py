"""Beat entries as jobguard plans them: which nominal times, under which policy.

Place in the house   beat -> here -> schedule, policy, records
Takes                Celery's schedule entries and the settings
Gives                a Job per entry
Never                asks Celery's crontab whether it is due, or lets an entry pass that it cannot plan
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any

import msgspec
from celery import Celery
from celery import schedules as celery_schedules

from jobguard.asked import Asked
from jobguard.celery.at import at
from jobguard.errors import ConfigurationError
from jobguard.policy import Policy, of_plan, policies
from jobguard.records import Done, Occurrence, Open, Schedule, Verdict
from jobguard.schedule import DAY, GRACE, At, Cron, Every, Missed, Times, start_deadline, times_of
from jobguard.settings import Settings

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
_PLANNABLE = "use a crontab, an interval or a subclass of celery.schedules.BaseSchedule"


@dataclass(frozen=True, slots=True)
class Plain:
    """What a message says, where plain JSON says all of it: any beat can send it then."""

    args: list[Any] = field(default_factory=list)
    kwargs: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Job:
    """A beat entry, understood; or what the store holds of another's (`stored`)."""

    name: str
    task: str
    times: Times
    policy: Policy
    reruns: int
    plain: Plain | None = None
    stored: Schedule | None = None

    def definition(self, since: datetime, version: int, by: str = "") -> Schedule:
        """What the store shows of it; `since` when these nominal times came into force."""
        plain = self.plain or Plain()
        return Schedule(
            job=self.name,
            task=self.task,
            text=self.times.text,
            fingerprint=self.times.fingerprint,
            version=version,
            zone=_zone_name(self.times.zone) if isinstance(self.times, Cron) else "UTC",
            since=since,
            policy=self.policy.planned(self.reruns),
            by=by,
            args=plain.args,
            kwargs=plain.kwargs,
            options=plain.options,
            portable=self.plain is not None,
        )

    def opened(self, nominal: datetime, now: datetime, *, several: bool, planner: str) -> Open:
        """One occurrence, about to be published by `planner`; one that must wait its turn, by nobody yet.

        If `several` are caught up at once, they run one after the other instead of skipping each other.
        """
        overlap = self.policy.overlap
        deadline = start_deadline(self.times, nominal, now, self.policy.start_deadline)
        if overlap == "queue-one" or (overlap == "skip" and several):
            overlap = "wait"
        if several and self.policy.start_deadline is None:
            deadline = now + DAY
        return Open(
            n=1,
            r=0,
            job=self.name,
            nominal=nominal,
            task=self.task,
            trigger="catch-up" if several or now - nominal > GRACE else "schedule",
            overlap=overlap,
            reruns=self.reruns,
            deadline=deadline,
            planner="" if overlap == "wait" else planner,
        )

    def opened_alone(self, nominal: datetime, now: datetime, planner: str) -> Open:
        """One that was sent while the store was away."""
        record = self.opened(nominal, now, several=False, planner=planner)
        return msgspec.structs.replace(record, published=1, published_at=now)

    def missed(self, missed: Missed, now: datetime, nonce: str) -> Done:
        return Done(
            job=self.name,
            nominal=missed.nominal,
            verdict=Verdict.MISSED,
            nonce=nonce,
            finished=now,
            reason=missed.reason,
            task=self.task,
            count=missed.count,
            until=missed.until if missed.until != missed.nominal else None,
        )


def ended(record: Open, verdict: Verdict, reason: str, now: datetime, nonce: str) -> Done:
    """The verdict over an occurrence that nobody runs."""
    return Done(
        job=record.job,
        nominal=record.nominal,
        verdict=verdict,
        nonce=nonce,
        finished=now,
        reason=reason,
        task=record.task,
        trigger=record.trigger,
        n=record.n,
        r=record.r,
        lost=record.lost,
    )


def jobs(app: Celery, schedule: Mapping[str, Any], settings: Settings) -> dict[str, Job]:
    """Every entry as a Job. Raises ConfigurationError for the first that cannot be planned.

    Refused at the start and as a whole: a beat that quietly left one entry out would be found out by the
    report that never came.
    """
    chosen = policies(settings.jobs, list(schedule))
    return {
        name: Job(
            name=name,
            task=entry.task,
            times=_times(name, entry.schedule, chosen[name]),
            policy=chosen[name],
            reruns=_reruns(app, entry.task, chosen[name]),
            plain=_plain(entry),
        )
        for name, entry in schedule.items()
    }


def stored_job(record: Schedule) -> Job:
    """A job that this beat plans and sends by the store's word alone.

    Raises ValueError or ConfigurationError for what later code has written.
    """
    policy = of_plan(record.policy)
    times = times_of(record.fingerprint)
    return Job(record.job, record.task, times, policy, policy.on_lost or 0, stored=record)


def stored_entry(record: Schedule) -> dict[str, Any]:
    """The beat entry that a stored definition stands for. Raises ValueError."""
    return {
        "name": record.job,
        "task": record.task,
        "schedule": _celery_schedule(times_of(record.fingerprint)),
        "args": record.args,
        "kwargs": record.kwargs,
        "options": record.options,
    }


def _celery_schedule(times: Times) -> Any:
    """For those who look at an entry, as Sentry's hook does; when it is due we know ourselves."""
    match times:
        case Cron():
            minute, hour, day, month, weekday = times.fields
            return celery_schedules.crontab(minute, hour, weekday, day, month)
        case Every():
            return celery_schedules.schedule(times.period)
        case At():
            return at(times.moment)
    raise ValueError(f"its times are known to the code alone: {times.text}")


def _plain(entry: Any) -> Plain | None:
    said = Plain(list(entry.args or ()), dict(entry.kwargs or {}), dict(entry.options or {}))
    try:
        back = msgspec.json.decode(msgspec.json.encode(said), type=Plain)
    except (TypeError, ValueError, msgspec.MsgspecError):
        return None
    return said if back == said else None


def occurrence_text(occurrence: Occurrence) -> str:
    return f"{occurrence.job} of {occurrence.stamp}"


def _reruns(app: Celery, task: str, policy: Policy) -> int:
    """A lost run is repeated only where somebody said that it may be: in the policy, or by acks_late."""
    if policy.on_lost is not None:
        return policy.on_lost
    known = app.tasks.get(task)
    repeatable = app.conf.task_acks_late if known is None else known.acks_late
    return 3 if repeatable else 0


def _times(name: str, schedule: Any, policy: Policy) -> Times:
    kind = type(schedule)
    if isinstance(schedule, celery_schedules.crontab) and _computes_as(kind, celery_schedules.crontab):
        return _cron(schedule, policy)
    if isinstance(schedule, celery_schedules.schedule) and _computes_as(kind, celery_schedules.schedule):
        return _every(name, schedule)
    if isinstance(schedule, at):
        return At(schedule.moment)
    if isinstance(schedule, celery_schedules.BaseSchedule):
        return _asked(schedule)
    raise ConfigurationError(
        f"beat entry {name!r} has a schedule of type {kind.__qualname__}, which is none of Celery's: "
        f"{_PLANNABLE}"
    )


def _computes_as(kind: type, stock: type) -> bool:
    """Whether a subclass leaves the computation of its times to Celery's own class."""
    methods = ("is_due", "remaining_estimate", "remaining_delta")
    return all(getattr(kind, name, None) is getattr(stock, name, None) for name in methods)


def _asked(schedule: Any) -> Asked:
    """Solar, a user's own: by its own is_due, whose `now` is the moment it is asked about."""
    kind, said = type(schedule), _ADDRESS.sub("", repr(schedule))

    def ask(last: datetime, moment: datetime) -> tuple[bool, float]:
        before = schedule.nowfun
        schedule.nowfun = lambda: moment
        try:
            due, seconds = schedule.is_due(last)
        finally:
            schedule.nowfun = before
        return bool(due), float(seconds)

    identity = f"{kind.__module__}.{kind.__qualname__} {said}"
    return Asked(text=f"as {kind.__qualname__} says: {said}", identity=identity, ask=ask)


def _every(name: str, schedule: Any) -> Every:
    period = schedule.run_every
    try:
        return Every(period if isinstance(period, timedelta) else timedelta(seconds=period))
    except (ValueError, TypeError, OverflowError) as error:
        raise ConfigurationError(f"beat entry {name!r} cannot be planned: {error}; {_PLANNABLE}") from None


def _cron(schedule: Any, policy: Policy) -> Cron:
    minute, hour = str(schedule._orig_minute), str(schedule._orig_hour)
    every_minute, every_hour = len(schedule.minute) == 60, len(schedule.hour) == 24
    zone = policy.zone or schedule.tz
    spelled = (
        minute,
        hour,
        schedule._orig_day_of_month,
        schedule._orig_month_of_year,
        schedule._orig_day_of_week,
    )
    return Cron(
        minutes=frozenset(schedule.minute),
        hours=frozenset(schedule.hour),
        days=frozenset(schedule.day_of_month),
        months=frozenset(schedule.month_of_year),
        weekdays=frozenset(schedule.day_of_week),
        zone=UTC if _zone_name(zone) == "UTC" else zone,
        dst=policy.dst,
        wildcard=minute.startswith("*") or hour.startswith("*") or every_minute or every_hour,
        spelled=" ".join(str(each).replace(" ", "") for each in spelled),
    )


def _zone_name(zone: tzinfo) -> str:
    return getattr(zone, "key", None) or str(zone)
