"""The demonstration as its user runs it: the scene holds, Ctrl-C leaves nothing behind."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from jobguard.demo.outbox import RECIPIENTS, Email
from jobguard.demo.scene import Line
from jobguard.records import Done, Occurrence, Verdict

pytestmark = pytest.mark.timeout(300)
COMMAND = [str(Path(sys.executable).with_name("jobguard")), "demo"]


def pids_with(word: str) -> set[int]:
    """Processes whose command line or environment holds `word`; the demo's folder is in all of its own."""
    found = set()
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                told = (folder / "cmdline").read_bytes() + (folder / "environ").read_bytes()
            except OSError:
                continue  # it ended while we looked
            if word.encode() in told:
                found.add(int(folder.name))
    return found


def test_the_scene_holds() -> None:
    done = subprocess.run([*COMMAND, "--exit"], capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Once-only:" in done.stdout
    for act in (
        "was told no for attempt 1: already",
        "killed worker",
        "killed beat",
        "killed store",
        "both workers have it",
    ):
        assert act in done.stdout


def test_a_delivery_that_ran_besides_is_a_fault() -> None:
    """Also where every recipient got one e-mail: two bodies may have shared the work."""
    occurrence, now = Occurrence("digest", datetime.now(UTC)), datetime.now(UTC)

    def line(*tokens: int) -> Line:
        emails = [
            Email(occurrence="", recipient=who, sender="", attempt=1, fencing_token=token, worker="worker1")
            for who, token in zip(RECIPIENTS, tokens, strict=True)
        ]
        done = Done(job="digest", nominal=now, verdict=Verdict.RAN, nonce="", finished=now, n=1)
        return Line(occurrence=occurrence, done=done, attempts=(), emails=emails, told_no=())

    assert line(7, 7, 7, 7).fault == ""
    assert line(7, 7, 9, 9).fault == "attempt 1 ran 2 times"


@pytest.fixture
def running() -> Iterator["subprocess.Popen[str]"]:
    process = subprocess.Popen(COMMAND, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    yield process
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        process.wait(60)
    assert process.stdout is not None
    process.stdout.close()


def test_ctrl_c_leaves_no_process_behind(running: "subprocess.Popen[str]") -> None:
    assert running.stdout is not None
    folder = ""
    told_no = False
    for line in running.stdout:
        told_no = told_no or " was told no: " in line
        if found := re.search(r"(/\S*jobguard-demo-\w+)/worker1", line):
            folder = found[1]
        if " ran on " in line and told_no:
            break
    assert folder, "no digest ran"
    assert len(pids_with(folder)) >= 9
    running.send_signal(signal.SIGINT)
    assert running.wait(60) == 0, running.stdout.read()
    deadline = time.monotonic() + 20
    while left := pids_with(folder) - {os.getpid()}:
        assert time.monotonic() < deadline, f"processes {left} outlive the demonstration"
        time.sleep(0.1)
    assert not Path(folder).exists()
