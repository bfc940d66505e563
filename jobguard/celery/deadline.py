"""The worker's lease, shared with its children: one small file that the parent writes and they map.

Place in the house   parent writes; guard, watchdog read -> here -> memory-mapped files
Takes                the lease's id and the moment until which it surely lives
Gives                that, whole or not at all; and what each child runs, to its parent
Never                talks to the store; decides what a passed deadline means

The parent renews the lease, so a body that keeps its process busy does not lose the claim; the children read
the deadline from memory, so asking costs no call. A mapped file works for children that were forked and for
those that were spawned, and it exists before the first of them: the bootstep's constructor makes it.
"""

import fcntl
import os
import secrets
import shutil
import struct
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from jobguard.mapped import Mapped
from jobguard.session import boottime

#: Where a worker's children, forked or spawned, find the directory.
ENVIRONMENT = "JOBGUARD_WORKER_DIRECTORY"

#: How many refusals wait in files at most, and how many of a worker's last are kept in the store.
REFUSALS_MAX = 16

_PREFIX = "jobguard-"
_ABANDONED_AFTER_S = 60.0


@dataclass(frozen=True, slots=True)
class Deadline:
    """Which lease the worker holds, and until when at least. Lease 0: none that anybody knows of.

    Three moments, in this order, so that "the lease has ended" implies "the body has stopped":
    a body is asked to stop, then its process is killed, then the lease may pass on.
    """

    lease: int = 0
    at: float = 0.0
    ttl: float = 0.0

    @property
    def stop_at(self) -> float:
        return self.at - self.ttl / 5

    @property
    def kill_at(self) -> float:
        return self.at - self.ttl / 20

    @property
    def grace(self) -> float:
        """Seconds between being asked to stop and being killed."""
        return self.kill_at - self.stop_at

    def may_start(self) -> bool:
        """Whether a body that starts now is not at once in the way of its own end."""
        return self.lease != 0 and boottime() < self.stop_at


class DeadlineFile:
    """One record: lease id, deadline, TTL. Written by the parent alone, at every renewal."""

    _RECORD = struct.Struct("<qdd")

    def __init__(self, path: Path, *, create: bool = False) -> None:
        self._mapped = Mapped(path, self._RECORD, create=create)
        if create:
            self.write(Deadline())

    def write(self, deadline: Deadline) -> None:
        self._mapped.pack(deadline.lease, deadline.at, deadline.ttl)

    def read(self) -> Deadline:
        match self._mapped.unpack():
            case (int(lease), float(at), float(ttl)):
                return Deadline(lease, at, ttl)
        return Deadline()


class Running(IntEnum):
    """What a child does at this moment, as far as its parent must know before the deadline comes."""

    NOTHING = 0  # or claiming, or recording an outcome: nothing of the user's
    STOPPABLE = 1  # a body under a claim: dead before the lease can pass on
    UNSTOPPABLE = 2  # the same under on_suspect "continue": its writes are fenced, it may go on


@dataclass(frozen=True, slots=True)
class ChildState:
    """A child's word: who it is, what it runs, and which claim it has asked for or holds."""

    incarnation: str  # empty for a body in the main process, which is no child of anybody
    running: Running
    nonce: str
    lease: int  # that the claim stands on


class ChildFile:
    """What one child tells its parent, without a call: a word it rewrites before each step.

    The nonce is there before the claim is sent, and goes only when the outcome is certain: a claim in the
    store whose nonce is in no child's file belongs to nobody any more. A process id may come back, an
    incarnation never does.
    """

    _RECORD = struct.Struct("<32sB32sq")

    def __init__(self, path: Path, *, create: bool = False) -> None:
        self._mapped = Mapped(path, self._RECORD, create=create)
        self.incarnation = ""
        if create:
            self.be_new()

    def be_new(self) -> None:
        """Take another incarnation: whatever the one before has in flight can be refused by name."""
        self.incarnation = f"{os.getpid()}-{secrets.token_hex(6)}"
        self.tell(Running.NOTHING)

    def tell(self, running: Running, nonce: str = "", lease: int = 0) -> None:
        self._mapped.pack(self.incarnation.encode(), running, nonce.encode(), lease)

    def read(self) -> ChildState | None:
        """None while the child has not written its first word."""
        match self._mapped.unpack():
            case (bytes(incarnation), int(running), bytes(nonce), int(lease)) if incarnation.strip(b"\0"):
                return ChildState(_text(incarnation), Running(running), _text(nonce), lease)
        return None


def _text(padded: bytes) -> str:
    return padded.rstrip(b"\0").decode()


