"""Whose turn it is: keys in a queue under one prefix, the oldest of which owns what the prefix names.

Place in the house   lock, election -> contenders -> node (propose, range, watch)
Takes                a name, a lease, and what the contender's key shall hold
Gives                a Contender, which waits for its turn and gives up its place
Never                polls; says that it is somebody's turn without a look at his key after the wait

A contender waits for the one just before it, so the end of one wakes one. The waiting is done on this node's
own state: a key's predecessors are in it once the key is, and none is ever added. Only the last look, at
whether the lease outlived the wait, needs the cluster.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING, NamedTuple

from jobguard_store.api.lease import grant_with_new_id
from jobguard_store.errors import (
    Compacted,
    CorruptCluster,
    InvalidAuthToken,
    InvalidRequest,
    LeaseNotFound,
    NoSpace,
    OutcomeUnknown,
    PermissionDenied,
    RecipeRefused,
    StoreError,
)
from jobguard_store.machine.commands import (
    Compare,
    CompareTarget,
    DeleteRange,
    Put,
    Range,
    SortOrder,
    SortTarget,
    Txn,
)
from jobguard_store.machine.results import PutResult, RangeResult, Record, TxnResult
from jobguard_store.watchers import prefix_end

if TYPE_CHECKING:
    from jobguard_store.node import Node

LEASE_TTL_S = 60  # of who brings none; nobody renews it but its owner


class Contender(NamedTuple):
    prefix: bytes
    key: bytes
    lease: int
    revision: int  # its create_revision: its place, and the fencing token
    answered: int  # the revision of the answer that said so
    value: bytes
    first: bool  # was it its turn at once?

    def unchanged(self) -> Compare:
        return unchanged(self.key, self.revision)

    async def turn(self, node: "Node") -> int | None:
        """Wait for it. The revision at which this key was seen to come first; None if it was gone by then.

        Who is cancelled meanwhile, which is what happens when his client leaves, gives up his place.
        """
        if self.first:
            return self.answered
        async with self._or_leave(node):
            while (before := await self._before(node)) is not None:
                await gone(node, *before)
        with inner_errors():
            own = await node.range(Range(self.key), serializable=False)
        kvs = own.result.kvs
        return own.revision if kvs and kvs[0].create_revision == self.revision else None

    async def _before(self, node: "Node") -> tuple[bytes, int] | None:
        """Whom to wait for, and the revision at which he was still there."""
        last = Range(
            self.prefix,
            prefix_end(self.prefix),
            limit=1,
            sort_order=SortOrder.DESCEND,
            sort_target=SortTarget.CREATE,
            keys_only=True,
            max_create_revision=self.revision - 1,
        )
        found = await node.range(last, serializable=True)
        return (found.result.kvs[0].key, found.revision) if found.result.kvs else None

    @asynccontextmanager
    async def _or_leave(self, node: "Node") -> AsyncIterator[None]:
        try:
            yield
        except asyncio.CancelledError:
            await self.leave(node)
            raise

    async def leave(self, node: "Node") -> None:
        await node.propose(Txn((self.unchanged(),), (DeleteRange(self.key),)))


async def contend(node: "Node", name: bytes, lease: int, value: bytes = b"") -> Contender:
    """Take a place in the queue of `name`, or find the one that this lease has already.

    Who is cancelled while his key is on its way gives up the place it gets: else all behind it would wait for
    nobody, for as long as its lease is renewed.
    """
    with inner_errors():
        lease = lease or await session(node)
        taking = asyncio.ensure_future(_take_place(node, name + b"/", lease, value))
        try:
            contender, _ = await asyncio.shield(taking)
        except asyncio.CancelledError:
            with suppress(StoreError, OutcomeUnknown):
                contender, is_new = await taking
                if is_new:
                    await contender.leave(node)
            raise
    return contender


async def _take_place(node: "Node", prefix: bytes, lease: int, value: bytes) -> tuple[Contender, bool]:
    """The place, and whether it is new."""
    key = prefix + b"%x" % (lease & (1 << 64) - 1)
    owner = first(prefix)
    answer = await node.propose(
        Txn((unchanged(key, 0),), (Put(key, value, lease), owner), (Range(key), owner))
    )
    assert isinstance(answer.result, TxnResult)
    own, owners = answer.result.responses
    assert isinstance(owners, RangeResult)
    oldest: Record = owners.kvs[0]
    is_new = isinstance(own, PutResult)
    if isinstance(own, PutResult):
        revision = own.revision
    else:
        assert isinstance(own, RangeResult)
        revision, value = own.kvs[0].create_revision, own.kvs[0].value
    is_first = oldest.create_revision == revision
    return Contender(prefix, key, lease, revision, answer.revision, value, is_first), is_new


async def session(node: "Node") -> int:
    return int((await grant_with_new_id(node, LEASE_TTL_S)).result.id)


async def gone(node: "Node", key: bytes, since: int) -> None:
    """Wait until `key`, there at revision `since`, is deleted. Returns early if nobody can tell any more."""
    deletions = node.watch(key, start_revision=since + 1, no_put=True)
    try:
        with suppress(Compacted, StopAsyncIteration):
            await anext(deletions)
    finally:
        await deletions.aclose()


def first(prefix: bytes) -> Range:
    """Who has waited longest, and therefore owns what the prefix names."""
    return Range(
        prefix,
        prefix_end(prefix),
        limit=1,
        sort_order=SortOrder.ASCEND,
        sort_target=SortTarget.CREATE,
    )


def unchanged(key: bytes, revision: int) -> Compare:
    """`key` is the one that was created at `revision`; at 0, there is none."""
    return Compare(key, target=CompareTarget.CREATE, number=revision)


_REFUSALS = (
    InvalidRequest,
    LeaseNotFound,
    NoSpace,
    CorruptCluster,
    InvalidAuthToken,
    PermissionDenied,
)


@contextmanager
def inner_errors() -> Iterator[None]:
    """etcd's services are clients of it: what the store refuses them loses its code on the way out."""
    try:
        yield
    except _REFUSALS as error:
        raise RecipeRefused(str(error)) from None
