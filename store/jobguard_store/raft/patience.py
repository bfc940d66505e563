"""How long a node waits for a leader before it asks for an election, and whom it hears meanwhile.

Place in the house   raft.core  ->  raft.patience
Takes                ticks, word of the leader, hints that its connection closed
Never                sends, or changes a term

While a leader is heard, nobody else's wish for an election is (thesis 4.2.3): a node that merely does not
hear the leader must not depose it. A closed connection is a hint that the leader is gone. It opens this node
to pre-votes at once, and to the votes of those it granted one; a vote that no pre-vote announced stays
unheard. So a wrong hint costs a leader nothing unless a quorum shares it.

Those who heard one leader fall silent know of each other, and take turns: the first asks as soon as all have
waited an election timeout, the next two ticks later. Chance decides only where there was no leader to follow,
or where the turns led to nothing.
"""

from typing import Protocol


class Randomness(Protocol):
    """The one thing drawn: a number in [start, stop). random.Random fits."""

    def randrange(self, start: int, stop: int, /) -> int: ...


TURN_TICKS = 2  # between two turns: an election's time, with a tick to spare


class Patience:
    def __init__(self, election_ticks: int, rivals: int, random: Randomness) -> None:
        self._election_ticks = election_ticks
        self.rivals = rivals  # the voters besides us
        self._random = random
        self._elapsed = 0
        self._timeout = 0
        self._unled_ticks = election_ticks  # since a leader was heard
        self._lost = False  # its connection closed since
        self._announced: set[int] = set()  # whom we granted a pre-vote on that hint alone
        self._hurry_ticks = 0  # how long the hint makes us try again soon
        self.restart()

    @property
    def leader_is_heard(self) -> bool:
        return self._unled_ticks < self._election_ticks

    @property
    def hears_pre_votes(self) -> bool:
        return not self.leader_is_heard or self._lost

    def hears_vote_of(self, candidate: int) -> bool:
        return not self.leader_is_heard or candidate in self._announced

    def tick(self) -> bool:
        """Whether patience has come to an end."""
        self._elapsed += 1
        self._unled_ticks += 1
        self._hurry_ticks = max(self._hurry_ticks - 1, 0)
        return self._elapsed >= self._timeout

    def restart(self) -> None:
        """Wait anew, for a time that differs between nodes, so that they seldom ask at once (5.2)."""
        self._elapsed = 0
        if self.rivals == 0:
            self._timeout = 1  # nobody to collide with
        elif self._hurry_ticks:
            self._timeout = self._random.randrange(1, self.rivals + 3)
        else:
            self._timeout = self._random.randrange(self._election_ticks, 2 * self._election_ticks)

    def leader_found(self, rank: int) -> None:
        """A leader is heard again, or for the first time. A hint that it is gone was wrong, or is over.

        `rank` is our turn to follow it. The first waits a tick longer than the leader is heard: ticks of
        different nodes do not fall together, and all must be willing to grant it a pre-vote by then.
        """
        self._lost = False
        self._announced.clear()
        self._hurry_ticks = 0
        self._timeout = self._election_ticks + 1 + TURN_TICKS * rank

    def leader_heard(self) -> None:
        self._elapsed = 0
        self._unled_ticks = 0

    def leader_forgotten(self) -> None:
        """Nobody leads that we know of: whoever asks is heard."""
        self._unled_ticks = self._election_ticks
        self._lost = False
        self._announced.clear()
        self.restart()

    def leader_lost(self, rank: int) -> None:
        """A hint. The voters take their turns now; the first should ask at once."""
        self._lost = True
        self._hurry_ticks = self._election_ticks
        self._elapsed = 0
        self._timeout = TURN_TICKS * rank

    def pre_vote_granted(self, candidate: int) -> None:
        if self._lost:
            self._announced.add(candidate)
