"""For tasks that nobody scheduled: one body at a time, so many at a time, once in a while.

    from jobguard import tasks

    @app.task
    @tasks.lock("import/{customer}")           # of each customer one at a time
    def import_customer(customer): ...

Place in the house   users' tasks -> here -> lock, client
Takes                a name with the call's arguments in it
Gives                the body's result; None where it was skipped, or Skipped if that is asked for
Never                holds a name without a lease, or decides when the message is sent: much may end by then

A skipped call returns, so whoever waits for it, a chain or a chord, goes on. An error of the store, or a lock
that was lost under the body, is the task's error.
"""

import inspect
import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from difflib import get_close_matches
from functools import wraps
from random import SystemRandom
from string import Formatter
from typing import ParamSpec, TypeVar

from jobguard.client import Client, shared
from jobguard.errors import ConfigurationError, NotAcquired, OutcomeUnknown, Unavailable
from jobguard.lock import holders
from jobguard.ops import put_op

log = logging.getLogger("jobguard.tasks")

P = ParamSpec("P")
R = TypeVar("R")
Decorator = Callable[[Callable[P, R]], Callable[P, R | None]]

_PAUSE_S = 0.1
_random = SystemRandom()


class Skipped(NotAcquired):
    """The body was not run: others have the name, or had it lately. The text says who."""


def lock(name: str, *, wait: float = 0.0, ttl: float = 15.0, raises: bool = False) -> Decorator[P, R]:
    """One body at a time per name; others wait so many seconds for it."""

    @contextmanager
    def enter(full: str) -> Iterator[str]:
        client = shared()
        lock = client.lock(full, ttl)
        if not lock.acquire(wait):
            yield _held(client, full)
            return
        with ExitStack() as stack:
            stack.push(lock)
            yield ""

    return _around(name, enter, raises)


def limit(
    name: str, many: int, *, wait: float = 0.0, ttl: float = 15.0, raises: bool = False
) -> Decorator[P, R]:
    """At most `many` bodies at a time per name. Those that wait come in no order."""
    if many < 1:
        raise ConfigurationError(f"a limit of {many} would let nothing run")

    @contextmanager
    def enter(full: str) -> Iterator[str]:
        client, until, first = shared(), time.monotonic() + wait, _random.randrange(many)
        while True:
            for number in range(first, first + many):
                lock = client.lock(f"{full}/{number % many}", ttl)
                if lock.acquire(0):
                    with ExitStack() as stack:
                        stack.push(lock)
                        yield ""
                    return
            if time.monotonic() >= until:
                yield f"{many} of {full!r} run already"
                return
            time.sleep(_PAUSE_S)

    return _around(name, enter, raises)


def once(name: str, *, within: float, ttl: float = 15.0, raises: bool = False) -> Decorator[P, R]:
    """One body at a time per name, and none for `within` seconds after one that ended well."""

    @contextmanager
    def enter(full: str) -> Iterator[str]:
        client = shared()
        lock, key = client.lock(full, ttl), client.key("once", full)
        if not lock.acquire(0):
            yield _held(client, full)
            return
        with ExitStack() as stack:
            stack.push(lock)
            if client.get(key) is not None:
                yield f"{full!r} ran within the last {within:g} s"
                return
            yield ""
            try:
                lease = client.grant(math.ceil(within)).id
                client.txn_until_known([lock.guard], [put_op(key.encode(), b"1", lease)])
            except (Unavailable, OutcomeUnknown) as error:
                log.error("%r ran, which could not be noted: it may run again: %s", full, error)

    return _around(name, enter, raises)


def _around(name: str, enter: Callable[[str], AbstractContextManager[str]], raises: bool) -> Decorator[P, R]:
    """`enter` gives why the body must not run; nothing if it may."""

    def decorate(body: Callable[P, R]) -> Callable[P, R | None]:
        called, signature = _naming(name, body), inspect.signature(body)

        @wraps(body)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> R | None:
            with enter(called(*args, **kwargs)) as why:
                if not why:
                    return body(*args, **kwargs)
            log.info("%s not run: %s", body.__qualname__, why)
            if raises:
                raise Skipped(why)
            return None

        guarded.__signature__ = signature  # type: ignore[attr-defined]  # Celery checks calls by it
        return guarded

    return decorate


def _naming(name: str, body: Callable[P, R]) -> Callable[P, str]:
    """The name of a call. Raises ConfigurationError for one with what the body does not take."""
    signature = inspect.signature(body)
    wanted = {field.partition(".")[0].partition("[")[0] for _, field, *_ in Formatter().parse(name) if field}
    for unknown in wanted - signature.parameters.keys():
        close = get_close_matches(unknown, signature.parameters, n=1)
        hint = f"did you mean {{{close[0]}}}?" if close else f"it takes {', '.join(signature.parameters)}"
        raise ConfigurationError(
            f"{name!r} names {unknown!r}, which {body.__qualname__} does not take; {hint}"
        )

    def called(*args: P.args, **kwargs: P.kwargs) -> str:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return name.format(**bound.arguments)

    return called


def _held(client: Client, name: str) -> str:
    there = next((queue.holder.contender for queue in holders(client, name) if queue.name == name), None)
    return f"{name!r} is held by {there.host} pid {there.pid}" if there else f"{name!r} was taken"
