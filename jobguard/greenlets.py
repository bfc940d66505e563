"""Threads of the system's in a process that gevent has patched.

Place in the house   session -> here -> gevent, if the program uses it
Takes                what a thread takes
Gives                a thread that runs beside all greenlets, as long as those hold no lock of the interpreter
Never                is imported where gevent has patched nothing
"""

from threading import Thread
from typing import Any

from gevent import threadpool


class NativeThread(Thread):
    """Started, joined and asked like any other; its target runs in a thread of gevent's own pool."""

    _result: Any = None

    def start(self) -> None:
        self._result = threadpool.ThreadPool(1).spawn(self.run)

    def join(self, timeout: float | None = None) -> None:
        if self._result is not None:
            self._result.wait(timeout)

    def is_alive(self) -> bool:
        return self._result is not None and not self._result.ready()
