"""The benchmark itself: it still runs, and it leaves nothing behind."""

import os
import re
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from benchmarks.__main__ import FAMILIES

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 400.0

pytestmark = pytest.mark.timeout(2 * PATIENCE_S + 60)  # dozens of processes, one after the other


@contextmanager
def benchmark(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process, and a word that it and all it starts have in their environment."""
    mark = f"JOBGUARD_TEST_MARK={uuid.uuid4()}"
    name, _, value = mark.partition("=")
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks", *arguments],
        cwd=ROOT,
        env={**os.environ, name: value},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process, mark
    finally:
        process.kill()
        for pid in marked(mark):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.communicate()


def marked(mark: str) -> list[int]:
    """The processes that carry it and are not over, nor killed and about to be."""
    found = []
    for environment in Path("/proc").glob("[0-9]*/environ"):
        try:
            carried = mark.encode() in environment.read_bytes().split(b"\0")
            if carried and not is_killed(environment.parent):
                found.append(int(environment.parent.name))
        except OSError:  # of somebody else, or just gone
            continue
    return found


def is_killed(process: Path) -> bool:
    """Whether its SIGKILL is still to be delivered: the host may not have run it since."""
    pending = re.findall(r"^(?:SigPnd|ShdPnd):\s+(\w+)", (process / "status").read_text(), re.MULTILINE)
    return any(int(signals, 16) >> signal.SIGKILL - 1 & 1 for signals in pending)


def folders() -> list[Path]:
    return list(ROOT.glob(".bench-*"))


def test_a_quick_run_measures_everything() -> None:
    """In two halves at once: most of it is waiting for processes to come up."""
    celery = ["--only", "task", "--only", "takeover"]
    others = [word for name in FAMILIES if name not in celery for word in ("--only", name)]
    with benchmark("--quick", *celery) as (one, one_mark), benchmark("--quick", *others) as (other, mark):
        output, progress = other.communicate(timeout=PATIENCE_S)
        celery_output, celery_progress = one.communicate(timeout=PATIENCE_S)
        if shutil.which("wrk") is None:
            assert other.returncode == 1
            assert "apt-get install wrk" in progress
            return
        assert other.returncode == 0, progress
        assert one.returncode == 0, celery_progress
        assert not marked(mark)
        assert not marked(one_mark)
    for words in ("| put | 64 |", "| put to a follower |", "| lease keepalive |", "| watch | 10 |"):
        assert words in output
    for words in ("| put with live keys | 1,000 |", "| keepalive of leases |", "| put on nodes | 3 |"):
        assert words in output
    assert "| etcd3gw on etcd |" in output
    assert "| jobguard, guarded |" in celery_output
    assert "| takeover after SIGTERM | jobguard |" in celery_output


def test_a_run_that_is_interrupted_leaves_nothing_behind() -> None:
    before = folders()
    with benchmark("--quick", "--only", "put") as (process, mark):
        assert process.stderr is not None
        process.stderr.readline()  # of the first measurement; the next one goes on
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=PATIENCE_S)
        assert process.returncode == (1 if shutil.which("wrk") is None else 130)
        assert not marked(mark)
    assert folders() == before
