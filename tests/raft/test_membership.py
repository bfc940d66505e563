"""Who is in the cluster: changes and their refusals, and who counts from when on (thesis, chapter 4)."""

from collections.abc import Iterable
from dataclasses import replace

import pytest

from jobguard_store.raft import (
    NOBODY,
    NOTHING,
    AddLearner,
    AddVoter,
    AppendEntries,
    AppendReply,
    Change,
    ChangeRefused,
    Commit,
    Configuration,
    Entry,
    EntryId,
    EntryKind,
    HardState,
    Heartbeat,
    HeartbeatReply,
    Member,
    NotLeader,
    PreVote,
    PreVoteRequest,
    Promote,
    Raft,
    Raise,
    Refusal,
    Remove,
    Role,
    Update,
    Vote,
)
from jobguard_store.raft.membership import after
from tests.raft.alone import (
    append,
    candidate,
    carry_out,
    finish,
    leader,
    log_of,
    node,
    of,
    reply,
    settled_leader,
    tell,
    vote_request,
)


def cluster(voters: Iterable[int], learners: Iterable[int] = ()) -> Configuration:
    members = [Member(v, True) for v in voters] + [Member(learner, False) for learner in learners]
    return Configuration(tuple(sorted(members, key=lambda member: member.id)))


def config_entry(index: int, term: int, configuration: Configuration) -> Entry:
    return Entry(index, term, EntryKind.CONFIG, configuration.encode())


def changed(raft: Raft, change: Change, *by: int) -> Raft:
    """The change is made, and acknowledged by these."""
    raft.change_membership(change)
    carry_out(raft)
    for peer in by:
        tell(raft, reply(raft, peer))
    return raft


def answer_heartbeats(raft: Raft, *peers: int, ticks: int = 1) -> None:
    for _ in range(ticks):
        raft.tick()
        carry_out(raft)
        for peer in peers:
            tell(raft, HeartbeatReply(sender=peer, to=1, term=raft.term, context=0))


class Test_a_configuration:
    def test_survives_the_log(self) -> None:
        held = Configuration((Member(1, True, b"\x00\xff"), Member(2**63 - 1, False)), removed=(3, 4))
        assert Configuration.decode(held.encode()) == held

    def test_is_spelled_like_this_for_ever(self) -> None:
        held = Configuration((Member(1, True, b"a"), Member(2, False)), removed=(3,))
        one, two = b'{"id":1,"voter":true,"data":"YQ=="}', b'{"id":2,"voter":false,"data":""}'
        spelled = b'{"members":[' + one + b"," + two + b'],"removed":[3]}'
        assert held.encode() == spelled
        assert Configuration.decode(spelled[:-1] + b',"later":1}') == held
        assert replace(held, level=2).encode() == spelled[:-1] + b',"level":2}'
        assert Configuration.decode(spelled[:-1] + b',"level":2}') == replace(held, level=2)

    @pytest.mark.parametrize(
        ("before", "change", "then"),
        [
            (cluster([1]), AddLearner(2), cluster([1], [2])),
            (cluster([1]), AddVoter(2), cluster([1, 2])),
            (cluster([1], [2]), Promote(2), cluster([1, 2])),
            (cluster([1, 2]), Remove(1), Configuration((Member(2, True),), removed=(1,))),
            (cluster([1], [2]), Remove(2), Configuration((Member(1, True),), removed=(2,))),
            (cluster([1]), Update(1, b"x"), Configuration((Member(1, True, b"x"),))),
            (cluster([1], [2]), Raise(3), replace(cluster([1], [2]), level=3)),
            (replace(cluster([1]), level=2), AddLearner(2), replace(cluster([1], [2]), level=2)),
            (replace(cluster([1, 2]), level=2), Remove(2), Configuration((Member(1, True),), (2,), 2)),
            (replace(cluster([1]), level=2), Raise(2), Refusal.NOT_HIGHER),
            (cluster([1], [2]), AddVoter(2), Refusal.KNOWN),
            (cluster([1], [2]), AddLearner(1), Refusal.KNOWN),
            (Configuration((Member(1, True),), removed=(2,)), AddLearner(2), Refusal.REMOVED),
            (Configuration((Member(1, True),), removed=(2,)), AddVoter(2), Refusal.REMOVED),
            (cluster([1]), Promote(2), Refusal.UNKNOWN),
            (cluster([1]), Remove(2), Refusal.UNKNOWN),
            (cluster([1]), Update(2, b""), Refusal.UNKNOWN),
            (cluster([1]), Promote(1), Refusal.NOT_A_LEARNER),
            (cluster([1], [2]), Remove(1), Refusal.LAST_VOTER),
        ],
    )
    def test_is_changed_by_one_member(
        self, before: Configuration, change: Change, then: Configuration | Refusal
    ) -> None:
        if isinstance(then, Configuration):
            assert after(before, change) == then
            assert len(set(before.voters) ^ set(then.voters)) <= 1
        else:
            with pytest.raises(ChangeRefused) as refused:
                after(before, change)
            assert refused.value.refusal is then

    def test_keeps_what_the_node_notes_about_a_member(self) -> None:
        held = after(after(cluster([1]), AddLearner(2, b"here")), Promote(2))
        assert held.member(2) == Member(2, True, b"here")


