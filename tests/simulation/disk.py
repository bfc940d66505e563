"""What a crash leaves: transactions, each whole or not at all, in the order they were written.

Place in the house   node, invariants  ->  disk  ->  jobguard_store.raft
Never                keeps half a transaction, or a later one without an earlier
"""

from dataclasses import dataclass
from typing import NamedTuple

from jobguard_store.raft import NOBODY, NOTHING, Entry, EntryId, EntryKind, HardState, Message, Snapshot
from jobguard_store.raft.configuration import Configuration


class State(NamedTuple):
    """The state machine: how many entries it is made of, and a digest of them all."""

    index: int = 0
    digest: int = 0

    def after(self, entry: Entry) -> "State":
        assert entry.index == self.index + 1, f"entry {entry.index} applied after {self.index}"
        return State(entry.index, hash((self.digest, entry)))


@dataclass(frozen=True, slots=True)
class Staged:
    """A state that arrived. With it comes what must not be used: what its sender had promised."""

    name: Snapshot
    state: State
    senders_hard_state: HardState


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """One transaction of the writer; then the messages may go."""

    staged: Staged | None = None
    hard_state: HardState | None = None
    entries: tuple[Entry, ...] = ()
    state: State | None = None  # the rows of what was applied
    base: Snapshot | None = None  # the log is trimmed up to here
    messages: tuple[Message, ...] = ()


class Disk:
    def __init__(self, founders: Configuration = NOBODY) -> None:
        self.hard_state = HardState()
        self.base = Snapshot(NOTHING, founders)
        self.entries: list[Entry] = []
        self.state = State()

    def write(self, batch: Write) -> None:
        if batch.staged is not None:
            self.base, self.entries, self.state = batch.staged.name, [], batch.staged.state
        if batch.hard_state is not None:
            self.hard_state = batch.hard_state
        if batch.entries:
            del self.entries[batch.entries[0].index - self.base.last.index - 1 :]
            self.entries += batch.entries
        if batch.state is not None and batch.state.index > self.state.index:
            self.state = batch.state
        if batch.base is not None and batch.base.last.index > self.base.last.index:
            del self.entries[: batch.base.last.index - self.base.last.index]
            self.base = batch.base

    @property
    def last_index(self) -> int:
        return self.base.last.index + len(self.entries)

    def holds(self, entry: EntryId) -> bool:
        """In its log, or in the state that stands for the log's beginning."""
        position = entry.index - self.base.last.index - 1
        if position < 0:
            return True
        return position < len(self.entries) and self.entries[position].term == entry.term

    def cut(self) -> Staged:
        """The state of one read transaction, with its name."""
        held = self.entries[: self.state.index - self.base.last.index]
        last = held[-1].id if held else self.base.last
        spelled = [entry.data for entry in held if entry.kind is EntryKind.CONFIG]
        configuration = Configuration.decode(spelled[-1]) if spelled else self.base.configuration
        return Staged(Snapshot(last, configuration), self.state, self.hard_state)
