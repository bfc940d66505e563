"""Whether this delivery may run: the claim, and what becomes of a delivery that is refused.

Place in the house   guard -> here -> child, runs, refusals, celery's result backend
Takes                a delivery
Gives                a Claim; a completed attempt's recorded outcome; or Ignore, with the reason in the log
                     and among the refusals
Never                runs a body, or waits without a bound

What a refused delivery does to its result, and why (`Ignore` alone: the message is acknowledged, nothing
stored):

    the same id is alive        running, retried, left open        Ignore: the live one owns the result
    the same id is complete     done by this attempt               nothing if its result is stored; else that
                                                                   result, so callbacks and chain go on
    the id is dead              superseded, lost, skipped, late    mark as revoked, then Ignore: whoever waits
                                                                   for it is told, and does not wait for ever
    nobody knows                the store cannot be reached        Ignore: unclaimed, so it is published again
                                                                   (or the body runs unguarded, by no_quorum)
"""

import secrets
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NoReturn

import msgspec
from celery.app.task import Context
from celery.exceptions import Ignore
from celery.utils.log import get_logger

from jobguard import runs
from jobguard.celery import refusals
from jobguard.celery.abort import Armed
from jobguard.celery.child import HOST, Child
from jobguard.celery.deadline import Deadline, Running
from jobguard.celery.optin import OPTION
from jobguard.celery.results import ignores_result, is_settled
from jobguard.errors import JobguardError, LeaseNotFound, OutcomeUnknown, ServerError, Unavailable
from jobguard.ops import get_op
from jobguard.records import Attempt, Done, Header, Occurrence, Open, Verdict, read_header
from jobguard.runs import Refusal, Refused
from jobguard.steps import Seen

logger = get_logger(__name__)

# What may be otherwise a moment later. A child's name goes with its lease, which another has replaced then.
_PASSING = (Refusal.PREDECESSOR, Refusal.AGAIN, Refusal.CHILD)
_PAUSE_FIRST_S = 0.005
_PAUSE_MAX_S = 0.25
_ASK_MAX_S = 1.0


class RunFailed(JobguardError):
    """The attempt failed before, and its process died before Celery stored that. The text is its error."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One arrival of a message that names an attempt (n, r) of an occurrence."""

    task: Any
    request: Context
    header: Header
    occurrence: Occurrence
    nonce: str = field(default_factory=lambda: secrets.token_hex(16))

    @classmethod
    def read(cls, task: Any, request: Context, value: object, namespace: str) -> "Delivery":
        """Raises Ignore for a message this worker must not run: a newer header, another namespace."""
        header = read_header(value)
        if header is None:
            logger.error("%s[%s] not run: unreadable jobguard header %r", task.name, request.id, value)
            raise Ignore("its jobguard header cannot be read: is a newer version publishing?")
        if header.ns != namespace:
            logger.error(
                "%s[%s] not run: it is of namespace %r, and this worker serves %r",
                *(task.name, request.id, header.ns, namespace),
            )
            raise Ignore(f"it belongs to jobguard namespace {header.ns!r}")
        return cls(task, request, header, header.occurrence)

    @property
    def r(self) -> int:
        return int(self.request.retries or 0)

    def __str__(self) -> str:
        return f"{self.header.job} {self.header.nominal} attempt {self.header.n}.{self.r} [{self.request.id}]"


@dataclass(frozen=True, slots=True)
class Claim:
    """This delivery runs, nobody else does: the token, the lease it stands on, and what it may be told."""

    attempt: Attempt
    token: int
    opened: Seen[Open]
    under: Deadline
    armed: Armed
    stoppable: bool  # on_suspect

    @property
    def nonce(self) -> str:
        return self.attempt.nonce


@dataclass(frozen=True, slots=True)
class Unguarded:
    """The store is away, and the job says that it runs all the same."""

    why: str


@dataclass(frozen=True, slots=True)
class Recorded:
    """A completed attempt came again before Celery had stored its result: this is the result."""

    done: Done

    def give(self) -> Any:
        if self.done.verdict is Verdict.FAILED:
            raise RunFailed(self.done.error)
        return None if self.done.result is None else msgspec.json.decode(self.done.result)


