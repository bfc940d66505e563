"""The state machine: one committed command in, its answer, events and rows out.

Place in the house   node -> machine.apply -> txn -> keyspace, leases
Takes                commands in log order, each with the term of its entry; reads of the newest state
Gives                Applied: the answer, what watchers must see, the rows to write
Never                reads a clock, draws randomness, opens anything, awaits

Every node runs the same commands in the same order and must end in the same state, so the answer to any
decodable command is fixed here, refusals included: `apply` never raises a StoreError, it returns it.
"""

from collections.abc import Iterable, Mapping

from jobguard_store.machine.commands import Command, Range, Txn
from jobguard_store.machine.results import Applied, HistoricRange, RangeResult, Record, TxnResult


class Machine:
    """The newest state of the store, in memory: keys, leases, revisions.

    A fresh store stands at revision 1; nothing compacted yet is compact_revision -1.
    """

    revision: int
    compact_revision: int

    @classmethod
    def restore(
        cls, *, revision: int, compact_revision: int, records: Iterable[Record], leases: Mapping[int, int]
    ) -> "Machine":
        """The machine as it stood; `records` in key order, `leases` as id -> ttl. Attached keys follow
        from the records."""
        raise NotImplementedError

    def apply(self, command: Command, entry_term: int) -> Applied:
        """Run one committed command; `entry_term` is the term of its log entry."""
        raise NotImplementedError

    def range(self, request: Range) -> RangeResult | HistoricRange:
        """Read at the newest revision, or say which older one history must be asked for.

        Raises FutureRevision, Compacted.
        """
        raise NotImplementedError

    def read_txn(self, txn: Txn) -> TxnResult:
        """A txn without writes, as one consistent read. Historic ranges in it come back as HistoricRange.

        Raises FutureRevision, Compacted.
        """
        raise NotImplementedError

    def lease_ttl(self, lease: int) -> int | None:
        """The granted TTL in seconds, None for a lease that does not exist."""
        raise NotImplementedError

    def lease_keys(self, lease: int) -> list[bytes]:
        """The keys attached, sorted; empty for a lease that does not exist."""
        raise NotImplementedError

    def lease_ids(self) -> list[int]:
        raise NotImplementedError

    def fingerprint(self) -> bytes:
        """A digest of the logical state: equal on all nodes that have applied the same commands."""
        raise NotImplementedError
