"""Stopping a body from within its process: the right one, wherever it is, and no other."""

import signal
import time
from collections.abc import Iterator
from threading import Event, Thread
from typing import Any

import pytest

from jobguard.celery.abort import Armed, RunAborted, Stopper, without_soft_limit
from tests.stopwatch import Stopwatch

SIGNAL = signal.SIGUSR2


@pytest.fixture
def stopper() -> Iterator[Stopper]:
    before = signal.getsignal(SIGNAL)
    yield Stopper(SIGNAL)
    signal.signal(SIGNAL, before)


def hit() -> None:
    """The signal arrives here and now, in the main thread."""
    signal.raise_signal(SIGNAL)


def test_a_flagged_body_is_interrupted_in_whatever_it_called(stopper: Stopper) -> None:
    armed = Armed("nonce")
    stopper.arm(armed)

    def deeper() -> None:
        armed.flag("the lease ended", 0.0)
        try:
            hit()
        except Exception as error:  # noqa: BLE001 - what a careless body does
            pytest.fail(f"an Exception can be swallowed: {error!r}")

    with pytest.raises(RunAborted, match="the lease ended"):
        armed.call(lambda: deeper())


def test_it_is_interrupted_again_when_it_swallowed_the_first(stopper: Stopper) -> None:
    armed = Armed("nonce")
    stopper.arm(armed)
    swallowed = []

    def body() -> None:
        armed.flag("the lease ended", 0.0)
        try:
            hit()
        except BaseException as error:  # noqa: BLE001 - what a worse one does
            swallowed.append(error)
        hit()

    with pytest.raises(RunAborted):
        armed.call(body)
    assert len(swallowed) == 1


def test_a_body_that_is_not_flagged_never_notices(stopper: Stopper) -> None:
    first, second = Armed("first"), Armed("second")
    stopper.arm(first)
    first.flag("the lease ended", 0.0)
    stopper.arm(second)  # the signal for the first comes late, and meets the second
    assert second.call(lambda: hit() or "unharmed") == "unharmed"  # type: ignore[func-returns-value]


def test_code_around_a_body_is_never_interrupted(stopper: Stopper) -> None:
    """Neither before it is called nor after it returned, flagged or not: recording an outcome is our code."""
    armed = Armed("nonce")
    armed.flag("the lease ended", 0.0)
    stopper.arm(armed)
    hit()
    armed.call(lambda: None)
    hit()
    stopper.disarm()
    hit()


def test_it_takes_its_signal_back_from_a_library(stopper: Stopper) -> None:
    armed = Armed("nonce")
    stopper.arm(armed)
    signal.signal(SIGNAL, signal.SIG_IGN)
    stopper.arm(armed)
    armed.flag("the lease ended", 0.0)
    with pytest.raises(RunAborted):
        armed.call(lambda: hit())


def test_a_blocking_call_is_interrupted(stopper: Stopper) -> None:
    """From another thread, and again until the body is gone, as the watchdog does it."""
    armed, gone = Armed("nonce"), Event()
    stopper.arm(armed)
    armed.flag("the lease ended", 0.0)

    def interrupt() -> None:
        while not gone.wait(0.05):
            stopper.interrupt(armed)

    thread = Thread(target=interrupt)
    with Stopwatch() as watch:
        thread.start()
        try:
            with pytest.raises(RunAborted):
                armed.call(lambda: time.sleep(30))
        finally:
            gone.set()
            thread.join()
    assert watch.seconds < 5


def test_the_soft_limit_is_ignored_and_then_back() -> None:
    def limit(*_: Any) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGUSR1, limit)
    try:
        with without_soft_limit():
            signal.raise_signal(signal.SIGUSR1)
        with pytest.raises(TimeoutError):
            signal.raise_signal(signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, before)