class Test_a_change_is_refused:
    def refusal(self, raft: Raft, change: Change) -> Refusal:
        last = raft.last_index
        with pytest.raises(ChangeRefused) as refused:
            raft.change_membership(change)
        assert raft.last_index == last, "nothing was appended"
        return refused.value.refusal

    def test_by_who_does_not_lead(self) -> None:
        with pytest.raises(NotLeader):
            node().change_membership(AddLearner(4))

    def test_before_the_leader_committed_in_its_own_term(self) -> None:
        """The bug of 2015: what an earlier leader left behind may be a change, and alive."""
        raft = leader(terms=(1, 1))
        assert self.refusal(raft, AddLearner(4)) is Refusal.TOO_EARLY
        tell(raft, reply(raft, 2))
        raft.change_membership(AddLearner(4))

    def test_while_another_is_pending(self) -> None:
        raft = settled_leader()
        raft.change_membership(AddLearner(4))
        carry_out(raft)
        assert self.refusal(raft, AddLearner(5)) is Refusal.PENDING
        tell(raft, reply(raft, 2))
        raft.change_membership(AddLearner(5))

    def test_while_one_an_earlier_leader_began_is_pending(self) -> None:
        raft = node(term=1)
        more = cluster([1, 2, 3, 4])
        tell(raft, append(NOTHING, [config_entry(1, 1, more)], term=1))
        assert raft.configuration == more

    def test_if_a_learner_has_not_caught_up(self) -> None:
        raft = changed(settled_leader(), AddLearner(4), 2, 3)
        assert self.refusal(raft, Promote(4)) is Refusal.NOT_CAUGHT_UP, "it has answered nothing"
        tell(raft, reply(raft, 4))
        raft.propose([b"x"])
        carry_out(raft)
        tell(raft, reply(raft, 2))
        answer_heartbeats(raft, 2, 3, 4, ticks=2)
        assert self.refusal(raft, Promote(4)) is Refusal.NOT_CAUGHT_UP, "it lacks what is long committed"
        tell(raft, reply(raft, 4))
        raft.change_membership(Promote(4))
        assert raft.configuration.voters == (1, 2, 3, 4)

    def test_not_if_a_learner_is_behind_by_a_moment(self) -> None:
        """Under load something is always on its way."""
        raft = changed(settled_leader(), AddLearner(4), 2, 3, 4)
        answer_heartbeats(raft, 2, 3, 4, ticks=2)
        raft.propose([b"x"])
        carry_out(raft)
        tell(raft, reply(raft, 2))
        assert raft.commit_index == raft.last_index
        raft.change_membership(Promote(4))

    def test_if_a_caught_up_learner_is_silent(self) -> None:
        raft = changed(settled_leader(), AddLearner(4), 2, 3, 4)
        answer_heartbeats(raft, 2, 3, ticks=10)
        assert self.refusal(raft, Promote(4)) is Refusal.NOT_CAUGHT_UP

    def test_if_too_few_would_be_in_touch(self) -> None:
        """Three voters, one of them silent: to add a fourth, or remove one that answers, would need it."""
        raft = settled_leader()
        answer_heartbeats(raft, 2, ticks=10)
        assert self.refusal(raft, AddVoter(4)) is Refusal.QUORUM_AT_RISK
        assert self.refusal(raft, Remove(2)) is Refusal.QUORUM_AT_RISK
        raft.change_membership(Remove(3))

    def test_not_if_a_lone_voter_is_joined(self) -> None:
        raft = node(voters=1)
        raft.tick()
        carry_out(raft)
        raft.change_membership(AddVoter(2))
        assert raft.configuration.voters == (1, 2)


