"""The sweep: every task's own class gets the guard around its body, and a request that reports to the parent.

Place in the house   worker -> here -> celery's task classes
Takes               a finalised app, the guard to put around a body
Gives                tasks whose calls pass the guard; an error for one that cannot be guarded
Never                reads a setting, touches a class twice, or leaves a task unguarded without a word

Why classes and not annotations. An annotation is applied when a task is bound, so one early look at `.app`
leaves a task unguarded without a word, and it strips decorators from the user's own `__call__`. A class
attribute set when the worker boots sits outside all of that: the tracer calls `task(*args)` because the
class has a `__call__`, ours runs first, and calls what the class had before, the user's own or an inherited
one.
"""

from collections.abc import Callable, Iterable
from typing import Any, Protocol

from celery import Celery
from celery.app.task import Context, Task
from celery.exceptions import Retry
from celery.utils.imports import symbol_by_name

from jobguard.celery.optin import OPTION, OptIn, opt_in
from jobguard.celery.request import Reporter, guarded_request
from jobguard.errors import ConfigurationError, JobguardError
from jobguard.records import HEADER

_MARK = "__jobguard__"
_PASSED = "_jobguard_passed"
_IN_TURN = "_jobguard_in_turn"


class CannotGuard(JobguardError):
    """A task would run unguarded; the worker must not start. The text names the task and the reason."""


class Around(Protocol):
    """What stands around bodies."""

    def around(self, task: Any, request: Context, header: object, body: Callable[[], Any]) -> Any: ...

    def in_turn(
        self,
        asked: OptIn,
        task: Any,
        request: Context,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        body: Callable[[], Any],
    ) -> Any: ...

    def on_replace(self, task: Any, request: Context, sig: Any) -> None: ...

    def on_retry(self, request: Context, retry: Retry) -> None: ...


def sweep(app: Celery, guard: Around, reporter: Reporter | None = None) -> None:
    """Guard every task the app knows. Sweeping again guards what was added since, and nothing twice."""
    app.finalize()
    for name, task in app.tasks.items():
        try:
            _guard(type(task), guard, reporter, opt_in(task))
        except (TypeError, AttributeError, ImportError, ConfigurationError) as error:
            raise CannotGuard(f"task {name} cannot be guarded: {error}") from error


def unguarded(tasks: Iterable[Any]) -> list[str]:
    """The tasks whose calls would not pass the guard."""
    return [task.name for task in tasks if not _is_marked(type(task))]


def _is_marked(cls: type) -> bool:
    return hasattr(cls.__dict__.get("__call__"), _MARK)


def _guard(cls: Any, guard: Around, reporter: Reporter | None, asked: OptIn | None) -> None:
    if _is_marked(cls):
        return
    if cls is Task:
        raise TypeError("it is an instance of celery's Task itself; give it a class of its own")
    if reporter is not None:  # None in a spawned child, which makes no requests
        cls.Request = guarded_request(symbol_by_name(cls.Request), reporter)
    cls.on_replace = _replacing(cls, guard)
    cls.retry = _retrying(cls, guard)
    cls.__call__ = _calling(cls, guard, asked)
    if not _is_marked(cls):
        raise TypeError(f"{cls.__qualname__} does not keep a __call__ that is set on it")


def _calling(cls: type, guard: Around, asked: OptIn | None) -> Callable[..., Any]:
    """A `__call__` for `cls`: the guard, once for a delivery, then what the class had before.

    Once, because a class and its base may both be tasks of the app, and a body may call its own task: the
    request that has passed is marked. Pass through, because nothing was delivered: a plain call (its request
    is a fresh one, or none) and an eager one. Everything that carries no header of ours passes in three
    look-ups.
    """
    previous = _previous(cls, "__call__")
    if asked is not None:
        previous = _taking_turns(previous, guard, asked)

    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
        request = self.request_stack.top
        header = getattr(request, HEADER, None)
        if header is None or request.called_directly or request.is_eager or hasattr(request, _PASSED):
            return previous(self, *args, **kwargs)
        setattr(request, _PASSED, True)
        return guard.around(self, request, header, lambda: previous(self, *args, **kwargs))

    setattr(__call__, _MARK, True)
    return __call__


def _taking_turns(previous: Callable[..., Any], guard: Around, asked: OptIn) -> Callable[..., Any]:
    """Inside of the guard, for a task with a `jobguard` option. It passes through what the guard does."""

    def in_turn(self: Any, *args: Any, **kwargs: Any) -> Any:
        request = self.request_stack.top
        if request is None or request.called_directly or request.is_eager or hasattr(request, _IN_TURN):
            return previous(self, *args, **kwargs)
        if getattr(self, OPTION, None) is None:  # a class that does not want what its base asks for
            return previous(self, *args, **kwargs)
        setattr(request, _IN_TURN, True)
        return guard.in_turn(asked, self, request, args, kwargs, lambda: previous(self, *args, **kwargs))

    return in_turn


def _replacing(cls: type, guard: Around) -> Callable[..., Any]:
    """`on_replace` for `cls`: the replacement has the same id but no headers; ours must travel with it.

    It counts as a retry, so that nobody takes it for a second delivery.
    """
    previous = _previous(cls, "on_replace")

    def replace(self: Any, sig: Any) -> Any:
        request = self.request_stack.top
        if _is_guarded(request):
            guard.on_replace(self, request, sig)
        return previous(self, sig)

    return replace


def _retrying(cls: type, guard: Around) -> Callable[..., Any]:
    """`retry` for `cls`: once it has published the successor, the guard knows, however the body then ends."""
    previous = _previous(cls, "retry")

    def retry(self: Any, *args: Any, **kwargs: Any) -> Any:
        request = self.request_stack.top
        try:
            asked = previous(self, *args, **kwargs)
        except Retry as published:
            _tell(guard, request, published)
            raise
        _tell(guard, request, asked)  # with throw=False it is returned
        return asked

    return retry


def _tell(guard: Around, request: Context, retry: Any) -> None:
    if _is_guarded(request):
        guard.on_retry(request, retry)


def _is_guarded(request: Context) -> bool:
    return hasattr(request, _PASSED) or hasattr(request, _IN_TURN)


def _previous(cls: type, name: str) -> Callable[..., Any]:
    """What a call of `name` meant before: the class's own, or what it inherits, looked up at each call.

    Looked up late because the worker puts another `Task.__call__` in place when it starts (the one that calls
    the body without a second request), and tests put the first one back.
    """
    own = cls.__dict__.get(name)
    if own is not None:
        return own  # type: ignore[no-any-return]

    def inherited(self: Any, *args: Any, **kwargs: Any) -> Any:
        return getattr(super(cls, self), name)(*args, **kwargs)

    return inherited
