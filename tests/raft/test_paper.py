"""The rules of the Raft paper (extended version), one test each, in its order.

Ongaro's thesis is cited where a rule is only there: pre-vote (9.6), check-quorum (6.2, 4.2.3), reads (6.4).
"""

from collections.abc import Callable

import pytest

from jobguard_store.raft import (
    NOTHING,
    AppendEntries,
    AppendRefusal,
    AppendReply,
    Commit,
    EntryId,
    EntryKind,
    HardState,
    Heartbeat,
    HeartbeatReply,
    NotLeader,
    PreVote,
    PreVoteRequest,
    Raft,
    Role,
    Vote,
    VoteRequest,
)
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
    terms_of,
    vote_request,
)


class Test_5_1_terms:
    @pytest.mark.parametrize("start", [node, candidate, leader])
    def test_a_newer_term_makes_a_follower(self, start: Callable[[], Raft]) -> None:
        """5.1: if a server sees a newer term it adopts it; a candidate or leader becomes a follower."""
        raft = start()
        newer = raft.term + 5
        tell(raft, append(NOTHING, term=newer))
        assert (raft.role, raft.term, raft.leader, raft.voted_for) == (Role.FOLLOWER, newer, 2, None)

    def test_a_stale_request_is_refused_with_the_current_term(self) -> None:
        """5.1: a request with a stale term is rejected; the sender learns from the answer."""
        raft = node(term=3)
        (answer,) = tell(raft, append(NOTHING, log_of(1), term=2))
        assert isinstance(answer, HeartbeatReply)
        assert answer.term == 3
        assert raft.last_index == 0
        (answer,) = tell(raft, vote_request(term=2, last=EntryId(9, 9)))
        assert isinstance(answer, Vote)
        assert (answer.term, answer.granted) == (3, False)

    def test_a_stale_answer_counts_for_nothing(self) -> None:
        """5.1: a leader of term 5 is not helped by acknowledgements and votes of term 4."""
        raft = leader(terms=(1, 4))
        assert raft.term == 5
        late = AppendReply(sender=2, to=1, term=4, match=3)
        tell(raft, late, Vote(sender=2, to=1, term=4, granted=True))
        assert raft.commit_index == 0


