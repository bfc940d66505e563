"""What a leader does for its peers, for one term: appends, heartbeats, read rounds, counting copies.

Place in the house   raft.core  ->  raft.leading  ->  raft.log, raft.progress, raft.membership, raft.quorum
Takes                proposals, changes of membership, the peers' answers, word of snapshots on their way
Gives                messages to send, snapshots to offer; how far a quorum's disks agree
Never                outlives its term: a new one begins with nothing but the log
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count, repeat

from jobguard_store.raft.configuration import Configuration
from jobguard_store.raft.log import RaftLog
from jobguard_store.raft.membership import AddVoter, Change, ChangeRefused, Promote, Refusal, after
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
    TimeoutNow,
)
from jobguard_store.raft.progress import Progress, State
from jobguard_store.raft.quorum import agreed, majority_holds
from jobguard_store.raft.reads import ReadRounds
from jobguard_store.raft.transfer import Transfer, TransferRefused


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
        log: RaftLog,
        reads: ReadRounds,
        limits: Limits,
        election_ticks: int,
        send: Callable[[Message], None],
    ) -> None:
        self._node_id = node_id
        self._term = term
        self._log = log
        self._reads = reads
        self._limits = limits
        self._send = send
        self._election_ticks = election_ticks
        self._offers: list[SnapshotOffer] = []
        self.progress: dict[int, Progress] = {}
        self._transfer: Transfer | None = None
        self._leaving: dict[int, int] = {}  # peers that were removed, and the entry that says so
        self._commits = (log.last_index, log.last_index)  # the commit index a tick and two ticks ago
        self._voters: tuple[int, ...] = ()
        self._count_among(log.configuration, log.last_index + 1)
        # Earlier terms' entries commit only under one of our own (5.4.2), and until it is committed we do
        # not know how far they are: no read before that (8).
        self.append(EntryKind.NOOP, [b""])

    def append(self, kind: EntryKind, data: Sequence[bytes]) -> EntryId:
        first = self._log.last_index + 1
        self._log.extend(list(map(Entry, count(first), repeat(self._term), repeat(kind), data)))
        self.may_send = True  # a peer may lack something that can be sent now
        return EntryId(self._term, first)

    # -- Handing over

    @property
    def heir(self) -> int | None:
        return self._transfer.heir if self._transfer else None

    def transfer(self, to: int) -> None:
        if to == self._node_id or to not in self._voters:
            raise TransferRefused(f"{to} is no other voter")
        if to != self.heir:
            self._transfer = Transfer(to, self._election_ticks)
            self.may_send = True

    def successor(self) -> int | None:
        in_touch = [voter for voter in self._voters if voter in self._in_touch() and voter != self._node_id]
        return max(in_touch, key=lambda voter: self.progress[voter].match, default=None)

    def abdicate(self, commit_index: int) -> None:
        """We are no voter any more. The others hear of it, and one of them need not wait to find out."""
        self.send_appends(commit_index)
        if (successor := self.successor()) is not None:
            self._tell(successor)

    def _tell(self, heir: int) -> None:
        self._send(TimeoutNow(sender=self._node_id, to=heir, term=self._term))

    # -- Membership

    def change(self, change: Change, commit_index: int) -> EntryId:
        """Append the configuration after `change`. It counts from now on. Raises ChangeRefused.

        One at a time; and not before an entry of our own is committed: a change that an earlier leader left
        behind, unknown to us, may still be alive until then, and two single steps from one configuration
        can have majorities without a common voter (Ongaro, "bug in single-server membership changes", 2015).
        """
        if self._transfer:
            raise ChangeRefused(Refusal.HANDING_OVER)
        if self._log.term_at(commit_index) != self._term:
            raise ChangeRefused(Refusal.TOO_EARLY)
        if self._log.configuration_index > commit_index:
            raise ChangeRefused(Refusal.PENDING)
        then = after(self._log.configuration, change)
        self._check_in_touch(change, then)
        appended = self.append(EntryKind.CONFIG, [then.encode()])
        self._count_among(then, appended.index)
        return appended

    def _check_in_touch(self, change: Change, then: Configuration) -> None:
        """Who counts after the change must be there: else it costs the cluster its quorum, and itself too."""
        if isinstance(change, Promote) and not self._has_caught_up(self.progress[change.id]):
            raise ChangeRefused(Refusal.NOT_CAUGHT_UP)
        if then.voters == self._voters:
            return
        if len(self._voters) == 1 and isinstance(change, AddVoter):
            return  # a cluster of one cannot grow without; whoever does it knows that the second must come
        if not agreed(self._in_touch(), then.voters):
            raise ChangeRefused(Refusal.QUORUM_AT_RISK)

    def _has_caught_up(self, progress: Progress) -> bool:
        """Appends flow, and what was committed a tick ago and more is there: it keeps up with the writes."""
        keeps_up = progress.state is State.REPLICATE and progress.match >= self._commits[1]
        return keeps_up and progress.silent_ticks < self._election_ticks

    def _in_touch(self) -> set[int]:
        answering = {p for p, held in self.progress.items() if held.silent_ticks < self._election_ticks}
        return answering | {self._node_id}

    def held_by_peers(self) -> int:
        in_touch = self._in_touch()
        matches = [progress.match for peer, progress in self.progress.items() if peer in in_touch]
        return min(matches, default=self._log.last_index)

    def _count_among(self, configuration: Configuration, next_index: int) -> None:
        """Peers that are new are sent what begins at `next_index`; those removed are sent to until they know.

        A removed node that does not know can do no harm, but would ask for votes until someone stops it.
        """
        self._voters = configuration.voters
        for peer in configuration.ids:
            if peer != self._node_id and peer not in self.progress:
                limits = self._limits
                self.progress[peer] = Progress(next_index, limits.in_flight, limits.in_flight_bytes)
        for peer in self.progress:
            if configuration.member(peer) is None:
                self._leaving.setdefault(peer, self._log.configuration_index)

    def _see_off(self) -> None:
        """Who was removed and has been told that it is committed, or does not answer, is sent no more."""
        for peer, index in list(self._leaving.items()):
            progress = self.progress[peer]
            if progress.told_commit >= index or progress.silent_ticks >= self._election_ticks:
                del self.progress[peer], self._leaving[peer]

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
        if self._leaving:
            self._see_off()
        transfer = self._transfer
        if transfer and transfer.may_tell(self.progress[transfer.heir].match, self._log.last_index):
            self._tell(transfer.heir)

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
        if not self._offers:
            return ()
        offers, self._offers = tuple(self._offers), []
        return offers

    # -- The peers' answers

    def on_append_reply(self, reply: AppendReply) -> bool:
        """True if it acknowledged something new."""
        assert reply.match <= self._log.last_index, f"{reply.sender} acknowledged what we never sent"
        progress = self.progress.get(reply.sender)
        news = progress is not None and progress.acknowledged(reply.match, self._log.base.index)
        self.may_send |= news
        return news

    def on_append_refusal(self, refusal: AppendRefusal) -> None:
        progress = self.progress.get(refusal.sender)
        if progress is not None:
            match = self._log.latest_possible_match(refusal.hint).index
            self.may_send |= progress.refused(refusal.previous, match)

    def on_heartbeat_reply(self, reply: HeartbeatReply, commit_index: int) -> None:
        progress = self.progress.get(reply.sender)
        if progress is None:
            return
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

    def tick(self, commit_index: int) -> bool:
        """Whether a quorum has answered within an election timeout (thesis 6.2)."""
        for progress in self.progress.values():
            progress.silent_ticks += 1
        self._commits = (commit_index, self._commits[0])
        if self._transfer and not self._transfer.tick():
            self._transfer = None
        self._see_off()
        return agreed(self._in_touch(), self._voters)

    def committed(self, commit_index: int) -> int:
        """The commit index: what a quorum has on disk, if it ends in our own term.

        An earlier term's entry on a quorum may still be overwritten by a leader that lacks it (Fig. 8); one
        of our term above it settles both. We count ourselves like any other: if we are a voter still, and
        once it is on our disk.
        """
        index = majority_holds(
            [
                self.progress[voter].match if voter != self._node_id else self._log.durable_index
                for voter in self._voters
            ]
        )
        if index > commit_index and self._log.term_at(index) == self._term:
            self.may_send = True
            return index
        return commit_index
