"""Cores and nodes that break one rule each: what the simulation must be able to find.

Place in the house   test_planted_bugs  ->  bugs  ->  jobguard_store.raft, node

Each is the smallest change that makes the mistake, and its docstring the mistake.
"""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

from jobguard_store.raft import (
    AppendEntries,
    AppendReply,
    Change,
    Entry,
    EntryId,
    HardState,
    Heartbeat,
    HeartbeatReply,
    Message,
    PreVoteRequest,
    Raft,
    Ready,
    Snapshot,
    SnapshotOffer,
    VoteRequest,
)
from jobguard_store.raft.leading import Leadership
from jobguard_store.raft.log import RaftLog
from jobguard_store.raft.quorum import majority_holds
from tests.simulation.disk import Staged, Write
from tests.simulation.node import Node

FAR = EntryId(1 << 60, 1 << 60)


class WrongLog(Raft):
    """A core with another log."""

    log_class: ClassVar[type[RaftLog]]

    def __init__(self, **how: object) -> None:
        super().__init__(**how)  # type: ignore[arg-type]
        self.log.__class__ = self.log_class


class WrongLeader(Raft):
    """A core that leads by other rules."""

    leadership_class: ClassVar[type[Leadership]]

    def _become_leader(self) -> None:
        super()._become_leader()
        assert self._leadership
        self._leadership.__class__ = self.leadership_class


# -- What must be durable, and when


class ForgetsItsVote(Raft):
    """The vote is not made durable: a crash, and it votes again in the same term."""

    def ready(self) -> Ready:
        ready = super().ready()
        if ready.hard_state is None:
            return ready
        return dataclasses.replace(ready, hard_state=HardState(ready.hard_state.term, None))

    def hard_state_persisted(self, hard_state: HardState) -> None:
        voted_for = self._voted_for if hard_state.term == self.term else None
        super().hard_state_persisted(HardState(hard_state.term, voted_for))


class VotesBeforeTheDisk(Raft):
    """Votes leave while they are still being written."""

    def ready(self) -> Ready:
        ready = super().ready()
        late = ready.messages_after_persist
        acks = tuple(message for message in late if isinstance(message, AppendReply))
        votes = tuple(message for message in late if not isinstance(message, AppendReply))
        return dataclasses.replace(ready, messages=ready.messages + votes, messages_after_persist=acks)


class AcknowledgesBeforeTheDisk(Raft):
    """Says what it holds in memory, as if that survived a crash."""

    def ready(self) -> Ready:
        ready = super().ready()
        if ready.entries:
            self.persisted(ready.entries[-1].id)
        return dataclasses.replace(
            ready, messages=ready.messages + ready.messages_after_persist, messages_after_persist=()
        )


class CountsItselfBeforeTheDisk(WrongLeader):
    """The leader's own copy counts while it is still being written."""

    class Counts(Leadership):
        def committed(self, commit_index: int) -> int:
            durable, self._log.durable_index = self._log.durable_index, self._log.last_index
            try:
                return super().committed(commit_index)
            finally:
                self._log.durable_index = durable

    leadership_class = Counts


class BelievesAnOvertakenFsync(WrongLog):
    """Word of a write counts for whatever stands at that index by now."""

    class Believes(RaftLog):
        def persisted(self, last: EntryId) -> bool:
            news = self.durable_index < last.index <= self.last_index
            self.durable_index = max(self.durable_index, min(last.index, self.last_index))
            return news

    log_class = Believes


class AcknowledgesAStateBeforeTheDisk(Raft):
    """A state that was offered is acknowledged before it took the place of the old one."""

    def ready(self) -> Ready:
        ready = super().ready()
        if ready.snapshot is None:
            return ready
        self.log.durable_index = self.log.base.index
        late = tuple(message for message in ready.messages_after_persist if message.term == self.term)
        return dataclasses.replace(ready, messages=ready.messages + late, messages_after_persist=())


# -- Elections


class LetsAShorterLogWin(Raft):
    """Votes for whoever asks first (5.4.1)."""

    def _on_vote_request(self, ask: VoteRequest) -> None:
        super()._on_vote_request(dataclasses.replace(ask, last=FAR))

    def _on_pre_vote_request(self, ask: PreVoteRequest) -> None:
        super()._on_pre_vote_request(dataclasses.replace(ask, last=FAR))


