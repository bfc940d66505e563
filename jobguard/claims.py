"""The claim: one compare-and-swap before a body starts, and the reason when it is refused.

Place in the house   celery.claiming  ->  claims  ->  steps, records; drawn as a whole in runs.py
Takes                an occurrence, the attempt of this delivery, the lease it would hold
Gives                Claimed with a fencing token, or Refused with what is there instead
Never                reads a clock, draws a nonce, or talks to the store
"""

from dataclasses import dataclass
from enum import StrEnum

from jobguard.ops import (
    compare_absent,
    compare_none,
    compare_present,
    get_op,
    get_prefix_op,
    prefix_end,
    put_op,
)
from jobguard.records import Active, Attempt, Done, Keys, Occurrence, Open, decode, encode, stamp
from jobguard.steps import Moved, Seen, Transaction, Written, first, kvs, open_at, see, to_done
from jobguard.wire import Compare, TxnResponse


class Refusal(StrEnum):
    """Why a claim was refused; the comment says what the guard does."""

    RUNNING = "running"  # this very attempt is running: a second delivery, drop it
    CLAIMED = "claimed"  # this attempt was claimed and is over or lost: drop it
    PREDECESSOR = "predecessor"  # r - 1 has not handed over yet: wait and claim again
    SUPERSEDED = "superseded"  # a later attempt is open: drop it
    DONE = "done"  # the occurrence has its verdict: drop it, or give the recorded result
    UNKNOWN = "unknown"  # neither open nor done: never planned, or long trimmed: drop it
    OVERLAP = "overlap"  # another occurrence of the job is running: settle as skipped, or leave it open
    CHILD = "child"  # the claiming child's incarnation is gone: it must not start anything
    AGAIN = "again"  # it had been in the way, and was gone at the reading: claim again


@dataclass(frozen=True, slots=True)
class Claimed:
    """This delivery, and no other, runs (n, r). `token` is the create_revision of `active`."""

    token: int
    open: Seen[Open]


@dataclass(frozen=True, slots=True)
class Refused:
    reason: Refusal
    text: str
    holder: Active | None = None  # who runs instead, where somebody does
    done: Done | None = None
    token: int = 0  # the holder's, or of what is done
    other: Occurrence | None = None  # what the holder runs, if that is not what was asked for


def claim(
    keys: Keys, occurrence: Occurrence, attempt: Attempt, *, lease: int, overlap: str = "skip"
) -> Transaction[Claimed | Refused]:
    """Start (n, r): one compare-and-swap, before the body.

    `attempts` is the lock that is never taken twice: no two deliveries run the same (n, r), not even one
    after the other. `attempt.child` must be a live incarnation under children/<lease>/: the parent that
    buried the child deleted it first, so a claim still in flight from there can no longer land.
    """
    n, r = attempt.n, attempt.r
    active = attempt.as_active()
    alone = _nothing_else_running(keys, occurrence) if overlap != "allow" else ()
    child = (compare_present(keys.child(lease, attempt.child)),) if attempt.child else ()
    own = keys.attempt(occurrence, n, r)
    return Transaction(
        compare=(
            compare_absent(own),
            compare_absent(keys.active(occurrence)),
            *open_at(keys, occurrence, n, r),
            *alone,
            *child,
        ),
        success=(
            put_op(own, encode(attempt)),
            put_op(keys.active(occurrence), encode(active), lease),
            put_op(keys.running(occurrence), encode(active)),
            get_op(keys.open(occurrence)),
        ),
        failure=(
            get_op(keys.open(occurrence)),
            get_op(own),
            get_op(keys.active(occurrence)),
            get_op(keys.done(occurrence)),
            get_prefix_op(keys.prefix("running", occurrence.job), limit=8),
            get_op(keys.child(lease, attempt.child)) if attempt.child else get_op(own),
        ),
        read=lambda answer: _read_claim(answer, keys, occurrence, attempt, overlap),
    )


