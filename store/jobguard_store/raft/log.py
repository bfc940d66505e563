"""The log in memory: what it holds, what of it the node has been handed, and what is on its disk.

Place in the house   raft.core  ->  raft.log
Never                decides what is committed; that is the core's

    base | 1 2 3 4 5 6 7 8 9
                 ^     ^   ^ last
                 |     handed out: the writer has it, or had it
                 durable: a crash leaves at least this

Terms never fall along the log, so a term is found by bisection.
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Sequence

from jobguard_store.raft.messages import Entry, EntryId


class RaftLog:
    def __init__(self, base: EntryId, entries: Sequence[Entry]) -> None:
        """`base` is the id of what precedes entries[0]; everything given is durable."""
        self.base = base
        self._entries = list(entries)
        for index, entry in enumerate(self._entries, base.index + 1):
            assert entry.index == index, f"the log has a gap: entry {entry.index} where {index} belongs"
        self.last_index = base.index + len(self._entries)
        self.durable_index = self.last_index
        self._handed_index = self.last_index
        # The last id of each batch handed out and not yet reported durable, oldest first. The first `_void`
        # of them were handed out before our last truncation, and vouch for nothing (see `persisted`).
        self._in_flight: deque[EntryId] = deque()
        self._void = 0
        self._batch: tuple[Entry, ...] = ()  # the batch made last: followers in step share it

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

    def slice(self, first: int, last: int) -> tuple[Entry, ...]:
        """The entries from `first` to `last`, both included."""
        assert first > self.base.index, f"entry {first} is before the log's base {self.base}"
        offset = self.base.index + 1
        return tuple(self._entries[first - offset : last + 1 - offset])

    def batch(self, first: int, entries_max: int, bytes_max: int) -> tuple[Entry, ...]:
        """Entries from `first` on, at least one, as many as fit into `bytes_max` of data."""
        made = self._batch
        if made and made[0].index == first and made[-1].index == self.last_index:
            return made
        entries = self.slice(first, min(self.last_index, first + entries_max - 1))
        size = sum([len(entry.data) for entry in entries])
        if size > bytes_max:
            size, fitting = 0, 0
            for entry in entries:
                size += len(entry.data)
                if size > bytes_max:
                    break
                fitting += 1
            entries = entries[: max(fitting, 1)]
        self._batch = entries
        return entries

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
        self._void = len(self._in_flight)
        self._batch = ()

    # -- To the disk and back

    @property
    def has_unhanded(self) -> bool:
        return self._handed_index < self.last_index

    def hand_out(self) -> tuple[Entry, ...]:
        """What the writer has not been given yet."""
        if self._handed_index == self.last_index:
            return ()
        entries = self.slice(self._handed_index + 1, self.last_index)
        self._handed_index = self.last_index
        self._in_flight.append(entries[-1].id)
        return entries

    def persisted(self, last: EntryId) -> bool:
        """A batch that ended in `last` is on disk. True if that makes more of *this* log durable.

        Say term 1's entry 5 is being written when term 2's takes its place: word of the first write comes
        while the second is still to be done, and says nothing of it. Nor would it if the log held term 1's
        entry 5 again by then, as three writes A B A leave it: the disk is about to lose what was reported.
        So a truncation voids every report still to come of what was handed out before it. (With a writer
        that keeps the order, term 2 is not durable before the first write is, and nothing is acknowledged
        in a term that is not. The log does not lean on that.)
        """
        if last not in self._in_flight:
            return False
        reports = self._in_flight.index(last) + 1
        for _ in range(reports):
            self._in_flight.popleft()
        void = reports <= self._void
        self._void = max(self._void - reports, 0)
        if void or last.index <= self.durable_index:
            return False
        assert self.term_at(last.index) == last.term, f"{last} was never truncated, and is not in the log"
        self.durable_index = last.index
        return True


def _term(entry: Entry) -> int:
    return entry.term
