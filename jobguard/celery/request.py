"""What only the worker's main process sees of a delivery: a child that was killed, a hard limit, a revoke.

Place in the house   sweep puts it on task classes -> here -> celery's Request
Takes                Celery's callbacks about one delivery
Gives                a report to the parent, which frees the claim off the event loop
Never                waits for the store: this code runs in the loop that keeps the broker's heartbeats

Of Celery's hooks these are the ones that may be overridden: `execute_using_pool` and `on_success` are
shadowed by the class that Celery derives from ours.
"""

from collections.abc import Callable
from enum import Enum
from typing import Any, Protocol

from billiard.einfo import ExceptionWithTraceback
from celery.app.task import Context
from celery.exceptions import Terminated, TimeLimitExceeded, WorkerLostError
from celery.utils.log import get_logger
from celery.worker.state import task_ready

from jobguard.celery.optin import OPTION
from jobguard.celery.results import is_settled
from jobguard.records import HEADER, Done, Header, Open, Verdict, read_header

logger = get_logger(__name__)


class Ending(Enum):
    """How a child stopped running a body, when it was not the body that ended."""

    LOST = "lost"  # killed, crashed, cancelled: on_lost decides
    STOPPED = "stopped"  # a hard limit or an operator's revoke: a verdict of its own, never run again


class Reporter(Protocol):
    """The parent, as requests know it. Every call returns at once."""

    def child_ended(
        self,
        header: Header,
        request: Any,
        ending: Ending,
        reason: str,
        then: Callable[[Done | Open | None], None] | None = None,
    ) -> None:
        """Bury the child, free its claim; then call `then` in the loop with what is left of the attempt.

        The verdict, if there is one; the open record, if another has claimed the attempt or may claim it.
        """

    def turn_ended(self, request: Any, then: Callable[[Any], None]) -> None:
        """The same for a body that had no occurrence, but its task's key: free that."""

    def never_started(self, header: Header, request: Context, reason: str) -> None:
        """The message expired or was revoked before any child had it: close the occurrence."""


class Guarded:
    """Mixed into a task's Request class. Does nothing for messages without our header."""

    _reporter: Reporter

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> Any:
        header, exc = _header(self), _unwrapped(exc_info.exception)
        proceed = super().on_failure  # type: ignore[misc]
        if return_ok or not isinstance(exc, _CHILD_IS_GONE):  # the body raised it: perhaps of another's child
            return proceed(exc_info, send_failed_event, return_ok)
        if header is None:
            if getattr(self.task, OPTION, None) is None:  # type: ignore[attr-defined]
                return proceed(exc_info, send_failed_event, return_ok)
            # First: a message that goes back to the broker would be dropped as a second delivery.
            self._reporter.turn_ended(self, lambda _: proceed(exc_info, send_failed_event, return_ok))
            return None
        if isinstance(exc, TimeLimitExceeded):
            self._reporter.child_ended(header, self, Ending.STOPPED, f"hard time limit: {exc}")
            return proceed(exc_info, send_failed_event, return_ok)
        if isinstance(exc, Terminated) and not self._already_cancelled:  # type: ignore[attr-defined]
            self._reporter.child_ended(header, self, Ending.STOPPED, "terminated by a revoke")
            return proceed(exc_info, send_failed_event, return_ok)

        def then(left: Done | Open | None) -> None:
            match left:
                case Done(n=header.n) if self._deliver_recorded(left):
                    return
                case Open() if self._leave_to_others(exc):
                    return
            proceed(exc_info, send_failed_event, return_ok)

        self._reporter.child_ended(header, self, Ending.LOST, f"{type(exc).__name__}: {exc}", then)
        return None

    def _leave_to_others(self, exc: BaseException) -> bool:
        """The child had not claimed before it died: this id ends with the delivery that did, or will.

        So nothing is stored under it. Where Celery hands the message back to the broker, it may.
        """
        request: Any = self
        task = request.task
        ended_by_us = isinstance(exc, Terminated) or request._already_cancelled or request._already_revoked
        if ended_by_us or (task.acks_late and task.reject_on_worker_lost):
            return False
        logger.warning("%s: its process died without a claim; left to the next delivery", request)
        task_ready(request)
        if task.acks_late and not request.acknowledged:
            request.acknowledge()
        return True

    def _deliver_recorded(self, done: Done) -> bool:
        """The child had recorded its outcome before it died: give that outcome, not "worker lost".

        A delivery of a completed attempt answers with the recorded result, callbacks and chain included. So
        the message goes back to the broker: rejected where it is not acknowledged yet, sent again where it
        is.
        """
        request: Any = self
        if done.verdict not in (Verdict.RAN, Verdict.FAILED) or is_settled(request.task, request._context):
            return False
        logger.warning("%s: outcome was recorded before its process died; delivering it again", request)
        task_ready(request)
        if request.task.acks_late and not request.acknowledged:
            request.reject(requeue=True)
        else:
            again = request.task.signature_from_request(request._context)
            again.apply_async()
        return True


_CHILD_IS_GONE = (WorkerLostError, Terminated, TimeLimitExceeded, SystemExit, KeyboardInterrupt)


def guarded_request(base: type, reporter: Reporter) -> type:
    """`base` with our reports, derived from the task's own Request class where it has one."""
    if issubclass(base, Guarded):
        return base
    return type(f"Guarded{base.__name__}", (Guarded, base), {"_reporter": reporter})


def _header(request: Any) -> Header | None:
    value = request.request_dict.get(HEADER)
    return None if value is None else read_header(value)


def _unwrapped(exc: BaseException) -> BaseException:
    return exc.exc if isinstance(exc, ExceptionWithTraceback) else exc
