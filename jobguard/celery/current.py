"""The run a body belongs to, `jobguard.current()`, and the key that its task holds, `jobguard.held()`.

Place in the house   users' bodies, guard, turn -> here -> jobguard.errors
Takes                nothing: guard and turn set it around the body
Gives                Run: which occurrence this is, which attempt, its fencing token, whether it still holds;
                     Held: the same of a task's key
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """The key of a task's `once`, `lock` or `limit`, as the body that holds it sees it."""

    name: str  # the task's, with the arguments that make the key
    fencing_token: int  # larger than that of every holder before; with `limit` others hold theirs beside it
    cluster_id: int  # the cluster in which the token means something
    check_held: Callable[[], None] = field(repr=False)

    def check(self) -> None:
        """Raise LockLost once the key may have passed on. Reads memory, as `Run.check` does."""
        self.check_held()


_running: ContextVar[Run] = ContextVar("jobguard_run")
_held: ContextVar[Held] = ContextVar("jobguard_held")


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


def held() -> Held:
    """The key that the task of this body holds by its `jobguard` option.

    Raises NotGuarded elsewhere, also in a plain call and an eager one: they hold nothing.
    """
    found = _held.get(None)
    if found is None:
        raise NotGuarded("this code is not the body of a task with a jobguard option, run by a worker")
    return found


def enter_held(found: Held) -> Token[Held]:
    return _held.set(found)


def leave_held(token: Token[Held]) -> None:
    _held.reset(token)
