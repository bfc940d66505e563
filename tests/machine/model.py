"""The store, written to be obviously right and nothing else: one list of every version of every key.

Anything asked is found by reading that list from the start. No tree, no cache, nothing shared with the
machine but its nouns: commands and results.
"""

import operator
from dataclasses import dataclass, field, replace
from typing import Any

from jobguard_store.errors import (
    Compacted,
    FutureRevision,
    KeyNotFound,
    LeaseExists,
    LeaseNotFound,
    LeaseTTLTooLarge,
    StoreError,
)
from jobguard_store.machine.commands import (
    Command,
    Compact,
    Compare,
    CompareResult,
    CompareTarget,
    DeleteRange,
    ExpireLease,
    GrantLease,
    Op,
    Put,
    Range,
    RevokeLease,
    SortOrder,
    SortTarget,
    Txn,
)
from jobguard_store.machine.results import (
    ChangeEvent,
    CompactResult,
    DeleteResult,
    ExpireResult,
    GrantResult,
    HistoricRange,
    PutResult,
    RangeResult,
    Record,
    RevokeResult,
    TxnResult,
    tombstone,
)


def inside(key: bytes, start: bytes, end: bytes) -> bool:
    if end == b"":
        return key == start
    if end == b"\0":
        return key >= start
    return start <= key < end


