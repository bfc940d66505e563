"""The leader's steps in the life of an occurrence: planned, published, found lost, trimmed.

Place in the house   celery.beat, celery.sweep  ->  planning  ->  steps, records
Takes                the fence of the leader's election, records as they were seen
Gives                a Transaction per step; the life as a whole is drawn in runs.py
Never                reads a clock, draws a nonce, or talks to the store

Every step compares the leader's election key: a beat that lost its lead, and does not know it yet, plans,
publishes and reopens nothing.
"""

from collections.abc import Sequence
from datetime import datetime

import msgspec

from jobguard.ops import compare_absent, compare_mod, delete_op, delete_prefix_op, get_op, put_op
from jobguard.records import (
    Attempt,
    Audit,
    Cursor,
    Deploy,
    Done,
    Keys,
    Occurrence,
    Open,
    Schedule,
    decode,
    encode,
)
from jobguard.steps import (
    Deposed,
    Fence,
    Moved,
    Seen,
    Transaction,
    Written,
    ended,
    first,
    next_dispatch,
    see,
    to_done,
)
from jobguard.wire import Compare, RequestOp, TxnRequest, TxnResponse


def register(
    keys: Keys, fence: Fence, deploy: Deploy, deploy_mod: int
) -> Transaction[Written | Deposed | Moved[Deploy]]:
    """Say whose schedule is in force from now on; before any of it is installed."""

    def read(answer: TxnResponse) -> Written | Deposed | Moved[Deploy]:
        if answer.succeeded:
            return Written(answer.revision)
        leader, now = first(answer, 0), see(first(answer, 1), Deploy)
        if leader is None or leader.create_revision != fence.create_revision:
            return Deposed()
        return (
            Written(now.mod_revision) if now and now.record == deploy else Moved(now.record if now else None)
        )

    return Transaction(
        compare=(fence.holds(), compare_mod(keys.deploy(), deploy_mod)),
        success=(put_op(keys.deploy(), encode(deploy)),),
        failure=(get_op(fence.key), get_op(keys.deploy())),
        read=read,
    )


def install(
    keys: Keys,
    fence: Fence,
    schedule: Schedule,
    schedule_mod: int,
    cursor: Cursor,
    cursor_mod: int,
    *,
    deploy_mod: int,
    audit: Audit,
    nonce: str,
) -> Transaction[Written | Deposed | Moved[Cursor]]:
    """Put a definition in force from `cursor` on: a changed schedule owes nothing for the time before.

    The deploy is compared, so what an operator rolled back is not installed a moment later.
    """
    return Transaction(
        compare=(
            fence.holds(),
            compare_mod(keys.schedule(schedule.job), schedule_mod),
            compare_mod(keys.cursor(schedule.job), cursor_mod),
            compare_mod(keys.deploy(), deploy_mod),
        ),
        success=(
            put_op(keys.schedule(schedule.job), encode(schedule)),
            put_op(keys.cursor(schedule.job), encode(cursor)),
            put_op(keys.audit(audit.at, nonce), encode(audit)),
        ),
        failure=(get_op(fence.key), get_op(keys.cursor(schedule.job))),
        read=lambda answer: _read_cursor(answer, fence, cursor.nonce),
    )


def withdraw(
    keys: Keys, fence: Fence, job: str, schedule_mod: int, *, deploy_mod: int, audit: Audit, nonce: str
) -> Transaction[bool]:
    """Take a definition out of force. Its cursor stays: the job may come back."""
    return Transaction(
        compare=(
            fence.holds(),
            compare_mod(keys.schedule(job), schedule_mod),
            compare_mod(keys.deploy(), deploy_mod),
        ),
        success=(delete_op(keys.schedule(job)), put_op(keys.audit(audit.at, nonce), encode(audit))),
        failure=(),
        read=lambda answer: answer.succeeded,
    )


def plan(
    keys: Keys,
    fence: Fence,
    cursor: Cursor,
    cursor_mod: int,
    opens: Sequence[Open],
    dones: Sequence[Done],
    *,
    schedule_mod: int = 0,
    control_mod: int = 0,
) -> Transaction[Written | Deposed | Moved[Cursor]]:
    """Write the occurrences up to `cursor`, each as open or, if it is not to start, as done at once.

    The cursor is compared and advanced with them, so no nominal time is ever planned twice, even by two
    beats that both believe to lead, or after the history is gone. The definition and the operator's control
    are compared too (0: there is none), so nothing is planned past a change or a pause that the leader has
    not read yet. At most 100 occurrences in one step.
    """
    job = opens[0].job if opens else dones[0].job
    return Transaction(
        compare=(
            fence.holds(),
            compare_mod(keys.cursor(job), cursor_mod),
            compare_mod(keys.schedule(job), schedule_mod),
            compare_mod(keys.control(job), control_mod),
        ),
        success=(
            put_op(keys.cursor(job), encode(cursor)),
            *(_opened(keys, each) for each in opens),
            *(_ended(keys, each) for each in dones),
        ),
        failure=(get_op(fence.key), get_op(keys.cursor(job))),
        read=lambda answer: _read_cursor(answer, fence, cursor.nonce),
    )


def _opened(keys: Keys, record: Open) -> RequestOp:
    put = put_op(keys.open(record.occurrence), encode(record))
    return _unless_ended(keys, record.occurrence, put) if record.published else put


def _ended(keys: Keys, record: Done) -> RequestOp:
    return _unless_ended(keys, record.occurrence, put_op(keys.done(record.occurrence), encode(record)))


