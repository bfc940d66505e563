"""What the machine hands out: records, changes, answers, and the rows to write.

Place in the house   machine -> results -> node (answers, watchers), storage (rows), api (shapes)
Never                does anything: these are nouns

Structs without garbage-collector tracking, where the house otherwise uses dataclasses: a node holds a record
per key, and a collector that walks a million of them stops the loop for tenths of a second. None of them can
be part of a cycle.
"""

from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

import msgspec

from jobguard_store.errors import StoreError
from jobguard_store.machine.auth import AuthChange
from jobguard_store.machine.commands import AlarmKind, Range


class _Value(msgspec.Struct, frozen=True, gc=False):
    pass


# --- state ----------------------------------------------------------------------------------------


class Record(_Value, frozen=True):
    """One version of one key. Versions count from 1, so version 0 marks the tombstone of a delete,
    which carries only the key and, as mod_revision, the revision of the delete."""

    key: bytes
    value: bytes
    create_revision: int
    mod_revision: int
    version: int
    lease: int


def tombstone(key: bytes, revision: int) -> Record:
    return Record(key, b"", 0, revision, 0, 0)


class ChangeKind(IntEnum):
    PUT = 0
    DELETE = 1


class ChangeEvent(_Value, frozen=True):
    """What a watcher sees of one change. `previous`: the record before this revision, None if absent."""

    record: Record
    previous: Record | None

    @property
    def kind(self) -> ChangeKind:
        return ChangeKind.PUT if self.record.version else ChangeKind.DELETE

    @property
    def revision(self) -> int:
        return self.record.mod_revision


class Alarm(NamedTuple):
    """Which member is in which trouble."""

    member: int
    kind: AlarmKind


# --- answers --------------------------------------------------------------------------------------
# `revision` is what the header of this answer carries. Inside a txn that is the revision as this op saw it:
# the one before the txn until something was written, the txn's own from then on.


class PutResult(_Value, frozen=True):
    """`prev` only if asked for, and if there was one."""

    revision: int
    prev: Record | None = None


class DeleteResult(_Value, frozen=True):
    """`prevs`, in key order, only if asked for."""

    revision: int
    deleted: int
    prevs: tuple[Record, ...] = ()


class RangeResult(_Value, frozen=True):
    """`count`: keys in the interval before filters and limit. `more`: the limit cut something off."""

    revision: int
    kvs: Sequence[Record]
    count: int
    more: bool = False


class HistoricRange(_Value, frozen=True):
    """A read of an older state, `at` a revision within bounds. Memory holds only the newest: the node that
    answers fills this in from history. Nothing in the machine's own state depends on it."""

    revision: int
    request: Range
    at: int


class TxnResult(_Value, frozen=True):
    """responses[i] answers op i of the branch taken. Of a nested txn, etcd leaves the header empty."""

    revision: int
    succeeded: bool
    responses: "tuple[OpResult, ...]"


OpResult = PutResult | DeleteResult | RangeResult | HistoricRange | TxnResult


class GrantResult(_Value, frozen=True):
    revision: int
    id: int
    ttl: int


class RevokeResult(_Value, frozen=True):
    """Of a revocation by a client."""

    revision: int


class ExpireResult(_Value, frozen=True):
    """Of an expiry by the leader. Not `expired`: the entry belongs to another term than the expiry, and the
    lease lives on."""

    revision: int
    expired: bool = True


class CompactResult(_Value, frozen=True):
    revision: int


class AlarmResult(_Value, frozen=True):
    """The alarm that was raised, or was on already; the one that was lowered, None if there was none."""

    revision: int
    alarm: "Alarm | None"


class AuthResult(_Value, frozen=True):
    """Users or roles are now as the command had it."""

    revision: int


class Authenticated(_Value, frozen=True):
    """Whoever shows a token of this digest is `user`, for as long as the password is the one he came by."""

    revision: int
    user: str
    token: bytes


Result = (
    OpResult
    | GrantResult
    | RevokeResult
    | ExpireResult
    | CompactResult
    | AlarmResult
    | AuthResult
    | Authenticated
)


# --- what one command leaves behind ---------------------------------------------------------------


class Rows(_Value, frozen=True):
    """What one command changes in the tables; goes to disk with its entry's index as applied_index.

    `events` are of one revision, in the order of their sub-revisions; `leases` are (id, ttl), ttl 0 = gone;
    `compact_revision` is None where it does not change; `alarms` are what is on now, None likewise; `auth`
    is what changed of it, if anything was asked of it at all.
    """

    revision: int
    events: tuple[ChangeEvent, ...] = ()
    leases: tuple[tuple[int, int], ...] = ()
    compact_revision: int | None = None
    alarms: dict[Alarm, bool] | None = None
    auth: AuthChange | None = None


class Applied(_Value, frozen=True):
    """The outcome of one command: its answer (or definite refusal), and what it left behind.

    `revision` is the store's after the command. A refusal leaves nothing behind; watchers see `events`.
    """

    result: Result | StoreError
    revision: int
    rows: Rows

    @property
    def events(self) -> tuple[ChangeEvent, ...]:
        return self.rows.events