class IsDeposedByAPreVote(Raft):
    """Takes over the term that somebody merely asks about."""

    def _on_pre_vote_request(self, ask: PreVoteRequest) -> None:
        if ask.term > self.term:
            self._become_follower(ask.term)
        super()._on_pre_vote_request(ask)


class CountsAVoteTwice(Raft):
    """A majority of messages, not of voters."""

    def _count_vote(self, voter: int, granted: bool) -> None:
        if voter in self._votes:
            voter = next((other for other in self._electorate.voters if other not in self._votes), voter)
        super()._count_vote(voter, granted)


# -- Replication


class CommitsEarlierTermsByCounting(WrongLeader):
    """The mistake of Figure 8."""

    class Counts(Leadership):
        def committed(self, commit_index: int) -> int:
            copies = [self.progress[v].match for v in self._voters if v != self._node_id]
            index = majority_holds([self._log.durable_index, *copies])
            self.may_send |= index > commit_index
            return max(index, commit_index)

    leadership_class = Counts


class CutsWhatALateAppendDoesNotName(Raft):
    """A delayed, shorter AppendEntries removes the tail behind it, acknowledged or not (5.3)."""

    def _on_append(self, append: AppendEntries) -> None:
        super()._on_append(append)
        end = append.previous.index + len(append.entries) + 1
        if append.entries and self.commit_index < end <= self.last_index:
            self.log._truncate(end, self.commit_index)


class AppendsWithoutLooking(Raft):
    """Takes entries whether or not its log holds what precedes them in the leader's (5.3)."""

    def _on_append(self, append: AppendEntries) -> None:
        held = self.log.term_at(append.previous.index)
        if held is not None:
            append = dataclasses.replace(append, previous=EntryId(held, append.previous.index))
        super()._on_append(append)


class CommitsWhatItDidNotCompare(Raft):
    """The leader's commit index is taken for the whole log, its unverified tail included (Figure 2)."""

    def _on_append(self, append: AppendEntries) -> None:
        super()._on_append(append)
        self._commit(min(append.commit, self.last_index))


class ListensToALeaderOfThePast(Raft):
    """An append of an earlier term is taken like any other (5.1)."""

    def _on_message_from_the_past(self, message: Message) -> None:
        if isinstance(message, AppendEntries) and self.leader is None:
            self._on_append(message)
        else:
            super()._on_message_from_the_past(message)


class HeartbeatsTellTooMuch(WrongLeader):
    """A heartbeat carries the commit index, though the receiver's log may hold another leader's entries."""

    class Tells(Leadership):
        def send_heartbeats(self, commit_index: int) -> None:
            for peer in self.progress:
                beat = Heartbeat(
                    sender=self._node_id,
                    to=peer,
                    term=self._term,
                    commit=commit_index,
                    context=self._reads.context,
                )
                self._send(beat)

    leadership_class = Tells

    def _commit(self, index: int) -> None:
        super()._commit(min(index, self.last_index))


# -- Reads


class ReadsBecauseItOnceLed(Raft):
    """Answers reads without asking anyone whether it still leads."""

    def read_index(self, context: int) -> None:
        super().read_index(context)
        if not self._reads._reads:
            self._reads.begin(self.commit_index)
            for peer in self._electorate.others:
                self._reads.confirm(peer, self._reads.context)


class LetsReadsJoinAnOpenRound(Raft):
    """A read is confirmed by answers that are older than itself."""

    def read_index(self, context: int) -> None:
        super().read_index(context)
        if self._reads.context:
            self._reads._reads += self._reads._waiting
            self._reads._waiting = []
            self._reads._index = self.commit_index


class TakesAnyAnswerForARound(Raft):
    """An answer to a heartbeat of an earlier round confirms the one that is open."""

    def step(self, message: Message) -> None:
        if isinstance(message, HeartbeatReply):
            message = dataclasses.replace(message, context=self._reads._rounds)
        super().step(message)


class ReadsBeforeItsNoOp(Raft):
    """A new leader reads at a commit index that may be older than what its predecessor answered."""

    @property
    def _may_begin_read_round(self) -> bool:
        return self._reads.may_begin


