"""What must hold in every history, whatever is lost, late, doubled, cut off, stopped or crashed.

Place in the house   world  ->  invariants
Takes                what nodes hand out, and what is on their disks
Never                looks at a reason; a broken promise is a broken promise
"""

from collections.abc import Callable, Sequence

from jobguard_store.raft import Entry, EntryId, HardState, Ready, Vote
from jobguard_store.raft.quorum import majority


class Broken(AssertionError):
    """A promise of Raft was broken."""


class Ledger:
    """All that was ever promised, by anyone, and the checks against it."""

    def __init__(self, voters: int, disks: Callable[[], Sequence[Sequence[Entry]]]) -> None:
        self._quorum = majority(voters)
        self._disks = disks
        self._leaders: dict[int, int] = {}
        self._votes: dict[tuple[int, int], int] = {}
        self._entries: dict[tuple[int, int], tuple[bytes, int | None]] = {}
        self.committed: list[Entry] = []
        self.acknowledged: dict[int, bytes] = {}
        self.floor = 0  # every read that begins now must see at least this much

    def leads(self, node: int, term: int, term_at: Callable[[int], int | None]) -> None:
        """Election safety (5.2), and leader completeness (5.4)."""
        other = self._leaders.setdefault(term, node)
        if other != node:
            raise Broken(f"two leaders in term {term}: {other} and {node}")
        for entry in self.committed:
            # An entry is committed in the term of its leader or later; only leaders after that must hold it.
            if entry.term < term and term_at(entry.index) != entry.term:
                raise Broken(f"leader {node} of term {term} lacks committed entry {entry.id}")

    def voted(self, node: int, state: HardState) -> None:
        """One vote per node and term, over all its restarts (5.2)."""
        if state.voted_for is None:
            return
        other = self._votes.setdefault((node, state.term), state.voted_for)
        if other != state.voted_for:
            raise Broken(f"{node} voted for {other} and for {state.voted_for} in term {state.term}")

    def takes(self, node: int, ready: Ready, term_at: Callable[[int], int | None]) -> None:
        """Log matching (5.3), entry by entry: one index and term, one content and one predecessor."""
        for entry in ready.entries:
            holds = (entry.data, term_at(entry.index - 1))
            known = self._entries.setdefault((entry.index, entry.term), holds)
            if known != holds:
                raise Broken(f"{node} holds {holds} as {entry.id}, others hold {known}")

    def says(self, vote: object) -> None:
        if isinstance(vote, Vote) and vote.granted:
            self.voted(vote.sender, HardState(vote.term, vote.to))

    def commits(self, node: int, entries: Sequence[Entry]) -> None:
        """State machine safety (5.4.3), and: committed means durable on a quorum, right now."""
        for entry in entries:
            if entry.index <= len(self.committed):
                known = self.committed[entry.index - 1]
                if known != entry:
                    raise Broken(f"{node} commits {entry}, committed was {known}")
                continue
            if entry.index != len(self.committed) + 1:
                raise Broken(f"{node} commits {entry.id} after {len(self.committed)}")
            holders = sum(_holds(disk, entry.id) for disk in self._disks())
            if holders < self._quorum:
                raise Broken(f"{node} commits {entry.id}, which is on {holders} disks")
            self.committed.append(entry)

    def acknowledges(self, index: int, data: bytes) -> None:
        """A client was told that its write is done."""
        self.acknowledged[index] = data
        self.floor = max(self.floor, index)

    def reads(self, node: int, index: int, floor: int) -> None:
        """Linearizable: it sees all that was acknowledged, or seen by another read, before it began."""
        if index < floor:
            raise Broken(f"a read at {node} sees up to {index}; when it began, {floor} had been seen")

    def ends(self, machines: Sequence[Sequence[Entry]]) -> None:
        """After everything healed, all nodes hold the same, and each acknowledged write in its place."""
        for machine in machines:
            if list(machine) != self.committed:
                raise Broken(f"a node ended with {len(machine)} entries that are not what was committed")
        for index, data in self.acknowledged.items():
            if self.committed[index - 1].data != data:
                raise Broken(f"acknowledged write {data!r} is not at {index} any more")


def _holds(disk: Sequence[Entry], entry: EntryId) -> bool:
    return len(disk) >= entry.index and disk[entry.index - 1].term == entry.term
