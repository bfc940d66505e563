"""The life of an occurrence, as pure transitions: planned, open, running, done.

Place in the house   workers, the CLI and the pages  ->  runs  ->  steps, records; the leader: planning
Takes                records and what the caller saw (tokens, revisions)
Gives                a Transaction: what it compares, writes and reads back, and how to read its answer
Never                reads a clock, draws a nonce, or talks to the store

State is which keys exist, so each step is one transaction:

    plan ──▶ open ──claim──▶ open + running + active ──finish──▶ done
              │                       │    ▲
              │                     retry  │ claim (n, r + 1)          active lapsed or abandoned:
              │                       ▼    │                           reopen (n + 1), or close
              └──settle──▶ done   open + running               (give_back undoes a claim)

`active` lives on the worker's lease and is the fencing token; `running` stays from the first claim to the
verdict, so a rerun or a retry that is still to come counts as running when overlap is refused.

Every step that writes compares a key that this very step changes. So the identical transaction may be sent
again after a lost answer: its failure branch reads what is there, and a nonce tells whether it was ours.
"""

from dataclasses import dataclass
from datetime import datetime

import msgspec

from jobguard.claims import Claimed, Refusal, Refused, claim, record_unguarded, settle
from jobguard.ops import (
    compare_absent,
    compare_created,
    compare_mod,
    compare_value,
    delete_op,
    get_op,
    put_op,
)
from jobguard.records import Active, Attempt, Audit, Done, Keys, Occurrence, Open, Verdict, encode
from jobguard.steps import (
    Moved,
    Seen,
    Transaction,
    Written,
    ended,
    first,
    next_dispatch,
    open_at,
    see,
    to_done,
)
from jobguard.wire import RequestOp, TxnRequest, TxnResponse

__all__ = [
    "Claimed",
    "Gone",
    "Moved",
    "Refusal",
    "Refused",
    "Seen",
    "Transaction",
    "Written",
    "abandon",
    "claim",
    "finish",
    "give_back",
    "record_unguarded",
    "release",
    "retry",
    "see",
    "settle",
]


@dataclass(frozen=True, slots=True)
class Gone:
    """The claim was gone when this was asked: lost, given up or released. Nothing was written."""

    holder: Active | None = None
    done: Done | None = None


def finish(
    keys: Keys, occurrence: Occurrence, *, token: int, done: Done, attempt: Attempt | None = None
) -> Transaction[Written | Gone]:
    """The body ended: open → done. At most one finish can succeed, that of the current token.

    With `attempt`, a finish that comes too late still says so: if the claim has lapsed and nothing followed
    it yet, the verdict is *unrecorded*, so that a body that finished is not run again without a word.
    """
    active = keys.active(occurrence)

    def read(answer: TxnResponse) -> Written | Gone:
        if answer.succeeded:
            return Written(answer.revision)
        holder, verdict = see(first(answer, 0), Active), see(first(answer, 1), Done)
        if verdict and verdict.record.nonce == done.nonce and verdict.record.verdict is done.verdict:
            return Written(verdict.mod_revision)
        return Gone(holder.record if holder else None, verdict.record if verdict else None)

    return Transaction(
        compare=(compare_created(active, token),),
        success=(delete_op(active), *to_done(keys, occurrence, done)),
        failure=(
            get_op(active),
            get_op(keys.done(occurrence)),
            *((_unrecorded(keys, occurrence, done, attempt),) if attempt else ()),
        ),
        read=read,
    )


def _unrecorded(keys: Keys, occurrence: Occurrence, done: Done, attempt: Attempt) -> RequestOp:
    own = keys.attempt(occurrence, attempt.n, attempt.r)
    late = msgspec.structs.replace(done, verdict=Verdict.UNRECORDED, reason=f"{done.verdict}, but too late")
    return RequestOp(
        request_txn=TxnRequest(
            compare=(
                compare_absent(keys.active(occurrence)),
                compare_value(own, encode(attempt)),
                *open_at(keys, occurrence, attempt.n, attempt.r),
            ),
            success=to_done(keys, occurrence, late),
        )
    )


