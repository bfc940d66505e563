"""What a leader knows of one peer: how far it has come, and what is on its way to it.

Place in the house   raft.leading  ->  raft.progress
Never                sends; it says what may be sent

PROBE      we do not know where the logs part: one append at a time, then wait for the answer.
REPLICATE  we do: appends are sent without waiting, as if each arrived, up to a number and a size in flight.
SNAPSHOT   it lacks what our log has forgotten: the node sends it a state, and no append helps before.
"""

from collections import deque
from enum import Enum


class State(Enum):
    PROBE = "probe"
    REPLICATE = "replicate"
    SNAPSHOT = "snapshot"


class Progress:
    def __init__(self, next_index: int, in_flight_max: int, in_flight_bytes_max: int) -> None:
        self._in_flight_max = in_flight_max
        self._in_flight_bytes_max = in_flight_bytes_max
        self.state = State.PROBE
        self.match = 0  # known to be equal, and durable there
        self.next_index = next_index  # the first entry the next append will carry
        self.told_commit = 0  # the commit index it has, or will have if nothing on its way is lost
        self.silent_ticks = 0  # since it last answered anything, in this term
        self._waits = False  # PROBE: something is out, and it has not been heard since
        self._in_flight: deque[tuple[int, int]] = deque()  # REPLICATE: last index and size of each append out
        self._in_flight_bytes = 0

    @property
    def may_append(self) -> bool:
        if self.state is State.REPLICATE:
            full = self._in_flight_bytes >= self._in_flight_bytes_max
            return not full and len(self._in_flight) < self._in_flight_max
        return self.state is State.PROBE and not self._waits

    def sent(self, last: int, size: int, commit_index: int) -> None:
        """An append of `size` bytes that ends in `last` went out."""
        if self.state is State.PROBE:
            self._waits = True
            return
        self.next_index = last + 1
        self._in_flight.append((last, size))
        self._in_flight_bytes += size
        self.told_commit = max(self.told_commit, min(commit_index, last))

    def probe(self) -> None:
        """What is in flight is not to be trusted: start again from what it acknowledged."""
        self.state = State.PROBE
        self.next_index = self.match + 1
        self.told_commit = min(self.told_commit, self.match)
        self._waits = False
        self._in_flight.clear()
        self._in_flight_bytes = 0

    def connection_lost(self) -> None:
        if self.state is State.REPLICATE:
            self.probe()

    def heard_heartbeat(self) -> None:
        """It is alive; if a probe was lost, the next one may go out."""
        self.silent_ticks = 0
        self._waits = False

    def acknowledged(self, match: int, base_index: int) -> bool:
        """Its log is equal to ours, which begins behind `base_index`, up to `match`. True if that is news."""
        self.silent_ticks = 0
        if match < self.match:
            return False  # late
        news = match > self.match or self.state is State.PROBE
        self.match = match
        if self.state is State.PROBE or (self.state is State.SNAPSHOT and match >= base_index):
            self.probe()
            self.state = State.REPLICATE
        self.next_index = max(self.next_index, match + 1)
        while self._in_flight and self._in_flight[0][0] <= match:
            self._in_flight_bytes -= self._in_flight.popleft()[1]
        return news

    def refused(self, previous: int, possible_match: int) -> bool:
        """It does not hold `previous`; the logs agree at most up to `possible_match`. False if late."""
        self.silent_ticks = 0
        if previous <= self.match or self.state is State.SNAPSHOT:
            return False
        if self.state is State.REPLICATE:
            self.probe()
            return True
        if previous != self.next_index - 1:
            return False
        self.next_index = max(min(previous, possible_match + 1), self.match + 1)
        self._waits = False
        return True

    # -- A state instead of entries

    def snapshot_offered(self) -> None:
        self.probe()
        self.state = State.SNAPSHOT

    def snapshot_ended(self, last: int | None) -> None:
        """The state up to `last` is there, or (None) will not be. What came of it, its next answer tells."""
        if self.state is State.SNAPSHOT:
            self.probe()
            self.next_index = max(self.next_index, (last or 0) + 1)
            self._waits = True
