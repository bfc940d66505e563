"""Which leases exist, what they were granted, and which keys hang on them.

Place in the house   apply, txn -> leases
Never                counts time: that is the lessor's, on the leader, outside the machine
"""

from collections.abc import Collection, Iterable, Mapping

from jobguard_store.machine.results import Record


class LeaseTable:
    """A key belongs to at most one lease, the one in its record; the sets here are that fact, inverted."""

    __slots__ = ("_keys", "_ttl")

    def __init__(self, granted: Mapping[int, int] | None = None, records: Iterable[Record] = ()) -> None:
        self._ttl = dict(granted or {})
        self._keys: dict[int, set[bytes]] = {lease: set() for lease in self._ttl}
        for record in records:
            if record.lease:
                self._keys[record.lease].add(record.key)

    def __contains__(self, lease: int) -> bool:
        return lease in self._ttl

    def __len__(self) -> int:
        return len(self._ttl)

    def ids(self) -> list[int]:
        return list(self._ttl)

    def ttl(self, lease: int) -> int | None:
        return self._ttl.get(lease)

    def keys(self, lease: int) -> list[bytes]:
        """The lease's keys, sorted: the order in which a revocation deletes them, on every node."""
        return sorted(self._keys.get(lease, ()))

    def attached(self, lease: int) -> Collection[bytes]:
        """The same in no order, and without a copy."""
        return self._keys.get(lease, ())

    def grant(self, lease: int, ttl: int) -> None:
        self._ttl[lease] = ttl
        self._keys[lease] = set()

    def drop(self, lease: int) -> None:
        """Forget the lease; its keys have been deleted, and so detached, before."""
        assert not self._keys[lease], "a lease is dropped only after its keys"
        del self._keys[lease], self._ttl[lease]

    def move(self, key: bytes, old: int, new: int) -> None:
        """`key` leaves lease `old` and joins `new`; 0 is no lease."""
        if old != new:
            if old:
                self._keys[old].discard(key)
            if new:
                self._keys[new].add(key)
