"""The tests' own clock: it counts what we waited for, and not what the host kept from us."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.stopwatch import Stopwatch, best_of

STOPPED_S = 0.5
CHILD = """
import sys, time
from tests.stopwatch import Stopwatch
started = time.monotonic()
with Stopwatch() as watch:
    print("started", flush=True)
    sys.stdin.readline()
    print(watch.seconds, time.monotonic() - started, flush=True)
"""


def test_a_sleep_is_counted() -> None:
    """In short ones, of which a pause of the host hides one."""
    started = time.monotonic()
    with Stopwatch() as watch:
        for _ in range(30):
            time.sleep(0.01)
        assert 0.2 < watch.seconds <= time.monotonic() - started


def test_what_another_thread_computes_is_counted() -> None:
    """Though it keeps the interpreter from the stopwatch, here for longer at a time."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(0.1)
    try:
        with Stopwatch() as watch:
            began = time.process_time()
            while time.process_time() - began < 0.3:
                pass
            assert watch.seconds > 0.28
    finally:
        sys.setswitchinterval(usual)


def test_a_pause_of_the_host_is_not() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stdout.readline() == "started\n"
        os.kill(child.pid, signal.SIGSTOP)
        time.sleep(STOPPED_S)
        os.kill(child.pid, signal.SIGCONT)
        child.stdin.write("\n")
        child.stdin.flush()
        counted, passed = map(float, child.stdout.readline().split())
        assert counted < passed - STOPPED_S / 2


def test_the_best_of_some_tries_counts_and_none_may_be_worse_than_a_busy_host_makes_it() -> None:
    took = [3.0, 0.5, 0.4]
    best_of(3, lambda: took.pop(0), under=1, each_under=5)
    assert took == [0.4]
    with pytest.raises(AssertionError):
        best_of(3, iter([3.0, 2.0, 1.0, 0.5]).__next__, under=1)
    with pytest.raises(AssertionError):
        best_of(3, iter([6.0, 0.5]).__next__, under=1, each_under=5)
