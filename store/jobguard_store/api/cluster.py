"""Members and the state of one member.

Place in the house   server -> cluster -> node
"""

from typing import TYPE_CHECKING

from jobguard import wire
from jobguard.wire import int64
from jobguard_store.api.exchange import decode
from jobguard_store.api.shapes import Body, header
from jobguard_store.config import parse_urls
from jobguard_store.errors import BadMemberURLs, StartupError

if TYPE_CHECKING:
    from jobguard_store.node import Node

# Which etcd we answer like, and are compared with. Clients read three integers and choose their ways by them.
ETCD_VERSION = "3.5.1"
ETCD_CLUSTER_VERSION = "3.5.0"


async def member_list(node: "Node", body: bytes) -> Body:
    request = decode(body, wire.MemberListRequest)
    if request.linearizable:
        await node.read_barrier()
    return wire.encode(wire.MemberListResponse(header=header(node, revision=0), members=_members(node)))


async def member_add(node: "Node", body: bytes) -> Body:
    request = decode(body, wire.MemberAddRequest)
    urls = _peer_urls(request.peerURLs)
    added = await node.add_member(urls, is_learner=request.isLearner)
    members = _members(node)
    unless_gone = wire.Member(ID=int64(added), peerURLs=urls)
    member = next((each for each in members if int(each.ID) == added), unless_gone)
    return wire.encode(
        wire.MemberAddResponse(header=header(node, revision=0), member=member, members=members)
    )


async def member_remove(node: "Node", body: bytes) -> Body:
    await node.remove_member(int(decode(body, wire.MemberRemoveRequest).ID))
    return _changed(node)


async def member_promote(node: "Node", body: bytes) -> Body:
    await node.promote_member(int(decode(body, wire.MemberPromoteRequest).ID))
    return _changed(node)


async def member_update(node: "Node", body: bytes) -> Body:
    request = decode(body, wire.MemberUpdateRequest)
    await node.move_member(int(request.ID), _peer_urls(request.peerURLs))
    return _changed(node)


def _changed(node: "Node") -> bytes:
    return wire.encode(wire.MemberChangeResponse(header=header(node, revision=0), members=_members(node)))


def _members(node: "Node") -> tuple[wire.Member, ...]:
    return tuple(
        [
            wire.Member(
                ID=int64(member.id),
                name=member.name,
                peerURLs=member.peer_urls,
                clientURLs=member.client_urls,
                isLearner=member.is_learner,
            )
            for member in node.members()
        ]
    )


def _peer_urls(urls: tuple[str, ...]) -> tuple[str, ...]:
    try:
        return parse_urls("peerURLs", ",".join(urls))
    except StartupError:
        raise BadMemberURLs from None


async def transfer_leadership(node: "Node", body: bytes) -> Body:
    request = decode(body, wire.MoveLeaderRequest)
    await node.transfer_leadership(int(request.targetID))
    return wire.encode(wire.MoveLeaderResponse())


async def hash_kv(node: "Node", body: bytes) -> Body:
    """This member's own keys and values, hashed, for a comparison of members. It asks nobody."""
    request = decode(body, wire.HashKVRequest)
    found = await node.hash_kv(int(request.revision))
    return wire.encode(
        wire.HashKVResponse(
            header=header(node, node.header().revision),
            hash=found.value,
            compact_revision=int64(found.compact_revision),
            hash_revision=int64(found.revision),
        )
    )


async def status(node: "Node", body: bytes) -> Body:
    """What this member knows by itself: it answers without a quorum, for that is when it is asked."""
    decode(body, wire.StatusRequest)
    now = node.status()
    return wire.encode(
        wire.StatusResponse(
            header=header(node, node.header().revision),
            version=ETCD_VERSION,
            dbSize=int64(now.db_size),
            leader=int64(now.leader or 0),
            raftIndex=int64(now.raft_index),
            raftTerm=int64(now.raft_term),
            raftAppliedIndex=int64(now.applied_index),
            errors=now.errors,
            dbSizeInUse=int64(now.db_size_in_use),
            isLearner=now.is_learner,
        )
    )
