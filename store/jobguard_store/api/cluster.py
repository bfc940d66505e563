"""Members and the state of one member.

Place in the house   server -> cluster -> node
"""

from typing import TYPE_CHECKING

from jobguard import wire
from jobguard.wire import int64
from jobguard_store.api.exchange import decode
from jobguard_store.api.shapes import Body, header

if TYPE_CHECKING:
    from jobguard_store.node import Node

# Which etcd we answer like, and are compared with. Clients read three integers and choose their ways by them.
ETCD_VERSION = "3.5.1"
ETCD_CLUSTER_VERSION = "3.5.0"


async def member_list(node: "Node", body: bytes) -> Body:
    request = decode(body, wire.MemberListRequest)
    if request.linearizable:
        await node.read_barrier()
    members = tuple(
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
    return wire.encode(wire.MemberListResponse(header=header(node, revision=0), members=members))


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
        )
    )
