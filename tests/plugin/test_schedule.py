"""Nominal times: the same on every host, right at both DST changes, and no stampede after a downtime."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest

from jobguard.schedule import Cron, Every, due, start_deadline, upcoming

BERLIN = ZoneInfo("Europe/Berlin")  # 2026: forward on 29 March at 02:00, back on 25 October at 03:00
ALL = {"days": frozenset(range(1, 32)), "months": frozenset(range(1, 13)), "weekdays": frozenset(range(7))}


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def daily(hour: int, *minutes: int, dst: str = "once", zone: ZoneInfo = BERLIN) -> Cron:
    return Cron(frozenset(minutes), frozenset({hour}), zone=zone, dst=dst, **ALL)


def hourly(zone: ZoneInfo = BERLIN) -> Cron:
    return Cron(frozenset({0}), frozenset(range(24)), zone=zone, wildcard=True, **ALL)


def utc(times: list[datetime]) -> list[str]:
    return [f"{each:%d %H:%M}" for each in times]


# --- intervals ---


def test_intervals_count_from_a_fixed_anchor_not_from_the_start_of_a_beat() -> None:
    every = Every(timedelta(seconds=7))
    one_beat = upcoming(every, at("2026-11-24T02:00:00"), 40)
    another = upcoming(every, at("2026-11-24T02:00:01.5"), 40)
    assert set(another) <= {*one_beat, *upcoming(every, one_beat[-1], 5)}
    assert all(
        (each - datetime(1970, 1, 1, tzinfo=UTC)) % timedelta(seconds=7) == timedelta(0) for each in one_beat
    )


def test_an_interval_below_a_second_keeps_its_fractions() -> None:
    times = upcoming(Every(timedelta(milliseconds=250)), at("2026-11-24T02:00:00"), 4)
    assert [each.microsecond for each in times] == [250_000, 500_000, 750_000, 0]


def test_a_time_is_later_than_the_moment_asked_from() -> None:
    assert upcoming(Every(timedelta(minutes=1)), at("2026-11-24T02:00:00"), 1) == [at("2026-11-24T02:01:00")]


@pytest.mark.parametrize("period", [timedelta(0), timedelta(seconds=-1), timedelta(milliseconds=99)])
def test_an_interval_that_nobody_could_keep_is_refused(period: timedelta) -> None:
    with pytest.raises(ValueError, match=r"below 0\.1 s"):
        Every(period)


# --- the hour that does not exist ---


def test_a_job_in_the_missing_hour_runs_once_right_after_it() -> None:
    times = upcoming(daily(2, 30), at("2026-03-27T12:00:00"), 3)
    assert utc(times) == ["28 01:30", "29 01:00", "30 00:30"]  # 03:00 in Berlin on the 29th


def test_two_times_in_the_missing_hour_share_one_run() -> None:
    times = upcoming(daily(2, 0, 30), at("2026-03-28T12:00:00"), 3)
    assert utc(times) == ["29 01:00", "30 00:00", "30 00:30"]


def test_skip_leaves_the_missing_hour_out() -> None:
    assert utc(upcoming(daily(2, 30, dst="skip"), at("2026-03-28T12:00:00"), 2)) == ["30 00:30", "31 00:30"]


# --- the hour that comes twice ---


def test_a_job_in_the_double_hour_runs_once_the_first_time() -> None:
    times = upcoming(daily(2, 30), at("2026-10-24T12:00:00"), 2)
    assert utc(times) == ["25 00:30", "26 01:30"]


def test_asked_between_the_two_it_does_not_run_again() -> None:
    assert utc(upcoming(daily(2, 30), at("2026-10-25T00:45:00"), 1)) == ["26 01:30"]


def test_both_runs_it_twice_and_in_order() -> None:
    times = upcoming(daily(2, 0, 30, dst="both"), at("2026-10-24T12:00:00"), 5)
    assert utc(times) == ["25 00:00", "25 00:30", "25 01:00", "25 01:30", "26 01:00"]
    assert utc(upcoming(daily(2, 30, dst="both"), at("2026-10-25T00:45:00"), 1)) == ["25 01:30"]


def test_an_hourly_job_runs_every_real_hour_of_both_days() -> None:
    for start in ("2026-03-28T12:00:00", "2026-10-24T12:00:00"):
        times = upcoming(hourly(), at(start), 24)
        assert {b - a for a, b in pairwise(times)} == {timedelta(hours=1)}


@pytest.mark.parametrize(
    "zone", ["America/New_York", "Australia/Lord_Howe", "Africa/Casablanca", "Asia/Beirut"]
)
@pytest.mark.parametrize("hour", [0, 1, 2, 3])
def test_a_daily_job_runs_once_a_day_whatever_the_zone_does(zone: str, hour: int) -> None:
    where = ZoneInfo(zone)
    times = upcoming(daily(hour, 30, zone=where), at("2026-01-01T12:00:00"), 400)
    days = [each.astimezone(where).date() for each in times]
    assert len(set(days)) == len(days) == 400
    assert days[-1] - days[0] == timedelta(days=399)


def test_day_of_month_and_weekday_must_both_match() -> None:
    """Celery's rule; cron's own is "or"."""
    first_monday = Cron(
        frozenset({0}), frozenset({9}), frozenset(range(1, 8)), frozenset(range(1, 13)), frozenset({1})
    )
    times = upcoming(first_monday, at("2026-01-01T00:00:00"), 3)
    assert [f"{each:%a %d}" for each in times] == ["Mon 05", "Mon 02", "Mon 02"]


def test_equal_times_have_equal_fingerprints_however_they_are_spelled() -> None:
    one, other = (
        daily(2, 0, 30),
        Cron(frozenset({30, 0}), frozenset({2}), zone=BERLIN, spelled="*/30 2", **ALL),
    )
    assert one.fingerprint == other.fingerprint
    assert one.fingerprint != daily(2, 0, 30, zone=ZoneInfo("Europe/Madrid")).fingerprint
    assert Every(timedelta(days=14, microseconds=1)).fingerprint != Every(timedelta(days=14)).fingerprint


# --- what is due ---

MINUTELY = Every(timedelta(minutes=1))
DAILY = daily(2, 0, zone=ZoneInfo("UTC"))


def test_nothing_is_due_between_two_times() -> None:
    assert due(MINUTELY, at("2026-11-24T02:00:00"), at("2026-11-24T02:00:59")).upto is None


def test_on_time_there_is_one_to_start() -> None:
    found = due(MINUTELY, at("2026-11-24T02:00:00"), at("2026-11-24T02:01:00"))
    assert found.starts == (at("2026-11-24T02:01:00"),)
    assert not found.missed


def test_after_a_downtime_the_last_one_starts_and_the_others_are_missed_one_by_one() -> None:
    found = due(MINUTELY, at("2026-11-24T02:00:00"), at("2026-11-24T02:05:30"))
    assert found.starts == (at("2026-11-24T02:05:00"),)
    assert [each.nominal.minute for each in found.missed] == [1, 2, 3, 4]
    assert found.upto == at("2026-11-24T02:05:00")


def test_the_last_one_is_not_caught_up_after_more_than_a_day() -> None:
    monthly = Cron(frozenset({0}), frozenset({2}), frozenset({1}), ALL["months"], ALL["weekdays"])
    late = due(monthly, at("2026-10-15T00:00:00"), at("2026-11-02T03:00:00"))
    assert not late.starts
    assert "more than a day" in late.missed[0].reason
    assert due(monthly, at("2026-10-15T00:00:00"), at("2026-11-02T01:00:00")).starts


def test_none_catches_nothing_up_but_forgives_a_takeover() -> None:
    cursor = at("2026-11-24T01:00:00")
    assert due(DAILY, cursor, at("2026-11-24T02:00:16"), catch_up=0).starts
    late = due(DAILY, cursor, at("2026-11-24T02:05:00"), catch_up=0)
    assert not late.starts
    assert len(late.missed) == 1


def test_all_catches_the_newest_up_however_old() -> None:
    found = due(DAILY, at("2026-11-20T12:00:00"), at("2026-11-24T12:00:00"), catch_up=3)
    assert [each.day for each in found.starts] == [22, 23, 24]
    assert [each.nominal.day for each in found.missed] == [21]


def test_a_long_downtime_costs_no_more_than_a_short_one() -> None:
    """Six years of minutes: sixty records for the newest, and one for all before them."""
    found = due(MINUTELY, at("2020-11-24T02:00:00"), at("2026-11-24T02:00:00"))
    assert len(found.missed) == 61
    first = found.missed[0]
    assert first.nominal == at("2020-11-24T02:01:00")
    assert first.until == found.missed[1].nominal - timedelta(minutes=1)
    assert first.count == 0  # not counted


@pytest.mark.parametrize("catch_up", [0, 1, 2, 5])
@pytest.mark.parametrize("minutes", [0, 1, 3, 59, 60, 61, 62, 200, 5000])
def test_every_time_is_either_started_or_missed_and_none_twice(catch_up: int, minutes: int) -> None:
    cursor = at("2026-11-24T02:00:30")
    now = cursor + timedelta(minutes=minutes)
    found = due(MINUTELY, cursor, now, catch_up=catch_up)
    told = len(found.starts) + sum(each.count for each in found.missed)
    assert told == minutes or any(each.count == 0 for each in found.missed)
    ends = [*(each.until for each in found.missed), *found.starts]
    assert ends == sorted(set(ends))
    assert found.upto == (now - timedelta(seconds=30) if minutes else None)


def test_a_clock_that_went_back_owes_nothing() -> None:
    assert due(MINUTELY, at("2026-11-24T03:00:00"), at("2026-11-24T02:00:00")).upto is None


def test_the_default_deadline_is_a_period_within_limits() -> None:
    nominal, now = at("2026-11-24T02:00:00"), at("2026-11-24T02:00:01")
    for period, allowed in (
        (timedelta(seconds=5), timedelta(minutes=1)),
        (timedelta(hours=1), timedelta(hours=1)),
        (timedelta(days=30), timedelta(days=1)),
    ):
        assert start_deadline(Every(period), nominal, now, None) <= now + allowed
    assert start_deadline(Every(timedelta(hours=1)), nominal, now, None) == now + timedelta(hours=1)
    assert start_deadline(MINUTELY, nominal, now, 30) == nominal + timedelta(seconds=30)
