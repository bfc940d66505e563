"""Majorities: the questions Raft asks of a set of voters.

Place in the house   raft.core  ->  raft.quorum
Never                keeps anything
"""

from collections.abc import Collection, Iterable, Mapping
from enum import Enum


class Outcome(Enum):
    PENDING = "pending"
    WON = "won"
    LOST = "lost"


def majority(voters: int) -> int:
    """How many of so many make a quorum: any two quorums share a voter."""
    return voters // 2 + 1


def majority_holds(matches: Iterable[int]) -> int:
    """The highest index a majority holds; one match index per voter, 0 for who told nothing."""
    ordered = sorted(matches, reverse=True)
    return ordered[majority(len(ordered)) - 1]


def agreed(heard: Collection[int], voters: Collection[int]) -> bool:
    """Whether those are a majority. Who is no voter does not count."""
    return sum(voter in heard for voter in voters) >= majority(len(voters))


def tally(votes: Mapping[int, bool], voters: Collection[int]) -> Outcome:
    """How an election stands. Lost is known as soon as those who may still answer cannot turn it."""
    needed = majority(len(voters))
    granted = sum(votes.get(voter, False) for voter in voters)
    if granted >= needed:
        return Outcome.WON
    unanswered = sum(voter not in votes for voter in voters)
    return Outcome.PENDING if granted + unanswered >= needed else Outcome.LOST
