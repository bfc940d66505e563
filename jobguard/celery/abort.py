"""How a running body is stopped: a signal of our own that raises in the child's main thread.

Place in the house   guard arms it around the body -> here -> signal
Takes                a claim that is flagged (its lease ends, an operator took it)
Gives                RunAborted inside the body; at the last moment, the end of the process
Never                touches a body whose own claim was not flagged, nor code outside a body

SIGUSR1 is Celery's soft time limit, which `except Exception` swallows and autoretry repeats. RunAborted is a
BaseException: it passes both, and only the guard catches it.

Why no body is hit by a signal meant for another. The handler raises only if the interrupted code was called
from the very frame that called the flagged body. When that frame has returned, no later signal finds it;
while control is in the frame itself (about to enter the body, or just back), nothing is raised either, and
the signal sent again a moment later finds the situation decided.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from celery.exceptions import WorkerShutdown, WorkerTerminate

RESEND_S = 0.25

#: What gevent's pool raises in a body, by name.
GREEN_LIMIT, GREEN_KILL = "Timeout", "GreenletExit"


class RunAborted(BaseException):
    """Raised inside a body whose claim was flagged. No Exception: a body must not take it for an error."""


@dataclass(slots=True, eq=False)
class Armed:
    """A body that may be stopped, and the reason once it shall be. Identity is the claim's nonce."""

    nonce: str
    frame: FrameType | None = field(default=None, repr=False)
    flagged: str | None = None
    flagged_at: float = 0.0

    def flag(self, reason: str, at: float) -> None:
        """From the watchdog. The first reason stays."""
        if self.flagged is None:
            self.flagged_at = at
            self.flagged = reason

    def call(self, body: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run the body so that the handler knows its frames. Code of ours around it is never interrupted."""
        self.frame = sys._getframe()
        try:
            return body(*args, **kwargs)
        finally:
            self.frame = None


class Stopper:
    """One process's ability to interrupt the body in its main thread."""

    def __init__(self, signum: int) -> None:
        self.signum = signum
        self._armed: Armed | None = None

    def arm(self, armed: Armed) -> None:
        """From the main thread, before the body. Puts our handler back if a library took the signal."""
        if signal.getsignal(self.signum) != self._on_signal:
            signal.signal(self.signum, self._on_signal)
        self._armed = armed

    def disarm(self) -> None:
        self._armed = None

    def interrupt(self, armed: Armed) -> None:
        """Wake the main thread out of a blocking call, if it still runs this body."""
        if self._armed is armed:
            signal.pthread_kill(threading.main_thread().ident or 0, self.signum)

    def _on_signal(self, _signum: int, interrupted: FrameType | None) -> None:
        armed = self._armed
        if armed is None or armed.flagged is None or armed.frame is None:
            return
        frame = interrupted.f_back if interrupted is not None else None
        while frame is not None:
            if frame is armed.frame:
                raise RunAborted(armed.flagged)
            frame = frame.f_back


def is_celerys(error: BaseException) -> bool:
    """Whether a pool without processes raised it in a body: a limit, a revoke, or the worker's end.

    What the body itself raised must not leave it as it is: these pools take what would end a process for what
    the body returned. Nobody who waits for it is told, and a solo worker falls over that.
    """
    what = type(error).__name__
    return what in (GREEN_LIMIT, GREEN_KILL) or isinstance(error, (WorkerShutdown, WorkerTerminate))


@contextmanager
def without_soft_limit() -> Iterator[None]:
    """Celery's soft time limit is for the body. Striking while an outcome is recorded, which may have to
    wait for the store, it would turn a run that ended in time into one of which nobody knows.
    """
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, before or signal.SIG_DFL)


def own_process_group() -> None:
    """Lead a process group, so that killing it ends what the body started, too."""
    with suppress(PermissionError):  # already a session leader
        os.setpgid(0, 0)


def kill_group(pid: int) -> None:
    """End a child and what it started. Only the child, if it does not lead a group of its own."""
    with suppress(ProcessLookupError):
        if os.getpgid(pid) == pid:
            os.killpg(pid, signal.SIGKILL)
        else:
            os.kill(pid, signal.SIGKILL)