def claim(child: Child, delivery: Delivery) -> Claim | Recorded | Unguarded:
    """Claim the attempt, or say what happens instead. Waits for the store, and for a predecessor's hand-
    over.
    """
    until = time.monotonic() + child.settings.claim_timeout
    pause = _PAUSE_FIRST_S
    while True:
        answer = _ask(child, delivery, until)
        if isinstance(answer, Claim | Unguarded):
            return answer
        if answer.reason not in _PASSING or time.monotonic() >= until:
            return _refused(child, delivery, answer)
        if answer.reason is Refusal.CHILD:
            child.be_new()
        time.sleep(pause)
        pause = min(2 * pause, _PAUSE_MAX_S)


def _ask(child: Child, delivery: Delivery, until: float) -> Claim | Refused | Unguarded:
    """One claim, until its answer is known. Our nonce is in the child's file before it leaves."""
    while True:
        try:
            under = child.lease_to_claim_on(until)
        except (Unavailable, ServerError) as error:
            return _without_store(child, delivery, error)
        attempt = _attempt(child, delivery)
        child.tell(Running.NOTHING, attempt.nonce, under.lease)
        occurrence, overlap = delivery.occurrence, delivery.header.overlap
        step = runs.claim(child.keys, occurrence, attempt, lease=under.lease, overlap=overlap)
        try:
            answer = child.send(step, until)
        except LeaseNotFound as error:
            if time.monotonic() >= until:
                _leave_unclaimed(delivery, error)
            time.sleep(_PAUSE_MAX_S)  # ended before its deadline: revoked; the parent takes another
            continue
        except (Unavailable, ServerError) as error:
            return _without_store(child, delivery, error)
        except BaseException as error:
            # Sent, and not known: no answer came, or a soft limit or the process's end struck before it.
            _take_back(child, delivery, attempt, under.lease)
            if isinstance(error, OutcomeUnknown):
                return _without_store(child, delivery, error)
            raise
        if isinstance(answer, Refused):
            return answer
        stoppable = child.policy(delivery.header.job).on_suspect == "stop"
        return Claim(attempt, int(answer.token), answer.open, under, Armed(attempt.nonce), stoppable)


def _attempt(child: Child, delivery: Delivery) -> Attempt:
    return Attempt(
        n=delivery.header.n,
        r=delivery.r,
        host=HOST,
        pid=child.pid,
        nonce=delivery.nonce,
        since=datetime.now(UTC),
        worker=delivery.request.hostname or "",
        child=child.incarnation,
        task_id=delivery.request.id,
    )


def _take_back(child: Child, delivery: Delivery, attempt: Attempt, lease: int) -> None:
    """The claim was sent and may still land. Its child's name is withdrawn, and the claim with it.

    The parent carries this through when the store can be reached; we go on under another name.
    """
    step = runs.give_back(child.keys, delivery.occurrence, attempt=attempt, lease=lease, for_good=True)
    child.leave(attempt.nonce, step)
    child.be_new()


def _without_store(child: Child, delivery: Delivery, error: Exception) -> Unguarded:
    """By the job's no_quorum. A store that refuses is not away, nor is one that answers now: then it was we
    who stood still. Without one there are no turns.
    """
    chosen = child.policy(delivery.header.job).no_quorum
    in_turn = getattr(delivery.task, OPTION, None) is not None
    if chosen == "skip" or in_turn or isinstance(error, ServerError) or _store_answers(child):
        _leave_unclaimed(delivery, error)
    return Unguarded(str(error))


def _store_answers(child: Child) -> bool:
    try:
        child.client.txn(
            success=[get_op(child.keys.deploy())], timeout=min(child.settings.claim_timeout / 2, _ASK_MAX_S)
        )
    except (Unavailable, OutcomeUnknown):
        return False
    except ServerError:  # it may not be read, but is there
        pass
    return True


