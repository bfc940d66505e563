"""Around a body: claim the attempt, run the body, record the outcome.

Place in the house   sweep's __call__ -> here -> claiming, child, runs
Takes                one delivery of a message that carries our header
Gives                what the body gave, once; Ignore for every other delivery, with the reason in the log
Never                starts a body without a claim, or calls an outcome "ran" that the store refused

    claim ──▶ body ──▶ returned            finish: ran
      │         ├────▶ raised              finish: failed
      │         ├────▶ asked for a retry   hand over to (n, r + 1), whose message is on its way already,
      │         │                          whether it ended by Retry or otherwise, once Celery is done
      │         ├────▶ Reject(requeue)     give the claim back: the same message comes again
      │         ├────▶ Ignore              finish: ran; or hand over, when the body was replaced by one task
      │         └────▶ aborted, or flagged and returned all the same: give the claim up as lost
      └──▶ refused: see claiming.py
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, NoReturn

import msgspec
from celery import Celery, signals
from celery.app.task import Context
from celery.canvas import Signature
from celery.exceptions import Ignore, Reject, Retry
from celery.states import RETRY
from celery.utils.log import get_logger
from celery.worker.state import revoked

from jobguard import runs
from jobguard.celery import current, results, unguarded
from jobguard.celery.abort import GREEN_KILL, GREEN_LIMIT, Armed, RunAborted, is_celerys, without_soft_limit
from jobguard.celery.child import HOST, Child
from jobguard.celery.claiming import Claim, Delivery, Recorded, Unguarded, claim
from jobguard.celery.deadline import ChildState, Running, WorkerDirectory
from jobguard.celery.optin import OptIn
from jobguard.celery.turn import CLAIM, RETRIED, SKIPPED, Turns
from jobguard.celery.watchdog import TAKEN
from jobguard.errors import LockLost, NotGuarded, OutcomeUnknown, ServerError, Unavailable
from jobguard.masking import error_text, kept_text
from jobguard.records import HEADER, Done, Verdict
from jobguard.session import boottime
from jobguard.settings import Settings
from jobguard.steps import Moved, Written

logger = get_logger(__name__)

_REPLACED = "_jobguard_replaced"
_SUCCEEDED = "_jobguard_succeeded"


class Guard:
    """What the sweep puts around every body of an app. Holds nothing until a delivery needs it."""

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._children: dict[int, Child] = {}  # by process id
        self._turns: Turns | None = None

    def around(self, task: Any, request: Context, header: object, body: Callable[[], Any]) -> Any:
        """One delivery, from claim to outcome."""
        child = self._own()
        delivery = Delivery.read(task, request, header, child.settings.namespace)
        try:
            claimed = claim(child, delivery)
            if isinstance(claimed, Recorded):
                return claimed.give()
            if isinstance(claimed, Unguarded):
                return unguarded.run(child, delivery, claimed.why, body)
            setattr(request, CLAIM, claimed)
            return _Execution(child, claimed, delivery).run(body)
        finally:
            if not hasattr(request, _SUCCEEDED):
                child.tell_the_end(delivery.nonce)

    def in_turn(
        self,
        asked: OptIn,
        task: Any,
        request: Context,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        body: Callable[[], Any],
    ) -> Any:
        """One delivery of a task that asks for a turn, an occurrence or not."""
        child, turns = self._own(), self._turns
        if turns is None or turns.child is not child:
            turns = self._turns = Turns(child)
        return turns.around(asked, task, request, args, kwargs, body)

    def words(self) -> list[ChildState]:
        """What bodies run in this very process, in pools without processes."""
        child = self._children.get(os.getpid())
        return child.words() if child is not None else []

    def on_replace(self, task: Any, request: Context, sig: Any) -> None:
        """The body hands its work to another task of the same id: that one runs under our occurrence, too.

        Only a single task can: a chain, group or chord ends who knows where, so the occurrence ends here.
        """
        if type(sig) is Signature:
            sig.set(retries=request.retries + 1)
            if (header := getattr(request, HEADER, None)) is not None:
                sig.set(headers={**(sig.options.get("headers") or {}), HEADER: header})
                setattr(request, _REPLACED, True)

    def on_retry(self, request: Context, retry: Retry) -> None:
        """The message of (n, r + 1) is out: however the body ends now, (n, r) hands over."""
        setattr(request, RETRIED, _due(retry.when))

    def _own(self) -> Child:
        """This process's own: a forked child must not use its parent's connections, name or threads.

        One, though its first bodies begin in two threads at once: the parent hears of those of one alone, and
        would take the claims of the others for nobody's.
        """
        child = self._children.get(os.getpid())
        if child is None:
            directory = WorkerDirectory.announced()
            if directory is None:
                raise NotGuarded("this process belongs to no worker that jobguard has prepared")
            child = self._children.setdefault(os.getpid(), Child(Settings.from_app(self._app), directory))
        return child


def after_delivery(task: Any, state: str, **_: Any) -> None:
    """Celery's task_postrun: it has stored the state and called the links. The successor may begin.

    Not before: successor and predecessor share one result, and the backend reads it before it writes. A
    successor that ended between the two was overwritten, and whoever waited for the result waited for ever.
    """
    hand_over = getattr(task.request, _SUCCEEDED, None)
    if hand_over is not None:
        hand_over(state)


@dataclass(slots=True)
class _Execution:
    """A body under its claim, until the outcome is known."""

    child: Child
    claim: Claim
    delivery: Delivery

    def run(self, body: Callable[[], Any]) -> Any:
        try:
            with self._watched() as armed:
                result = armed.call(body)
        except RunAborted:
            pass
        except Retry as retry:
            self._record(self._hand_over, _due(retry.when))
            raise
        except Reject as reject:
            self._record(self._rejected, reject)
            raise
        except Ignore:
            self._record(self._ignored)
            raise
        except Exception as error:
            self._record(self._failed, error_text(error))
            raise
        except BaseException as error:
            if self.child.file is None:  # a child's end is its parent's to tell
                self._record(self._ended, error)
            raise
        else:
            self._record(self._returned, result)
            return result
        return self._give_up(self.claim.armed.flagged or "aborted")

    @contextmanager
    def _watched(self) -> Iterator[Armed]:
        """The body's surroundings: `current()`, the watchdog, the word to the parent."""
        child, claim = self.child, self.claim
        token = current.enter(self._run())
        stoppable = claim.stoppable and child.can_be_stopped()
        child.tell(Running.STOPPABLE if stoppable else Running.UNSTOPPABLE, claim.nonce, claim.under.lease)
        if stoppable:
            child.stopper.arm(claim.armed)
            child.watchdog.watch(claim.armed, claim.under)
        try:
            yield claim.armed
        finally:
            if stoppable:
                child.watchdog.unwatch()
                child.stopper.disarm()
            child.tell(Running.NOTHING, claim.nonce, claim.under.lease)
            current.leave(token)

    def _run(self) -> current.Run:
        delivery = self.delivery
        return current.Run(
            job=delivery.header.job,
            nominal_time=delivery.occurrence.nominal,
            attempt=delivery.header.n,
            fencing_token=self.claim.token,
            cluster_id=self.child.client.cluster_id(),
            check_held=self._check,
        )

    def _check(self) -> None:
        if self.claim.armed.flagged:
            raise LockLost(f"{self.delivery}: {self.claim.armed.flagged}")
        if self.child.told_to_stop(self.claim.nonce):
            raise LockLost(f"{self.delivery}: {TAKEN}")
        now = self.child.deadline()
        if now.lease != self.claim.under.lease or boottime() >= now.at:
            raise LockLost(f"{self.delivery}: the worker's lease has ended")

    # --- outcomes ---

    def _record(self, outcome: Callable[..., None], *facts: Any) -> None:
        """A body that was told to stop has no outcome of its own, however it ended: it may be too late."""
        with self._undisturbed():
            if self.claim.armed.flagged:
                self._give_up(self.claim.armed.flagged)
            if hasattr(self.delivery.request, RETRIED):
                self._hand_over(getattr(self.delivery.request, RETRIED))
            elif hasattr(self.delivery.request, SKIPPED):
                self._finish(Verdict.SKIPPED, reason=getattr(self.delivery.request, SKIPPED))
            else:
                outcome(*facts)

    def _undisturbed(self) -> AbstractContextManager[None]:
        return without_soft_limit() if self.child.can_be_stopped() else nullcontext()

    def _returned(self, result: Any) -> None:
        self._finish(Verdict.RAN, result=results.kept(self.delivery.task, self.delivery.request, result))

    def _failed(self, error: str) -> None:
        self._finish(Verdict.FAILED, error=error)

    def _ended(self, error: BaseException) -> None:
        """In a thread or a greenlet, what would end a process ends the body alone: what the body itself
        raised becomes an error, and what Celery raised in it goes on."""
        what = type(error).__name__
        if what == GREEN_LIMIT:
            self._finish(Verdict.FAILED, reason=f"hard time limit: {error}", error=error_text(error))
        elif what == GREEN_KILL and self.delivery.request.id in revoked:
            self._finish(Verdict.FAILED, reason="terminated by a revoke", error=error_text(error))
        elif is_celerys(error):
            self._abandon(error_text(error))
        else:
            self._give_up(f"the body raised {error_text(error)}")

    def _ignored(self) -> None:
        if hasattr(self.delivery.request, _REPLACED):
            self._hand_over(datetime.now(UTC))
        else:
            self._finish(Verdict.RAN, reason="the task ended by Ignore or was replaced by a workflow")

    def _rejected(self, reject: Reject) -> None:
        if reject.requeue:
            step = runs.give_back(
                self.child.keys,
                self.delivery.occurrence,
                attempt=self.claim.attempt,
                lease=self.claim.under.lease,
                for_good=False,
            )
            self._carry_through(step)
        else:
            self._finish(Verdict.FAILED, error=kept_text(f"rejected: {reject.reason}"))

    def _finish(
        self, verdict: Verdict, *, reason: str = "", error: str = "", result: str | None = None
    ) -> None:
        """open → done, if the claim is still ours. Raises LockLost for a result that may not count."""
        done = self._done(verdict, reason, error, result)
        step = runs.finish(
            self.child.keys,
            self.delivery.occurrence,
            token=self.claim.token,
            done=done,
            attempt=self.claim.attempt,
        )
        answer = self._carry_through(step)
        if isinstance(answer, Written):
            return
        if answer is None:
            text = "its outcome could not be recorded in time; the worker goes on trying"
        else:
            by = f", and {answer.holder.holder} holds it now" if answer.holder else ""
            ended = f"; the verdict was {answer.done.verdict} already" if answer.done else ""
            text = f"its claim (token {self.claim.token}) was gone{by}{ended}: not recorded as {verdict}"
        self._refused(text)
        if verdict is Verdict.RAN:
            raise LockLost(f"{self.delivery} finished, but {text}")

    def _hand_over(self, eta: datetime) -> None:
        """At the end of this delivery, not now: see after_delivery.

        Connected by the first that needs it: a signal with a receiver costs every plain task its dispatch.
        """
        signals.task_postrun.connect(after_delivery, weak=False, dispatch_uid=__name__)
        setattr(self.delivery.request, _SUCCEEDED, partial(self._be_succeeded, eta))

    def _be_succeeded(self, eta: datetime, state: str) -> None:
        try:
            with self._undisturbed():
                self._open_for_successor(eta)
        except LockLost as lost:
            if state == RETRY:  # nobody will end what is waited for
                results.fail(self.delivery.task, self.delivery.request, lost)
        finally:
            self.child.tell_the_end(self.claim.nonce)

    def _open_for_successor(self, eta: datetime) -> None:
        """This (n, r) is over; its successor may be delivered already and waits for exactly this."""
        attempt = msgspec.structs.replace(self.claim.attempt, outcome="retry", ended=datetime.now(UTC))
        seen = self.claim.opened
        while True:
            step = runs.retry(self.child.keys, seen, token=self.claim.token, attempt=attempt, eta=eta)
            answer = self._carry_through(step)
            match answer:
                case Moved(now) if now is not None:
                    seen = now
                case Written():
                    return
                case _:
                    self._refused("its claim was gone when it asked for a retry")
                    raise LockLost(f"{self.delivery} cannot be retried: its claim was lost")

    def _give_up(self, reason: str) -> NoReturn:
        """Told to stop, and stopped."""
        self._abandon(reason)
        raise LockLost(f"{self.delivery} was stopped: {reason}")

    def _abandon(self, reason: str) -> None:
        """What is left of the claim is freed now, if the store can be reached."""
        attempt = msgspec.structs.replace(
            self.claim.attempt, outcome="lost", ended=datetime.now(UTC), error=reason
        )
        step = runs.abandon(
            self.child.keys, self.delivery.occurrence, token=self.claim.token, attempt=attempt
        )
        try:
            self.child.send(step, time.monotonic() + 1.0)
        except (Unavailable, OutcomeUnknown, ServerError):
            self.child.leave(self.claim.nonce, step)
        self._refused(f"stopped: {reason}")

    def _carry_through(self, step: runs.Transaction[Any]) -> Any:
        """Until the answer is definite, or the lease must be long over by anybody's clock."""
        under = self.claim.under

        def until() -> float:
            now = self.child.deadline()
            at = now.at if now.lease == under.lease else under.at
            return time.monotonic() + at + under.ttl - boottime()

        return self.child.send_or_leave(self.claim.nonce, step, until)

    def _done(self, verdict: Verdict, reason: str, error: str, result: str | None) -> Done:
        delivery, opened, attempt = self.delivery, self.claim.opened.record, self.claim.attempt
        return Done(
            job=delivery.header.job,
            nominal=delivery.occurrence.nominal,
            verdict=verdict,
            nonce=self.claim.nonce,
            finished=datetime.now(UTC),
            reason=reason,
            task=opened.task,
            trigger=opened.trigger,
            n=delivery.header.n,
            r=delivery.r,
            lost=opened.lost,
            token=self.claim.token,
            host=HOST,
            pid=self.child.pid,
            worker=attempt.worker,
            started=attempt.since,
            error=error,
            result=result,
        )

    def _refused(self, text: str) -> None:
        logger.error("%s: %s", self.delivery, text)


def _due(when: object) -> datetime:
    """When a Retry is due: celery gives seconds, a time, or nothing for at once."""
    if isinstance(when, datetime):
        return when if when.tzinfo else when.replace(tzinfo=UTC)
    seconds = float(when) if isinstance(when, (int, float)) else 0.0
    return datetime.now(UTC) + timedelta(seconds=seconds)
