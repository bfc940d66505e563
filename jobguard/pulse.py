"""A beat's pulse: a small file that says what it is, and when it last finished a turn.

Place in the house   celery.beat writes; health reads -> here -> a mapped file in the temporary folder
Takes                a role and a trouble, at each turn
Gives                the pulses of the beats that live on this host, in one namespace
Never                makes a call: a probe must be answered when the store is away, and a turn must not wait

A beat lives exactly as long as it holds the lock on its file. A process id would say nothing across
containers that share a folder, nor after it was given to somebody else.
"""

import fcntl
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from struct import Struct
from typing import Literal

import msgspec

from jobguard.mapped import Mapped
from jobguard.session import boottime

STALLED_S = 30.0
"""A beat that finished no turn for so long hangs, and one that leads lets the next in line try."""

Role = Literal["leader", "follower"]

_PREFIX = "jobguard-beat-"
_SIZE = 4096  # what two texts can need
_TEXT_MAX = 300


class Beat(msgspec.Struct, frozen=True, kw_only=True):
    """What one beat said last. `at` is on the clock that goes on while a machine sleeps."""

    pid: int
    namespace: str
    role: Role
    at: float
    trouble: str = ""


class Pulse:
    """One per scheduler. The file is made at the first turn: a scheduler made for a banner has none."""

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace
        self._path: Path | None = None
        self._mapped: Mapped | None = None
        self._failed = False

    def tick(self, role: Role, trouble: str) -> None:
        """A turn is done. Without a place for the file there is no pulse, and beat goes on."""
        if self._mapped is None and not self._failed:
            try:
                self._open()
            except OSError:
                self._failed = True
        if self._mapped is None:
            return
        beat = Beat(
            pid=os.getpid(),
            namespace=self._namespace[:_TEXT_MAX],
            role=role,
            at=boottime(),
            trouble=trouble[:_TEXT_MAX],
        )
        self._mapped.pack(msgspec.json.encode(beat))

    def _open(self) -> None:
        descriptor, name = tempfile.mkstemp(prefix=f"{_PREFIX}{os.getpid()}-")
        fcntl.flock(descriptor, fcntl.LOCK_EX)  # held until the process ends; readers hold theirs for no time
        self._path = Path(name)
        self._mapped = Mapped(self._path, Struct(f"{_SIZE}s"), create=True)

    def close(self) -> None:
        """For signal handlers, and harmless if called again."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)


def beats(namespace: str) -> list[Beat]:
    """Those that live on this host and are ours to look at; the files of those that were killed go."""
    found = []
    for path in sorted(Path(tempfile.gettempdir()).glob(f"{_PREFIX}*")):
        try:
            beat = _read(path)
        except (OSError, ValueError):  # another user's, or just made or removed
            continue
        if beat is not None and beat.namespace == namespace[:_TEXT_MAX]:
            found.append(beat)
    return found


def _read(path: Path) -> Beat | None:
    if _is_abandoned(path):
        path.unlink(missing_ok=True)
        return None
    packed = Mapped(path, Struct(f"{_SIZE}s"), create=False).unpack()
    if packed is None or not isinstance(packed[0], bytes):
        return None
    with suppress(msgspec.DecodeError):
        return msgspec.json.decode(packed[0].rstrip(b"\0"), type=Beat)
    return None


def _is_abandoned(path: Path) -> bool:
    """Whether nobody holds its lock. A file that was made this moment has no size yet, and is no wreck."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return os.fstat(descriptor).st_size > 0
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