# -- Snapshots and the log's base


class TakesAStateThatIsBehind(Raft):
    """A state older than its own takes the place of it."""

    def _on_snapshot_offer(self, offer: SnapshotOffer) -> None:
        if offer.snapshot.last.index < self.commit_index and self._leadership is None:
            self.commit_index = offer.snapshot.last.index - 1
        super()._on_snapshot_offer(offer)


class DropsALogThatLeadsToTheState(Raft):
    """What it acknowledged behind the state goes with the rest."""

    def _on_snapshot_offer(self, offer: SnapshotOffer) -> None:
        last = offer.snapshot.last
        if last.index > self.commit_index and self._leadership is None:
            self.log.restore(offer.snapshot)
            self._follow_configuration()
            self.commit_index = self.applied_index = self._handed_commit = last.index
        self._acknowledge(offer.sender, self.commit_index)


class TrimsWhatIsOnlyApplied(Node):
    """The log is trimmed up to what is applied in memory: rows that were not written yet are gone."""

    def _compact(self, index: int) -> None:
        super()._compact(min(self.state.index, self.up.log.durable_index))


class BringsHardStateAlong(Node):
    """The new file is the sender's as it was: with its term and its vote."""

    def _write(self, batch: Write) -> None:
        if batch.staged:
            batch = dataclasses.replace(batch, hard_state=batch.staged.senders_hard_state)
        super()._write(batch)

    def _report(self, batch: Write) -> None:
        super()._report(dataclasses.replace(batch, hard_state=None) if batch.staged else batch)


class ForgetsWhoIsInTheState(Node):
    """A state is kept without its configuration: after a restart the founders count."""

    def _write(self, batch: Write) -> None:
        if batch.staged:
            kept = Snapshot(batch.staged.name.last, self.disk.base.configuration)
            batch = dataclasses.replace(
                batch, staged=Staged(kept, batch.staged.state, batch.staged.senders_hard_state)
            )
        super()._write(batch)


# -- Membership


class ChangesBeforeItsOwnCommit(WrongLeader):
    """The bug of 2015: a step beside one that an earlier leader left behind."""

    class Changes(Leadership):
        def change(self, change: Change, commit_index: int) -> EntryId:
            pending = self._log.configuration_index > commit_index
            return super().change(change, commit_index if pending else self._log.last_index)

    leadership_class = Changes


class ChangesTwoAtOnce(WrongLeader):
    """A second change while the first is not committed: majorities two steps apart share nobody."""

    class Changes(Leadership):
        def change(self, change: Change, commit_index: int) -> EntryId:
            return super().change(change, max(commit_index, self._log.configuration_index))

    leadership_class = Changes


class CountsLearners(WrongLeader):
    """A learner's copy makes a majority."""

    class Counts(Leadership):
        def committed(self, commit_index: int) -> int:
            voters, self._voters = self._voters, self._log.configuration.ids
            try:
                return super().committed(commit_index)
            finally:
                self._voters = voters

    leadership_class = Counts


class CountsItselfAfterItLeft(WrongLeader):
    """A leader that removes itself goes on to count its own copy."""

    class Counts(Leadership):
        def committed(self, commit_index: int) -> int:
            voters = self._voters
            self._voters = tuple({*voters, self._node_id})
            try:
                return super().committed(commit_index)
            finally:
                self._voters = voters

    leadership_class = Counts


class KeepsAChangeThatWasCutOff(WrongLog):
    """A configuration counts on after its entry gave way."""

    class Keeps(RaftLog):
        def _truncate(self, index: int, commit_index: int) -> None:
            kept = self._configurations[-1]
            super()._truncate(index, commit_index)
            if kept[0] >= index:
                self._configurations.append((index - 1, kept[1]))

    log_class = Keeps


class CountsTheFoundersAfterARestart(Raft):
    """The log is read, what it says of the members is not."""

    def __init__(self, *, entries: Sequence[Entry], **how: object) -> None:
        super().__init__(entries=entries, **how)  # type: ignore[arg-type]
        del self.log._configurations[1:]
        self._electorate.follow_log()
