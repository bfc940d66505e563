"""Elections and replication: Raft's rules as a plain object.

Place in the house   node  ->  raft.core  ->  raft.leading, raft.electorate, raft.patience, raft.log
Takes                ticks, peers' messages, proposals, word of what became durable
Gives                Ready: what to send, persist, then send, then apply
Never                reads a clock, opens anything, awaits, or draws its own randomness

Sections in brackets are the Raft paper's (extended version), "thesis" is Ongaro's.
"""

from collections.abc import Collection, Sequence
from enum import Enum
from typing import assert_never

from jobguard_store.raft.configuration import NOBODY, Configuration
from jobguard_store.raft.electorate import Electorate
from jobguard_store.raft.leading import LIMITS, Leadership, Limits
from jobguard_store.raft.log import RaftLog
from jobguard_store.raft.membership import Change
from jobguard_store.raft.messages import (
    NOTHING,
    AppendEntries,
    AppendRefusal,
    AppendReply,
    Commit,
    Entry,
    EntryId,
    EntryKind,
    HardState,
    Heartbeat,
    HeartbeatReply,
    Message,
    PreVote,
    PreVoteRequest,
    Ready,
    Snapshot,
    SnapshotOffer,
    TimeoutNow,
    Vote,
    VoteRequest,
)
from jobguard_store.raft.outbox import Outbox
from jobguard_store.raft.patience import Patience, Randomness
from jobguard_store.raft.quorum import Outcome, tally
from jobguard_store.raft.reads import ReadRounds


class Role(Enum):
    FOLLOWER = "follower"
    PRE_CANDIDATE = "pre-candidate"
    CANDIDATE = "candidate"
    LEADER = "leader"


class NotLeader(Exception):
    """Nothing was appended and no read was begun; ask `leader`, when one is known."""

    def __init__(self, leader: int | None) -> None:
        super().__init__(f"not the leader; the leader is {leader}")
        self.leader = leader


class HandingOver(NotLeader):
    """Nothing was appended: this leader waits for `leader` to take over, or for that to fail."""

    def __init__(self, heir: int) -> None:
        super().__init__(heir)
        self.args = (f"handing leadership over to {heir}",)


