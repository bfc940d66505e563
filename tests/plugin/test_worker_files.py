"""What a worker and its children tell each other through mapped files."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobguard.celery import deadline
from jobguard.celery.deadline import (
    ENVIRONMENT,
    ChildFile,
    Deadline,
    DeadlineFile,
    Running,
    WorkerDirectory,
)
from jobguard.session import boottime


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WorkerDirectory]:
    monkeypatch.setattr(deadline.tempfile, "tempdir", str(tmp_path))
    made = WorkerDirectory.make()
    yield made
    made.remove()


def test_an_empty_record_is_no_lease(directory: WorkerDirectory) -> None:
    assert directory.lease().read() == Deadline()
    assert not directory.lease().read().may_start()


def test_another_process_reads_what_was_written(directory: WorkerDirectory) -> None:
    """Not by inheritance, as after a fork, but by the path in the environment, as after a spawn."""
    directory.lease().write(Deadline(7, 12.5, 3.0))
    program = (
        "from jobguard.celery.deadline import WorkerDirectory as W; d = W.announced();"
        "print(d.lease().read(), d.owner); d.own_child().tell(1, 'nonce', 7)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"{Deadline(7, 12.5, 3.0)} {os.getpid()}"
    (word,) = directory.children().values()
    assert (word.running, word.nonce, word.lease) == (Running.STOPPABLE, "nonce", 7)


def test_the_three_moments_come_in_order() -> None:
    at = Deadline(1, boottime() + 10, 10.0)
    assert boottime() < at.stop_at < at.kill_at < at.at
    assert at.may_start()
    assert not Deadline(1, boottime() + 1, 10.0).may_start()  # it would be stopped at once


def test_no_reader_sees_half_a_record(tmp_path: Path) -> None:
    path = tmp_path / "lease"
    writer, reader = DeadlineFile(path, create=True), DeadlineFile(path)
    writing = threading.Event()

    def write() -> None:
        for number in range(1, 20_000):
            writer.write(Deadline(number, float(number), float(number)))
        writing.set()

    thread = threading.Thread(target=write)
    thread.start()
    while not writing.is_set():
        seen = reader.read()
        assert seen.lease == seen.at == seen.ttl
    thread.join()


def test_a_child_with_a_new_name_is_another_child(tmp_path: Path) -> None:
    child = ChildFile(tmp_path / "child", create=True)
    first = child.incarnation
    child.tell(Running.STOPPABLE, "nonce", 7)
    child.be_new()
    word = child.read()
    assert word is not None
    assert (word.incarnation != first, word.running, word.nonce) == (True, Running.NOTHING, "")


def test_what_is_left_to_the_parent_is_whole_or_not_there(directory: WorkerDirectory) -> None:
    directory.leave_unsent("nonce", b"a transaction")
    assert directory.unsent() == {"nonce": b"a transaction"}
    directory.sent("nonce")
    directory.sent("nonce")  # parent and child may both carry it through
    assert directory.unsent() == {}


def test_directories_of_killed_workers_are_removed(
    tmp_path: Path, directory: WorkerDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deadline, "_ABANDONED_AFTER_S", 0.0)
    program = "from jobguard.celery.deadline import WorkerDirectory as W; import os; print(W.make().path)"
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    killed = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    abandoned = Path(killed.stdout.strip())
    assert abandoned.exists()
    third = WorkerDirectory.make()
    assert not abandoned.exists()
    assert directory.path.exists()  # its worker lives: it holds the lock
    third.remove()
    assert ENVIRONMENT not in os.environ
