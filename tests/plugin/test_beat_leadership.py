"""Which beat leads: one, whose clock agrees with the store's, and which lets go when it is told to."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from jobguard.celery.leadership import Leadership
from jobguard.client import Client
from jobguard.settings import Settings
from jobguard.steps import Fence
from tests.plugin.bench import Bench, until


@contextmanager
def candidate(bench: Bench) -> Iterator[Leadership]:
    settings = Settings(endpoints=(bench.store.url,), namespace=bench.namespace, session_ttl=2, timeout=2)
    leadership = Leadership(settings)
    try:
        yield leadership
    finally:
        leadership.close()


def wait_for_lead(leadership: Leadership) -> Fence:
    return until(leadership.fence, "it leads")


def test_one_leads_and_the_other_follows_at_once_when_it_resigns(bench: Bench) -> None:
    with candidate(bench) as first:
        fence = wait_for_lead(first)
        kv = bench.client.get(fence.key)
        assert kv
        assert kv.create_revision == fence.create_revision
        with candidate(bench) as second:
            until(lambda: len(bench.client.prefix(bench.keys.prefix("elections")).kvs) == 2, "it stands by")
            assert second.fence() is None
            first.close()
            closed = time.monotonic()
            assert first.fence() is None
            assert wait_for_lead(second).create_revision > fence.create_revision
            assert time.monotonic() - closed < 1
            first.close()


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


def test_without_a_store_it_says_so_once_and_goes_on_trying(caplog: pytest.LogCaptureFixture) -> None:
    leadership = Leadership(Settings(endpoints=("http://127.0.0.1:9",), timeout=0.2))
    until(lambda: "cannot stand for election" in caplog.text or None, "it says so")
    assert leadership.fence() is None
    started = time.monotonic()
    leadership.close()
    assert time.monotonic() - started < 1
