"""What happens to keys within one revision: puts, deletes and ranges; and the rules of a transaction.

Place in the house   apply -> txn -> keyspace, leases
Takes                operations, in their order
Gives                their answers, and the changes in the order of their sub-revisions
Never                fails half-way: what can be refused is refused before the first write

A txn goes through three steps. The compares of all levels are evaluated against the state before it, which
fixes the path: the branch taken at each level. The path's operations are checked, all of them. Then they run.
"""

from collections.abc import Iterator
from operator import attrgetter, eq, gt, lt, ne
from typing import assert_never

from jobguard_store.errors import Compacted, FutureRevision, KeyNotFound, LeaseNotFound
from jobguard_store.machine.commands import (
    Command,
    Compare,
    CompareResult,
    CompareTarget,
    DeleteRange,
    GrantLease,
    Put,
    Range,
    Txn,
)
from jobguard_store.machine.keyspace import Keyspace
from jobguard_store.machine.leases import LeaseTable
from jobguard_store.machine.results import (
    ChangeEvent,
    DeleteResult,
    HistoricRange,
    OpResult,
    PutResult,
    RangeResult,
    Record,
    TxnResult,
    tombstone,
)

# --- writing ----------------------------------------------------------------------------------------


class Writer:
    """The writes of one command, all at revision `before + 1`; without a write that revision is not taken."""

    __slots__ = ("_before", "_events", "_keys", "_leases", "_untouched")

    def __init__(self, keys: Keyspace, leases: LeaseTable, before: int) -> None:
        self._keys = keys
        self._leases = leases
        self._before = before
        self._events: list[ChangeEvent] = []
        # A key may change twice in one revision (deleted in one nested txn after a put in another). Its
        # watchers are told what it was before the revision, both times.
        self._untouched: dict[bytes, Record | None] = {}

    @property
    def revision(self) -> int:
        """The revision as seen from here: it moves with the first write."""
        return self._before + 1 if self._events else self._before

    @property
    def events(self) -> tuple[ChangeEvent, ...]:
        return tuple(self._events)

    def put(self, op: Put) -> PutResult:
        """A put whose lease and key were checked: see `check_put`."""
        old = self._keys.get(op.key)
        revision = self._before + 1
        value, lease = op.value, op.lease
        if old is None:
            record = Record(op.key, value, revision, revision, 1, lease)
        else:
            if op.ignore_value:
                value = old.value
            if op.ignore_lease:
                lease = old.lease
            record = Record(op.key, value, old.create_revision, revision, old.version + 1, lease)
        self._keys.put(record)
        self._leases.move(op.key, old.lease if old else 0, lease)
        self._changed(record, old)
        return PutResult(revision, old if op.prev_kv else None)

    def delete(self, op: DeleteRange) -> DeleteResult:
        gone = self._keys.remove(op.key, op.range_end)
        for old in gone:
            self._leases.move(old.key, old.lease, 0)
            self._changed(tombstone(old.key, self._before + 1), old)
        return DeleteResult(self.revision, len(gone), tuple(gone) if op.prev_kv else ())

    def _changed(self, record: Record, old: Record | None) -> None:
        self._events.append(ChangeEvent(record, self._untouched.setdefault(record.key, old)))


def check_put(op: Put, keys: Keyspace, leases: LeaseTable) -> None:
    """Raises KeyNotFound, LeaseNotFound."""
    if (op.ignore_value or op.ignore_lease) and keys.get(op.key) is None:
        raise KeyNotFound
    if op.lease and op.lease not in leases:
        raise LeaseNotFound


# --- the three steps of a txn -----------------------------------------------------------------------


class Path:
    """The branch a txn takes, and the paths of the txns nested in that branch, in order."""

    __slots__ = ("nested", "ops", "succeeded")

    def __init__(self, txn: Txn, keys: Keyspace) -> None:
        self.succeeded = all(holds(compare, keys) for compare in txn.compare)
        self.ops = txn.success if self.succeeded else txn.failure
        self.nested = [Path(op, keys) for op in self.ops if isinstance(op, Txn)]

    def flat(self) -> Iterator[Put | DeleteRange | Range]:
        """The operations that will run, in the order in which they will."""
        nested = iter(self.nested)
        for op in self.ops:
            if isinstance(op, Txn):
                yield from next(nested).flat()
            else:
                yield op


_TARGET = {
    CompareTarget.VERSION: attrgetter("version"),
    CompareTarget.CREATE: attrgetter("create_revision"),
    CompareTarget.MOD: attrgetter("mod_revision"),
    CompareTarget.VALUE: attrgetter("value"),
    CompareTarget.LEASE: attrgetter("lease"),
}
_RELATION = {
    CompareResult.EQUAL: eq,
    CompareResult.GREATER: gt,
    CompareResult.LESS: lt,
    CompareResult.NOT_EQUAL: ne,
}


def holds(compare: Compare, keys: Keyspace) -> bool:
    """Every key of the interval satisfies the compare. No key there: it is asked of zeros, once,
    and no value is in any relation to one that does not exist."""
    of_value = compare.target is CompareTarget.VALUE
    found = keys.slice(compare.key, compare.range_end)
    if not found:
        return not of_value and bool(_RELATION[compare.result](0, compare.number))
    target, relation = _TARGET[compare.target], _RELATION[compare.result]
    operand: int | bytes = compare.value if of_value else compare.number
    return all(relation(target(record), operand) for record in found)


def check(path: Path, keys: Keyspace, leases: LeaseTable, revision: int, compact_revision: int) -> None:
    """Refuse the path as a whole, or not at all: its puts first, then its ranges, as etcd does.

    Raises KeyNotFound, LeaseNotFound, FutureRevision, Compacted.
    """
    for op in path.flat():
        if isinstance(op, Put):
            check_put(op, keys, leases)
    for op in path.flat():
        if isinstance(op, Range) and op.revision:
            check_revision(op.revision, revision, compact_revision)


def check_revision(asked: int, revision: int, compact_revision: int) -> None:
    """Raises FutureRevision, Compacted. The compact revision itself can still be read."""
    if asked > revision:
        raise FutureRevision
    if asked < compact_revision:
        raise Compacted(compact_revision)


def run(path: Path, writer: Writer, keys: Keyspace) -> TxnResult:
    """Run a checked path."""
    nested = iter(path.nested)
    responses: list[OpResult] = []
    for op in path.ops:
        match op:
            case Put():
                responses.append(writer.put(op))
            case Range():
                responses.append(read(op, keys, writer.revision))
            case DeleteRange():
                responses.append(writer.delete(op))
            case Txn():
                responses.append(run(next(nested), writer, keys))
            case never:
                assert_never(never)
    return TxnResult(writer.revision, path.succeeded, tuple(responses))


def read(request: Range, keys: Keyspace, revision: int) -> RangeResult | HistoricRange:
    """Answer from memory, or say which older state the answer is in. The bounds were checked."""
    if 0 < request.revision < revision:
        return HistoricRange(revision, request, request.revision)
    return keys.range(request, revision)


def may_grow(command: Command) -> bool:
    """Whether it may need space, whichever branch it takes."""
    if isinstance(command, Txn):
        return any(may_grow(op) for op in (*command.success, *command.failure))
    return isinstance(command, Put | GrantLease)


def writes(txn: Txn) -> bool:
    """Whether the txn can write at all. One that cannot is served as a read, without the log."""
    return any(
        writes(op) if isinstance(op, Txn) else not isinstance(op, Range)
        for op in (*txn.success, *txn.failure)
    )
