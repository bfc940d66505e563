"""Who is who: ids of the cluster and its members, and whether a file and the flags speak of the same ones.

Place in the house   node -> cluster -> config, storage.database (Identity)
Takes                the flags; what the file says; what peers say of themselves
Gives                the node's Identity, the member list, or a StartupError of one sentence
Never                changes an identity: that is written once, at a node's first start

Ids are hashes of what all members are told alike (their peer URLs and the token), so that they agree on them
before they have ever met. They stay below 2^63, so that every signed 64-bit integer on their way holds them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from jobguard_store.config import NodeConfig
from jobguard_store.errors import StartupError
from jobguard_store.peer_messages import Hello, Unwelcome
from jobguard_store.storage.database import Identity, InitialMember
from jobguard_store.storage.lives import Life


@dataclass(frozen=True, slots=True)
class MemberInfo:
    """`client_urls` of a peer are what it said when it last dialled us; none before that."""

    id: int
    name: str
    peer_urls: tuple[str, ...]
    client_urls: tuple[str, ...]
    is_learner: bool = False


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


def check_same_cluster(stored: Identity, told: Identity, config: NodeConfig) -> None:
    """A file that belongs to another cluster or member must not be used under these flags."""
    if stored.cluster_id != told.cluster_id:
        names = ", ".join(sorted(member.name for member in stored.initial_members))
        raise StartupError(
            f"{config.data_dir} belongs to cluster {stored.cluster_id:x} ({names}), but --initial-cluster "
            f"and --initial-cluster-token describe cluster {told.cluster_id:x}: use another --data-dir, or "
            "the flags it was made with."
        )
    if stored.member_id != told.member_id:
        raise StartupError(
            f"{config.data_dir} belongs to member {stored.name!r}, but --name is {config.name!r}: "
            "every member needs a --data-dir of its own."
        )


def life_of(hello: Hello) -> Life:
    return Life(hello.disk, hello.boot, hello.nonce)


class Members:
    """The members as this node knows them, and what its peers have told it of themselves."""

    def __init__(self, identity: Identity, config: NodeConfig, lives: Mapping[int, Life]) -> None:
        self._identity = identity
        self._client_urls = {identity.member_id: config.advertise_client_urls}
        self._lives = dict(lives)

    def refusal(self, hello: Hello) -> Unwelcome | None:
        """A peer introduces itself. On another disk than before, or an old copy of it, it must not come in.

        Such a node has forgotten its votes and what it acknowledged. Were it let in again under its old id,
        it could help to elect a leader that lacks entries which it had itself helped to commit. A copy shows
        by its count of starts, which stood still or fell back.
        """
        before, now = self._lives.get(hello.sender), life_of(hello)
        if before in (None, now) or (before.disk == now.disk and before.boot < now.boot):
            return None
        return Unwelcome(
            reason=f"member {hello.sender:x} ({hello.name}) ran before with data that is gone: remove it "
            "with `member remove` and add it under a new id with `member add`",
            fatal=True,
        )

    def knows(self, hello: Hello) -> bool:
        """Whether there is nothing new to remember about this peer."""
        return self._lives.get(hello.sender) == life_of(hello)

    def met(self, hello: Hello) -> None:
        self._lives[hello.sender] = life_of(hello)
        self._client_urls[hello.sender] = hello.client_urls

    def list(self) -> list[MemberInfo]:
        return [
            MemberInfo(member.id, member.name, member.peer_urls, self._client_urls.get(member.id, ()))
            for member in self._identity.initial_members
        ]
