"""What a leader does for its peers, for one term: appends, heartbeats, read rounds, counting copies.

Place in the house   raft.core  ->  raft.leading  ->  raft.log, raft.progress, raft.quorum, raft.reads
Takes                proposals, the peers' answers, word of snapshots on their way
Gives                messages to send, snapshots to offer; how far a quorum's disks agree
Never                outlives its term: a new one begins with nothing but the log
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import count, repeat

from jobguard_store.raft.log import RaftLog
from jobguard_store.raft.messages import (
    AppendEntries,
    AppendRefusal,
    AppendReply,
    Commit,
    Entry,
    EntryId,
    EntryKind,
    Heartbeat,
    HeartbeatReply,
    Message,
    SnapshotOffer,
)
from jobguard_store.raft.progress import Progress, State
from jobguard_store.raft.quorum import majority, majority_holds
from jobguard_store.raft.reads import ReadRounds


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    append_bytes: int = 1024 * 1024  # of data in one AppendEntries
    append_entries: int = 4096  # .. so that what is measured stays bounded
    in_flight: int = 128  # appends to one peer: what one that stopped answering may cost in memory;
    in_flight_bytes: int = 8 * 1024 * 1024  # .. of data in them, and one append more
    committed: int = 1024  # entries in one Ready, so that a long replay leaves the node time for its peers


LIMITS = Limits()


class Leadership:
    def __init__(
        self,
        *,
        node_id: int,
        term: int,
        peers: Collection[int],
        log: RaftLog,
        reads: ReadRounds,
        limits: Limits,
        send: Callable[[Message], None],
    ) -> None:
        self._node_id = node_id
        self._term = term
        self._log = log
        self._reads = reads
        self._limits = limits
        self._send = send
        self._quorum = majority(len(peers) + 1)
        self._offers: list[SnapshotOffer] = []
        self.progress = {
            peer: Progress(log.last_index + 1, limits.in_flight, limits.in_flight_bytes) for peer in peers
        }
        # Earlier terms' entries commit only under one of our own (5.4.2), and until it is committed we do
        # not know how far they are: no read before that (8).
        self.append(EntryKind.NOOP, [b""])

    def append(self, kind: EntryKind, data: Sequence[bytes]) -> EntryId:
        first = self._log.last_index + 1
        self._log.extend(list(map(Entry, count(first), repeat(self._term), repeat(kind), data)))
        self.may_send = True  # a peer may lack something that can be sent now
        return EntryId(self._term, first)

    # -- Sending

    def send_heartbeats(self, commit_index: int) -> None:
        context = self._reads.context
        for peer, progress in self.progress.items():
            # Not more than it has acknowledged: beyond that, its log may hold another leader's entries.
            commit = min(progress.match, commit_index)
            self._send(
                Heartbeat(sender=self._node_id, to=peer, term=self._term, commit=commit, context=context)
            )

    def send_appends(self, commit_index: int) -> None:
        """Everything that may go to each peer now; or, if that is nothing, the news of a commit."""
        self.may_send = False
        for peer, progress in self.progress.items():
            while progress.next_index <= self._log.last_index and progress.may_append:
                if progress.next_index <= self._log.base.index:
                    self._offer_snapshot(peer, progress)
                    break
                entries, size = self._log.batch(
                    progress.next_index, self._limits.append_entries, self._limits.append_bytes
                )
                self._send_append(peer, progress, entries, commit_index)
                progress.sent(entries[-1].index, size, commit_index)
            commit = min(progress.match, commit_index)
            if progress.told_commit < commit:
                progress.told_commit = commit
                self._send(Commit(sender=self._node_id, to=peer, term=self._term, commit=commit))

    def _send_append(
        self, peer: int, progress: Progress, entries: tuple[Entry, ...], commit_index: int
    ) -> None:
        self._send(
            AppendEntries(
                sender=self._node_id,
                to=peer,
                term=self._term,
                previous=self._log.id_at(progress.next_index - 1),
                entries=entries,
                commit=commit_index,
            )
        )

    def _offer_snapshot(self, peer: int, progress: Progress) -> None:
        """Entries it needs are forgotten. The state at our base is the oldest from which it can go on."""
        progress.snapshot_offered()
        snapshot = self._log.snapshot_at(self._log.base.index)
        self._offers.append(SnapshotOffer(sender=self._node_id, to=peer, term=self._term, snapshot=snapshot))

    def take_offers(self) -> tuple[SnapshotOffer, ...]:
        offers, self._offers = tuple(self._offers), []
        return offers

    # -- The peers' answers

    def on_append_reply(self, reply: AppendReply) -> bool:
        """True if it acknowledged something new."""
        assert reply.match <= self._log.last_index, f"{reply.sender} acknowledged what we never sent"
        news = self.progress[reply.sender].acknowledged(reply.match, self._log.base.index)
        self.may_send |= news
        return news

    def on_append_refusal(self, refusal: AppendRefusal) -> None:
        match = self._log.latest_possible_match(refusal.hint).index
        self.may_send |= self.progress[refusal.sender].refused(refusal.previous, match)

    def on_heartbeat_reply(self, reply: HeartbeatReply, commit_index: int) -> None:
        progress = self.progress[reply.sender]
        progress.heard_heartbeat()
        self._reads.confirm(reply.sender, reply.context)
        if progress.match < self._log.last_index:
            if progress.state is State.REPLICATE and progress.next_index > self._log.base.index:
                # Were the last appends lost, nothing after them would tell. An empty one asks.
                self._send_append(reply.sender, progress, (), commit_index)
            elif progress.state is State.REPLICATE:
                progress.probe()  # the log was compacted past what is on its way
            self.may_send = True

    def peer_lost(self, peer: int) -> None:
        if peer in self.progress:
            self.progress[peer].connection_lost()
            self.may_send = True

    def snapshot_ended(self, peer: int, last: int | None) -> None:
        if peer in self.progress:
            self.progress[peer].snapshot_ended(last)

    # -- What a quorum says

    def still_leads(self, within_ticks: int) -> bool:
        """A tick passed. Whether a quorum has answered within so many (thesis 6.2)."""
        heard = 1
        for progress in self.progress.values():
            progress.silent_ticks += 1
            heard += progress.silent_ticks < within_ticks
        return heard >= self._quorum

    def committed(self, commit_index: int) -> int:
        """The commit index: what a quorum has on disk, if it ends in our own term.

        An earlier term's entry on a quorum may still be overwritten by a leader that lacks it (Fig. 8); one
        of our term above it settles both. We count ourselves like any other: once it is on our disk.
        """
        copies = [progress.match for progress in self.progress.values()]
        index = majority_holds([self._log.durable_index, *copies])
        if index > commit_index and self._log.term_at(index) == self._term:
            self.may_send = True
            return index
        return commit_index