class Test_5_2_elections:
    def test_a_node_starts_as_a_follower(self) -> None:
        """5.2: when servers start up, they begin as followers."""
        raft = node(terms=(1, 1), term=2, vote=3)
        assert (raft.role, raft.term, raft.voted_for, raft.leader) == (Role.FOLLOWER, 2, 3, None)

    def test_a_follower_that_hears_a_leader_stays_one(self) -> None:
        """5.2: it remains in follower state as long as it receives valid requests from a leader."""
        raft = node()
        for _ in range(100):
            raft.tick()
            tell(raft, Heartbeat(sender=2, to=1, term=1, commit=0, context=0))
        assert (raft.role, raft.term, raft.leader) == (Role.FOLLOWER, 1, 2)

    def test_silence_begins_an_election(self) -> None:
        """5.2: no communication over the election timeout, and it assumes there is no leader."""
        raft = node(terms=(1,), term=4)
        for _ in range(20):
            raft.tick()
        asks = of(PreVoteRequest, carry_out(raft))
        assert [(ask.to, ask.term, ask.last) for ask in asks] == [
            (2, 5, EntryId(1, 1)),
            (3, 5, EntryId(1, 1)),
        ]

    def test_a_candidate_votes_for_itself_and_asks_the_others(self) -> None:
        """5.2: it increments its term, votes for itself, and requests votes from all the others."""
        raft = candidate(terms=(1,), term=4)
        assert (raft.term, raft.voted_for) == (5, 1)
        asks = of(VoteRequest, carry_out(raft))
        assert [(ask.to, ask.term, ask.last) for ask in asks] == [
            (2, 5, EntryId(1, 1)),
            (3, 5, EntryId(1, 1)),
        ]

    @pytest.mark.parametrize(
        ("voters", "votes", "role"),
        [
            (3, {}, Role.CANDIDATE),
            (3, {2: True}, Role.LEADER),
            (3, {2: False}, Role.CANDIDATE),
            (3, {2: False, 3: True}, Role.LEADER),
            (3, {2: False, 3: False}, Role.FOLLOWER),
            (5, {2: True}, Role.CANDIDATE),
            (5, {2: True, 3: True}, Role.LEADER),
            (5, {2: True, 3: False, 4: False}, Role.CANDIDATE),
            (5, {2: False, 3: False, 4: False}, Role.FOLLOWER),
        ],
    )
    def test_a_majority_wins(self, voters: int, votes: dict[int, bool], role: Role) -> None:
        """5.2: a candidate wins if it receives votes from a majority for the same term."""
        raft = candidate(voters=voters)
        carry_out(raft)
        for voter, granted in votes.items():
            raft.step(Vote(sender=voter, to=1, term=raft.term, granted=granted))
        assert raft.role is role

    def test_a_doubled_vote_is_one_vote(self) -> None:
        """5.2: the majority is of servers, not of messages."""
        raft = candidate(voters=5)
        carry_out(raft)
        tell(raft, *[Vote(sender=2, to=1, term=raft.term, granted=True)] * 3)
        assert raft.role is Role.CANDIDATE

    def test_one_vote_per_term_first_come_first_served(self) -> None:
        """5.2: each server votes for at most one candidate in a term; asked again, it says the same."""
        raft = node()
        asks = [vote_request(sender, term=1, last=NOTHING) for sender in (2, 3, 2)]
        assert [vote.granted for vote in of(Vote, tell(raft, *asks))] == [True, False, True]

    def test_a_candidate_yields_to_the_leader_of_its_term(self) -> None:
        """5.2: an append from a leader whose term is at least its own makes it a follower."""
        raft = candidate()
        carry_out(raft)
        tell(raft, append(NOTHING, term=raft.term))
        assert (raft.role, raft.leader) == (Role.FOLLOWER, 2)

    def test_timeouts_are_randomised(self) -> None:
        """5.2: chosen from a fixed interval, here [election_ticks, 2 * election_ticks)."""
        waited = set()
        for seed in range(200):
            raft, ticks = node(seed=seed), 0
            while raft.role is Role.FOLLOWER:
                raft.tick()
                ticks += 1
            waited.add(ticks)
        assert waited == set(range(10, 20))

    def test_an_election_without_winner_is_tried_again(self) -> None:
        """5.2: a split vote ends in another timeout; with pre-vote, in another question first."""
        raft = candidate()
        carry_out(raft)
        term = raft.term
        for _ in range(20):
            raft.tick()
        assert {ask.term for ask in of(PreVoteRequest, carry_out(raft))} == {term + 1}
        assert raft.term == term

    def test_term_and_vote_are_durable_before_a_vote_leaves(self) -> None:
        """5.2, Figure 2 (persistent state): updated on stable storage before responding."""
        raft = node()
        raft.step(vote_request(term=1, last=NOTHING))
        ready = raft.ready()
        assert ready.hard_state == HardState(1, 2)
        assert ready.messages == ()
        assert of(Vote, ready.messages_after_persist) != []

    def test_a_vote_survives_a_restart(self) -> None:
        """5.2: the same, seen after a crash: it does not vote twice."""
        raft = node(term=1, vote=2)
        (vote,) = of(Vote, tell(raft, vote_request(3, term=1, last=NOTHING)))
        assert not vote.granted


