"""Nominal times: when a job should happen, in UTC, the same on every host.

Place in the house   celery.entries builds these from beat entries; beat and the pages ask them
Takes                cron fields or an interval, a zone, a moment
Gives                the nominal times after that moment; what is due, and what is missed
Never                reads a clock, knows Celery, or remembers anything

Cron in words: a job at fixed times (neither minute nor hour is a wildcard) follows the wall clock, so at a
DST change it runs once, as Debian's cron has it. A job with a wildcard follows elapsed time: an hourly job
runs every hour of a 25-hour day.
"""

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo
from itertools import islice
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from jobguard.asked import Asked

_ANCHOR = datetime(1970, 1, 1, tzinfo=UTC)  # fixed, so every beat counts the same intervals
_MICROSECOND = timedelta(microseconds=1)
_DST_SHIFT_MAX = timedelta(hours=3)
_KEEP = 60  # missed occurrences that get a record each; those before share one

CLOCK_LIMIT_S = 10.0
"""A beat whose clock is further from the store's must not say what is due."""

DAY = timedelta(days=1)
GRACE = timedelta(minutes=1)
PERIOD_MAX = timedelta(days=36525)
"""What comes after it is still a date, whenever one asks."""


@dataclass(frozen=True, slots=True)
class Every:
    """A fixed interval, counted from 1970-01-01T00:00:00Z."""

    period: timedelta

    def __post_init__(self) -> None:
        if self.period < timedelta(milliseconds=100):
            raise ValueError(f"an interval of {self.period.total_seconds():g} s is below 0.1 s")
        if self.period > PERIOD_MAX:
            raise ValueError(f"an interval of {self.period.total_seconds():g} s is above 100 years")

    @property
    def text(self) -> str:
        return f"every {self.period.total_seconds():g} s"

    @property
    def fingerprint(self) -> str:
        """Equal fingerprints give equal nominal times; `times_of` reads it."""
        return f"every {self.period // _MICROSECOND} us"

    def after(self, moment: datetime) -> Iterator[datetime]:
        """All nominal times later than `moment`, in order, without end."""
        count = (moment - _ANCHOR) // self.period
        while True:
            count += 1
            yield _ANCHOR + count * self.period


@dataclass(frozen=True, slots=True)
class Cron:
    """Cron fields, where day of month and day of week must both match, as Celery's crontab has it."""

    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]  # of the month
    months: frozenset[int]
    weekdays: frozenset[int]  # 0 is Sunday
    zone: tzinfo = UTC
    dst: str = "once"  # a wall-clock time that happens never or twice: skip, once, both
    wildcard: bool = False  # minute or hour began with a star
    spelled: str = field(default="", compare=False)

    @property
    def text(self) -> str:
        return f"{self.spelled or self._expression()} {_zone_name(self.zone)}" + (
            f" dst={self.dst}" if self._wall else ""
        )

    @property
    def fingerprint(self) -> str:
        """Equal fingerprints give equal nominal times; `times_of` reads it."""
        return f"cron {self._expression()} {_zone_name(self.zone)} " + (self.dst if self._wall else "elapsed")

    @property
    def _wall(self) -> bool:
        return not self.wildcard and self.zone is not UTC

    def after(self, moment: datetime) -> Iterator[datetime]:
        """All nominal times later than `moment`, in order; ends only if none comes for 50 years."""
        times = self._wall_times(moment) if self._wall else self._elapsed_times(moment)
        last = moment
        for each in times:
            if each > last:  # those of one DST gap share an instant
                yield each
                last = each

    def _elapsed_times(self, moment: datetime) -> Iterator[datetime]:
        for each in self._simulated("0 " + self._expression(), moment.astimezone(self.zone)):
            yield each.astimezone(UTC)

    def missing(self, after: datetime, upto: datetime) -> list[datetime]:
        """Wall-clock matches that do not exist, as the clocks went over them in (after, upto]."""
        if not self._wall:
            return []
        found = []
        end = (upto.astimezone(self.zone) + _DST_SHIFT_MAX).replace(tzinfo=None)
        start = (after.astimezone(self.zone) - _DST_SHIFT_MAX).replace(tzinfo=None)
        for wall in self._simulated(self._expression(), start):
            if wall > end:
                break
            if _real(wall, self.zone, 0) is None and after < _after_gap(wall, self.zone) <= upto:
                found.append(wall)
        return found

    def _wall_times(self, moment: datetime) -> Iterator[datetime]:
        """Wall-clock matches turned into instants. `both` makes two of one, so they are put in order again:
        what a later match can give is never before its first instant."""
        start = (moment.astimezone(self.zone) - _DST_SHIFT_MAX).replace(tzinfo=None)
        waiting: list[datetime] = []
        for wall in self._simulated(self._expression(), start):
            for instant in self._instants(wall):
                heapq.heappush(waiting, instant)
            floor = _real(wall, self.zone, 0) or _after_gap(wall, self.zone)
            while waiting and waiting[0] <= floor:
                yield heapq.heappop(waiting)
        yield from sorted(waiting)

    def _instants(self, wall: datetime) -> Sequence[datetime]:
        first, second = _real(wall, self.zone, 0), _real(wall, self.zone, 1)
        if first is None or second is None:
            return () if self.dst == "skip" else (_after_gap(wall, self.zone),)
        return (first, second) if self.dst == "both" and second > first else (first,)

    def _simulated(self, expression: str, start: datetime) -> CronSim:
        found = CronSim(expression, start)
        found.day_and = True
        return found

    @property
    def fields(self) -> tuple[str, str, str, str, str]:
        """Minute, hour, day of month, month, day of week."""
        return (
            _field(self.minutes, range(60)),
            _field(self.hours, range(24)),
            _field(self.days, range(1, 32)),
            _field(self.months, range(1, 13)),
            _field(self.weekdays, range(7)),
        )

    def _expression(self) -> str:
        return " ".join(self.fields)


