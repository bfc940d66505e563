"""Who is in the cluster, as far as this node has applied its log; and which of those who dial it are let in.

Place in the house   replica -> members -> raft (Configuration), storage.lives
Takes                configurations, as they are applied; what peers say of themselves
Gives                the member list; a refusal for who must not come in
Never                counts votes: that is the core's, which goes by the last configuration in its log
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from jobguard_store.errors import TooOld
from jobguard_store.peer_messages import Hello, Unwelcome
from jobguard_store.raft import Configuration, Member
from jobguard_store.storage.database import Identity
from jobguard_store.storage.lives import Life


@dataclass(frozen=True, slots=True)
class MemberInfo:
    """A member that was added and never started has no name and no client URLs."""

    id: int
    name: str
    peer_urls: tuple[str, ...]
    client_urls: tuple[str, ...]
    is_learner: bool = False


class About(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a configuration says of a member besides its vote: JSON, a format for ever.

    Name and client URLs are the member's own word, given once it runs. With `wants_vote` the leader promotes
    it as soon as it has caught up.
    """

    name: str = ""
    peer_urls: tuple[str, ...] = ()
    client_urls: tuple[str, ...] = ()
    wants_vote: bool = False

    def encode(self) -> bytes:
        return msgspec.json.encode(self)


def about(member: Member) -> About:
    return msgspec.json.decode(member.data or b"{}", type=About)


def founders(identity: Identity) -> Configuration:
    """Who is in the cluster before the first entry of its log. A node that joins one knows of nobody."""
    members = [
        Member(member.id, True, About(member.name, member.peer_urls).encode())
        for member in identity.initial_members
    ]
    return Configuration(tuple(sorted(members, key=lambda member: member.id)))


def data_is_gone(member_id: int, name: str) -> str:
    return (
        f"member {member_id:x} ({name}) ran before with data that is gone: remove it with `member remove` "
        "and add it under a new id with `member add`"
    )


def was_removed(member_id: int) -> str:
    return (
        f"member {member_id:x} was removed from the cluster: to come back it needs a new id, "
        "by `member add`, an empty --data-dir and --initial-cluster-state existing"
    )


def life_of(hello: Hello) -> Life:
    return Life(hello.disk, hello.boot, hello.nonce)


class Members:
    def __init__(self, configuration: Configuration, lives: Mapping[int, Life]) -> None:
        self.configuration = configuration  # the one applied last, so for good
        self._lives = dict(lives)

    def list(self) -> list[MemberInfo]:
        return [
            MemberInfo(member.id, said.name, said.peer_urls, said.client_urls, not member.voter)
            for member in self.configuration.members
            for said in (about(member),)
        ]

    def refusal(self, hello: Hello) -> Unwelcome | None:
        """A peer introduces itself. On another disk than before, or an old copy of it, it must not come in.

        Nor with a build that cannot read what the log may hold.

        Such a node has forgotten its votes and what it acknowledged. Were it let in again under its old id,
        it could help to elect a leader that lacks entries which it had itself helped to commit. A copy shows
        by its count of starts, which stood still or fell back.

        A stranger may come in: our log may lack the entry that makes it a member, and it may need our vote.
        """
        if hello.sender in self.configuration.removed:
            return Unwelcome(reason=was_removed(hello.sender), fatal=True)
        if hello.level < self.configuration.level:
            return Unwelcome(
                reason=str(TooOld("the cluster", self.configuration.level, hello.level)), too_old=True
            )
        before, now = self._lives.get(hello.sender), life_of(hello)
        if before in (None, now) or (before.disk == now.disk and before.boot < now.boot):
            return None
        return Unwelcome(reason=data_is_gone(hello.sender, hello.name), fatal=True)

    def knows(self, hello: Hello) -> bool:
        """Whether there is nothing new to remember about this peer."""
        return self._lives.get(hello.sender) == life_of(hello)

    def met(self, hello: Hello) -> None:
        self._lives[hello.sender] = life_of(hello)
