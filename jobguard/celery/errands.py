"""The parent's work for the store, off the event loop: in order, and again until it is done.

Place in the house   parent -> here -> a thread
Takes                errands: functions that talk to the store
Gives                nothing; an errand calls back where it must
Never                lets one failing errand stop the others, or drops one that is not done
"""

import heapq
import itertools
import threading
import time
from collections.abc import Callable

from celery.utils.log import get_logger

from jobguard.errors import JobguardError

logger = get_logger(__name__)

#: Does its work; gives the seconds until it wants to be called again, or None when it is done.
Errand = Callable[[], float | None]

AGAIN_S = 1.0
AFTER_BUG_S = 10.0


class Errands:
    """One thread and what it has to do. An errand that raises JobguardError is called again in a second."""

    def __init__(self) -> None:
        self._due: list[tuple[float, int, Errand]] = []
        self._number = itertools.count()
        self._changed = threading.Condition()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="jobguard-errands", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def add(self, errand: Errand, after_s: float = 0.0) -> None:
        with self._changed:
            heapq.heappush(self._due, (time.monotonic() + after_s, next(self._number), errand))
            self._changed.notify()

    def stop(self, patience_s: float) -> None:
        """Finish the errand at hand, start no other."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        self._thread.join(patience_s)

    def _run(self) -> None:
        while (errand := self._next()) is not None:
            try:
                again = errand()
            except JobguardError as error:
                logger.warning("jobguard: %s; trying again", error)
                again = AGAIN_S
            except Exception:
                # A bug must end neither the errands that share the thread nor its own: one keeps the lease.
                logger.exception("jobguard: an errand failed; trying again in %d s", AFTER_BUG_S)
                again = AFTER_BUG_S
            if again is not None:
                self.add(errand, again)

    def _next(self) -> Errand | None:
        with self._changed:
            while not self._stopped:
                wait = self._due[0][0] - time.monotonic() if self._due else None
                if wait is not None and wait <= 0:
                    return heapq.heappop(self._due)[2]
                self._changed.wait(wait)
        return None