@dataclass(frozen=True, slots=True)
class At:
    """Once."""

    moment: datetime

    @property
    def text(self) -> str:
        return f"once, {self.moment.astimezone(UTC).isoformat().replace('+00:00', 'Z')}"

    @property
    def fingerprint(self) -> str:
        """Equal fingerprints give equal nominal times; `times_of` reads it."""
        return f"at {(self.moment - _ANCHOR) // _MICROSECOND} us"

    def after(self, moment: datetime) -> Iterator[datetime]:
        if self.moment > moment:
            yield self.moment.astimezone(UTC)


Times = Every | Cron | At | Asked


def next_look(times: Times, cursor: datetime, now: datetime) -> datetime | None:
    """When the next nominal time is due, or may be; None if none is to come."""
    return times.look(cursor, now) if isinstance(times, Asked) else next(times.after(cursor), None)


def cron(fields: str, zone: str = "UTC", dst: str = "once") -> Cron:
    """The times of five cron fields. Raises ValueError.

    As in Celery's crontab, and other than in most, day of month and day of week must both match.
    """
    spelled = fields.split()
    if len(spelled) != 5:
        raise ValueError(f"five fields are needed, as in 30 2 * * *, and {fields!r} has {len(spelled)}")
    try:
        read = CronSim(" ".join(spelled), _ANCHOR)
    except CronSimError as error:
        raise ValueError(f"{fields!r} names no times: {error}") from None
    minutes, hours, days = read.minutes, read.hours, read.days
    weekdays = {each % 7 for each in read.weekdays if isinstance(each, int)}
    if min(days) < 1 or any(not isinstance(each, int) for each in read.weekdays):
        raise ValueError(f"{fields!r}: L and # are not known here")
    return Cron(
        minutes=frozenset(minutes),
        hours=frozenset(hours),
        days=frozenset(days),
        months=frozenset(read.months),
        weekdays=frozenset(weekdays),
        zone=_zone(zone),
        dst=dst,
        wildcard=spelled[0][0] == "*" or spelled[1][0] == "*" or len(minutes) == 60 or len(hours) == 24,
        spelled=" ".join(spelled),
    )


def times_of(fingerprint: str) -> Times:
    """The nominal times that a fingerprint stands for. Raises ValueError for one this code cannot read."""
    match fingerprint.split():
        case ["every", count, "us"]:
            return Every(int(count) * _MICROSECOND)
        case ["at", count, "us"]:
            return At(_ANCHOR + int(count) * _MICROSECOND)
        case ["cron", minutes, hours, days, months, weekdays, zone, dst]:
            return Cron(
                minutes=_values(minutes, range(60)),
                hours=_values(hours, range(24)),
                days=_values(days, range(1, 32)),
                months=_values(months, range(1, 13)),
                weekdays=_values(weekdays, range(7)),
                zone=_zone(zone),
                dst="once" if dst == "elapsed" else dst,
                wildcard=dst == "elapsed",
            )
    raise ValueError(f"its times are not known in advance: {fingerprint}")


def _values(field: str, whole: range) -> frozenset[int]:
    return frozenset(whole if field == "*" else (int(each) for each in field.split(",")))


def _zone(name: str) -> tzinfo:
    try:
        return UTC if name == "UTC" else ZoneInfo(name)
    except (OSError, KeyError) as error:  # ZoneInfoNotFoundError is a KeyError
        raise ValueError(f"no such time zone here: {name} ({error})") from None


