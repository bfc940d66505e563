"""What a leader knows of one peer: how far it has come, and what is on its way to it.

Place in the house   raft.core  ->  raft.progress
Never                sends; it says what may be sent

PROBE      we do not know where the logs part: one append at a time, then wait for the answer.
REPLICATE  we do: appends are sent without waiting, as if each arrived, up to a number in flight.
"""

from collections import deque
from enum import Enum


class State(Enum):
    PROBE = "probe"
    REPLICATE = "replicate"


class Progress:
    def __init__(self, next_index: int, in_flight_max: int) -> None:
        self._in_flight_max = in_flight_max
        self.state = State.PROBE
        self.match = 0  # known to be equal, and durable there
        self.next_index = next_index  # the first entry the next append will carry
        self.told_commit = 0  # the commit index it has, or will have if nothing on its way is lost
        self.silent_ticks = 0  # since it last answered anything, in this term
        self._probed = False  # PROBE: an append is out
        self._in_flight: deque[int] = deque()  # REPLICATE: the last index of each append that is out

    @property
    def may_append(self) -> bool:
        if self.state is State.PROBE:
            return not self._probed
        return len(self._in_flight) < self._in_flight_max

    def sent(self, last: int, commit_index: int) -> None:
        """An append that ends in `last` went out."""
        if self.state is State.PROBE:
            self._probed = True
            return
        self.next_index = last + 1
        self._in_flight.append(last)
        self.told_commit = max(self.told_commit, min(commit_index, last))

    def probe(self) -> None:
        """What is in flight is not to be trusted: start again from what it acknowledged."""
        self.state = State.PROBE
        self.next_index = self.match + 1
        self.told_commit = min(self.told_commit, self.match)
        self._probed = False
        self._in_flight.clear()

    def heard_heartbeat(self) -> None:
        """It is alive; if a probe was lost, the next one may go out."""
        self.silent_ticks = 0
        self._probed = False

    def acknowledged(self, match: int) -> bool:
        """Its log is equal to ours up to `match`. True if that is news."""
        self.silent_ticks = 0
        if match < self.match:
            return False  # late
        news = match > self.match or self.state is State.PROBE
        self.match = match
        if self.state is State.PROBE:
            self.state = State.REPLICATE
            self.next_index = match + 1
        self.next_index = max(self.next_index, match + 1)
        while self._in_flight and self._in_flight[0] <= match:
            self._in_flight.popleft()
        return news

    def refused(self, previous: int, possible_match: int) -> bool:
        """It does not hold `previous`; the logs agree at most up to `possible_match`. False if late."""
        self.silent_ticks = 0
        if previous <= self.match:
            return False
        if self.state is State.REPLICATE:
            self.probe()
            return True
        if previous != self.next_index - 1:
            return False
        self.next_index = max(min(previous, possible_match + 1), self.match + 1)
        self._probed = False
        return True
