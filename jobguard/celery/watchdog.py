"""The child's own watch over the body it runs: stops it in time, even if the parent hangs.

Place in the house   guard -> here -> abort, deadline
Takes                a claim with the lease it stands on, while its body runs
Gives                at stop_at an interrupt, repeated until the body is gone; at kill_at the process's end
Never                makes a call, or stops a body whose policy is to go on
"""

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from jobguard.celery.abort import RESEND_S, Armed, Stopper, kill_group
from jobguard.celery.deadline import Deadline, DeadlineFile
from jobguard.session import boottime

TAKEN = "its claim was taken from it"

_QUIET_ROUNDS = 8  # without a body, before the thread goes to sleep for good


@dataclass(frozen=True, slots=True)
class _Watched:
    armed: Armed
    claimed_under: Deadline


class Watchdog:
    """One thread, started with the first body. Awake while bodies come, asleep when none has for a while.

    Waking it for every body would cost each of them a switch of threads; a look every quarter of a second
    costs nothing and is as exact as the interrupt itself.
    """

    def __init__(self, lease: DeadlineFile, stopper: Stopper, told_to_stop: Callable[[str], bool]) -> None:
        self._lease, self._stopper, self._told_to_stop = lease, stopper, told_to_stop
        self._watched: _Watched | None = None
        self._wake = threading.Event()
        self._asleep = True
        self._thread: threading.Thread | None = None

    def watch(self, armed: Armed, claimed_under: Deadline) -> None:
        self._watched = _Watched(armed, claimed_under)
        if self._asleep:
            self._asleep = False
            self._wake.set()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="jobguard-watchdog", daemon=True)
            self._thread.start()

    def unwatch(self) -> None:
        self._watched = None

    def _run(self) -> None:
        quiet = 0
        while True:
            watched = self._watched
            quiet = quiet + 1 if watched is None else 0
            if quiet > _QUIET_ROUNDS:
                self._sleep()
                quiet = 0
            elif watched is None:
                time.sleep(RESEND_S)
            else:
                self._look(watched)
                time.sleep(min(RESEND_S, watched.claimed_under.ttl / 40))

    def _sleep(self) -> None:
        """`asleep` first, then a last look: a body that begins in between either sees it, or is seen."""
        self._wake.clear()
        self._asleep = True
        if self._watched is None:
            self._wake.wait()

    def _look(self, watched: _Watched) -> None:
        """Stop the body when its lease comes to an end; end the process when it does not stop.

        A lease that is another one by now was lost, perhaps long before its deadline (somebody revoked it):
        the body gets the same grace, counted from when it was told.
        """
        armed, under = watched.armed, watched.claimed_under
        now, lease = boottime(), self._lease.read()
        if lease.lease != under.lease:
            armed.flag("the worker's lease was lost", now)
        elif now >= lease.stop_at:
            armed.flag("the worker's lease was not renewed in time", now)
        elif self._told_to_stop(armed.nonce):
            armed.flag(TAKEN, now)
        if armed.flagged is None:
            return
        self._stopper.interrupt(armed)
        if now - armed.flagged_at >= under.grace and armed.frame is not None:
            kill_group(os.getpid())
