"""The run a body belongs to: what `jobguard.current()` gives.

Place in the house   users' bodies, guard -> here -> jobguard.errors
Takes                nothing: the guard sets it around the body
Gives                Run: which occurrence this is, which attempt, its fencing token, whether it still holds
Never                makes a network call, imports Celery
"""

from collections.abc import Callable
from contextvars import ContextVar, Token
from dataclasses import dataclass, field
from datetime import datetime

from jobguard.errors import NotGuarded


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One attempt at one planned occurrence, as its body sees it."""

    job: str
    nominal_time: datetime  # when it should have happened, UTC: the same for every attempt
    attempt: int  # counts dispatches from 1; Celery's own retries stay within one
    fencing_token: int  # only grows: a resource that saw a larger one refuses this run
    cluster_id: int  # the cluster in which the token means something
    check_held: Callable[[], None] = field(repr=False)

    def check(self) -> None:
        """Raise LockLost once this run's claim may have passed to another worker.

        Cheap (it reads memory): call it before each step that must not happen twice. It narrows the window
        and does not close it; writes that must not come from a late holder carry `fencing_token`.
        """
        self.check_held()


_running: ContextVar[Run] = ContextVar("jobguard_run")


def current() -> Run:
    """The run this code is the body of.

    Raises NotGuarded elsewhere: in a plain call, an eager one, a task nobody scheduled, or another thread
    than the body's. A body that asks for its token and has none must not go on and write unfenced.
    """
    run = _running.get(None)
    if run is None:
        raise NotGuarded("this code is not the body of a scheduled run, so it has no occurrence and no token")
    return run


def enter(run: Run) -> Token[Run]:
    return _running.set(run)


def leave(token: Token[Run]) -> None:
    _running.reset(token)
