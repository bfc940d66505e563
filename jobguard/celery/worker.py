"""`install(app)`: what makes a worker of this app guard its tasks.

Place in the house   users' app modules -> here -> celery's bootsteps, sweep, guard, parent
Takes                an app, in any state: before or after its configuration and its tasks
Gives                nothing until a worker boots; then every task guarded, or a worker that refuses to start
Never                starts a thread, opens a socket or reads a setting in a process that is not a worker

A bootstep's constructor is the one place where this can be done: it runs in the worker's main process, after
the task modules are imported, before the first child; and an exception there ends the worker, where one in a
signal's receiver would be logged and forgotten.
"""

import os
from collections.abc import Callable
from typing import Any

from celery import Celery, bootsteps, current_app, signals
from celery.app.task import Context
from celery.app.trace import build_tracer
from celery.utils.log import get_logger

from jobguard.celery.current import Run, current
from jobguard.celery.deadline import WorkerDirectory
from jobguard.celery.guard import Guard
from jobguard.celery.parent import Parent, advertisement
from jobguard.celery.sweep import CannotGuard, sweep
from jobguard.policy import policy_of
from jobguard.records import HEADER, read_header
from jobguard.settings import Settings

__all__ = ["Run", "current", "install"]

logger = get_logger(__name__)

_MAINTAIN_S = 0.2
_PARENT = "jobguard_parent"


def install(app: Celery) -> None:
    """Guard the tasks of `app` in every worker that boots with it. Installing twice is installing once."""
    app.steps["worker"].update((Guarding, Attending))
    if WorkerDirectory.announced() is not None and "FORKED_BY_MULTIPROCESSING" in os.environ:
        signals.worker_process_init.connect(_guard_spawned_child, weak=False, dispatch_uid=__name__)


def _guard_spawned_child(sender: str, **_: object) -> None:
    """A spawned child has no bootsteps, and gets an app of its own, made from a pickle of the worker's.

    It imports the task modules, and so comes by `install`, before this signal; but it has its tracers
    already, which know no guard. Nothing here talks to the store: the pool gives a child four seconds to
    come up.
    """
    app = current_app._get_current_object()
    sweep(app, Guard(app))
    for name, task in app.tasks.items():
        task.__trace__ = build_tracer(name, task, app.loader, sender, app=app)


class Guarding(bootsteps.StartStopStep):  # type: ignore[misc]
    """First to start, last to stop: bodies may run until the pool has ended, and need the lease till then."""

    label = "Guard"

    def __init__(self, worker: Any, **kwargs: Any) -> None:
        super().__init__(worker, **kwargs)
        app = worker.app
        settings = Settings.from_app(app)
        for job in settings.jobs:
            policy_of(settings.jobs, job)  # refused now rather than at the first delivery
        directory = WorkerDirectory.make()
        pool = worker.pool_cls.__module__.rpartition(".")[2]
        self._guard = Guard(app)
        entry = advertisement(worker.hostname, pool, worker.concurrency or 0)
        parent = Parent(settings, directory, entry, self._guard.words)
        try:
            sweep(app, self._guard, parent)
        except CannotGuard:
            directory.remove()
            raise
        setattr(worker, _PARENT, parent)
        signals.task_revoked.connect(_on_revoked(parent), weak=False, dispatch_uid=__name__)

    def include(self, worker: Any) -> bool:
        worker.steps.insert(0, self)
        return True

    def start(self, worker: Any) -> None:
        """Once more, for tasks that a later bootstep's constructor has added."""
        sweep(worker.app, self._guard, getattr(worker, _PARENT))

    def stop(self, worker: Any) -> None:
        getattr(worker, _PARENT).stop()

    def terminate(self, worker: Any) -> None:
        self.stop(worker)


class Attending(bootsteps.StartStopStep):  # type: ignore[misc]
    """After the pool: its first children are forked from a process without our threads."""

    label = "Guard's lease"
    requires = ("celery.worker.components:Hub", "celery.worker.components:Pool")

    def __init__(self, worker: Any, **kwargs: Any) -> None:
        super().__init__(worker, **kwargs)
        self._timer: Any = None

    def include(self, worker: Any) -> bool:
        worker.steps.append(self)
        return True

    def start(self, worker: Any) -> None:
        hub = worker.hub
        getattr(worker, _PARENT).start(hub.call_soon if hub is not None else None)

    def stop(self, worker: Any) -> None:
        """Nothing: bodies are still running; see Guarding."""

    def terminate(self, worker: Any) -> None:
        """Nothing, likewise."""

    def register_with_event_loop(self, worker: Any, hub: Any) -> None:
        """See a killed child at once; called at every reconnect.

        Its exit status comes a moment after the event that it died: the pool misses it at the event and, left
        alone, looks again after up to five seconds.
        """
        maintain = getattr(worker.pool, "maintain_pool", None)
        if maintain is None:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = hub.call_repeatedly(_MAINTAIN_S, maintain)


def _on_revoked(parent: Parent) -> Callable[..., None]:
    def receive(request: Context, terminated: bool = False, expired: bool = False, **_: object) -> None:
        """A message that expired or was revoked never reaches a body. Terminated ones had reached it."""
        header = read_header(getattr(request, HEADER, None))
        if header is not None and not terminated:
            why = "its message expired" if expired else "its task was revoked"
            parent.never_started(header, request, f"{why} before a worker started it")

    return receive