def _read_claim(
    answer: TxnResponse, keys: Keys, occurrence: Occurrence, attempt: Attempt, overlap: str
) -> Claimed | Refused:
    if answer.succeeded:
        seen = see(first(answer, 3), Open)
        assert seen is not None, "the claim compared it"
        return Claimed(answer.revision, seen)
    opened, own = see(first(answer, 0), Open), see(first(answer, 1), Attempt)
    active, done = see(first(answer, 2), Active), see(first(answer, 3), Done)
    mine = attempt.nonce
    if own and own.record.nonce == mine and active and active.record.nonce == mine and opened:
        return Claimed(active.create_revision, opened)  # an earlier sending of this claim had won
    holder, token = (active.record, active.create_revision) if active else (None, 0)
    if done:
        record = done.record
        text = f"already {record.verdict}" + _at(record.host, record.pid)
        return Refused(Refusal.DONE, text, None, record, record.token)
    if opened is None:
        return Refused(Refusal.UNKNOWN, "no such occurrence is open")
    if own and holder and (holder.n, holder.r) == (attempt.n, attempt.r):
        return Refused(Refusal.RUNNING, f"already running on {holder.holder}", holder, token=token)
    if own:
        text = f"attempt already claimed by {own.record.holder}"
        return Refused(Refusal.CLAIMED, text, own.record, token=own.create_revision)
    at, asked = (opened.record.n, opened.record.r), (attempt.n, attempt.r)
    if at > asked:
        text = f"attempt {at[0]} retry {at[1]} is open by now"
        return Refused(Refusal.SUPERSEDED, text, holder, token=token)
    if at < asked:
        text = "the attempt before has not handed over yet"
        return Refused(Refusal.PREDECESSOR, text, holder, token=token)
    if attempt.child and first(answer, 5) is None:
        return Refused(Refusal.CHILD, "this worker process was given up by its parent")
    others = [kv for kv in kvs(answer, 4) if keys.occurrence(kv.key) != occurrence]
    if others and overlap != "allow":
        other = decode(others[0].value, Active)
        which = keys.occurrence(others[0].key)
        text = f"{which.stamp} is running on {other.holder} since {stamp(other.since.replace(microsecond=0))}"
        return Refused(Refusal.OVERLAP, text, other, token=others[0].mod_revision, other=which)
    return Refused(Refusal.AGAIN, "what was in the way is gone", holder, token=token)


def settle(
    keys: Keys, occurrence: Occurrence, n: int, r: int, done: Done
) -> Transaction[Written | Moved[Done]]:
    """A worker ends an attempt that never started: skipped for overlap, or its message expired."""

    def read(answer: TxnResponse) -> Written | Moved[Done]:
        if answer.succeeded:
            return Written(answer.revision)
        verdict = see(first(answer, 0), Done)
        if verdict and verdict.record.nonce == done.nonce:
            return Written(verdict.mod_revision)
        return Moved(verdict.record if verdict else None)

    return Transaction(
        compare=(
            compare_absent(keys.attempt(occurrence, n, r)),
            compare_absent(keys.active(occurrence)),
            *open_at(keys, occurrence, n, r),
        ),
        success=to_done(keys, occurrence, done),
        failure=(get_op(keys.done(occurrence)),),
        read=read,
    )


def record_unguarded(keys: Keys, occurrence: Occurrence, n: int, r: int, done: Done) -> Transaction[bool]:
    """A body ran without a claim: its verdict, unless somebody claimed the attempt or ended it meanwhile."""
    return Transaction(
        compare=(
            compare_absent(keys.attempt(occurrence, n, r)),
            compare_absent(keys.active(occurrence)),
            compare_absent(keys.done(occurrence)),
        ),
        success=to_done(keys, occurrence, done),
        failure=(),
        read=lambda answer: answer.succeeded,
    )


def _nothing_else_running(keys: Keys, occurrence: Occurrence) -> tuple[Compare, ...]:
    """No key under running/<job>/ but perhaps our own: the intervals on its two sides are empty."""
    prefix, own = keys.prefix("running", occurrence.job), keys.running(occurrence)
    return (
        compare_none(prefix, own),
        compare_none(own + b"\0", prefix_end(prefix)),
    )


def _at(host: str, pid: int) -> str:
    return f" on {host} pid {pid}" if host else ""