def _zone_name(zone: tzinfo) -> str:
    return getattr(zone, "key", None) or str(zone)


def _field(values: frozenset[int], whole: range) -> str:
    return "*" if values >= frozenset(whole) else ",".join(str(value) for value in sorted(values))


def _real(wall: datetime, zone: tzinfo, fold: int) -> datetime | None:
    """The instant of a wall-clock time; None in a gap."""
    instant = wall.replace(tzinfo=zone, fold=fold).astimezone(UTC)
    return instant if instant.astimezone(zone).replace(tzinfo=None, fold=0) == wall else None


def _after_gap(wall: datetime, zone: tzinfo) -> datetime:
    """The first instant, in whole minutes, at or after a wall-clock time that is in a gap."""
    while (instant := _real(wall, zone, 0)) is None:
        wall += timedelta(minutes=1)
    return instant


# --- what is due ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Missed:
    """Nominal times that will not start; more than one where `until` is later than `nominal`."""

    nominal: datetime
    until: datetime
    count: int  # 0: too many to have counted
    reason: str


@dataclass(frozen=True, slots=True)
class Due:
    """What lies between a cursor and now. Both in order; every time is in exactly one of the two."""

    starts: tuple[datetime, ...] = ()
    missed: tuple[Missed, ...] = ()

    @property
    def upto(self) -> datetime | None:
        """The new cursor; None if nothing was due."""
        ends = [*self.starts[-1:], *(each.until for each in self.missed[-1:])]
        return max(ends, default=None)


def due(times: Times, cursor: datetime, now: datetime, *, catch_up: int = 1) -> Due:
    """Divide the nominal times after `cursor`, up to `now`, into those to start and those missed.

    The newest `catch_up` of them start: 0 none, 1 the last if it is younger than a day, n more. (That the
    last is younger than its period lies in its being the last.) A takeover takes a moment: the last one
    starts whatever the policy if it is due no longer than `GRACE`.
    """
    found, complete = _newest(times, cursor, now, catch_up + _KEEP)
    owed = len(found) - catch_up
    starts = tuple(
        each
        for position, each in enumerate(found)
        if (position >= owed and (catch_up > 1 or now - each < DAY))
        or (position == len(found) - 1 and now - each <= GRACE)
    )
    rest = found[: len(found) - len(starts)]
    return Due(starts, tuple(_missed(times, cursor, rest, complete, catch_up, bool(starts))))


def _missed(
    times: Times, cursor: datetime, rest: list[datetime], complete: bool, catch_up: int, newer: bool
) -> Iterator[Missed]:
    policy = {0: "none", 1: "last"}.get(catch_up, f"all, {catch_up}")
    reason = f"no beat led when it was due; catch_up is {policy}"
    late = reason if newer or catch_up == 0 else "no beat led for more than a day after it was due"
    single, merged = rest[-_KEEP:], rest[:-_KEEP]
    if merged:
        yield Missed(next(times.after(cursor)), merged[-1], len(merged) if complete else 0, reason)
    for each in single:
        yield Missed(each, each, 1, late if each is rest[-1] else reason)


def _newest(times: Times, cursor: datetime, now: datetime, want: int) -> tuple[list[datetime], bool]:
    """More than the `want` newest nominal times in (cursor, now], or all of them; and whether these are all.

    Looks back from now in growing steps, so a cursor that is years old costs no more than a fresh one.
    """
    if isinstance(times, Asked):  # its times hang on the one before, so it cannot be asked from the middle
        return times.until(cursor, now), True
    step = timedelta(minutes=1)
    while True:
        start = max(cursor, now - step)
        found = list(_until(times, start, now))
        if start == cursor or len(found) > want:
            return found, start == cursor
        step *= 4


def _until(times: Times, start: datetime, end: datetime) -> Iterator[datetime]:
    for each in times.after(start):
        if each > end:
            return
        yield each


def period_after(times: Times, nominal: datetime) -> timedelta:
    """From a nominal time to the next one."""
    following = next(times.after(nominal), None)
    return following - nominal if following else timedelta.max


def start_deadline(times: Times, nominal: datetime, now: datetime, seconds: float | None) -> datetime:
    """When it is too late to start: seconds after the nominal time.

    By default one period from the planning, but not under a minute and not over a day.
    """
    if seconds is not None:
        return nominal + timedelta(seconds=seconds)
    return now + min(max(period_after(times, nominal), timedelta(minutes=1)), DAY)


def upcoming(times: Times, moment: datetime, count: int) -> list[datetime]:
    """The next `count` nominal times, for people."""
    return list(islice(times.after(moment), count))