class WorkerDirectory:
    """The files a worker and its children share.

    `lease`; `child-<pid>` for each child that guards; `unsent-<nonce>` for each transaction that a child
    could not carry through and leaves to its parent; `stop-<nonce>` for a claim that was taken from a child;
    `refusal-<slot>` for a delivery that was told no.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: int | None = None

    @classmethod
    def make(cls) -> "WorkerDirectory":
        """For a worker that boots: a private directory with an empty lease record, announced to children."""
        made = cls(Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-")))
        DeadlineFile(made.path / "lease", create=True)
        made._lock = _lock(made.path / "lease")
        os.environ[ENVIRONMENT] = str(made.path)
        _remove_abandoned(made.path)
        return made

    @classmethod
    def announced(cls) -> "WorkerDirectory | None":
        """The directory of the worker this process belongs to, if it belongs to one."""
        path = os.environ.get(ENVIRONMENT)
        return cls(Path(path)) if path else None

    @property
    def owner(self) -> int:
        """The process id of the worker's main process."""
        return int(self.path.name.split("-")[1])

    def lease(self) -> DeadlineFile:
        return DeadlineFile(self.path / "lease")

    def own_child(self) -> ChildFile:
        """This process's own file, new."""
        return ChildFile(self.path / f"child-{os.getpid()}", create=True)

    def children(self) -> dict[int, ChildState]:
        """Every child that guards, or did and was not forgotten, by process id."""
        found = {}
        for path in self.path.glob("child-*"):
            try:
                state = ChildFile(path).read()
            except (OSError, ValueError):  # forgotten meanwhile, or not yet of its full size
                continue
            if state is not None:
                found[int(path.name.removeprefix("child-"))] = state
        return found

    def forget(self, pid: int) -> None:
        (self.path / f"child-{pid}").unlink(missing_ok=True)

    def leave_unsent(self, nonce: str, transaction: bytes) -> None:
        """Whole or not at all: the parent must not read half a transaction."""
        draft = self.path / f"draft-{nonce}"
        draft.write_bytes(transaction)
        draft.rename(self.path / f"unsent-{nonce}")

    def unsent(self) -> dict[str, bytes]:
        found = {}
        for path in sorted(self.path.glob("unsent-*")):
            try:
                found[path.name.removeprefix("unsent-")] = path.read_bytes()
            except FileNotFoundError:  # its child carried it through after all
                continue
        return found

    def sent(self, nonce: str) -> None:
        """By the child that left it: it carried it through after all."""
        (self.path / f"unsent-{nonce}").unlink(missing_ok=True)

    def carried(self, nonce: str, transaction: bytes) -> None:
        """By the parent. The child may have left another step by now, which must stay."""
        unsent, taken = self.path / f"unsent-{nonce}", self.path / f"taken-{nonce}"
        with suppress(FileNotFoundError):
            unsent.rename(taken)
            if taken.read_bytes() != transaction:
                with suppress(FileExistsError):  # and one more
                    unsent.hardlink_to(taken)
            taken.unlink()

    def stop(self, nonce: str) -> None:
        """Tell the child that runs this claim to stop: it was taken from it."""
        (self.path / f"stop-{nonce}").touch()

    def told_to_stop(self, nonce: str) -> bool:
        return os.path.exists(f"{self.path}/stop-{nonce}")

    def told(self) -> list[str]:
        return [path.name.removeprefix("stop-") for path in self.path.glob("stop-*")]

    def take_back_stop(self, nonce: str) -> None:
        (self.path / f"stop-{nonce}").unlink(missing_ok=True)

    def leave_refusal(self, nonce: str, record: bytes) -> None:
        """Whole or not at all, and only while there is room: nobody needs it, and a full disk is no harm."""
        draft = self.path / f"draft-{nonce}"
        with suppress(OSError):
            draft.write_bytes(record)
            for slot in range(REFUSALS_MAX):
                with suppress(FileExistsError):
                    (self.path / f"refusal-{slot}").hardlink_to(draft)
                    break
        with suppress(OSError):
            draft.unlink()

    def take_refusals(self) -> list[bytes]:
        """Those left since the last time, not more than REFUSALS_MAX."""
        found = []
        for path in self.path.glob("refusal-*"):
            with suppress(OSError):
                found.append(path.read_bytes())
                path.unlink()
        return found

    def touch(self) -> None:
        """Systems clean their /tmp of what looks old, and writes to mapped memory need not change a time."""
        for path in (self.path, *self.path.iterdir()):
            with suppress(FileNotFoundError):
                os.utime(path)

    def remove(self) -> None:
        """At the worker's end. Children that still live keep their mappings."""
        os.environ.pop(ENVIRONMENT, None)
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _lock(path: Path) -> int | None:
    """Held, for as long as it stays open, by the worker and the children it forks; None if others hold it."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def _remove_abandoned(own: Path) -> None:
    """Directories of workers that were killed.

    A lock tells, since a process id says nothing across containers that share a /tmp; and age, since a
    directory is a moment older than its lock.
    """
    for path in own.parent.glob(f"{_PREFIX}*"):
        try:
            if path == own or time.time() - path.stat().st_mtime < _ABANDONED_AFTER_S:
                continue
            lock = _lock(path / "lease")
        except OSError:  # another user's, or just removed by its own worker
            continue
        if lock is not None:
            shutil.rmtree(path, ignore_errors=True)
            os.close(lock)
