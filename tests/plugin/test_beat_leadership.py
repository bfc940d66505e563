"""Which beat leads: one, whose clock agrees with the store's, and which lets go when it is told to."""

import logging
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from jobguard.celery.leadership import IDLE_LIMIT_S, Leadership
from jobguard.client import Client
from jobguard.settings import Settings
from jobguard.steps import Fence
from tests.plugin.bench import PATIENCE_S, Bench, until
from tests.stopwatch import Stopwatch, best_of

TTL_S = 20


@contextmanager
def candidate(bench: Bench) -> Iterator[Leadership]:
    settings = Settings(endpoints=(bench.store.url,), namespace=bench.namespace, session_ttl=TTL_S)
    leadership = Leadership(settings)
    try:
        yield leadership
    finally:
        leadership.close()


def wait_for_lead(leadership: Leadership) -> Fence:
    return until(leadership.fence, "it leads")


def test_one_leads_and_the_other_follows_at_once_when_it_resigns(bench: Bench) -> None:
    best_of(6, lambda: handed_over_s(bench), under=1, each_under=TTL_S / 2)


def handed_over_s(bench: Bench) -> float:
    """Seconds from the end of one's lead until the other leads."""
    with candidate(bench) as first:
        fence = wait_for_lead(first)
        kv = bench.client.get(fence.key)
        assert kv
        assert kv.create_revision == fence.create_revision
        with candidate(bench) as second:
            until(lambda: len(bench.client.prefix(bench.keys.prefix("elections")).kvs) == 2, "it stands by")
            assert second.fence() is None
            first.close()
            with Stopwatch() as watch:
                assert first.fence() is None
                following = wait_for_lead(second)
                took = watch.seconds
            assert following.create_revision > fence.create_revision
            first.close()
    return took


def test_a_lead_that_the_store_has_ended_is_won_again_under_a_new_fence(bench: Bench) -> None:
    with candidate(bench) as leadership:
        fence = wait_for_lead(leadership)
        bench.client.delete(fence.key)
        leadership.deposed()
        assert wait_for_lead(leadership).create_revision > fence.create_revision


@pytest.mark.parametrize(("offset", "text"), [(61.0, "61 s behind"), (-61.0, "61 s ahead of")])
def test_a_beat_whose_clock_is_off_says_so_and_does_not_lead(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, offset: float, text: str
) -> None:
    caplog.set_level(logging.ERROR)
    with monkeypatch.context() as patch, candidate(bench) as leadership:
        patch.setattr(Client, "clock_offset", lambda self: offset)
        until(lambda: text in caplog.text or None, "it says so")
        until(lambda: leadership.fence() is None or None, "it does not lead")
        patch.setattr(Client, "clock_offset", lambda self: 0.4)
        fence = wait_for_lead(leadership)
        patch.setattr(Client, "clock_offset", lambda self: offset)
        until(lambda: leadership.fence() is None or None, "it steps down")
        until(lambda: bench.client.get(fence.key) is None or None, "and resigns")


def test_a_clock_that_jumps_ends_the_lead_at_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not with the next renewal: until then an hour of occurrences could be planned ahead, and settled."""
    with monkeypatch.context() as patch, candidate(bench) as leadership:
        wait_for_lead(leadership)
        real = time.time
        patch.setattr("jobguard.client.time", Jumped(real() + 3600))
        assert leadership.fence() is None


class Jumped:
    """The module `time`, an hour later by the wall clock."""

    def __init__(self, now: float) -> None:
        self.time = lambda: now

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


def test_a_leader_that_finishes_no_turn_goes_to_the_end_of_the_line(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its turns fail, or one of them hangs at the broker: it renews its lease all the same."""
    clock = Standing()
    monkeypatch.setattr("jobguard.celery.leadership.time", clock)
    with candidate(bench) as stuck:
        wait_for_lead(stuck)
        with candidate(bench) as other:
            until(lambda: len(bench.client.prefix(bench.keys.prefix("elections")).kvs) == 2, "it stands by")

            def a_moment_later() -> Fence | None:
                clock.move(IDLE_LIMIT_S / 10)
                return other.fence()

            fence = until(a_moment_later, "the other one leads")
            assert stuck.fence() is None
            assert "has not finished a turn for" in caplog.text
            for _ in range(3):  # while it works it leads
                other.worked()
                clock.move(IDLE_LIMIT_S / 2)
                clock.wait_for_looks(2)
                assert other.fence() == fence
        assert wait_for_lead(stuck).create_revision > fence.create_revision


class Standing:
    """The module `time`, but its monotonic clock moves when the test says so, and counts the looks at it."""

    def __init__(self) -> None:
        self._now, self._looks = 0.0, 0

    def monotonic(self) -> float:
        self._looks += 1
        return self._now

    def move(self, seconds: float) -> None:
        self._now += seconds

    def wait_for_looks(self, count: int) -> None:
        """The first may have been under way already."""
        before = self._looks
        until(lambda: self._looks >= before + count, "the campaign looks at the clock")

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


def test_a_bug_in_the_campaign_does_not_end_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    once = iter([ZeroDivisionError("a bug")])
    original = Client.status

    def status(self: Client, endpoint: str | None = None) -> Any:
        for error in once:
            raise error
        return original(self, endpoint)

    monkeypatch.setattr(Client, "status", status)
    with candidate(bench) as leadership:
        wait_for_lead(leadership)
    assert "a bug" in caplog.text


def test_without_a_store_it_says_so_once_and_goes_on_trying(caplog: pytest.LogCaptureFixture) -> None:
    leadership = Leadership(Settings(endpoints=("http://127.0.0.1:9",), timeout=0.2))
    until(lambda: "cannot stand for election" in caplog.text or None, "it says so")
    assert leadership.fence() is None
    with Stopwatch() as watch:
        leadership.close()
        assert watch.seconds < 1


def test_the_socket_timeout_that_beat_sets_for_all_is_not_ours(bench: Bench) -> None:
    """Beat sets 30 s; here it is much less, so that a quiet watch outlasts it."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(0.05)
    try:
        with (
            candidate(bench) as leadership,
            Client([bench.store.url], namespace=bench.namespace, timeout=30) as client,
            client.watch("quiet") as watch,
        ):
            fence = wait_for_lead(leadership)
            assert watch.poll(0.5) is None
            client.put("quiet", "no more")
            assert watch.poll(PATIENCE_S) is not None
            assert leadership.fence() == fence
    finally:
        socket.setdefaulttimeout(before)
