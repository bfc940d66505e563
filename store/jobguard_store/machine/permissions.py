"""What a command needs, and what a user's roles permit.

Place in the house   apply, auth, guarded -> permissions
Takes                commands; permissions over intervals of keys
Gives                the intervals that a command reads and writes; whether rights cover them
Never                knows who asks

A read of an interval needs the right to all of it, which several permissions may give together if they leave
no gap. Which branch a txn takes is not asked: what it could do has to be permitted.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import msgspec

from jobguard_store.machine.commands import Access, Command, DeleteRange, Op, Put, Range, RevokeLease, Txn

if TYPE_CHECKING:
    from jobguard_store.machine.leases import LeaseTable

# --- needs ------------------------------------------------------------------------------------------

Need = tuple[Access, bytes, bytes]
"""READ or WRITE, of the keys from a key to a range_end."""


def needs(command: Command, leases: "LeaseTable") -> Iterator[Need]:
    """Of a command on keys; nothing for any other.

    A lease takes its keys along when it ends. So who revokes it, or attaches a key to it and then could,
    must be permitted to write them all.
    """
    match command:
        case Range() | Put() | DeleteRange() | Txn():
            yield from _op_needs(command, leases)
        case RevokeLease():
            yield from lease_needs(Access.WRITE, command.id, leases)


def lease_needs(access: Access, lease: int, leases: "LeaseTable") -> Iterator[Need]:
    """Such access to all keys on a lease."""
    for key in leases.attached(lease):
        yield access, key, b""


def _op_needs(op: Op, leases: "LeaseTable") -> Iterator[Need]:
    match op:
        case Range():
            yield Access.READ, op.key, op.range_end
        case Put():
            yield Access.WRITE, op.key, b""
            if op.lease:
                yield from lease_needs(Access.WRITE, op.lease, leases)
            if op.prev_kv:
                yield Access.READ, op.key, b""
        case DeleteRange():
            yield Access.WRITE, op.key, op.range_end
            if op.prev_kv:
                yield Access.READ, op.key, op.range_end
        case Txn():
            for compare in op.compare:
                yield Access.READ, compare.key, compare.range_end
            for inner in (*op.success, *op.failure):
                yield from _op_needs(inner, leases)


# --- rights -----------------------------------------------------------------------------------------


class Permission(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Of one interval of keys, spelled as everywhere. In a row's bytes, so a format for ever."""

    key: bytes
    range_end: bytes
    access: Access

    @property
    def interval(self) -> tuple[bytes, bytes]:
        return self.key, self.range_end


_Bound = tuple[bool, bytes]
_END: _Bound = (True, b"")  # behind every key


class Rights:
    """The keys that some permissions let one read, and those they let one write."""

    def __init__(self, permissions: Iterable[Permission]) -> None:
        given = list(permissions)
        self._covered = {
            wanted: _Intervals(each.interval for each in given if each.access in (wanted, Access.READWRITE))
            for wanted in (Access.READ, Access.WRITE)
        }

    def cover(self, need: Need) -> bool:
        access, key, range_end = need
        return self._covered[access].contain(key, range_end)


class _Intervals:
    """A set of keys, as sorted intervals that neither meet nor overlap."""

    def __init__(self, intervals: Iterable[tuple[bytes, bytes]]) -> None:
        self._starts: list[bytes] = []
        self._ends: list[_Bound] = []
        for start, range_end in sorted(intervals):
            end = _end(start, range_end)
            if not start or (False, start) >= end:
                continue  # no key is in there: none is empty
            if self._ends and (False, start) <= self._ends[-1]:
                self._ends[-1] = max(self._ends[-1], end)
            else:
                self._starts.append(start)
                self._ends.append(end)

    def contain(self, key: bytes, range_end: bytes) -> bool:
        before = bisect_right(self._starts, key) - 1
        if before < 0:
            return False
        end = self._ends[before]
        return (False, key) < end and _end(key, range_end) <= end


def _end(key: bytes, range_end: bytes) -> _Bound:
    if range_end == b"\0":
        return _END
    return (False, range_end or key + b"\0")
