"""Around the body of a task with a `jobguard` option: its turn at the key, the body, and what is left of it.

Place in the house   sweep's __call__, inside of guard for an occurrence -> here -> line, turns
Takes                a delivery, what its task asks for
Gives                what the body gave; None or Skipped for a call that was skipped
Never                runs a body without its key, or says that it ran under a key that it had lost

The key hangs on the worker's lease, as a claim does, and what protects a claim protects it: the main process
renews, compares what is in the store with what runs, stops a body whose key was taken, and frees the key of
a child that died. A call that is skipped returns, since `Ignore` would leave chords and waiters hanging:

    second delivery of a call that has the key, or stands in line        Ignore: the other owns the result
    the retry before this one has not let go yet                         wait for it, as for the store
    second delivery of what completed, its result not stored yet         the result that was kept
    somebody else has the key, or used it up                             skipped
"""

import secrets
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from celery.app.task import Context
from celery.utils.log import get_logger

from jobguard import turns
from jobguard.celery import current, results
from jobguard.celery.abort import Armed, RunAborted, is_celerys, without_soft_limit
from jobguard.celery.child import HOST, Child
from jobguard.celery.deadline import Running
from jobguard.celery.line import Call, Taken
from jobguard.celery.optin import OptIn
from jobguard.celery.watchdog import TAKEN
from jobguard.client import Client
from jobguard.errors import JobguardError, LeaseNotFound, LockLost, Skipped
from jobguard.masking import error_text
from jobguard.records import Completed
from jobguard.session import boottime

logger = get_logger(__name__)

#: Marks of a request: what has become of this delivery.
CLAIM = "_jobguard_claim"
RETRIED = "_jobguard_retried"
SKIPPED = "_jobguard_skipped"

#: Ends the nonce of a key beside a claim, whose nonce is the word to the parent.
BESIDE = "-key"


class Turns:
    """The turns of one process that runs bodies."""

    def __init__(self, child: Child) -> None:
        self.child = child
        self._windows = Windows(child.client)

    def around(
        self,
        asked: OptIn,
        task: Any,
        request: Context,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        body: Callable[[], Any],
    ) -> Any:
        """One delivery, from its place in line to its end."""
        claim = getattr(request, CLAIM, None)
        nonce = secrets.token_hex(16) if claim is None else claim.nonce + BESIDE
        call = Call(self.child, asked, task, request, asked.name(args, kwargs), nonce, alone=claim is None)
        try:
            return self._run(call, body)
        finally:
            if call.alone:
                self.child.tell_the_end(nonce)

    def _run(self, call: Call, body: Callable[[], Any]) -> Any:
        try:
            taken = call.take()
        except Skipped as skipped:
            logger.info("%s skipped: %s", call, skipped)
            setattr(call.request, SKIPPED, str(skipped))
            if call.asked.raises:
                raise
            return None
        if isinstance(taken, Completed):
            return msgspec.json.decode(taken.result or "null")
        return _Execution(call, taken, self._windows, Armed(call.nonce)).run(body)


