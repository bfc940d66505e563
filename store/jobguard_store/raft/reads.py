"""ReadIndex: reads that wait for a quorum to confirm that we still lead, many reads to one round.

Place in the house   raft.core  ->  raft.reads
Never                confirms a read by an answer to a heartbeat sent before the read began

A round is one heartbeat to every peer under a context of its own, never used again by this node. Only one is
open at a time: reads that come meanwhile wait for the next. Were they let into the open one, a follower's
answer could be older than the read: it answers, a new leader is elected and commits a write, the read
begins, and the old answer "confirms" it without that write.
"""

from collections.abc import Collection

from jobguard_store.raft.messages import ReadReady
from jobguard_store.raft.quorum import agreed


class ReadRounds:
    def __init__(self, node_id: int, voters: Collection[int]) -> None:
        self._node_id = node_id
        self._voters = voters
        self._waiting: list[int] = []
        self._rounds = 0
        self._index = 0
        self._reads: list[int] = []
        self._confirmed_by: set[int] = set()
        self._confirmed: list[ReadReady] = []
        self._lost: list[int] = []

    @property
    def context(self) -> int:
        """The open round, or 0. A heartbeat that repeats it is one more chance for the same round."""
        return self._rounds if self._reads else 0

    @property
    def may_begin(self) -> bool:
        return bool(self._waiting) and not self._reads

    @property
    def has_results(self) -> bool:
        return bool(self._confirmed or self._lost)

    def ask(self, context: int) -> None:
        self._waiting.append(context)

    def begin(self, index: int) -> None:
        """Open a round for all who wait. `index` is our commit index, which holds an entry of our term."""
        assert self.may_begin
        self._rounds += 1
        self._index = index
        self._reads, self._waiting = self._waiting, []
        self._confirmed_by = {self._node_id}
        self._end_if_confirmed()

    def confirm(self, voter: int, context: int) -> None:
        """`voter` answered in our term that it heard `context`. Any but the open round is the past."""
        if not self._reads or context != self._rounds:
            return
        self._confirmed_by.add(voter)
        self._end_if_confirmed()

    def count_among(self, voters: Collection[int]) -> None:
        """The voters changed, and count from now on: those left may all have answered."""
        self._voters = voters
        self._end_if_confirmed()

    def _end_if_confirmed(self) -> None:
        if self._reads and agreed(self._confirmed_by, self._voters):
            self._confirmed += [ReadReady(read, self._index) for read in self._reads]
            self._reads = []

    def abandon(self) -> None:
        """Leadership is lost, and with it whoever has not been confirmed."""
        self._lost += self._reads + self._waiting
        self._reads, self._waiting = [], []

    def take(self) -> tuple[tuple[ReadReady, ...], tuple[int, ...]]:
        confirmed, lost = tuple(self._confirmed), tuple(self._lost)
        self._confirmed, self._lost = [], []
        return confirmed, lost
