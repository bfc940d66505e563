"""What must hold in every history, whatever is lost, late, doubled, cut off, stopped, crashed or replaced.

Place in the house   world, node  ->  invariants
Takes                every core, after everything that happens to it; what is on the nodes' disks
Never                looks at a reason; a broken promise is a broken promise
"""

from collections.abc import Callable, Iterable

from jobguard_store.raft import (
    AppendReply,
    Configuration,
    Entry,
    EntryId,
    EntryKind,
    Message,
    PreVote,
    PreVoteRequest,
    Raft,
    Ready,
    Role,
    Vote,
    VoteRequest,
)
from jobguard_store.raft.quorum import majority
from tests.simulation.disk import Disk, Staged, State


class Broken(AssertionError):
    """A promise of Raft was broken."""


class Ledger:
    """All that was ever promised, by anyone, and the checks against it."""

    def __init__(self, founders: Configuration, disk_of: Callable[[int], Disk]) -> None:
        self._disk_of = disk_of
        self._terms = {0}
        self._leaders: dict[int, int] = {}
        self._votes: dict[tuple[int, int], int] = {}
        self._spoke: dict[int, int] = {}
        self._acknowledged_to: dict[int, tuple[int, int]] = {}  # by node: in which term, up to where
        self._entries: dict[tuple[int, int], tuple[Entry, int | None]] = {}
        self._committed_in: list[int] = []
        self._states = [State()]
        self.configurations = [(0, founders)]  # the committed ones, by index
        self.committed: list[Entry] = []
        self.acknowledged: dict[int, bytes] = {}
        self.floor = 0  # every read that begins now must see at least this much

    # -- After every step

    def watch(self, node: int, raft: Raft) -> None:
        """Terms, elections and commits, at the moment they happen in a core."""
        if raft.role is Role.CANDIDATE:
            self._terms.add(raft.term)
        elif raft.term not in self._terms:
            raise Broken(f"{node} is in term {raft.term}, which no candidate began")
        if raft.role is Role.LEADER and self._leaders.get(raft.term) != node:
            self._leads(node, raft)
        if raft.commit_index > len(self.committed):
            if self._leaders.get(raft.term) != node:
                raise Broken(
                    f"{node} commits {raft.commit_index}, no leader committed more than {self._last}"
                )
            for entry in raft.log.slice(self._last + 1, raft.commit_index):
                self._commits(node, raft, entry)

    @property
    def _last(self) -> int:
        return len(self.committed)

    def _leads(self, node: int, raft: Raft) -> None:
        """Election safety (5.2), and leader completeness (5.4)."""
        if raft.term in self._leaders:
            raise Broken(f"two leaders in term {raft.term}: {self._leaders[raft.term]} and {node}")
        self._leaders[raft.term] = node
        if raft.configuration != self._last_configuration(raft):
            raise Broken(f"leader {node} counts {raft.configuration}, its log says otherwise")
        base = raft.log.base.index
        for entry, term in zip(self.committed[base:], self._committed_in[base:], strict=True):
            if term < raft.term and raft.log.term_at(entry.index) != entry.term:
                raise Broken(f"leader {node} of term {raft.term} lacks committed entry {entry.id}")

    def _last_configuration(self, raft: Raft) -> Configuration:
        """What the whole log says, the part of it before its base included."""
        base = raft.log.base.index
        for entry in reversed(raft.log.slice(base + 1, raft.last_index)):
            if entry.kind is EntryKind.CONFIG:
                return Configuration.decode(entry.data)
        return self.configuration_at(base)

    def _commits(self, node: int, raft: Raft, entry: Entry) -> None:
        """Committed means durable, right now, on a quorum of those that count."""
        voters = raft.configuration.voters
        holders = sum(self._disk_of(voter).holds(entry.id) for voter in voters)
        if holders < majority(len(voters)):
            raise Broken(f"{node} commits {entry.id}, which is on {holders} disks of {voters}")
        if entry.kind is EntryKind.CONFIG:
            self._configures(entry.index, Configuration.decode(entry.data))
        self.committed.append(entry)
        self._committed_in.append(raft.term)
        self._states.append(self._states[-1].after(entry))

    def _configures(self, index: int, configuration: Configuration) -> None:
        """One voter at a time (thesis 4.1)."""
        before = self.configurations[-1][1]
        if len(set(before.voters) ^ set(configuration.voters)) > 1:
            raise Broken(f"{index} goes from {before.voters} to {configuration.voters}")
        self.configurations.append((index, configuration))

    # -- What a node is told to do

    def takes(self, node: int, ready: Ready, term_at: Callable[[int], int | None]) -> None:
        """Log matching (5.3), entry by entry: one index and term, one content and one predecessor."""
        for entry in ready.entries:
            holds = (entry, term_at(entry.index - 1))
            known = self._entries.setdefault((entry.index, entry.term), holds)
            if known != holds:
                raise Broken(f"{node} holds {holds}, others hold {known}")

    def applies(self, node: int, entry: Entry, state: State) -> None:
        """State machine safety (5.4.3)."""
        if entry.index > self._last or self.committed[entry.index - 1] != entry:
            raise Broken(f"{node} applies {entry}, which is not what was committed")
        if self._states[entry.index] != state:
            raise Broken(f"{node} is in another state at {entry.index}")

    def restores(self, node: int, raft: Raft, staged: Staged) -> None:
        """A snapshot is what the log up to its index leads to, and takes the place of nothing that counts."""
        last = staged.name.last
        if self._acknowledged_to.get(node, (0, 0)) > (raft.term, last.index):
            raise Broken(f"{node} drops what it acknowledged in term {raft.term} behind {last}")
        if staged.state != self._states[last.index] or self.committed[last.index - 1].term != last.term:
            raise Broken(f"{node} is given a state that is not the one at {last}")
        if staged.name.configuration != self.configuration_at(last.index):
            raise Broken(f"{node} is given the configuration of another time than {last}")

    def configuration_at(self, index: int) -> Configuration:
        return next(held for since, held in reversed(self.configurations) if since <= index)

    # -- What leaves a node, and what it comes back with

    def starts(self, node: int, disk: Disk) -> None:
        """It is on its disk in which term it spoke (5.1)."""
        if disk.hard_state.term < self._spoke.get(node, 0):
            raise Broken(f"{node} spoke in term {self._spoke[node]}, and starts in {disk.hard_state.term}")

    def says(self, message: Message) -> None:
        """One vote per node and term, over all its restarts (5.2)."""
        if isinstance(message, PreVote | PreVoteRequest):
            return  # they speak of terms that nobody has entered
        self._spoke[message.sender] = max(message.term, self._spoke.get(message.sender, 0))
        if isinstance(message, VoteRequest):
            self._votes_for(message.sender, message.term, message.sender)
        elif isinstance(message, Vote) and message.granted:
            self._votes_for(message.sender, message.term, message.to)

    def _votes_for(self, node: int, term: int, candidate: int) -> None:
        other = self._votes.setdefault((node, term), candidate)
        if other != candidate:
            raise Broken(f"{node} voted for {other} and for {candidate} in term {term}")

    def acknowledges(self, reply: AppendReply, raft: Raft) -> None:
        """What a follower says it holds is on its disk (5.3), as the log of this term has it."""
        if reply.term != raft.term:
            return  # of a past term, about a log that may have given way since
        disk, term = self._disk_of(reply.sender), raft.log.term_at(reply.match)
        if disk.last_index < reply.match or not (term is None or disk.holds(EntryId(term, reply.match))):
            raise Broken(f"{reply.sender} acknowledges {reply.match}, which is not on its disk")
        known = self._acknowledged_to.get(reply.sender, (0, 0))
        self._acknowledged_to[reply.sender] = max(known, (reply.term, reply.match))

    def answers(self, index: int, data: bytes) -> None:
        """A client was told that its write is done."""
        self.acknowledged[index] = data
        self.floor = max(self.floor, index)

    def reads(self, node: int, index: int, floor: int) -> None:
        """Linearizable: it sees all that was acknowledged, or seen by another read, before it began."""
        if index < floor:
            raise Broken(f"a read at {node} sees up to {index}; when it began, {floor} had been seen")

    # -- In the end

    def ends(self, states: Iterable[State]) -> None:
        """After everything healed, all members hold the same, and each acknowledged write in its place."""
        for state in states:
            if state != self._states[-1]:
                raise Broken(f"a node ended with {state.index} entries that are not what was committed")
        for index, data in self.acknowledged.items():
            if self.committed[index - 1].data != data:
                raise Broken(f"acknowledged write {data!r} is not at {index} any more")