def _unless_ended(keys: Keys, occurrence: Occurrence, put: RequestOp) -> RequestOp:
    """What was sent before it was planned, as the store was away, may have run and have its verdict."""
    return RequestOp(request_txn=TxnRequest(compare=(compare_absent(keys.done(occurrence)),), success=(put,)))


def _read_cursor(answer: TxnResponse, fence: Fence, nonce: str) -> Written | Deposed | Moved[Cursor]:
    if answer.succeeded:
        return Written(answer.revision)
    leader, kv = first(answer, 0), first(answer, 1)
    cursor = decode(kv.value, Cursor) if kv else None
    if kv and cursor and cursor.nonce == nonce:
        return Written(kv.mod_revision)
    if leader is None or leader.create_revision != fence.create_revision:
        return Deposed()
    return Moved(cursor)


def note(
    keys: Keys, fence: Fence, seen: Seen[Open], record: Open
) -> Transaction[Written | Deposed | Moved[Seen[Open]]]:
    """Change what the leader notes on an occurrence; (n, r) stay, and something else must differ.

    Moved is no harm: a worker claimed, retried or finished meanwhile, and that is what the note was for.
    """
    assert (record.n, record.r) == (seen.record.n, seen.record.r)
    return _leader_writes(keys, fence, seen, record, (), ())


def intend(
    keys: Keys, fence: Fence, seen: Seen[Open], planner: str
) -> Transaction[Written | Deposed | Moved[Seen[Open]]]:
    """Say who is about to publish, before it does.

    A leader that dies between this and `mark_published` leaves published = 0 and its nonce: the next one
    knows that the message *may* be out, and that only guarded workers make a second one harmless.
    """
    return note(keys, fence, seen, msgspec.structs.replace(seen.record, planner=planner))


def mark_published(
    keys: Keys, fence: Fence, seen: Seen[Open], at: datetime
) -> Transaction[Written | Deposed | Moved[Seen[Open]]]:
    """Note that the broker has taken the message of (n, r)."""
    count = seen.record.published + 1
    return note(keys, fence, seen, msgspec.structs.replace(seen.record, published=count, published_at=at))


def reopen(
    keys: Keys, fence: Fence, seen: Seen[Open], *, attempt: Attempt | None, not_before: datetime
) -> Transaction[Written | Deposed | Moved[Seen[Open]]]:
    """Attempt n is lost: open n + 1. Only the leader does, and only while nothing is active.

    Whoever held n has lost its lease or gave the claim up; its token is refused from here on, because
    `active` is gone and comes back only with a larger create_revision.
    """
    record = next_dispatch(seen.record, lost=seen.record.lost + 1, not_before=not_before)
    also = ended(keys, seen.record.occurrence, attempt)
    return _leader_writes(keys, fence, seen, record, also, (compare_absent(keys.active(record.occurrence)),))


def _leader_writes(
    keys: Keys,
    fence: Fence,
    seen: Seen[Open],
    record: Open,
    also: tuple[RequestOp, ...],
    unless: tuple[Compare, ...],
) -> Transaction[Written | Deposed | Moved[Seen[Open]]]:
    key = keys.open(record.occurrence)

    def read(answer: TxnResponse) -> Written | Deposed | Moved[Seen[Open]]:
        if answer.succeeded:
            return Written(answer.revision)
        leader, now = first(answer, 0), see(first(answer, 1), Open)
        if now and now.record == record:
            return Written(now.mod_revision)
        if leader is None or leader.create_revision != fence.create_revision:
            return Deposed()
        return Moved(now)

    return Transaction(
        compare=(fence.holds(), compare_mod(key, seen.mod_revision), *unless),
        success=(put_op(key, encode(record)), *also),
        failure=(get_op(fence.key), get_op(key)),
        read=read,
    )


def close(
    keys: Keys, fence: Fence, seen: Seen[Open], done: Done, attempt: Attempt | None = None
) -> Transaction[Written | Deposed | Moved[Seen[Open]]]:
    """The leader ends an occurrence that nobody runs: lost, late, unclaimed."""
    occurrence = seen.record.occurrence

    def read(answer: TxnResponse) -> Written | Deposed | Moved[Seen[Open]]:
        if answer.succeeded:
            return Written(answer.revision)
        leader, verdict = first(answer, 0), see(first(answer, 2), Done)
        if verdict and verdict.record.nonce == done.nonce:
            return Written(verdict.mod_revision)
        if leader is None or leader.create_revision != fence.create_revision:
            return Deposed()
        return Moved(see(first(answer, 1), Open))

    return Transaction(
        compare=(
            fence.holds(),
            compare_absent(keys.active(occurrence)),
            compare_mod(keys.open(occurrence), seen.mod_revision),
        ),
        success=(*to_done(keys, occurrence, done), *ended(keys, occurrence, attempt)),
        failure=(get_op(fence.key), get_op(keys.open(occurrence)), get_op(keys.done(occurrence))),
        read=read,
    )


def trim(keys: Keys, fence: Fence, occurrences: Sequence[Occurrence]) -> Transaction[bool]:
    """Forget the history of these (at most 60). A late message finds nothing open: refused all the same."""
    return Transaction(
        compare=(fence.holds(),),
        success=tuple(
            op
            for each in occurrences
            for op in (delete_op(keys.done(each)), delete_prefix_op(keys.attempts(each)))
        ),
        failure=(),
        read=lambda answer: answer.succeeded,
    )


def forget(fence: Fence, entries: Sequence[bytes]) -> Transaction[bool]:
    """Let these entries of the audit log go (at most 120)."""
    return Transaction(
        compare=(fence.holds(),),
        success=tuple(delete_op(each) for each in entries),
        failure=(),
        read=lambda answer: answer.succeeded,
    )
