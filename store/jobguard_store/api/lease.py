"""Leases: granted, revoked, kept alive, asked about.

Place in the house   server -> lease -> node
Never                counts time: how much is left is the leader's to say
"""

import secrets
from typing import TYPE_CHECKING

from jobguard import wire
from jobguard.wire import int64
from jobguard_store.api.exchange import Exchange, decode
from jobguard_store.api.shapes import Body, header
from jobguard_store.errors import LeaseExists, LeaseTTLTooLarge
from jobguard_store.machine.commands import GrantLease, RevokeLease

if TYPE_CHECKING:
    from jobguard_store.node import Answer, Node

TTL_MAX = 9_000_000_000
LEASE_ID_BITS = 63


async def grant(node: "Node", body: bytes) -> Body:
    request = decode(body, wire.LeaseGrantRequest)
    if request.TTL > TTL_MAX:
        raise LeaseTTLTooLarge
    ttl = max(int(request.TTL), node.lease_ttl_min)
    if request.ID:
        answer = await node.propose(GrantLease(int(request.ID), ttl))
    else:
        answer = await grant_with_new_id(node, ttl)
    return wire.encode(
        wire.LeaseGrantResponse(
            header=header(node, answer.revision), ID=int64(answer.result.id), TTL=int64(answer.result.ttl)
        )
    )


async def grant_with_new_id(node: "Node", ttl: int) -> "Answer":
    """The id is drawn here, for apply may not draw; a taken one is drawn again, as the caller chose none."""
    while True:
        try:
            return await node.propose(GrantLease(secrets.randbits(LEASE_ID_BITS) or 1, ttl))
        except LeaseExists:
            continue


async def revoke(node: "Node", body: bytes) -> Body:
    request = decode(body, wire.LeaseRevokeRequest)
    answer = await node.propose(RevokeLease(int(request.ID)))
    return wire.encode(wire.LeaseRevokeResponse(header=header(node, answer.revision)))


async def time_to_live(node: "Node", body: bytes) -> Body:
    request = decode(body, wire.LeaseTimeToLiveRequest)
    status = await node.time_to_live(int(request.ID), keys=request.keys)
    return wire.encode(
        wire.LeaseTimeToLiveResponse(
            header=header(node, node.header().revision),
            ID=request.ID,
            TTL=int64(status.remaining),
            grantedTTL=int64(status.granted),
            keys=status.keys,
        )
    )


async def leases(node: "Node", body: bytes) -> Body:
    decode(body, wire.LeaseLeasesRequest)
    ids = await node.leases()
    return wire.encode(
        wire.LeaseLeasesResponse(
            header=header(node, node.header().revision),
            leases=tuple([wire.LeaseStatus(ID=int64(lease)) for lease in ids]),
        )
    )


async def keepalive(node: "Node", exchange: Exchange) -> None:
    """A line per request, and an end with the request's own: clients that send one read the answer whole."""
    async for request in exchange.messages(wire.LeaseKeepAliveRequest):
        revision = node.header().revision  # as etcd has it: from before the renewal
        ttl = await node.keepalive(int(request.ID))
        response = wire.LeaseKeepAliveResponse(header=header(node, revision), ID=request.ID, TTL=int64(ttl))
        await exchange.line(wire.stream_line(response))
    await exchange.end()
