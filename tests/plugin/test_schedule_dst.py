"""Both days on which the clocks change, in zones that change them differently; and what the preview says."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest

from jobguard.preview import preview
from jobguard.schedule import Cron, Every, Times, times_of, upcoming

ALL = {"days": frozenset(range(1, 32)), "months": frozenset(range(1, 13)), "weekdays": frozenset(range(7))}

# zone, the eve of the change, a time on the wall that the clocks go over or come back to, and in UTC:
# the end of the gap, or the two times it is
FORWARD = [
    ("Europe/Berlin", "2026-03-28T12:00", (2, 30), "2026-03-29T01:00"),
    ("America/New_York", "2026-03-07T12:00", (2, 30), "2026-03-08T07:00"),
    ("Australia/Lord_Howe", "2026-10-03T02:00", (2, 15), "2026-10-03T15:30"),  # by half an hour, at 02:00
    ("Africa/Cairo", "2026-04-23T12:00", (0, 30), "2026-04-23T22:00"),  # at midnight
]
BACK = [
    ("Europe/Berlin", "2026-10-24T12:00", (2, 30), ("2026-10-25T00:30", "2026-10-25T01:30")),
    ("America/New_York", "2026-10-31T12:00", (1, 30), ("2026-11-01T05:30", "2026-11-01T06:30")),
    ("Australia/Lord_Howe", "2026-04-04T02:00", (1, 45), ("2026-04-04T14:45", "2026-04-04T15:15")),
    ("Africa/Cairo", "2026-10-29T12:00", (23, 30), ("2026-10-29T20:30", "2026-10-29T21:30")),
]


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def daily(wall: tuple[int, int], zone: str, dst: str = "once") -> Cron:
    return Cron(frozenset({wall[1]}), frozenset({wall[0]}), zone=ZoneInfo(zone), dst=dst, **ALL)


def every_quarter(zone: str) -> Cron:
    quarters = frozenset({0, 15, 30, 45})
    return Cron(quarters, frozenset(range(24)), zone=ZoneInfo(zone), wildcard=True, **ALL)


def wall(moment: datetime, zone: str) -> tuple[int, int]:
    local = moment.astimezone(ZoneInfo(zone))
    return local.hour, local.minute


@pytest.mark.parametrize(("zone", "eve", "missing", "end"), FORWARD)
@pytest.mark.parametrize("dst", ["once", "both"])
def test_a_time_that_does_not_exist_runs_once_at_the_end_of_the_gap(
    zone: str, eve: str, missing: tuple[int, int], end: str, dst: str
) -> None:
    first, second, third = upcoming(daily(missing, zone, dst), at(eve), 3)
    assert first == at(end)
    assert [wall(each, zone) for each in (second, third)] == [missing, missing]
    assert third - second == timedelta(days=1)


@pytest.mark.parametrize(("zone", "eve", "missing", "end"), FORWARD)
def test_skip_leaves_it_out_and_the_preview_says_so(
    zone: str, eve: str, missing: tuple[int, int], end: str
) -> None:
    first, second = preview(daily(missing, zone, "skip"), at(eve), 2)
    assert first.nominal > at(end) + timedelta(hours=20)
    assert wall(first.nominal, zone) == missing
    assert f"{missing[0]:02}:{missing[1]:02} does not exist and is left out" in first.note
    assert second.note == ""


@pytest.mark.parametrize(("zone", "eve", "double", "instants"), BACK)
def test_a_time_that_comes_twice_runs_the_first_time(
    zone: str, eve: str, double: tuple[int, int], instants: tuple[str, str]
) -> None:
    for dst in ("once", "skip"):
        first, second = upcoming(daily(double, zone, dst), at(eve), 2)
        assert first == at(instants[0])
        assert second > at(instants[1]) + timedelta(hours=20)


@pytest.mark.parametrize(("zone", "eve", "double", "instants"), BACK)
def test_both_runs_it_twice_and_the_preview_tells_them_apart(
    zone: str, eve: str, double: tuple[int, int], instants: tuple[str, str]
) -> None:
    first, second, third = preview(daily(double, zone, "both"), at(eve), 3)
    assert (first.nominal, second.nominal) == (at(instants[0]), at(instants[1]))
    assert first.note == f"{double[0]:02}:{double[1]:02} comes twice; this is the first"
    assert second.note.endswith("comes twice; this is the second")
    assert third.note == ""


@pytest.mark.parametrize(("zone", "eve"), [(zone, eve) for zone, eve, *_ in (*FORWARD, *BACK)])
def test_a_job_with_a_wildcard_follows_elapsed_time(zone: str, eve: str) -> None:
    times = upcoming(every_quarter(zone), at(eve), 200)
    assert {later - earlier for earlier, later in pairwise(times)} == {timedelta(minutes=15)}


@pytest.mark.parametrize(("zone", "eve", "missing", "end"), FORWARD)
def test_the_preview_says_what_becomes_of_a_missing_time(
    zone: str, eve: str, missing: tuple[int, int], end: str
) -> None:
    first, second = preview(daily(missing, zone), at(eve), 2)
    assert first.nominal == at(end)
    assert "the clocks have gone forward by" in first.note
    assert "does not exist and runs here instead" in first.note
    assert second.note == ""


def test_the_preview_is_silent_where_no_clock_changes() -> None:
    assert not any(fire.note for fire in preview(Every(timedelta(hours=1)), at("2026-03-28T12:00"), 48))
    utc = Cron(frozenset({30}), frozenset({2}), **ALL)
    assert not any(fire.note for fire in preview(utc, at("2026-03-28T12:00"), 3))


@pytest.mark.parametrize(
    "times",
    [
        Every(timedelta(seconds=90)),
        Every(timedelta(milliseconds=250)),
        daily((2, 30), "Europe/Berlin"),
        daily((2, 30), "Australia/Lord_Howe", "both"),
        daily((2, 30), "America/New_York", "skip"),
        every_quarter("Asia/Kathmandu"),
        Cron(frozenset({5}), frozenset({4}), frozenset({1, 15}), frozenset({2}), frozenset({0, 6})),
    ],
)
def test_a_stored_fingerprint_gives_the_same_times(times: Times) -> None:
    read = times_of(times.fingerprint)
    assert read.fingerprint == times.fingerprint
    assert upcoming(read, at("2026-01-01T00:00"), 50) == upcoming(times, at("2026-01-01T00:00"), 50)


def test_a_wildcard_in_utc_is_read_back_too() -> None:
    times = replace(every_quarter("UTC"), zone=UTC)
    assert times_of(times.fingerprint).fingerprint == times.fingerprint


@pytest.mark.parametrize("text", ["", "solar sunset", "every 5 s", "cron * * * * * Mars/Base once", "cron x"])
def test_a_fingerprint_nobody_can_read_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"known in advance|no such time zone"):
        times_of(text)