@dataclass
class Model:
    """`changes` holds records and tombstones in the order in which they came into being."""

    changes: list[Record] = field(default_factory=list)
    leases: dict[int, int] = field(default_factory=dict)
    revision: int = 1
    compact_revision: int = -1

    # --- what is where ------------------------------------------------------------------------------

    def state(self, at: int | None = None) -> dict[bytes, Record]:
        state = {}
        for change in self.changes:
            if at is None or change.mod_revision <= at:
                state[change.key] = change
        return {key: state[key] for key in sorted(state) if state[key].version}

    def within(self, key: bytes, range_end: bytes, at: int | None = None) -> list[Record]:
        return [record for record in self.state(at).values() if inside(record.key, key, range_end)]

    def lease_keys(self, lease: int) -> list[bytes]:
        return [record.key for record in self.state().values() if record.lease == lease]

    def events(self, first: int, last: int) -> list[ChangeEvent]:
        return [
            ChangeEvent(change, self.state(change.mod_revision - 1).get(change.key))
            for change in self.changes
            if first <= change.mod_revision <= last
        ]

    # --- commands -----------------------------------------------------------------------------------

    def apply(self, command: Command, term: int) -> Any:
        """The result; or the refusal, after which the model is as it was."""
        before = replace(self, changes=list(self.changes), leases=dict(self.leases))
        try:
            return self._apply(command, term)
        except StoreError as refusal:
            self.__dict__.update(before.__dict__)
            return refusal

    def _apply(self, command: Command, term: int) -> Any:
        start = self.revision
        match command:
            case Put():
                if command.lease and command.lease not in self.leases:
                    raise LeaseNotFound
                self._check_put(command)
                return self._run(command, start)
            case DeleteRange():
                return self._run(command, start)
            case Range():
                if command.revision > 0:
                    self._check_revision(command.revision)
                return self._run(command, start)
            case Txn():
                chosen = self._choose(command)
                for op in flat(chosen):
                    if isinstance(op, Put):
                        self._check_put(op)
                for op in flat(chosen):
                    if isinstance(op, Range) and op.revision:
                        self._check_revision(op.revision)
                return self._run(chosen, start)
            case GrantLease():
                if command.id == 0:
                    raise LeaseNotFound
                if command.ttl > 9_000_000_000:
                    raise LeaseTTLTooLarge
                if command.id in self.leases:
                    raise LeaseExists
                self.leases[command.id] = command.ttl
                return GrantResult(self.revision, command.id, command.ttl)
            case RevokeLease():
                self._end_lease(command.id)
                return RevokeResult(self.revision)
            case ExpireLease():
                if command.term != term:
                    return ExpireResult(self.revision, expired=False)
                self._end_lease(command.id)
                return ExpireResult(self.revision, expired=True)
            case Compact():
                if command.revision <= self.compact_revision:
                    raise Compacted
                if command.revision > self.revision:
                    raise FutureRevision
                self.compact_revision = command.revision
                return CompactResult(self.revision)

    def _end_lease(self, lease: int) -> None:
        if lease not in self.leases:
            raise LeaseNotFound
        start = self.revision
        for key in self.lease_keys(lease):
            self._run(DeleteRange(key), start)
        del self.leases[lease]

    def _check_put(self, op: Put) -> None:
        if (op.ignore_value or op.ignore_lease) and op.key not in self.state():
            raise KeyNotFound
        if op.lease and op.lease not in self.leases:
            raise LeaseNotFound

    def _check_revision(self, revision: int) -> None:
        if revision > self.revision:
            raise FutureRevision
        if revision < self.compact_revision:
            raise Compacted

    # --- one operation, writing at `start` + 1 -------------------------------------------------------

    def _run(self, op: "Op | Chosen", start: int) -> Any:
        match op:
            case Put():
                old = self.state().get(op.key)
                self.revision = start + 1
                self.changes.append(self._version(op, old))
                return PutResult(self.revision, old if op.prev_kv else None)
            case DeleteRange():
                gone = self.within(op.key, op.range_end)
                if gone:
                    self.revision = start + 1
                self.changes += [tombstone(old.key, self.revision) for old in gone]
                return DeleteResult(self.revision, len(gone), tuple(gone) if op.prev_kv else ())
            case Range():
                if 0 < op.revision < self.revision:
                    return HistoricRange(self.revision, op, op.revision)
                return self.range(op, self.revision)
            case Chosen():
                responses = tuple(self._run(inner, start) for inner in op.ops)
                return TxnResult(self.revision, op.succeeded, responses)

    def _version(self, op: Put, old: Record | None) -> Record:
        value = old.value if old and op.ignore_value else op.value
        lease = old.lease if old and op.ignore_lease else op.lease
        created = old.create_revision if old else self.revision
        return Record(op.key, value, created, self.revision, old.version + 1 if old else 1, lease)

    def range(self, op: Range, at: int) -> RangeResult:
        found = self.within(op.key, op.range_end, at)
        count = len(found)
        if op.count_only:
            return RangeResult(self.revision, (), count)
        kept = [
            record
            for record in found
            if (op.min_mod_revision == 0 or record.mod_revision >= op.min_mod_revision)
            and (op.max_mod_revision == 0 or record.mod_revision <= op.max_mod_revision)
            and (op.min_create_revision == 0 or record.create_revision >= op.min_create_revision)
            and (op.max_create_revision == 0 or record.create_revision <= op.max_create_revision)
        ]
        filtered = (op.min_mod_revision, op.max_mod_revision, op.min_create_revision, op.max_create_revision)
        if op.sort_order == SortOrder.NONE and op.limit > 0 and not any(filtered):
            kept = kept[: op.limit + 1]  # etcd: the limit before the sort, if only a target is named
        name = {
            SortTarget.KEY: "key",
            SortTarget.VERSION: "version",
            SortTarget.CREATE: "create_revision",
            SortTarget.MOD: "mod_revision",
            SortTarget.VALUE: "value",
        }[op.sort_target]
        kept.sort(key=operator.attrgetter(name), reverse=op.sort_order == SortOrder.DESCEND)
        more = 0 < op.limit < len(kept)
        if more:
            kept = kept[: op.limit]
        if op.keys_only:
            kept = [Record(r.key, b"", r.create_revision, r.mod_revision, r.version, r.lease) for r in kept]
        return RangeResult(self.revision, kept, count, more)

    # --- compares -------------------------------------------------------------------------------------

    def _choose(self, txn: Txn) -> "Chosen":
        """Evaluate the compares of all levels now, before anything runs."""
        succeeded = all(self._holds(compare) for compare in txn.compare)
        ops = txn.success if succeeded else txn.failure
        return Chosen(succeeded, [self._choose(op) if isinstance(op, Txn) else op for op in ops])

    def _holds(self, compare: Compare) -> bool:
        relation = {
            CompareResult.EQUAL: operator.eq,
            CompareResult.GREATER: operator.gt,
            CompareResult.LESS: operator.lt,
            CompareResult.NOT_EQUAL: operator.ne,
        }[compare.result]
        found = self.within(compare.key, compare.range_end)
        if compare.target == CompareTarget.VALUE:
            return bool(found) and all(relation(record.value, compare.value) for record in found)
        name = {
            CompareTarget.VERSION: "version",
            CompareTarget.CREATE: "create_revision",
            CompareTarget.MOD: "mod_revision",
            CompareTarget.LEASE: "lease",
        }[compare.target]
        numbers = [getattr(record, name) for record in found] or [0]
        return all(relation(number, compare.number) for number in numbers)


@dataclass
class Chosen:
    """A txn whose branch is known."""

    succeeded: bool
    ops: list[Any]


def flat(chosen: Chosen) -> list[Any]:
    ops: list[Any] = []
    for op in chosen.ops:
        ops += flat(op) if isinstance(op, Chosen) else [op]
    return ops


def plain(result: Any) -> Any:
    """A result in a form in which two of them compare: refusals by kind, sequences as tuples."""
    match result:
        case StoreError():
            return type(result)
        case RangeResult():
            return ("range", result.revision, tuple(result.kvs), result.count, result.more)
        case TxnResult():
            return ("txn", result.revision, result.succeeded, tuple(map(plain, result.responses)))
        case _:
            return result