class Windows:
    """Leases for what completed, so that it goes by itself. One of two windows serves all of the first."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._leases: dict[float, tuple[int, float]] = {}

    def lease(self, window: float) -> int:
        """Outlives `window`. 0, none at all, when the store does not answer: what is written then stays, and
        means nothing once its time is over."""
        lease, until = self._leases.get(window, (0, 0.0))
        if boottime() >= until:
            until = boottime() + window
            try:
                lease = self._client.grant(2 * window).id
            except JobguardError as error:
                logger.warning("jobguard: no lease for what completed: %s", error)
                return 0
            self._leases[window] = (lease, until)
        return lease

    def forget(self, window: float) -> None:
        """Its lease has ended."""
        self._leases.pop(window, None)


@dataclass(frozen=True, slots=True)
class _Execution:
    """A body that has its key, until it has given it up."""

    call: Call
    taken: Taken
    windows: Windows
    armed: Armed

    def run(self, body: Callable[[], Any]) -> Any:
        call, taken = self.call, self.taken
        try:
            result = self._held(body)
        except RunAborted:
            call.leave_behind(taken.key)
            if not call.alone:
                raise
        except Exception:  # Retry, Reject and Ignore too: it did not complete, and whoever is next may try
            with self._undisturbed():
                call.leave(taken.key, taken.token, taken.under)
            raise
        except BaseException as error:
            call.leave_behind(taken.key)
            if call.alone and call.child.file is None and not is_celerys(error):
                raise LockLost(f"{call} was stopped: the body raised {error_text(error)}") from error
            raise
        else:
            with self._undisturbed():
                if not self.armed.flagged:
                    self._end(result)
                    return result
                call.leave_behind(taken.key)
        raise LockLost(f"{call} was stopped: {self.armed.flagged}")

    def _held(self, body: Callable[[], Any]) -> Any:
        """The body in its surroundings: `held()`; and alone, the watchdog and the word to the parent."""
        token = current.enter_held(
            current.Held(
                name=self.call.name,
                fencing_token=self.taken.token,
                cluster_id=self.call.child.client.cluster_id(),
                check_held=self._check,
            )
        )
        try:
            return self._watched(body) if self.call.alone else body()
        finally:
            current.leave_held(token)

    def _watched(self, body: Callable[[], Any]) -> Any:
        child, under = self.call.child, self.taken.under
        stoppable = child.can_be_stopped()
        child.tell(Running.STOPPABLE if stoppable else Running.UNSTOPPABLE, self.call.nonce, under.lease)
        if stoppable:
            child.stopper.arm(self.armed)
            child.watchdog.watch(self.armed, under)
        try:
            return self.armed.call(body)
        finally:
            if stoppable:
                child.watchdog.unwatch()
                child.stopper.disarm()
            child.tell(Running.NOTHING, self.call.nonce, under.lease)

    def _check(self) -> None:
        call = self.call
        if self.armed.flagged or call.child.told_to_stop(call.nonce.removesuffix(BESIDE)):
            raise LockLost(f"{call}: {self.armed.flagged or TAKEN}")
        if not call.lives(self.taken.under):
            raise LockLost(f"{call}: the worker's lease has ended")

    def _undisturbed(self) -> AbstractContextManager[None]:
        return without_soft_limit() if self.call.child.can_be_stopped() else nullcontext()

    # --- it returned ---

    def _end(self, result: Any) -> None:
        """Raises LockLost where another may have run meanwhile: then this one is not said to have run."""
        call, taken = self.call, self.taken
        if call.asked.window and not hasattr(call.request, RETRIED):
            kept = self._complete(result)
        else:
            kept = call.leave(taken.key, taken.token, taken.under)
        if not kept:
            raise LockLost(f"{call} finished, but {call.name} (token {taken.token}) was not its own any more")

    def _complete(self, result: Any) -> bool:
        call, now = self.call, datetime.now(UTC)
        completed = Completed(
            name=call.name,
            host=HOST,
            pid=call.child.pid,
            nonce=call.nonce,
            finished=now,
            until=now + timedelta(seconds=call.asked.window),
            task_id=call.request.id,
            result=results.kept(call.task, call.request, result),
        )
        try:
            known = self._record(completed, self.windows.lease(call.asked.window))
        except LeaseNotFound:  # revoked, or the store was away for as long as it lives
            self.windows.forget(call.asked.window)
            known = self._record(completed, 0)
        if known is None:
            raise LockLost(f"{call} finished, but that is not recorded in time; the worker goes on trying")
        return known

    def _record(self, completed: Completed, lease: int) -> bool | None:
        call, taken = self.call, self.taken
        step = turns.complete(call.child.keys, taken.key, taken.token, completed, lease=lease)
        return call.child.send_or_leave(call.nonce, step, self._until)

    def _until(self) -> float:
        """When the lease must be long over by anybody's clock."""
        now, under = self.call.child.deadline(), self.taken.under
        at = now.at if now.lease == under.lease else under.at
        return time.monotonic() + at + under.ttl - boottime()
