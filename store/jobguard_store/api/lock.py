"""The lock service: a lock is held by the oldest key under its name, for as long as that key's lease.

Place in the house   server -> lock -> contenders -> node
"""

from typing import TYPE_CHECKING

from jobguard import wire
from jobguard_store.api.contenders import contend, inner_errors
from jobguard_store.api.exchange import GRPC, JSON, Exchange, decode
from jobguard_store.api.kv import delete_command
from jobguard_store.api.shapes import Body, header
from jobguard_store.errors import SessionExpired

if TYPE_CHECKING:
    from jobguard_store.node import Node


async def lock(node: "Node", exchange: Exchange) -> None:
    """Answers when the caller holds it; one that goes away meanwhile leaves the queue."""
    request = decode(await exchange.body(), wire.LockRequest)
    answer = await exchange.while_there(_lock(node, request))
    await exchange.answer(200, (JSON, GRPC), wire.encode(answer))


async def _lock(node: "Node", request: wire.LockRequest) -> wire.LockResponse:
    contender = await contend(node, request.name, int(request.lease))
    revision = await contender.turn(node)
    if revision is None:
        raise SessionExpired
    return wire.LockResponse(header=header(node, revision), key=contender.key)


async def unlock(node: "Node", body: bytes) -> Body:
    """Of whoever's lock it is: the key is all that is asked for."""
    request = decode(body, wire.UnlockRequest)
    with inner_errors():
        answer = await node.propose(delete_command(wire.DeleteRangeRequest(key=request.key)))
    return wire.encode(wire.UnlockResponse(header=header(node, answer.revision)))
