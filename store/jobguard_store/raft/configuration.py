"""Who is in the cluster, and who of them votes: a configuration, as a value and as the bytes of an entry.

Place in the house   node, raft.messages, raft.log  ->  raft.configuration
Never                imports anything of ours; decides when a configuration takes effect (raft.log does)

A configuration entry holds the whole configuration, not the step that led to it: whoever reads the log from
anywhere, or a snapshot, knows who counts.
"""

import json
from base64 import b64decode, b64encode
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

FIRST_LEVEL = 1
"""What every build can read that ever was."""


@dataclass(frozen=True, slots=True)
class Member:
    """`data` is the node's: a name, addresses. A member without a vote is a learner."""

    id: int
    voter: bool
    data: bytes = b""


@dataclass(frozen=True, slots=True)
class Configuration:
    """`removed` are ids that were members once. An id is used once: its disk may hold votes and promises.

    `level`: what may follow in the log, of which all members have said that they can read it.
    """

    members: tuple[Member, ...] = ()  # by id
    removed: tuple[int, ...] = ()
    level: int = FIRST_LEVEL

    @classmethod
    def of(cls, voters: Iterable[int]) -> Self:
        return cls(tuple(Member(voter, True) for voter in sorted(voters)))

    @property
    def ids(self) -> tuple[int, ...]:
        return tuple(member.id for member in self.members)

    @property
    def voters(self) -> tuple[int, ...]:
        return tuple(member.id for member in self.members if member.voter)

    def member(self, member_id: int) -> Member | None:
        return next((member for member in self.members if member.id == member_id), None)

    def encode(self) -> bytes:
        """A format for ever: keys are only ever added.

        And without need nothing is: a build that has never heard of levels compares these bytes with its own,
        for the same configuration, before it lives by a state that we send.
        """
        members = [
            {"id": member.id, "voter": member.voter, "data": b64encode(member.data).decode()}
            for member in self.members
        ]
        held: dict[str, object] = {"members": members, "removed": self.removed}
        if self.level > FIRST_LEVEL:
            held["level"] = self.level
        return json.dumps(held, separators=(",", ":")).encode()

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Raises ValueError for what `encode` did not write."""
        try:
            held = json.loads(data)
            members = tuple(
                Member(m["id"], m["voter"], b64decode(m["data"], validate=True)) for m in held["members"]
            )
            removed = tuple(held["removed"])
            level = held.get("level", FIRST_LEVEL)
        except (KeyError, TypeError, RecursionError) as error:
            raise ValueError(repr(error)) from error
        typed = all(type(member.id) is int and type(member.voter) is bool for member in members)
        if not typed or not all(type(each) is int for each in (*removed, level)):
            raise ValueError("an id that is no number, or a vote that is neither given nor not")
        return cls(members, removed, level)


NOBODY = Configuration()
"""What a node knows that is to join: the leader tells it the rest."""