class Test_it_counts_from_the_moment_it_is_appended:
    def test_on_the_leader(self) -> None:
        raft = settled_leader()
        raft.change_membership(AddVoter(4))
        ready = raft.ready()
        assert {message.to for message in of(AppendEntries, ready.messages)} == {2, 3, 4}
        finish(raft, ready)
        tell(raft, reply(raft, 2))
        assert raft.commit_index == 1, "two of four"
        tell(raft, reply(raft, 4))
        assert raft.commit_index == 2

    def test_on_a_follower(self) -> None:
        raft = node()
        tell(raft, append(NOTHING, [config_entry(1, 1, cluster([1, 2, 3, 4, 5]))], term=1))
        for _ in range(20):
            raft.tick()
        assert {ask.to for ask in of(PreVoteRequest, carry_out(raft))} == {2, 3, 4, 5}

    def test_and_no_longer_once_it_is_cut_off(self) -> None:
        raft = node()
        tell(raft, append(NOTHING, [config_entry(1, 1, cluster([1, 2, 3, 4]))], term=1))
        tell(raft, append(NOTHING, log_of(2), term=2, sender=3))
        assert raft.configuration == cluster([1, 2, 3])

    def test_after_a_restart_too(self) -> None:
        raft = Raft(
            node_id=1,
            voters=[1, 2, 3],
            hard_state=HardState(1),
            entries=[config_entry(1, 1, cluster([1, 2, 3], [4])), config_entry(2, 1, cluster([1, 2, 3, 4]))],
            applied_index=1,
            random=node()._patience._random,
        )
        assert raft.configuration == cluster([1, 2, 3, 4])
        raft.compact(1)
        assert raft.snapshot_at(1).configuration == cluster([1, 2, 3], [4])
        assert raft.configuration == cluster([1, 2, 3, 4])

    def test_whose_copies_count_is_whose_disk_counts(self) -> None:
        """Of two voters one is removed: the leader's own copy is a majority, once it is durable."""
        raft = settled_leader(voters=2)
        raft.change_membership(Remove(2))
        ready = raft.ready()
        assert raft.commit_index == 1
        finish(raft, ready)
        assert raft.commit_index == 2

    def test_a_read_under_way_counts_the_voters_that_are_left(self) -> None:
        raft = settled_leader(voters=2)
        raft.read_index(7)
        carry_out(raft)
        raft.change_membership(Remove(2))
        assert [read.context for read in raft.ready().reads] == [7]