def retry(
    keys: Keys, seen: Seen[Open], *, token: int, attempt: Attempt, eta: datetime
) -> Transaction[Written | Gone | Moved[Seen[Open]]]:
    """(n, r) asked for a retry: hand over to (n, r + 1), which its message may already be waiting for.

    `attempt` is the ending one's record, with outcome "retry". Moved: the leader noted something on `open`
    meanwhile; ask again with what it gives.
    """
    record, occurrence = seen.record, seen.record.occurrence
    active, key = keys.active(occurrence), keys.open(occurrence)
    following = msgspec.structs.replace(record, r=attempt.r + 1, retry_at=eta, not_before=None)

    def read(answer: TxnResponse) -> Written | Gone | Moved[Seen[Open]]:
        if answer.succeeded:
            return Written(answer.revision)
        holder, now, own = (
            see(first(answer, 0), Active),
            see(first(answer, 1), Open),
            see(first(answer, 2), Attempt),
        )
        if own and own.record.nonce == attempt.nonce and own.record.outcome == "retry":
            return Written(own.mod_revision)
        if holder is None or holder.create_revision != token or now is None:
            return Gone(holder.record if holder else None)
        return Moved(now)

    return Transaction(
        compare=(compare_created(active, token), compare_mod(key, seen.mod_revision)),
        success=(
            delete_op(active),
            put_op(key, encode(following)),
            put_op(keys.attempt(occurrence, attempt.n, attempt.r), encode(attempt)),
        ),
        failure=(get_op(active), get_op(key), get_op(keys.attempt(occurrence, attempt.n, attempt.r))),
        read=read,
    )


def abandon(keys: Keys, occurrence: Occurrence, *, token: int, attempt: Attempt) -> Transaction[bool]:
    """A parent frees the claim of a child that died; the leader then treats it as lost, without waiting
    for the lease. `attempt` carries outcome "lost" and the reason. False: the claim was gone already."""
    active = keys.active(occurrence)
    return Transaction(
        compare=(compare_created(active, token),),
        success=(
            delete_op(active),
            put_op(keys.attempt(occurrence, attempt.n, attempt.r), encode(attempt)),
        ),
        failure=(),
        read=lambda answer: answer.succeeded,
    )


def give_back(
    keys: Keys, occurrence: Occurrence, *, attempt: Attempt, lease: int, for_good: bool
) -> Transaction[bool]:
    """Undo a claim, as if this delivery had never come: its body did not start, or asked to be delivered
    again.

    `for_good` also takes the child's incarnation away, in either branch: a claim that may still be in flight
    (its answer was lost) finds it gone and can no longer land. The child goes on under another name.
    """
    own = keys.attempt(occurrence, attempt.n, attempt.r)
    first_claim = (attempt.n, attempt.r) == (1, 0)  # later ones count as running all the while
    goes = (delete_op(keys.child(lease, attempt.child)),) if for_good and attempt.child else ()
    return Transaction(
        compare=(
            compare_value(own, encode(attempt)),
            compare_value(keys.active(occurrence), encode(attempt.as_active())),
        ),
        success=(
            delete_op(own),
            delete_op(keys.active(occurrence)),
            *((delete_op(keys.running(occurrence)),) if first_claim else ()),
            *goes,
        ),
        failure=goes,
        read=lambda answer: answer.succeeded,
    )


# --- by hand: the operators ---------------------------------------------------------------------


def release(
    keys: Keys,
    seen: Seen[Open],
    *,
    token: int,
    audit: Audit,
    nonce: str,
    done: Done | None,
    attempt: Attempt | None = None,
) -> Transaction[Written | Moved[Active]]:
    """Take a run from its holder: the token the operator saw must still be the holder's.

    With `done` the occurrence ends there; without, attempt n + 1 is opened for the leader to publish. The
    lease stays: it carries every other claim of that worker. The audit entry shares the transaction.
    """
    occurrence = seen.record.occurrence
    active, entry = keys.active(occurrence), keys.audit(audit.at, nonce)
    again = next_dispatch(seen.record, lost=seen.record.lost, not_before=audit.at)
    outcome = to_done(keys, occurrence, done) if done else (put_op(keys.open(occurrence), encode(again)),)

    def read(answer: TxnResponse) -> Written | Moved[Active]:
        if answer.succeeded:
            return Written(answer.revision)
        written, holder = first(answer, 1), see(first(answer, 0), Active)
        if written is not None:
            return Written(written.mod_revision)
        return Moved(holder.record if holder else None)

    return Transaction(
        compare=(compare_created(active, token), compare_mod(keys.open(occurrence), seen.mod_revision)),
        success=(
            delete_op(active),
            *outcome,
            *ended(keys, occurrence, attempt),
            put_op(entry, encode(audit)),
        ),
        failure=(get_op(active), get_op(entry)),
        read=read,
    )
