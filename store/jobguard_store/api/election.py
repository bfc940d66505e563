"""The election service: the leader is the oldest key under an election's name; its value speaks for him.

Place in the house   server -> election -> contenders -> node
"""

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from jobguard import wire
from jobguard.wire import int64
from jobguard_store.api.contenders import contend, first, inner_errors, session, unchanged
from jobguard_store.api.exchange import GRPC, JSON, Exchange, decode
from jobguard_store.api.shapes import Body, header, key_value
from jobguard_store.errors import (
    Compacted,
    InvalidAuthToken,
    KeyNotProvided,
    LeaderKeyNotProvided,
    NobodyElected,
    NotElected,
    PermissionDenied,
    UserEmpty,
)
from jobguard_store.machine.commands import DeleteRange, Put, Txn
from jobguard_store.machine.results import ChangeKind, Record
from jobguard_store.watchers import prefix_end

if TYPE_CHECKING:
    from jobguard_store.node import Answer, Node


async def campaign(node: "Node", exchange: Exchange) -> None:
    """Answers when the caller leads; one that goes away meanwhile leaves the queue."""
    request = decode(await exchange.body(), wire.CampaignRequest)
    answer = await exchange.while_there(_campaign(node, request))
    await exchange.answer(200, (JSON, GRPC), wire.encode(answer))


async def _campaign(node: "Node", request: wire.CampaignRequest) -> wire.CampaignResponse:
    contender = await contend(node, request.name, int(request.lease), request.value)
    leader = wire.LeaderKey(
        name=request.name,
        key=contender.key,
        rev=int64(contender.revision),
        lease=int64(contender.lease),
    )
    if contender.value != request.value:
        await _proclaim(node, leader, request.value)
    if await contender.turn(node) is None:
        raise NotElected
    return wire.CampaignResponse(header=header(node, contender.answered), leader=leader)


async def proclaim(node: "Node", body: bytes) -> Body:
    request = decode(body, wire.ProclaimRequest)
    answer = await _proclaim(node, _given(request.leader), request.value)
    return wire.encode(wire.ProclaimResponse(header=header(node, answer.revision)))


async def _proclaim(node: "Node", leader: wire.LeaderKey, value: bytes) -> "Answer":
    with inner_errors():
        lease = int(leader.lease) or await session(node)
        answer = await node.propose(
            Txn((unchanged(leader.key, int(leader.rev)),), (Put(leader.key, value, lease),))
        )
    if not answer.result.succeeded:
        raise NotElected
    return answer


async def resign(node: "Node", body: bytes) -> Body:
    """Nothing to do for one who does not lead."""
    leader = _given(decode(body, wire.ResignRequest).leader)
    with inner_errors():
        answer = await node.propose(
            Txn((unchanged(leader.key, int(leader.rev)),), (DeleteRange(leader.key),))
        )
    return wire.encode(wire.ResignResponse(header=header(node, answer.revision)))


def _given(leader: wire.LeaderKey | None) -> wire.LeaderKey:
    if leader is None:
        raise LeaderKeyNotProvided
    with inner_errors():
        if not leader.key:
            raise KeyNotProvided
    return leader


async def leader(node: "Node", body: bytes) -> Body:
    request = decode(body, wire.LeaderRequest)
    with inner_errors():
        found = await node.range(first(request.name + b"/"), serializable=False)
    if not found.result.kvs:
        raise NobodyElected
    return wire.encode(_led_by(node, found.revision, found.result.kvs[0]))


async def observe(node: "Node", exchange: Exchange) -> None:
    """A line for the leader of now and one for each value and leader after it; none for who may not know."""
    request = decode(await exchange.body(), wire.LeaderRequest)
    try:
        await exchange.while_there(_observe(node, exchange, request.name + b"/"))
    except (InvalidAuthToken, PermissionDenied, UserEmpty):
        await exchange.end()


async def _observe(node: "Node", exchange: Exchange, prefix: bytes) -> None:
    while True:
        try:
            async for revision, record in _reign(node, prefix):
                await exchange.line(wire.stream_line(_led_by(node, revision, record)))
        except Compacted:
            pass  # slower than compaction: what came between is skipped, as anybody's may be


async def _reign(node: "Node", prefix: bytes) -> AsyncIterator[tuple[int, Record]]:
    """What the leader says from now on, or the next one if there is none, until his key is gone."""
    found = await node.range(first(prefix), serializable=False)
    if found.result.kvs:
        revision, record = found.revision, found.result.kvs[0]
    else:
        record = await _newcomer(node, prefix, found.revision)
        revision = record.mod_revision
    yield revision, record
    subscription = node.watch(record.key, start_revision=revision + 1)
    try:
        async for batch in subscription:
            for change in batch.events:
                if change.kind is ChangeKind.DELETE:
                    return
                yield batch.revision, change.record
    finally:
        await subscription.aclose()


async def _newcomer(node: "Node", prefix: bytes, since: int) -> Record:
    subscription = node.watch(prefix, prefix_end(prefix), since + 1, no_delete=True)
    try:
        return (await anext(subscription)).events[0].record
    finally:
        await subscription.aclose()


def _led_by(node: "Node", revision: int, record: Record) -> wire.LeaderResponse:
    return wire.LeaderResponse(header=header(node, revision), kv=key_value(record))
