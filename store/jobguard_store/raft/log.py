"""The log in memory: what it holds, what of it the node has been handed, and what is on its disk.

Place in the house   raft.core  ->  raft.log
Never                decides what is committed; that is the core's

    base | 1 2 3 4 5 6 7 8 9
                 ^     ^   ^ last
                 |     handed out: the writer has it, or had it
                 durable: a crash leaves at least this

What precedes the base is forgotten: a snapshot stands in for it. Terms never fall along the log, so a term is
found by bisection.

The cluster's configuration is a matter of the log as well: the last one in it counts, from the moment it is
appended, committed or not (4.1 of Ongaro's thesis), and one that is cut off counts no more.
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from jobguard_store.raft.configuration import NOBODY, Configuration
from jobguard_store.raft.messages import Entry, EntryId, EntryKind, Snapshot


class Batch(NamedTuple):
    entries: tuple[Entry, ...]
    size: int  # of their data, in bytes


EMPTY = Batch((), 0)


class RaftLog:
    def __init__(
        self, base: EntryId, entries: Sequence[Entry], configuration: Configuration = NOBODY
    ) -> None:
        """`base` is the id of what precedes entries[0], `configuration` the one as of there; durable."""
        self.base = base
        self._entries = list(entries)
        for index, entry in enumerate(self._entries, base.index + 1):
            assert entry.index == index, f"the log has a gap: entry {entry.index} where {index} belongs"
        self.last_index = base.index + len(self._entries)
        self.durable_index = self.last_index
        self._handed_index = self.last_index
        # Each batch handed out and not yet reported durable, oldest first: its last id, and the index up to
        # which it vouches for what the log holds by now (see `persisted`).
        self._in_flight: deque[tuple[EntryId, int]] = deque()
        self._batch = EMPTY  # the batch made last: followers in step share it
        self._restored = False  # a snapshot took the log's place, and the node has not been told
        self._configurations = [(base.index, configuration)]  # the base's, then those of the log, by index
        self._note_configurations(self._entries)

    # -- Reading

    @property
    def last(self) -> EntryId:
        if not self._entries:
            return self.base
        last = self._entries[-1]
        return EntryId(last.term, last.index)

    def term_at(self, index: int) -> int | None:
        """The term of the entry at `index`, or None if the log does not reach there."""
        position = index - self.base.index - 1
        if position >= 0:
            return self._entries[position].term if position < len(self._entries) else None
        return self.base.term if position == -1 else None

    def id_at(self, index: int) -> EntryId:
        term = self.term_at(index)
        assert term is not None, f"no entry {index} between {self.base} and {self.last}"
        return EntryId(term, index)

    @property
    def configuration(self) -> Configuration:
        """The last one, which counts."""
        return self._configurations[-1][1]

    @property
    def configuration_index(self) -> int:
        """Where it stands in the log, or did."""
        return self._configurations[-1][0]

    def configuration_at(self, index: int) -> Configuration:
        """What counted when the log ended at `index`."""
        return next(held for since, held in reversed(self._configurations) if since <= index)

    def snapshot_at(self, index: int) -> Snapshot:
        return Snapshot(self.id_at(index), self.configuration_at(index))

    def slice(self, first: int, last: int) -> tuple[Entry, ...]:
        """The entries from `first` to `last`, both included."""
        assert first > self.base.index, f"entry {first} is before the log's base {self.base}"
        offset = self.base.index + 1
        return tuple(self._entries[first - offset : last + 1 - offset])

    def batch(self, first: int, entries_max: int, bytes_max: int) -> Batch:
        """Entries from `first` on, at least one, as many as fit into `bytes_max` of data."""
        made = self._batch.entries
        if made and made[0].index == first and made[-1].index == self.last_index:
            return self._batch
        entries = self.slice(first, min(self.last_index, first + entries_max - 1))
        size = sum([len(entry.data) for entry in entries])
        if size > bytes_max:
            fitting, size = 1, len(entries[0].data)
            while size + len(entries[fitting].data) <= bytes_max:
                size += len(entries[fitting].data)
                fitting += 1
            entries = entries[:fitting]
        self._batch = Batch(entries, size)
        return self._batch

    def latest_possible_match(self, other: EntryId) -> EntryId:
        """Where a log that holds `other` and this one can at most still agree.

        Agreement needs one index and one term. Below other.index the other log has no term above
        other.term, so all our entries of later terms are skipped at once, not one per round trip.
        """
        end = min(other.index, self.last_index) - self.base.index
        if end <= 0:
            return self.base
        position = bisect_right(self._entries, other.term, hi=end, key=_term)
        if position == 0:
            return self.base
        entry = self._entries[position - 1]
        return EntryId(entry.term, entry.index)

    # -- Writing

    def extend(self, entries: Sequence[Entry]) -> None:
        """Append what follows our last entry."""
        self._entries.extend(entries)
        self.last_index += len(entries)
        self._note_configurations(entries)

    def _note_configurations(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            if entry.kind is EntryKind.CONFIG:
                self._configurations.append((entry.index, Configuration.decode(entry.data)))

    def graft(self, entries: Sequence[Entry], *, commit_index: int) -> None:
        """Make the log hold `entries`, whose predecessor it holds.

        Only from the first conflict on does our tail give way: a delayed, shorter AppendEntries must not cut
        off what a later one brought and we have acknowledged (5.3).
        """
        if not entries:
            return
        if entries[0].index > self.last_index:
            self.extend(entries)
            return
        for position, entry in enumerate(entries):
            if self.term_at(entry.index) != entry.term:
                self._truncate(entry.index, commit_index)
                self.extend(entries[position:])
                return

    def _truncate(self, index: int, commit_index: int) -> None:
        """Drop our entries from `index` on."""
        assert index > commit_index, f"entry {index} is committed (up to {commit_index}) and cannot give way"
        if index > self.last_index:
            return
        del self._entries[index - self.base.index - 1 :]
        self.last_index = index - 1
        self._handed_index = min(self._handed_index, self.last_index)
        self.durable_index = min(self.durable_index, self.last_index)
        self._in_flight = deque((last, min(vouched, index - 1)) for last, vouched in self._in_flight)
        self._batch = EMPTY
        while self._configurations[-1][0] >= index:
            self._configurations.pop()

    def compact(self, index: int) -> None:
        """Forget the entries up to `index`. They are on disk, or what they led to is."""
        assert index <= self.durable_index, f"entry {index} is not durable, only {self.durable_index} is"
        base = self.snapshot_at(index)
        del self._entries[: index - self.base.index]
        self.base = base.last
        later = [held for held in self._configurations if held[0] > index]
        self._configurations = [(index, base.configuration), *later]

    def restore(self, snapshot: Snapshot) -> None:
        """Begin anew behind `snapshot`. None of it is durable before the node says so."""
        self.base = snapshot.last
        self._entries.clear()
        self.last_index = self._handed_index = snapshot.last.index
        self.durable_index = 0
        self._in_flight = deque((last, 0) for last, _ in self._in_flight)
        self._batch = EMPTY
        self._restored = True
        self._configurations = [(snapshot.last.index, snapshot.configuration)]

    # -- To the disk and back

    @property
    def has_unhanded(self) -> bool:
        return self._handed_index < self.last_index or self._restored

    def hand_out_snapshot(self) -> Snapshot | None:
        """What takes the place of the node's log and state, before the entries that follow it."""
        if not self._restored:
            return None
        self._restored = False
        self._in_flight.append((self.base, self.base.index))
        return self.snapshot_at(self.base.index)

    def hand_out(self) -> tuple[Entry, ...]:
        """What the writer has not been given yet."""
        if self._handed_index == self.last_index:
            return ()
        entries = self.slice(self._handed_index + 1, self.last_index)
        self._handed_index = self.last_index
        self._in_flight.append((entries[-1].id, entries[-1].index))
        return entries

    def persisted(self, last: EntryId) -> bool:
        """A batch that ended in `last` is on disk. True if that makes more of *this* log durable.

        Say term 1's entry 5 is being written when term 2's takes its place: word of the first write comes
        while the second is still to be done, and says nothing of it. Nor would it if the log held term 1's
        entry 5 again by then, as three writes A B A leave it: the disk is about to lose what was reported.
        So what was handed out before a truncation vouches only for what that left in place. (With a writer
        that keeps the order, term 2 is not durable before the first write is, and nothing is acknowledged
        in a term that is not. The log does not lean on that.)
        """
        position = next((at for at, (end, _) in enumerate(self._in_flight) if end == last), None)
        if position is None:
            return False
        for _ in range(position):
            self._in_flight.popleft()
        _, vouched = self._in_flight.popleft()
        if vouched <= self.durable_index:
            return False
        self.durable_index = vouched
        return True


def _term(entry: Entry) -> int:
    return entry.term
