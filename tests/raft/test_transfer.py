"""Handing leadership over (thesis 3.10): who may have it, what waits for it, and when it is given up."""

import pytest

from jobguard_store.raft import (
    AddLearner,
    EntryId,
    HandingOver,
    Heartbeat,
    HeartbeatReply,
    NotLeader,
    Raft,
    Remove,
    Role,
    TimeoutNow,
    TransferRefused,
    Vote,
    VoteRequest,
)
from tests.raft.alone import append, carry_out, node, of, reply, settled_leader, tell


def told(raft: Raft) -> list[int]:
    return [message.to for message in of(TimeoutNow, carry_out(raft))]


class Test_a_leader_that_hands_over:
    def test_tells_an_heir_that_holds_everything_at_once(self) -> None:
        raft = settled_leader()
        raft.transfer(2)
        assert told(raft) == [2]
        assert raft.role is Role.LEADER, "until another leads"

    def test_waits_until_the_heir_holds_everything(self) -> None:
        raft = settled_leader()
        raft.propose([b"x", b"y"])
        carry_out(raft)
        raft.transfer(2)
        assert told(raft) == []
        assert of(TimeoutNow, tell(raft, reply(raft, 2, match=2))) == []
        assert [message.to for message in of(TimeoutNow, tell(raft, reply(raft, 2, match=3)))] == [2]

    def test_tells_it_once(self) -> None:
        raft = settled_leader()
        raft.transfer(2)
        carry_out(raft)
        raft.transfer(2)
        assert of(TimeoutNow, tell(raft, reply(raft, 2), reply(raft, 3))) == []

    def test_appends_nothing_meanwhile(self) -> None:
        raft = settled_leader()
        assert raft.accepts_proposals
        raft.transfer(2)
        assert not raft.accepts_proposals
        with pytest.raises(HandingOver, match="to 2") as refused:
            raft.propose([b"x"])
        assert isinstance(refused.value, NotLeader)
        assert refused.value.leader == 2
        assert raft.last_index == 1

    def test_still_confirms_reads_and_sends_heartbeats(self) -> None:
        raft = settled_leader()
        raft.transfer(2)
        raft.read_index(7)
        (context,) = {beat.context for beat in of(Heartbeat, carry_out(raft))}
        raft.step(HeartbeatReply(sender=3, to=1, term=1, context=context))
        assert [read.context for read in raft.ready().reads] == [7]

    def test_gives_it_up_after_an_election_timeout(self) -> None:
        raft = settled_leader()
        raft.transfer(2)
        for _ in range(9):
            raft.tick()
            tell(raft, HeartbeatReply(sender=3, to=1, term=1, context=0))
        assert not raft.accepts_proposals
        raft.tick()
        assert raft.accepts_proposals
        raft.propose([b"x"])

    def test_may_choose_another_heir(self) -> None:
        raft = settled_leader()
        raft.transfer(2)
        carry_out(raft)
        raft.transfer(3)
        assert told(raft) == [3]

    @pytest.mark.parametrize("to", [1, 4, 9])
    def test_cannot_hand_over_to_itself_a_learner_or_a_stranger(self, to: int) -> None:
        raft = settled_leader()
        raft.change_membership(AddLearner(4))
        with pytest.raises(TransferRefused):
            raft.transfer(to)
        assert raft.accepts_proposals

    def test_must_lead(self) -> None:
        with pytest.raises(NotLeader):
            node().transfer(2)
        assert not node().accepts_proposals

    def test_follows_who_takes_over(self) -> None:
        raft = settled_leader()
        raft.transfer(2)
        ask = VoteRequest(sender=2, to=1, term=2, last=EntryId(1, 1), at_leaders_wish=True)
        (vote,) = of(Vote, tell(raft, ask))
        assert vote.granted
        assert raft.role is Role.FOLLOWER

    def test_knows_who_lacks_least(self) -> None:
        raft = settled_leader(voters=5)
        assert node().successor is None
        raft.propose([b"x"])
        carry_out(raft)
        tell(raft, reply(raft, 4))
        assert raft.successor == 4
        for _ in range(10):
            raft.tick()
            for peer in (2, 3):
                tell(raft, HeartbeatReply(sender=peer, to=1, term=1, context=0))
        assert raft.successor in (2, 3), "4 does not answer any more"

    def test_of_one_voter_has_no_successor(self) -> None:
        raft = node(voters=1)
        raft.tick()
        carry_out(raft)
        assert raft.successor is None

    def test_that_was_removed_leaves_somebody_leading(self) -> None:
        raft = settled_leader()
        raft.change_membership(Remove(1))
        carry_out(raft)
        sent = tell(raft, reply(raft, 2), reply(raft, 3))
        assert len(of(TimeoutNow, sent)) == 1


class Test_the_heir:
    def wish(self, *, term: int = 1) -> TimeoutNow:
        return TimeoutNow(sender=2, to=1, term=term)

    def test_stands_at_once_while_it_hears_the_leader(self) -> None:
        raft = node(term=1)
        tell(raft, append(EntryId(0, 0), term=1))
        sent = tell(raft, self.wish())
        assert (raft.role, raft.term) == (Role.CANDIDATE, 2)
        asks = of(VoteRequest, sent)
        assert [(ask.to, ask.at_leaders_wish) for ask in asks] == [(2, True), (3, True)]

    def test_makes_its_own_vote_durable_first(self) -> None:
        raft = node(term=1)
        raft.step(self.wish())
        ready = raft.ready()
        assert ready.messages == ()
        assert of(VoteRequest, ready.messages_after_persist) != []

    def test_of_a_leader_of_the_past_does_nothing(self) -> None:
        raft = node(term=3)
        assert tell(raft, self.wish(term=2)) == []
        assert (raft.role, raft.term) == (Role.FOLLOWER, 3)

    def test_does_nothing_without_a_vote(self) -> None:
        raft = node(voters=0, term=1)
        tell(raft, self.wish())
        assert raft.role is Role.FOLLOWER

    def test_is_heard_though_the_leader_is(self) -> None:
        """4.2.3 protects a leader from others, not from itself."""
        raft = node(terms=(1,))
        tell(raft, append(EntryId(1, 1), term=1))
        ask = VoteRequest(sender=3, to=1, term=2, last=EntryId(1, 1))
        assert tell(raft, ask) == []
        wished = VoteRequest(sender=3, to=1, term=2, last=EntryId(1, 1), at_leaders_wish=True)
        (vote,) = of(Vote, tell(raft, wished))
        assert vote.granted

    def test_gets_no_vote_for_a_log_that_lacks_something(self) -> None:
        raft = node(terms=(1, 1))
        ask = VoteRequest(sender=3, to=1, term=2, last=EntryId(1, 1), at_leaders_wish=True)
        (vote,) = of(Vote, tell(raft, ask))
        assert not vote.granted


def test_a_new_leader_hands_nothing_over() -> None:
    """What an earlier reign wished is forgotten with it."""
    raft = settled_leader()
    raft.transfer(2)
    tell(raft, append(EntryId(1, 1), term=2))
    tell(raft, append(EntryId(1, 1), term=2), HeartbeatReply(sender=3, to=1, term=2, context=0))
    assert raft.role is Role.FOLLOWER
    assert told(raft) == []