class Test_learners:
    def test_are_sent_everything_and_count_for_nothing(self) -> None:
        raft = changed(settled_leader(), AddLearner(4), 2, 3)
        raft.propose([b"x"])
        carry_out(raft)
        (message,) = (m for m in of(AppendEntries, tell(raft, reply(raft, 4, match=2))) if m.to == 4)
        assert message.entries[-1].data == b"x"
        tell(raft, reply(raft, 4))
        assert raft.commit_index == 2
        raft.read_index(7)
        (context,) = {beat.context for beat in of(Heartbeat, carry_out(raft))}
        raft.step(HeartbeatReply(sender=4, to=1, term=1, context=context))
        assert raft.ready().reads == ()
        for _ in range(10):
            raft.tick()
            tell(raft, HeartbeatReply(sender=4, to=1, term=1, context=0))
        assert raft.role is Role.FOLLOWER, "a learner is no quorum"

    def learner(self) -> Raft:
        raft = node(voters=0)
        entries = [config_entry(1, 1, cluster([2, 3], [1]))]
        tell(raft, append(NOTHING, entries, term=1, commit=1))
        return raft

    def test_stand_for_nothing(self) -> None:
        raft = self.learner()
        for _ in range(50):
            raft.tick()
        assert carry_out(raft) == []
        assert (raft.role, raft.leader) == (Role.FOLLOWER, None)
        tell(raft, append(EntryId(1, 1), term=1))
        raft.peer_lost(2)
        for _ in range(50):
            raft.tick()
        assert carry_out(raft) == []

    def test_vote_if_asked(self) -> None:
        """It may have been promoted by an entry that it does not hold yet."""
        raft = self.learner()
        for _ in range(20):
            raft.tick()
        (pre_vote,) = of(PreVote, tell(raft, PreVoteRequest(sender=3, to=1, term=2, last=EntryId(1, 2))))
        (vote,) = of(Vote, tell(raft, vote_request(3, term=2, last=EntryId(1, 2))))
        assert pre_vote.granted
        assert vote.granted


class Test_a_node_that_joins:
    def test_knows_nobody_asks_nobody_and_follows_who_leads(self) -> None:
        raft = node(voters=0)
        assert raft.configuration == NOBODY
        for _ in range(50):
            raft.tick()
        assert carry_out(raft) == []
        sent = tell(raft, append(NOTHING, log_of(1, 1), term=1, commit=2))
        assert [answer.match for answer in of(AppendReply, sent)] == [2]
        for _ in range(9):
            raft.tick()
        assert raft.leader == 2, "that it knows no voter does not make it one"


class Test_removal:
    def test_who_is_removed_is_told_and_then_left_alone(self) -> None:
        raft = settled_leader()
        raft.change_membership(Remove(3))
        assert {message.to for message in of(AppendEntries, carry_out(raft))} == {2, 3}
        assert {commit.to for commit in of(Commit, tell(raft, reply(raft, 2)))} == {2}
        assert {commit.to for commit in of(Commit, tell(raft, reply(raft, 3)))} == {3}
        raft.propose([b"x"])
        raft.tick()
        assert {message.to for message in carry_out(raft)} == {2}

    def test_who_does_not_answer_is_left_alone_after_an_election_timeout(self) -> None:
        raft = changed(settled_leader(), Remove(3), 2)
        answer_heartbeats(raft, 2, ticks=10)
        raft.tick()
        assert {message.to for message in carry_out(raft)} == {2}

    def test_a_leader_that_removes_itself_leads_until_that_is_committed(self) -> None:
        raft = settled_leader()
        raft.change_membership(Remove(1))
        carry_out(raft)
        tell(raft, reply(raft, 2))
        assert raft.role is Role.LEADER, "itself it does not count"
        sent = tell(raft, reply(raft, 3))
        assert (raft.role, raft.commit_index) == (Role.FOLLOWER, 2)
        assert {(commit.to, commit.commit) for commit in of(Commit, sent)} == {(2, 2), (3, 2)}
        for _ in range(50):
            raft.tick()
        assert carry_out(raft) == []

    def test_one_whose_removal_may_not_be_committed_stands_and_does_not_count_itself(self) -> None:
        raft = node(voters=2)
        raft.step(append(NOTHING, [config_entry(1, 1, cluster([2]))], term=1))
        carry_out(raft)
        for _ in range(20):
            raft.tick()
        (ask,) = of(PreVoteRequest, carry_out(raft))
        assert ask.to == 2
        assert raft.role is Role.PRE_CANDIDATE
        tell(raft, PreVote(sender=2, to=1, term=2, granted=True))
        assert raft.role is Role.CANDIDATE, "its own vote, durable by now, is none"
        tell(raft, Vote(sender=2, to=1, term=2, granted=True))
        assert raft.role is Role.LEADER

    def test_a_vote_of_who_was_removed_counts_for_nothing(self) -> None:
        raft = candidate(voters=3)
        carry_out(raft)
        raft._electorate.voters = (1, 2, 4)
        tell(raft, Vote(sender=3, to=1, term=raft.term, granted=True))
        assert raft.role is Role.CANDIDATE
