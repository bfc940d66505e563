"""What has gathered since the last turn: a leader appends it, the others hand it on to the leader.

Place in the house   replica -> gathering -> raft; courier
Takes                commands, questions and reads of this node; what other nodes forward
Gives                proposals and a read round, or messages to the leader
Never                hands a command on twice, or lets more of it be uncommitted than memory may hold
"""

from __future__ import annotations

from collections import deque

from jobguard_store.courier import Courier
from jobguard_store.peer_messages import Ask, Forward, ForwardRefused, Question
from jobguard_store.proposals import Proposals
from jobguard_store.questions import Questions
from jobguard_store.raft.core import Raft, Role
from jobguard_store.reads import Reads
from jobguard_store.transport import Transport

# How far a leader lets its quorum lag. What waits beyond is bounded by its requesters' own limits.
UNCOMMITTED_MAX = 10_000
UNCOMMITTED_BYTES_MAX = 64 << 20
FORWARD_BYTES_MAX = 1 << 20


class Gathering:
    def __init__(
        self,
        raft: Raft,
        proposals: Proposals,
        questions: Questions,
        reads: Reads,
        courier: Courier,
        transport: Transport,
    ) -> None:
        self._raft = raft
        self._proposals = proposals
        self._questions = questions
        self._reads = reads
        self._courier = courier
        self._transport = transport
        self._me = raft.node_id
        self._forwarded: list[Forward] = []
        self._uncommitted: deque[tuple[int, int]] = deque()  # what we appended as leader: last index, bytes

    def forwarded(self, forward: Forward) -> None:
        self._forwarded.append(forward)

    def leadership_changed(self) -> None:
        self._uncommitted.clear()

    def turn(self, now: float, *, disk_full: bool) -> None:
        if self._raft.role is Role.LEADER:
            self._lead(now, disk_full)
        else:
            self._refuse_forwards()
            if self._raft.leader is not None:
                self._follow(self._raft.leader, now)

    def _lead(self, now: float, disk_full: bool) -> None:
        """Append what has gathered, here and on followers; begin a read for all who wait."""
        if self._may_append():
            self._append(disk_full)
        else:
            self._refuse_forwards()
        for pending in self._questions.to_ask(now):
            self._reads.asked(pending.ask(self._me, self._me))
        if self._reads.gathered:
            self._raft.read_index(self._reads.begin().context)

    def _may_append(self) -> bool:
        """A leader that hands over takes no more on, nor one whose quorum lags: it would stay in memory."""
        while self._uncommitted and self._uncommitted[0][0] <= self._raft.commit_index:
            self._uncommitted.popleft()
        waiting = sum([size for _, size in self._uncommitted])
        lag = self._raft.last_index - self._raft.commit_index
        room = lag < UNCOMMITTED_MAX and waiting < UNCOMMITTED_BYTES_MAX
        return room and self._raft.accepts_proposals

    def _append(self, disk_full: bool) -> None:
        commands = self._proposals.take(self._raft.term)
        forwarders = set()
        for forward in self._forwarded:
            if forward.term == self._raft.term and not disk_full:
                commands.extend(forward.commands)
                forwarders.add(forward.sender)
            else:
                self._refuse(forward)
        self._forwarded = []
        if commands:
            self._raft.propose(commands)
            self._uncommitted.append((self._raft.last_index, sum(map(len, commands))))
        for forwarder in forwarders:
            self._courier.awaited(forwarder, self._raft.last_index)

    def _follow(self, leader: int, now: float) -> None:
        """Hand on what has gathered. What cannot be posted stays queued: it certainly was not sent."""
        if not self._transport.reaches(leader):
            return
        for group in self._proposals.groups(FORWARD_BYTES_MAX):
            forward = Forward(
                sender=self._me,
                to=leader,
                term=self._raft.term,
                sequences=tuple(waiter.sequence for waiter in group),
                commands=tuple(waiter.data for waiter in group),
            )
            if not self._courier.post(forward):
                break
            self._proposals.sent(group, self._raft.term)
        for pending in self._questions.to_ask(now):
            self._courier.post(pending.ask(self._me, leader))
        if self._reads.gathered:
            context = self._reads.begin().context
            self._courier.post(Ask(sender=self._me, to=leader, context=context, question=Question.BARRIER))

    def _refuse_forwards(self) -> None:
        """At once, even when no leader is known: a term we do not lead now we never will again."""
        for forward in self._forwarded:
            self._refuse(forward)
        self._forwarded = []

    def _refuse(self, forward: Forward) -> None:
        self._courier.post(ForwardRefused(sender=self._me, to=forward.sender, sequences=forward.sequences))