class Raft:
    """One member. Ask `has_ready()` after every turn, and carry out each Ready in its order."""

    def __init__(
        self,
        *,
        node_id: int,
        voters: Collection[int] = (),
        hard_state: HardState,
        entries: Sequence[Entry],
        applied_index: int,
        random: Randomness,
        election_ticks: int = 10,
        heartbeat_ticks: int = 1,
        base: EntryId = NOTHING,
        configuration: Configuration | None = None,
        limits: Limits = LIMITS,
    ) -> None:
        """Start from what the disk holds: `entries` follow `base`, and all of it is durable.

        `configuration` is the one as of `base`. A cluster that begins has that of its `voters`; a node that
        is to join one has NOBODY, and waits to be told. The commit index starts at the durable
        `applied_index`; the leader tells the rest.
        """
        assert 0 < heartbeat_ticks < election_ticks
        self.node_id = node_id
        self.log = RaftLog(base, entries, configuration or Configuration.of(voters))
        assert base.index <= applied_index <= self.log.last_index, "applied beyond what the log holds"
        self._electorate = Electorate(node_id, self.log)
        self._election_ticks = election_ticks
        self._heartbeat_ticks = heartbeat_ticks
        self._limits = limits

        self.term = hard_state.term
        self._voted_for = hard_state.voted_for
        self._outbox = Outbox(hard_state)

        self.role = Role.FOLLOWER
        self.leader: int | None = None
        self.commit_index = self.applied_index = self._handed_commit = applied_index

        self._patience = Patience(election_ticks, self._electorate.rivals, random)
        self._votes: dict[int, bool] = {}
        self._leadership: Leadership | None = None
        self._ticks_to_heartbeat = 0
        self._reads = ReadRounds(node_id, self._electorate.voters)

    @property
    def last_index(self) -> int:
        return self.log.last_index

    @property
    def voted_for(self) -> int | None:
        return self._voted_for

    # -- What happens to it ------------------------------------------------------------------------

    def tick(self) -> None:
        """One unit of time passed: elections, heartbeats, and a leader's check that it still has a quorum."""
        if self._leadership is None:
            if self._patience.tick():
                self._lose_patience()
        elif not self._leadership.tick(self.commit_index):
            self._become_follower(self.term)  # others may lead by now
        else:
            self._ticks_to_heartbeat -= 1
            if self._ticks_to_heartbeat <= 0:
                self._send_heartbeats(self._leadership)

    def step(self, message: Message) -> None:
        """Take in one peer message. May be late, doubled, reordered or of another age.

        A newer term is adopted first, but not from who only asks ahead: a pre-vote request and its grant
        speak of a term nobody has entered, and a vote request is not heard while a leader is (thesis 4.2.3).

        Requests are served whoever asks (thesis 4.1): a node that lags, or joins, is led and asked by nodes
        that its own log does not name yet. Answers are counted among those the log names.
        """
        if message.to != self.node_id or message.sender == self.node_id:
            return
        if isinstance(message, PreVoteRequest):
            self._on_pre_vote_request(message)
            return
        if isinstance(message, PreVote):
            self._on_pre_vote(message)
            return
        if message.term < self.term:
            self._on_message_from_the_past(message)
            return
        if message.term > self.term:
            if isinstance(message, VoteRequest) and not self._hears(message):
                return
            self._become_follower(message.term)
        match message:
            case AppendEntries():
                self._on_append(message)
            case AppendReply():
                if self._leadership and self._leadership.on_append_reply(message):
                    self._count_copies(self._leadership)
            case Commit():
                self._hear_leader(message.sender)
                self._commit(message.commit)
            case Heartbeat():
                self._hear_leader(message.sender)
                self._commit(message.commit)
                self._outbox.send(HeartbeatReply(**self._to(message.sender), context=message.context))
            case HeartbeatReply():
                if self._leadership:
                    self._leadership.on_heartbeat_reply(message, self.commit_index)
            case AppendRefusal():
                if self._leadership:
                    self._leadership.on_append_refusal(message)
            case SnapshotOffer():
                self._hear_leader(message.sender)
                self._on_snapshot_offer(message)
            case TimeoutNow():
                self._hear_leader(message.sender)
                if self._electorate.may_stand(self.commit_index):
                    self._stand(at_leaders_wish=True)
            case VoteRequest():
                self._on_vote_request(message)
            case Vote():
                if self.role is Role.CANDIDATE:
                    self._count_vote(message.sender, message.granted)
            case never:
                assert_never(never)

    def propose(self, data: Sequence[bytes]) -> EntryId:
        """Append one entry per item and return the id of the first. Raises NotLeader, HandingOver."""
        leadership = self._leading()
        if leadership.heir is not None:
            raise HandingOver(leadership.heir)
        return leadership.append(EntryKind.NORMAL, data)

    @property
    def accepts_proposals(self) -> bool:
        """Leads, and does not hand over."""
        return self._leadership is not None and self._leadership.heir is None

    def transfer(self, to: int) -> None:
        """Hand leadership over to a voter: for an election timeout nothing is appended, for its sake.

        It worked when another leads; it failed when `accepts_proposals` again. Raises NotLeader,
        TransferRefused.
        """
        self._leading().transfer(to)

    @property
    def successor(self) -> int | None:
        """The voter in touch that lacks least: whom to hand over to before we stop."""
        return self._leadership.successor() if self._leadership else None

    def change_membership(self, change: Change) -> EntryId:
        """Append the configuration after `change`; it counts from now on. Raises NotLeader, ChangeRefused."""
        appended = self._leading().change(change, self.commit_index)
        self._follow_configuration()
        return appended

    def read_index(self, context: int) -> None:
        """Begin a linearizable read; it comes back in Ready.reads or Ready.reads_lost. Raises NotLeader."""
        self._leading()
        self._reads.ask(context)

    def _leading(self) -> Leadership:
        if self._leadership is None:
            raise NotLeader(self.leader)
        return self._leadership

    def persisted(self, last: EntryId) -> None:
        """The entries of a Ready, up to `last`, are durable. Ignored if the log no longer holds them.

        Reported once per Ready with entries, in order; of several made durable at once the last will do.
        """
        if self.log.persisted(last) and self._leadership:
            self._count_copies(self._leadership)

    def hard_state_persisted(self, hard_state: HardState) -> None:
        """The hard state of a Ready is durable. Report it before `persisted` of the same Ready."""
        self._outbox.persisted(hard_state)
        if self.role is Role.CANDIDATE and hard_state == HardState(self.term, self.node_id):
            self._count_vote(self.node_id, True)  # a vote counts once it cannot be forgotten, our own too

    def applied(self, index: int) -> None:
        """The state machine has applied everything up to `index`."""
        assert self.applied_index <= index <= self.commit_index
        self.applied_index = index

    def compact(self, index: int) -> Snapshot | None:
        """Forget the log up to `index`, which the node's file holds applied; what is the base of both now.

        Beyond that a crash would lose entries whose rows were still to be written. None if nothing is to be
        forgotten: also by a node that joined, and has not read so far as to know who was in the cluster.
        """
        assert index <= self.applied_index
        if index <= self.log.base.index or self.log.configuration_at(index) == NOBODY:
            return None
        self.log.compact(index)
        return self.log.snapshot_at(index)

    @property
    def held_by_peers(self) -> int:
        """Up to here the log is with all who are in touch with this leader; a follower is asked by nobody."""
        return self._leadership.held_by_peers() if self._leadership else self.log.last_index

    def snapshot_at(self, index: int) -> Snapshot:
        """The name of the state after `index`, for what has not been compacted away."""
        return self.log.snapshot_at(index)

    def snapshot_sent(self, peer: int, last: int) -> None:
        """All of a state up to `last` arrived at `peer`, which answers once it lives by it."""
        if self._leadership:
            self._leadership.snapshot_ended(peer, last)

    def snapshot_failed(self, peer: int) -> None:
        """It did not arrive. It is offered again when the peer is next heard, if still needed."""
        if self._leadership:
            self._leadership.snapshot_ended(peer, None)

    def peer_lost(self, peer: int) -> None:
        """The connection to `peer` closed: a hint, which may be wrong.

        If it led, we ask for pre-votes soon, and grant them, instead of waiting out an election timeout.
        If we lead, what is on its way to `peer` is not to be counted on.
        """
        if self._leadership:
            self._leadership.peer_lost(peer)
        elif peer == self.leader:
            self.leader = None
            rank = self._electorate.rank_without(peer)
            self._patience.leader_lost(rank)
            if rank == 0:
                self._lose_patience()

    # -- What it wants done ------------------------------------------------------------------------

    def has_ready(self) -> bool:
        """Whether there is work to take. Cheap, and False only if ready() would be empty."""
        return bool(
            self._outbox.has_work(self.term, self._voted_for)
            or (self._leadership and self._leadership.may_send)
            or self.log.has_unhanded
            or self.commit_index > self._handed_commit
            or self._reads.has_results
            or self._may_begin_read_round
        )

    def ready(self) -> Ready:
        """Take all pending work. What is taken is taken: the node carries it out, in order, or stops."""
        if self._leadership:
            if self._may_begin_read_round:
                self._reads.begin(self.commit_index)
                self._send_heartbeats(self._leadership)
            if self._leadership.may_send:
                self._leadership.send_appends(self.commit_index)
        offers = self._leadership.take_offers() if self._leadership else ()
        hard_state = None
        if self._outbox.is_news(self.term, self._voted_for):
            hard_state = self._outbox.hand_out(HardState(self.term, self._voted_for))
        committed = self._hand_out_committed()
        reads, reads_lost = self._reads.take()
        messages, messages_after_persist = self._outbox.take()
        return Ready(
            messages=messages,
            offers=offers,
            snapshot=self.log.hand_out_snapshot(),
            hard_state=hard_state,
            entries=self.log.hand_out(),
            messages_after_persist=messages_after_persist,
            committed=committed,
            reads=reads,
            reads_lost=reads_lost,
        )

    def _hand_out_committed(self) -> tuple[Entry, ...]:
        first = self._handed_commit + 1
        self._handed_commit = min(self.commit_index, self._handed_commit + self._limits.committed)
        return self.log.slice(first, self._handed_commit) if first <= self._handed_commit else ()

    # -- Who is in the cluster -----------------------------------------------------------------------

    @property
    def configuration(self) -> Configuration:
        """The one that counts, committed or not: whom to be in touch with."""
        return self._electorate.configuration

    def _follow_configuration(self) -> None:
        if self._electorate.follow_log():
            self._patience.rivals = self._electorate.rivals
            self._reads.count_among(self._electorate.voters)

    def _to(self, peer: int) -> dict[str, int]:
        return {"sender": self.node_id, "to": peer, "term": self.term}

    # -- Elections (5.2, 5.4.1; pre-vote: thesis 9.6) ----------------------------------------------

    def _become_follower(self, term: int) -> None:
        if self._leadership:
            self._leadership = None
            self._reads.abandon()
        if term > self.term:
            self.term = term
            self._voted_for = None
            self._outbox.forget_promises()
        self.role = Role.FOLLOWER
        self.leader = None
        self._patience.leader_forgotten()

    def _hear_leader(self, leader: int) -> None:
        assert self.role is not Role.LEADER, f"nodes {self.node_id} and {leader} both lead term {self.term}"
        assert self.leader in (None, leader), f"nodes {self.leader} and {leader} both lead term {self.term}"
        self.role = Role.FOLLOWER
        if self.leader is None:
            self.leader = leader
            self._patience.leader_found(self._electorate.rank_without(leader))
        self._patience.leader_heard()

    def _hears(self, ask: VoteRequest) -> bool:
        """Nobody deposes a leader that is heard, except at its own wish."""
        if ask.at_leaders_wish:
            return True
        return self._leadership is None and self._patience.hears_vote_of(ask.sender)

    def _lose_patience(self) -> None:
        """Nobody leads, as far as we know."""
        self.leader = None
        if self._electorate.may_stand(self.commit_index):
            self._ask_ahead()
        else:
            self._patience.restart()

    def _ask_ahead(self) -> None:
        """Ask who would vote for us. Until a quorum would, our term stays, and a leader undisturbed."""
        self.role = Role.PRE_CANDIDATE
        self._votes = {self.node_id: True}
        self._patience.restart()
        if tally(self._votes, self._electorate.voters) is Outcome.WON:
            self._stand()
            return
        for peer in self._electorate.others:
            ask = self._to(peer) | {"term": self.term + 1}
            self._outbox.send_at_once(PreVoteRequest(**ask, last=self.log.last))

    @property
    def hears_pre_votes(self) -> bool:
        """Whether we would have another leader: none is heard, or its connection closed."""
        return self._leadership is None and self._patience.hears_pre_votes

    def _on_pre_vote_request(self, ask: PreVoteRequest) -> None:
        if self.hears_pre_votes and ask.term > self.term and ask.last >= self.log.last:
            self._patience.pre_vote_granted(ask.sender)
            vote = self._to(ask.sender) | {"term": ask.term}
            self._outbox.send(PreVote(**vote, granted=True), term=self.term)
        else:
            self._outbox.send(PreVote(**self._to(ask.sender), granted=False))

    def _on_pre_vote(self, vote: PreVote) -> None:
        if not vote.granted and vote.term > self.term:
            self._become_follower(vote.term)  # or we would ask about a past term for ever
        if self.role is not Role.PRE_CANDIDATE or (vote.granted and vote.term != self.term + 1):
            return
        self._votes.setdefault(vote.sender, vote.granted)
        match tally(self._votes, self._electorate.voters):
            case Outcome.WON:
                self._stand()
            case Outcome.LOST:
                self.role = Role.FOLLOWER
                self._patience.restart()

    def _stand(self, *, at_leaders_wish: bool = False) -> None:
        """Enter a new term as its candidate. Our own vote must be durable before anyone hears of it."""
        self._become_follower(self.term + 1)
        self.role = Role.CANDIDATE
        self._voted_for = self.node_id
        self._votes = {}
        for peer in self._electorate.others:
            ask = VoteRequest(**self._to(peer), last=self.log.last, at_leaders_wish=at_leaders_wish)
            self._outbox.send_after_persist(ask)

    def _on_vote_request(self, ask: VoteRequest) -> None:
        free = self.leader is None and self._voted_for in (None, ask.sender)
        granted = free and ask.last >= self.log.last
        if granted:
            # On disk before the answer is on the wire: a crash in between would let us vote twice.
            self._voted_for = ask.sender
            self._patience.restart()
        self._outbox.send_after_persist(Vote(**self._to(ask.sender), granted=granted))

    def _count_vote(self, voter: int, granted: bool) -> None:
        self._votes.setdefault(voter, granted)
        match tally(self._votes, self._electorate.voters):
            case Outcome.WON:
                self._become_leader()
            case Outcome.LOST:
                self._become_follower(self.term)

    def _on_message_from_the_past(self, message: Message) -> None:
        """Tell who is behind; answers of an older term get none, and count for nothing."""
        match message:
            case VoteRequest():
                self._outbox.send(Vote(**self._to(message.sender), granted=False))
            case SnapshotOffer():
                self._on_snapshot_offer(message)
            case AppendEntries() | Heartbeat() | Commit():
                self._outbox.send(HeartbeatReply(**self._to(message.sender), context=0))

    # -- Leading (see raft.leading) ----------------------------------------------------------------

    def _become_leader(self) -> None:
        self.role = Role.LEADER
        self.leader = self.node_id
        self._leadership = Leadership(
            node_id=self.node_id,
            term=self.term,
            log=self.log,
            reads=self._reads,
            limits=self._limits,
            election_ticks=self._election_ticks,
            send=self._outbox.send,
        )
        self._ticks_to_heartbeat = self._heartbeat_ticks  # the no-op goes out now

    def _count_copies(self, leadership: Leadership) -> None:
        self.commit_index = leadership.committed(self.commit_index)
        if self._electorate.has_dismissed_us(self.commit_index):
            leadership.abdicate(self.commit_index)
            self._become_follower(self.term)

    def _send_heartbeats(self, leadership: Leadership) -> None:
        self._ticks_to_heartbeat = self._heartbeat_ticks
        leadership.send_heartbeats(self.commit_index)

    @property
    def _may_begin_read_round(self) -> bool:
        return self._reads.may_begin and self.log.term_at(self.commit_index) == self.term

    # -- Following ---------------------------------------------------------------------------------

    def _on_append(self, append: AppendEntries) -> None:
        self._hear_leader(append.sender)
        previous = append.previous
        if previous.index < self.commit_index:
            # Late, or from a leader that does not know how far we are. What is committed is the same in
            # every leader's log, and is never compared, let alone cut.
            self._acknowledge(append.sender, self.commit_index)
        elif self.log.term_at(previous.index) == previous.term:
            self.log.graft(append.entries, commit_index=self.commit_index)
            self._follow_configuration()
            match = previous.index + len(append.entries)
            self._commit(min(append.commit, match))
            self._acknowledge(append.sender, match)
        else:
            hint = self.log.latest_possible_match(previous)
            self._outbox.send(AppendRefusal(**self._to(append.sender), previous=previous.index, hint=hint))

    def _on_snapshot_offer(self, offer: SnapshotOffer) -> None:
        """A state has arrived. It is of use if it is ahead of ours, and committed whoever offers it.

        So an offer of a past term counts as well: a transfer may take longer than a reign. And if our log
        leads to that very state, it stays: it may hold entries behind it that we acknowledged.
        """
        last = offer.snapshot.last
        if last.index > self.commit_index and self._leadership is None:
            if self.log.term_at(last.index) == last.term:
                self._commit(last.index)
            else:
                self.log.restore(offer.snapshot)
                self._follow_configuration()
                self.commit_index = self.applied_index = self._handed_commit = last.index
        self._acknowledge(offer.sender, self.commit_index)

    def _acknowledge(self, leader: int, match: int) -> None:
        """Say that we hold everything up to `match`, once that is true of the disk."""
        reply = AppendReply(**self._to(leader), match=match)
        if match <= self.log.durable_index:
            self._outbox.send(reply)
        else:
            self._outbox.acknowledge(reply)

    def _commit(self, index: int) -> None:
        """The leader says that everything up to `index` is committed, and we hold that much of its log."""
        if index > self.commit_index:
            assert index <= self.log.last_index, "the leader committed what we acknowledged and do not hold"
            self.commit_index = index