class Test_5_3_replication:
    def test_only_the_leader_takes_proposals(self) -> None:
        """5.1, 5.3: the leader handles all client requests; another names it."""
        raft = node()
        tell(raft, Heartbeat(sender=2, to=1, term=1, commit=0, context=0))
        with pytest.raises(NotLeader) as refusal:
            raft.propose([b"x"])
        assert refusal.value.leader == 2

    def test_a_proposal_is_appended_and_sent_in_parallel(self) -> None:
        """5.3: the leader appends the command as a new entry, then sends it to each other server."""
        raft = settled_leader()
        first = raft.propose([b"x", b"y"])
        ready = raft.ready()
        assert [(entry.index, entry.data) for entry in ready.entries] == [(2, b"x"), (3, b"y")]
        assert first == EntryId(1, 2)
        sent = of(AppendEntries, ready.messages)
        assert [(message.to, message.previous, message.entries) for message in sent] == [
            (peer, EntryId(1, 1), ready.entries) for peer in (2, 3)
        ]

    @pytest.mark.parametrize(("voters", "copies"), [(3, 1), (5, 2), (7, 3)])
    def test_an_entry_on_a_majority_is_committed(self, voters: int, copies: int) -> None:
        """5.3: committed once the leader that created it has replicated it on a majority."""
        raft = settled_leader(voters=voters)
        raft.propose([b"x"])
        carry_out(raft)
        for peer in range(2, 2 + copies):
            assert raft.commit_index == 1
            tell(raft, reply(raft, peer))
        assert raft.commit_index == 2

    def test_the_leaders_own_copy_counts_once_it_is_durable(self) -> None:
        """5.3, thesis 10.2.1: the leader may write to its disk in parallel; its copy counts after that."""
        raft = settled_leader()
        raft.propose([b"x"])
        ready = raft.ready()
        raft.step(reply(raft, 2))
        assert raft.commit_index == 1
        finish(raft, ready)
        assert raft.commit_index == 2

    def test_a_quorum_without_the_leader_commits(self) -> None:
        """Thesis 10.2.1: a leader may commit an entry before its own disk holds it."""
        raft = settled_leader()
        raft.propose([b"x"])
        raft.ready()
        raft.step(reply(raft, 2))
        raft.step(reply(raft, 3))
        assert raft.commit_index == 2

    def test_committing_commits_everything_before(self) -> None:
        """5.3: it also commits all preceding entries, including those of previous leaders."""
        raft = leader(terms=(1, 2, 2))
        raft.step(reply(raft, 2))
        ready = raft.ready()
        assert [entry.term for entry in ready.committed] == [1, 2, 2, 3]

    def test_followers_learn_the_commit_index_from_the_leader(self) -> None:
        """5.3: the leader includes the highest index it knows to be committed in what it sends."""
        raft = settled_leader()
        raft.propose([b"x"])
        carry_out(raft)
        raft.step(reply(raft, 2))
        assert {(message.to, message.commit) for message in of(Commit, carry_out(raft))} == {(2, 2)}
        raft.propose([b"y"])
        assert {message.commit for message in of(AppendEntries, carry_out(raft))} == {2}

    def test_a_follower_applies_what_the_leader_committed_in_order(self) -> None:
        """5.3: once a follower learns that an entry is committed, it applies it, in log order."""
        raft = node()
        raft.step(append(NOTHING, log_of(1, 1, 1), term=1, commit=2))
        assert [entry.index for entry in raft.ready().committed] == [1, 2]
        raft.step(Commit(sender=2, to=1, term=1, commit=3))
        assert [entry.index for entry in raft.ready().committed] == [3]

    def test_the_commit_index_never_exceeds_what_an_append_verified(self) -> None:
        """Figure 2, AppendEntries 5: min(leaderCommit, index of last new entry)."""
        raft = node(terms=(1, 1, 1, 1))
        tell(raft, append(EntryId(1, 1), log_of(1, 1)[1:], term=2, commit=4))
        assert raft.commit_index == 2

    def test_an_append_that_does_not_fit_is_refused(self) -> None:
        """5.3: if the follower has no entry with prevLogIndex and prevLogTerm, it refuses."""
        raft = node(terms=(1, 1))
        for previous in (EntryId(1, 3), EntryId(2, 2)):
            (answer,) = tell(raft, append(previous, log_of(1, 1, 2, 2)[3:], term=2))
            assert isinstance(answer, AppendRefusal)
            assert (answer.previous, answer.hint) == (previous.index, EntryId(1, 2))
        assert terms_of(raft) == [1, 1]

    @pytest.mark.parametrize(
        ("held", "previous", "brought", "then"),
        [
            ([1, 1], 2, [1, 1, 3], [1, 1, 3]),  # fits at the end
            ([1, 1, 2], 2, [1, 1, 3, 3], [1, 1, 3, 3]),  # conflicts: the tail gives way
            ([1, 2, 2, 2], 1, [1, 3], [1, 3]),  # .. all of it
            ([1, 1, 3, 3], 1, [1, 1], [1, 1, 3, 3]),  # nothing new: nothing gives way
            ([1, 1, 3, 3], 0, [1, 1, 3], [1, 1, 3, 3]),
            ([1, 1, 3], 1, [1, 1, 3, 3], [1, 1, 3, 3]),  # overlaps
        ],
    )
    def test_a_followers_log_becomes_the_leaders(
        self, held: list[int], previous: int, brought: list[int], then: list[int]
    ) -> None:
        """5.3: conflicting entries are overwritten from the first conflict on, and only from there."""
        raft = node(terms=held, term=3)
        leaders = log_of(*brought)
        before = EntryId(brought[previous - 1] if previous else 0, previous)
        (answer,) = tell(raft, append(before, leaders[previous:], term=3))
        assert terms_of(raft) == then
        assert isinstance(answer, AppendReply)
        assert answer.match == len(brought)

    def test_a_follower_acknowledges_what_is_durable(self) -> None:
        """5.3, Figure 2: log entries are on stable storage before the answer."""
        raft = node(term=1)
        raft.step(append(NOTHING, log_of(1), term=1))
        ready = raft.ready()
        assert ready.messages == ()
        assert of(AppendReply, ready.messages_after_persist) != []
        finish(raft, ready)
        raft.step(append(NOTHING, log_of(1), term=1))
        assert of(AppendReply, raft.ready().messages) != [], "known to be durable: nothing to wait for"

    def test_a_leader_backs_up_until_the_logs_agree(self) -> None:
        """5.3: after a rejection it retries from an earlier index; whole terms are skipped."""
        raft = leader(terms=(1, 1, 1, 4, 4, 5, 5, 6, 6, 6))
        refusal = AppendRefusal(sender=2, to=1, term=7, previous=10, hint=EntryId(3, 10))
        (retry,) = of(AppendEntries, tell(raft, refusal))
        assert retry.previous == EntryId(1, 3)

    def test_a_leader_never_changes_its_own_log(self) -> None:
        """5.3: leader append-only; its tail of earlier terms stays until a newer leader says otherwise."""
        raft = leader(terms=(1, 2, 2))
        tell(raft, AppendRefusal(sender=2, to=1, term=3, previous=3, hint=NOTHING))
        assert terms_of(raft) == [1, 2, 2, 3]


