"""Changes of who is in the cluster, one member at a time, and why one may be refused.

Place in the house   node, raft.core, raft.leading  ->  raft.membership  ->  raft.configuration
Takes                a configuration and a change
Gives                the configuration after it, or ChangeRefused
Never                appends; asks whether this is the moment (raft.leading does)

A change moves one voter at most, so that any majority before it and any majority after it share a voter
(thesis 4.1): two leaders of one term are impossible even while some nodes count the old way and some the new.
"""

from dataclasses import dataclass
from enum import Enum

from jobguard_store.raft.configuration import Configuration, Member


@dataclass(frozen=True, slots=True)
class AddLearner:
    """It is sent everything, and counts for nothing."""

    id: int
    data: bytes = b""


@dataclass(frozen=True, slots=True)
class AddVoter:
    """It counts at once, before it holds anything: a learner that is promoted later costs nobody a quorum."""

    id: int
    data: bytes = b""


@dataclass(frozen=True, slots=True)
class Promote:
    """A learner becomes a voter, once it has caught up."""

    id: int


@dataclass(frozen=True, slots=True)
class Remove:
    """For good: its id is not used again. A leader may remove itself, and leads until that is committed."""

    id: int


@dataclass(frozen=True, slots=True)
class Update:
    """What the node keeps about a member changes, its addresses say; its identity does not."""

    id: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Raise:
    """All members can read what is of `level`, and so must whoever comes later. It never falls."""

    level: int


Change = AddLearner | AddVoter | Promote | Remove | Update | Raise


class Refusal(Enum):
    PENDING = "another change is not committed yet"
    TOO_EARLY = "this leader has committed nothing yet"
    HANDING_OVER = "this leader is handing over"
    NOT_HIGHER = "the cluster is at this level, or above it"
    UNKNOWN = "no member has this id"
    KNOWN = "a member has this id"
    REMOVED = "a member with this id was removed, and an id is used once"
    NOT_A_LEARNER = "this member is a voter already"
    NOT_CAUGHT_UP = "this learner has not caught up with the leader"
    LAST_VOTER = "this member is the only voter"
    QUORUM_AT_RISK = "fewer voters than a quorum would be in touch with the leader"


class ChangeRefused(Exception):
    """Nothing was appended."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.value)
        self.refusal = refusal


def after(configuration: Configuration, change: Change) -> Configuration:
    """Raises ChangeRefused for what makes no sense, whenever it is asked for."""
    members = {member.id: member for member in configuration.members}
    removed, level = configuration.removed, configuration.level
    match change:
        case Raise():
            if change.level <= level:
                raise ChangeRefused(Refusal.NOT_HIGHER)
            level = change.level
        case AddLearner() | AddVoter():
            if change.id in members:
                raise ChangeRefused(Refusal.KNOWN)
            if change.id in removed:
                raise ChangeRefused(Refusal.REMOVED)
            members[change.id] = Member(change.id, isinstance(change, AddVoter), change.data)
        case _ if change.id not in members:
            raise ChangeRefused(Refusal.UNKNOWN)
        case Promote():
            if members[change.id].voter:
                raise ChangeRefused(Refusal.NOT_A_LEARNER)
            members[change.id] = Member(change.id, True, members[change.id].data)
        case Update():
            members[change.id] = Member(change.id, members[change.id].voter, change.data)
        case Remove():
            del members[change.id]
            removed = (*removed, change.id)
    then = Configuration(tuple(members[member] for member in sorted(members)), removed, level)
    if not then.voters:
        raise ChangeRefused(Refusal.LAST_VOTER)
    return then
