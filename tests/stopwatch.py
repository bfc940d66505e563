"""A clock that stands while the host does not run us.

Place in the house   tests -> stopwatch
Gives                Stopwatch: the seconds since it was entered, but for those in which nobody here could run
Never                bends a wait: those have deadlines of many times what they wait for

"Within a second" speaks of our code. A virtual machine that is paused for a second, or two processors with
ten processes each, pass the bound with nothing wrong; a bound wide enough for them would find nothing.
"""

import threading
import time
from types import TracebackType

TICK_S = 0.01


class Stopwatch:
    """`with Stopwatch() as watch: …; assert watch.seconds < 1`"""

    def __init__(self) -> None:
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Stopwatch":
        self._started = time.monotonic()
        # When a tick was last seen, our processor time then, and what had stood still by then; set as one.
        self._last = self._started, time.process_time(), 0.0
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started - self._stood()[-1]

    def _stood(self) -> tuple[float, float, float]:
        """A tick is also late where another thread of ours computes: that is no host's doing."""
        ticked, ran, stood = self._last
        now, running = time.monotonic(), time.process_time()
        return now, running, stood + max(now - ticked - TICK_S - (running - ran), 0.0)

    def _watch(self) -> None:
        while not self._over.wait(TICK_S):
            self._last = self._stood()
