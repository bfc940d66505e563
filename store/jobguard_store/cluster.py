"""Who is who: ids of the cluster and its founders, and whether a file and the flags speak of the same ones.

Place in the house   opening -> cluster -> config, storage.database (Identity)
Takes                the flags; what the file says
Gives                the node's Identity, or a StartupError of one sentence
Never                changes an identity: that is written once, at a node's first start

Founders' ids are hashes of what all of them are told alike (their peer URLs and the token), so that they
agree on them before they have ever met; who joins later is given one. All stay below 2^63, so that every
signed 64-bit integer on their way holds them.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable

from jobguard_store.config import NEW, NodeConfig
from jobguard_store.errors import StartupError
from jobguard_store.storage.database import Identity, InitialMember


def stable_id(parts: Iterable[str]) -> int:
    digest = hashlib.sha256("\0".join(parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1 or 1


def identity_from(config: NodeConfig) -> Identity:
    """What the flags make of this node, should its file not know better."""
    members = tuple(
        InitialMember(
            stable_id((config.initial_cluster_token, *sorted(voter.peer_urls))),
            voter.name,
            tuple(sorted(voter.peer_urls)),
        )
        for voter in config.initial_cluster
    )
    own = next(member for member in members if member.name == config.name)
    cluster = stable_id(("cluster", *(str(number) for number in sorted(member.id for member in members))))
    return Identity(cluster, own.id, own.name, members)


def new_member_id() -> int:
    """Of a member that is added: no other was ever given it, and none will be."""
    return _drawn_id()


def new_cluster_id() -> int:
    """Of a cluster that begins anew with a member of another."""
    return _drawn_id()


def _drawn_id() -> int:
    return secrets.randbits(63) or 1


def restored_identity(config: NodeConfig, digest: bytes, skipped: int) -> Identity:
    """Of a member that begins with a backup, `skipped` revisions further: known to all who begin alike, and
    to nobody else.
    """
    founders = identity_from(config)
    begin = digest.hex(), str(skipped)
    members = tuple(
        InitialMember(stable_id((*begin, f"{member.id:x}")), member.name, member.peer_urls)
        for member in founders.initial_members
    )
    own = next(member for member in members if member.name == config.name)
    return Identity(stable_id(("restored", *begin, f"{founders.cluster_id:x}")), own.id, own.name, members)


def check_same_cluster(stored: Identity, config: NodeConfig) -> None:
    """A file that belongs to another cluster or member must not be used under these flags.

    Who founded a cluster is compared only where both tell: a node that joined was never told, and with
    --initial-cluster-state existing the flags speak of later members.
    """
    told = identity_from(config).cluster_id
    if config.initial_cluster_state == NEW and stored.initial_members and stored.cluster_id != told:
        names = ", ".join(sorted(member.name for member in stored.initial_members))
        raise StartupError(
            f"{config.data_dir} belongs to cluster {stored.cluster_id:x} ({names}), but --initial-cluster "
            f"and --initial-cluster-token describe cluster {told:x}: use another --data-dir, the flags it "
            "was made with, or --initial-cluster-state existing if the members have changed since."
        )
    if stored.name != config.name:
        raise StartupError(
            f"{config.data_dir} belongs to member {stored.name!r}, but --name is {config.name!r}: "
            "every member needs a --data-dir of its own."
        )