class Test_5_4_safety:
    @pytest.mark.parametrize(
        ("held", "last", "granted"),
        [
            ([1], EntryId(1, 1), True),
            ([1], EntryId(1, 2), True),
            ([1, 1], EntryId(1, 1), False),
            ([1, 1], EntryId(2, 1), True),
            ([2], EntryId(1, 5), False),
            ([], NOTHING, True),
        ],
    )
    def test_only_an_up_to_date_candidate_is_voted_for(
        self, held: list[int], last: EntryId, granted: bool
    ) -> None:
        """5.4.1: a later last term wins; with the same, the longer log."""
        raft = node(terms=held, term=2)
        (pre_vote,) = of(PreVote, tell(raft, PreVoteRequest(sender=2, to=1, term=3, last=last)))
        (vote,) = of(Vote, tell(raft, vote_request(term=3, last=last)))
        assert (pre_vote.granted, vote.granted) == (granted, granted)

    def test_a_refused_candidates_term_is_adopted_all_the_same(self) -> None:
        """5.1 with 5.4.1: the term is newer whoever says so; the vote stays free."""
        raft = node(terms=(1, 1))
        tell(raft, vote_request(term=5, last=EntryId(1, 1)))
        assert (raft.term, raft.voted_for) == (5, None)

    def test_an_earlier_terms_entry_is_not_committed_by_counting(self) -> None:
        """5.4.2, Figure 8: only entries of the leader's own term are committed by counting copies."""
        raft = leader(terms=(1, 2))
        tell(raft, reply(raft, 2, match=2), reply(raft, 3, match=2))
        assert raft.commit_index == 0
        tell(raft, reply(raft, 2, match=3))
        assert raft.commit_index == 3

    def test_a_new_leader_begins_with_a_no_op(self) -> None:
        """5.4.2, 8: each leader commits a blank no-op at the start of its term."""
        raft = leader(terms=(1,))
        entry = raft.log.slice(2, 2)[0]
        assert (entry.term, entry.kind, entry.data) == (2, EntryKind.NOOP, b"")

    def test_committed_entries_never_give_way(self) -> None:
        """5.4.3: state machine safety. A late append from before the commit index changes nothing."""
        raft = node(terms=(1, 1, 2), applied=3)
        (answer,) = tell(raft, append(EntryId(1, 1), log_of(1, 3)[1:], term=3))
        assert terms_of(raft) == [1, 1, 2]
        assert isinstance(answer, AppendReply)
        assert answer.match == 3

    def test_a_leader_that_cuts_committed_entries_is_a_bug_and_stops_the_node(self) -> None:
        """5.4.3: what cannot be is asserted."""
        raft = node(terms=(1, 1, 2), applied=3)
        raft.log.base = NOTHING
        with pytest.raises(AssertionError, match="is committed"):
            raft.log.graft(log_of(1, 1, 3)[2:], commit_index=3)


