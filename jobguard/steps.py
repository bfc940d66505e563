"""What a step in the life of an occurrence is made of: one transaction and the reader of its answer.

Place in the house   claims, runs, planning  ->  steps  ->  ops, records, wire
Takes                keys, records, revisions
Gives                Transaction and its outcomes; the compares and writes that several steps share
Never                decides which step to take
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, TypeVar

import msgspec

from jobguard.ops import compare_created, delete_op, prefix_end, put_op
from jobguard.records import Attempt, Done, Keys, Occurrence, Open, Record, decode, encode
from jobguard.wire import Compare, KeyValue, RequestOp, TxnRequest, TxnResponse

T = TypeVar("T")
R = TypeVar("R", bound=Record)


@dataclass(frozen=True, slots=True)
class Transaction(Generic[T]):
    """One step: send the first three as one txn (again, if the answer is lost), hand its answer to `read`."""

    compare: tuple[Compare, ...]
    success: tuple[RequestOp, ...]
    failure: tuple[RequestOp, ...]
    read: Callable[[TxnResponse], T]


TOGETHER = 60
"""Steps in one transaction, and operations in each of them: etcd counts both, to 128 in all."""


def together(steps: Sequence[Transaction[T]]) -> Transaction[list[T]]:
    """At most `TOGETHER` steps as one transaction: each compares and writes for itself, and none waits."""

    def read(answer: TxnResponse) -> list[T]:
        inner = (each.response_txn for each in answer.responses)
        # The header of a nested answer is empty; what it wrote has the revision of the whole.
        whole = (msgspec.structs.replace(each, header=answer.header) for each in inner if each)
        return [step.read(each) for step, each in zip(steps, whole, strict=True)]

    nested = (TxnRequest(compare=each.compare, success=each.success, failure=each.failure) for each in steps)
    return Transaction(
        compare=(),
        success=tuple(RequestOp(request_txn=each) for each in nested),
        failure=(),
        read=read,
    )


@dataclass(frozen=True, slots=True)
class Fence:
    """The leader's election key. While its create_revision holds, no other beat leads."""

    key: bytes
    create_revision: int

    def holds(self) -> Compare:
        return compare_created(self.key, self.create_revision)


@dataclass(frozen=True, slots=True)
class Seen(Generic[R]):
    """A record as it was read, with the revision that a compare will ask for."""

    record: R
    mod_revision: int
    create_revision: int = 0


@dataclass(frozen=True, slots=True)
class Written:
    """The step took place, now or when its answer was lost. `revision` is the store's at the writing."""

    revision: int


@dataclass(frozen=True, slots=True)
class Deposed:
    """Another beat leads, or none: this one must not act."""


@dataclass(frozen=True, slots=True)
class Moved(Generic[T]):
    """Somebody was faster; nothing was written. `now` is what is there instead (None: nothing)."""

    now: T | None = None


def seen(kv: KeyValue, kind: type[R]) -> Seen[R]:
    """A record with the revisions it was seen at."""
    return Seen(decode(kv.value, kind), kv.mod_revision, kv.create_revision)


def see(kv: KeyValue | None, kind: type[R]) -> Seen[R] | None:
    """The same where there may be none."""
    return seen(kv, kind) if kv else None


def open_at(keys: Keys, occurrence: Occurrence, n: int, r: int) -> tuple[Compare, Compare]:
    """The occurrence is open at (n, r), whatever is noted behind these first bytes; see records.Open."""
    key, begins = keys.open(occurrence), b'{"v":1,"n":%d,"r":%d,' % (n, r)
    return (
        Compare(target="VALUE", result="GREATER", key=key, value=begins),
        Compare(target="VALUE", result="LESS", key=key, value=prefix_end(begins)),
    )


def next_dispatch(record: Open, *, lost: int, not_before: datetime) -> Open:
    """Attempt n + 1, which nobody has published yet."""
    return msgspec.structs.replace(
        record,
        n=record.n + 1,
        r=0,
        lost=lost,
        not_before=not_before,
        retry_at=None,
        published=0,
        published_at=None,
        planner="",
    )


def to_done(keys: Keys, occurrence: Occurrence, done: Done) -> tuple[RequestOp, ...]:
    return (
        delete_op(keys.open(occurrence)),
        delete_op(keys.running(occurrence)),
        put_op(keys.done(occurrence), encode(done)),
    )


def ended(keys: Keys, occurrence: Occurrence, attempt: Attempt | None) -> tuple[RequestOp, ...]:
    if attempt is None:
        return ()
    return (put_op(keys.attempt(occurrence, attempt.n, attempt.r), encode(attempt)),)


def kvs(answer: TxnResponse, position: int) -> tuple[KeyValue, ...]:
    found = answer.responses[position].response_range
    return found.kvs if found else ()


def first(answer: TxnResponse, position: int) -> KeyValue | None:
    return next(iter(kvs(answer, position)), None)