def _leave_unclaimed(delivery: Delivery, error: Exception) -> NoReturn:
    logger.warning("%s not run: left unclaimed, to be published again: %s", delivery, error)
    raise Ignore(f"left unclaimed: {error}")


# --- refused ------------------------------------------------------------------------------------


def _refused(child: Child, delivery: Delivery, refused: Refused) -> Recorded:
    """Drop the delivery by the table above, saying why; or give what the attempt had come to."""
    done, holder, text, dead = refused.done, refused.holder, refused.text, False
    skips = refused.reason is Refusal.OVERLAP and delivery.header.overlap == "skip"
    if not skips:  # that one gets a verdict of its own, with the reason
        refusals.leave(child, delivery, refused)
    match refused.reason:
        case Refusal.DONE if done is not None and done.n == delivery.header.n:
            return _complete(delivery, done)
        case Refusal.OVERLAP if skips:
            text = _in_the_way(child, refused)
            _skip(child, delivery, text)
            text, dead = f"skipped: {text}", True
        case Refusal.RUNNING:
            text, dead = f"second delivery, {text}", holder is None or holder.task_id != delivery.request.id
        case Refusal.CLAIMED:
            text, dead = f"second delivery, {text}", isinstance(holder, Attempt) and holder.outcome in _ENDED
        case Refusal.SUPERSEDED | Refusal.DONE | Refusal.UNKNOWN:
            dead = True
        case Refusal.CHILD:
            child.be_new()
    return _drop(delivery, text, dead=dead)


_ENDED = ("lost", "released")  # outcomes after which nothing under this id follows; a retry does


def _drop(delivery: Delivery, reason: str, *, dead: bool) -> NoReturn:
    logger.info("%s not run: %s", delivery, reason)
    if dead and not is_settled(delivery.task, delivery.request):
        request = delivery.request
        stores = not ignores_result(delivery.task, request)
        delivery.task.backend.mark_as_revoked(request.id, reason, request=request, store_result=stores)
    raise Ignore(reason)


def _complete(delivery: Delivery, done: Done) -> Recorded:
    """This very attempt has its verdict. Celery may not have stored it: then this delivery does."""
    request, reason = delivery.request, f"this attempt {done.verdict} already"
    if done.verdict not in (Verdict.RAN, Verdict.FAILED):
        _drop(delivery, f"{done.verdict}: {done.reason}", dead=True)
    if is_settled(delivery.task, request):
        _drop(delivery, reason, dead=False)
    if done.verdict is Verdict.RAN and done.result is None:
        _drop(delivery, f"{reason}, and its result was not kept", dead=True)
    logger.info("%s not run: %s; giving the recorded outcome", delivery, reason)
    return Recorded(done)


def _in_the_way(child: Child, refused: Refused) -> str:
    """Who it is, and when he last showed that he lives: for whoever wonders why nothing was started."""
    assert refused.other is not None, "it overlaps with something"
    try:
        claim = child.client.get(child.keys.active(refused.other))
        if claim is None:  # lost, or between two tries: it counts as running
            return refused.text.replace(" is running on ", " is to run again, last on ")
        lease = child.client.time_to_live(claim.lease)
    except JobguardError:
        return refused.text
    return refused.text + (f", renewed {lease.grantedTTL - lease.TTL} s ago" if lease.TTL >= 0 else "")


def _skip(child: Child, delivery: Delivery, reason: str) -> None:
    done = Done(
        job=delivery.header.job,
        nominal=delivery.occurrence.nominal,
        verdict=Verdict.SKIPPED,
        nonce=delivery.nonce,
        finished=datetime.now(UTC),
        reason=reason,
        task=delivery.task.name,
        n=delivery.header.n,
        r=delivery.r,
        host=HOST,
        pid=child.pid,
        worker=delivery.request.hostname or "",
    )
    step = runs.settle(child.keys, delivery.occurrence, delivery.header.n, delivery.r, done)
    try:
        child.send(step, time.monotonic() + child.settings.timeout)
    except (Unavailable, OutcomeUnknown, ServerError):
        child.leave(delivery.nonce, step)
