"""Threads of the system's in a process that gevent has patched.

Place in the house   session -> here -> gevent, if the program uses it
Takes                what a thread takes
Gives                a thread that runs beside all greenlets, as long as those hold no lock of the interpreter
Never                is imported where gevent has patched nothing, or logs from such a thread
"""

from collections.abc import Callable
from functools import partial
from threading import Thread, local
from typing import Any

import gevent
from gevent import monkey, threadpool

_start_new_thread = monkey.get_original("_thread", "start_new_thread")

_here = local()  # `starter`: the hub of whoever started this native thread


class NativeThread(Thread):
    """Started, joined and asked like any other; its target runs in a thread of gevent's own pool."""

    _result: Any = None

    def start(self) -> None:
        self._result = threadpool.ThreadPool(1).spawn(self._run_for, gevent.get_hub())

    def _run_for(self, starter: Any) -> None:
        _here.starter = starter
        self.run()

    def join(self, timeout: float | None = None) -> None:
        if self._result is not None:
            self._result.wait(timeout)

    def is_alive(self) -> bool:
        return self._result is not None and not self._result.ready()


def call_among_greenlets(call: Callable[..., None], *args: Any, **kwargs: Any) -> None:
    """From a native thread: have it called in a greenlet beside the one that started the thread, soon.

    Where all of those are gone, as with a thread of gevent's that ended: in one more thread, which may wait.
    From anywhere else: call it.
    """
    starter = getattr(_here, "starter", None)
    if starter is None:
        call(*args, **kwargs)
    elif starter.dead:
        _start_new_thread(call, args, kwargs)
    else:
        starter.loop.run_callback_threadsafe(gevent.spawn, partial(call, *args, **kwargs))
