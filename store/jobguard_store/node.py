"""THE loop of one node: takes ticks, peers' messages and proposals; carries out each Ready in its order.

Place in the house   api -> node -> raft.core, machine.apply, writer (storage), transport, lessor, watchers
Takes                commands and reads from the api; messages from transport; ticks from the loop's clock
Gives                answers, each from this node's own apply
Never                blocks the loop on SQLite or a socket; answers from an entry that is not committed
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jobguard_store.config import NodeConfig
    from jobguard_store.machine.commands import Command, Range, Txn


@dataclass(frozen=True, slots=True)
class Header:
    """What every response's header says about the member that answers, at this moment."""

    cluster_id: int
    member_id: int
    revision: int
    term: int  # the newest durable term: it never goes back, not even over a crash


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command came to: the machine's result, and the store's revision right after it."""

    result: Any
    revision: int


@dataclass(frozen=True, slots=True)
class MemberInfo:
    id: int
    name: str
    peer_urls: tuple[str, ...]
    client_urls: tuple[str, ...]
    is_learner: bool = False


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """What this member knows by itself; asks nobody."""

    db_size: int
    db_size_in_use: int
    leader: int | None
    raft_index: int
    raft_term: int
    applied_index: int
    errors: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LeaseStatus:
    """Seconds left (floor; -1: no such lease), the TTL it was granted, the keys attached to it."""

    remaining: int
    granted: int
    keys: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class WatchBatch:
    """All matching events of one or more whole revisions, in order; never a part of a revision."""

    revision: int  # the store's revision when the batch was cut
    events: Sequence[Any]  # machine ChangeEvents; record.mod_revision is the event's revision


class Subscription:
    """One watcher. `async for batch in subscription`; raises Compacted when its place is gone.

    Slow is allowed: its queue is bounded, and when that is full it reads history again. ServerStopped
    ends it when the node stops.
    """

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> WatchBatch:
        raise NotImplementedError

    def progress(self) -> int | None:
        """The revision up to which everything has been taken from this subscription, None if it is behind."""
        raise NotImplementedError

    async def aclose(self) -> None:
        """Forget this watcher; harmless twice. A pending `__anext__` ends with StopAsyncIteration."""
        raise NotImplementedError


class Node:
    """One member of the cluster. All methods belong to the loop it was started on.

    Reads and proposals raise StoreError for a definite "did not happen", OutcomeUnknown (RequestTimedOut)
    when it may have. NoLeader comes after three election timeouts without one; the whole time-out is
    5 s + 2 election timeouts.
    """

    @classmethod
    async def start(cls, config: NodeConfig) -> Node:
        """Open the file, join the peers and begin to tick. Raises StartupError. Waits for no leader."""
        raise NotImplementedError

    async def stop(self) -> None:
        """End watches and waiters (ServerStopped), flush what is applied, close. Idempotent."""
        raise NotImplementedError

    async def failed(self) -> BaseException:
        """Wait for the error after which this process must end; the loop and the writer report here."""
        raise NotImplementedError

    def header(self) -> Header:
        raise NotImplementedError

    @property
    def has_leader(self) -> bool:
        raise NotImplementedError

    @property
    def lease_ttl_min(self) -> int:
        """The shortest TTL a lease may have: 1.5 election timeouts, rounded up to a second."""
        raise NotImplementedError

    async def propose(self, command: Command) -> Answer:
        """Have `command` committed and applied here, and give its answer (historic ranges filled in)."""
        raise NotImplementedError

    async def read_barrier(self) -> None:
        """A linearizable read point: everything acknowledged before this call is applied here after it."""
        raise NotImplementedError

    async def range(self, request: Range, *, serializable: bool) -> Answer:
        """RangeResult at request.revision (0: newest). Raises Compacted, FutureRevision."""
        raise NotImplementedError

    async def read_txn(self, txn: Txn, *, serializable: bool) -> Answer:
        """TxnResult of a txn that writes nothing; one consistent read, not replicated."""
        raise NotImplementedError

    def watch(
        self,
        key: bytes,
        range_end: bytes = b"",
        start_revision: int = 0,
        *,
        prev_kv: bool = False,
        no_put: bool = False,
        no_delete: bool = False,
    ) -> Subscription:
        """Events from `start_revision` on, or after header().revision of this very moment when it is 0.

        Returns at once; Compacted comes from the iterator. Events carry `previous` only if `prev_kv`.
        """
        raise NotImplementedError

    async def keepalive(self, lease_id: int) -> int:
        """Renew; the granted TTL, or 0 when the lease is gone or its expiry is already decided."""
        raise NotImplementedError

    async def time_to_live(self, lease_id: int) -> LeaseStatus:
        raise NotImplementedError

    async def leases(self) -> list[int]:
        """The ids of all leases, after a read barrier."""
        raise NotImplementedError

    def members(self) -> list[MemberInfo]:
        """The local view; call read_barrier() first for a linearizable one."""
        raise NotImplementedError

    def status(self) -> NodeStatus:
        raise NotImplementedError