class Test_8_clients:
    def test_a_read_waits_for_a_commit_of_its_term(self) -> None:
        """8: a leader must know which entries are committed; its no-op tells."""
        raft = leader(terms=(1, 1))
        raft.read_index(7)
        assert of(Heartbeat, carry_out(raft)) == []
        sent = tell(raft, reply(raft, 2))
        assert {beat.context for beat in of(Heartbeat, sent)} == {1}

    def test_a_read_asks_a_majority_whether_it_still_leads(self) -> None:
        """8, thesis 6.4: exchange heartbeats with a majority before answering; the index is from before."""
        raft = settled_leader(voters=5)
        raft.read_index(7)
        (context,) = {beat.context for beat in of(Heartbeat, carry_out(raft))}
        index = raft.commit_index
        for peer, reads in ((2, []), (2, []), (3, [(7, index)])):
            raft.step(HeartbeatReply(sender=peer, to=1, term=raft.term, context=context))
            assert [(read.context, read.index) for read in raft.ready().reads] == reads


class Test_thesis:
    def test_6_2_a_leader_without_a_quorum_steps_down(self) -> None:
        """Thesis 6.2: if an election timeout elapses without a round of heartbeats to a majority."""
        raft = settled_leader(voters=5)
        for _ in range(3):
            for _ in range(9):
                raft.tick()
            for peer in (2, 3):
                tell(raft, HeartbeatReply(sender=peer, to=1, term=raft.term, context=0))
        assert raft.role is Role.LEADER
        for _ in range(10):
            tell(raft, HeartbeatReply(sender=2, to=1, term=raft.term, context=0))
            raft.tick()
        assert (raft.role, raft.leader, raft.term) == (Role.FOLLOWER, None, 1)

    def test_4_2_3_a_vote_is_not_heard_while_a_leader_is(self) -> None:
        """Thesis 4.2.3: within the minimum election timeout of hearing a leader, it changes nothing."""
        raft = node(terms=(1,))
        tell(raft, append(EntryId(1, 1), term=1))
        for _ in range(9):
            raft.tick()
        assert tell(raft, vote_request(3, term=9, last=EntryId(9, 9))) == []
        assert raft.term == 1
        raft.tick()
        (vote,) = of(Vote, tell(raft, vote_request(3, term=9, last=EntryId(9, 9))))
        assert vote.granted

    def test_9_6_asking_ahead_changes_no_term(self) -> None:
        """Thesis 9.6: neither the asker's, nor the asked one's."""
        raft = node(terms=(1,))
        (vote,) = tell(raft, PreVoteRequest(sender=2, to=1, term=2, last=EntryId(1, 1)))
        assert isinstance(vote, PreVote)
        assert (vote.granted, vote.term) == (True, 2)
        assert (raft.term, raft.voted_for) == (1, None)
        for _ in range(20):
            raft.tick()
        assert (raft.role, raft.term) == (Role.PRE_CANDIDATE, 1)

    def test_9_6_a_majority_must_agree_before_a_term_begins(self) -> None:
        """Thesis 9.6: it increments its term only if a majority would vote for it."""
        raft = node(voters=5)
        for _ in range(20):
            raft.tick()
        tell(raft, PreVote(sender=2, to=1, term=1, granted=True))
        assert raft.role is Role.PRE_CANDIDATE
        tell(raft, PreVote(sender=3, to=1, term=1, granted=True))
        assert (raft.role, raft.term) == (Role.CANDIDATE, 1)

    def test_9_6_a_refusal_of_a_newer_term_is_adopted(self) -> None:
        """Thesis 9.6: a node that fell behind would otherwise ask about a past term for ever."""
        raft = node(term=1)
        for _ in range(20):
            raft.tick()
        tell(raft, PreVote(sender=2, to=1, term=7, granted=False))
        assert (raft.role, raft.term) == (Role.FOLLOWER, 7)

    def test_9_6_a_leader_grants_no_pre_vote(self) -> None:
        """Thesis 9.6: nor does anyone who hears one."""
        raft = settled_leader()
        (vote,) = tell(raft, PreVoteRequest(sender=2, to=1, term=2, last=EntryId(9, 9)))
        assert isinstance(vote, PreVote)
        assert (vote.granted, vote.term) == (False, 1)
