"""What the paper leaves open: flow control, hints, lists of messages, the edges of the object."""

import itertools
from typing import Any

import msgspec
import pytest

from jobguard_store.raft import (
    MESSAGES,
    NOTHING,
    AppendEntries,
    AppendRefusal,
    Configuration,
    Entry,
    EntryId,
    EntryKind,
    HardState,
    Heartbeat,
    HeartbeatReply,
    Limits,
    Member,
    NotLeader,
    PreVote,
    PreVoteRequest,
    Raft,
    Role,
    Snapshot,
    Vote,
    VoteRequest,
)
from jobguard_store.raft.quorum import Outcome, majority, majority_holds, tally
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

# -- Majorities


@pytest.mark.parametrize(
    ("matches", "index"),
    [([7], 7), ([7, 0], 0), ([7, 3], 3), ([1, 2, 3], 2), ([5, 5, 0, 0], 0), ([9, 8, 3, 0, 0], 3)],
)
def test_what_a_majority_holds(matches: list[int], index: int) -> None:
    for order in itertools.permutations(matches):
        assert majority_holds(order) == index


def test_two_majorities_share_a_voter() -> None:
    for voters in range(1, 10):
        assert 2 * majority(voters) > voters


def test_an_election_is_pending_until_it_cannot_turn() -> None:
    assert tally({}, [1, 2, 3]) is Outcome.PENDING
    assert tally({1: True, 2: False}, [1, 2, 3]) is Outcome.PENDING
    assert tally({1: True, 2: True}, [1, 2, 3]) is Outcome.WON
    assert tally({1: False, 2: False}, [1, 2, 3]) is Outcome.LOST
    assert tally({1: True, 9: True, 8: True}, [1, 2, 3]) is Outcome.PENDING, "strangers do not vote"


# -- Messages


def test_every_message_has_a_code_and_survives_the_wire() -> None:
    entries = (Entry(3, 2, EntryKind.NORMAL, b"\x00x"), Entry(4, 2, EntryKind.NOOP, b""))
    values: dict[str, Any] = {
        "sender": 1,
        "to": 2,
        "term": 3,
        "last": EntryId(2, 4),
        "previous": EntryId(2, 2),
        "hint": EntryId(1, 1),
        "entries": entries,
        "snapshot": Snapshot(EntryId(2, 4), Configuration((Member(1, True, b"\x00a"),), removed=(7,))),
    }
    for kind in MESSAGES:
        fields = {name: values.get(name, 1) for name in kind.__slots__}
        if kind is AppendRefusal:
            fields["previous"] = 2
        for flag in {"granted", "at_leaders_wish"} & set(fields):
            fields[flag] = True
        message = kind(**fields)
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(message), type=kind) == message


def test_an_echo_of_ourselves_is_not_heard() -> None:
    raft = node()
    assert tell(raft, vote_request(1, term=5, last=EntryId(9, 9))) == []
    assert raft.term == 0


def test_answers_of_who_is_no_member_count_for_nothing() -> None:
    raft = candidate()
    carry_out(raft)
    tell(raft, Vote(sender=9, to=1, term=1, granted=True))
    assert raft.role is Role.CANDIDATE
    raft = settled_leader()
    raft.propose([b"x"])
    carry_out(raft)
    refusal = AppendRefusal(sender=9, to=1, term=1, previous=1, hint=NOTHING)
    beat = HeartbeatReply(sender=9, to=1, term=1, context=0)
    assert tell(raft, reply(raft, 9), refusal, beat) == []
    assert raft.commit_index == 1


def test_what_is_for_another_is_not_heard() -> None:
    raft = node()
    assert tell(raft, VoteRequest(sender=2, to=3, term=5, last=EntryId(9, 9))) == []
    assert raft.term == 0


def test_nothing_in_a_term_leaves_before_the_term_is_durable() -> None:
    raft = node()
    raft.step(append(EntryId(3, 3), term=4))
    ready = raft.ready()
    assert ready.messages == ()
    assert of(AppendRefusal, ready.messages_after_persist) != []
    raft.step(Heartbeat(sender=2, to=1, term=4, commit=0, context=5))
    later = raft.ready()
    assert later.messages == (), "the write is still under way, and this Ready has none of its own"
    assert of(HeartbeatReply, later.messages_after_persist) != []
    finish(raft, ready)
    raft.step(Heartbeat(sender=2, to=1, term=4, commit=0, context=6))
    assert of(HeartbeatReply, raft.ready().messages) != []


def test_promises_of_a_term_that_was_left_are_not_kept() -> None:
    """An acknowledgement of entries that a newer leader replaces before they are ever written."""
    raft = node()
    raft.step(append(NOTHING, log_of(1, 1), term=1))
    raft.step(append(NOTHING, log_of(2), term=2, sender=3))
    ready = raft.ready()
    assert [entry.term for entry in ready.entries] == [2]
    assert {message.term for message in ready.messages_after_persist} == {2}


def test_acknowledgements_of_one_turn_are_one_message() -> None:
    raft = node(term=1)
    entries = log_of(1, 1, 1)
    for i, entry in enumerate(entries):
        raft.step(append(EntryId(1 if i else 0, i), [entry], term=1))
    (answer,) = raft.ready().messages_after_persist
    assert answer == reply(raft, 2, match=3).__class__(sender=1, to=2, term=1, match=3)


# -- The object


def test_an_idle_node_asks_for_nothing() -> None:
    raft = settled_leader()
    tell(raft, HeartbeatReply(sender=2, to=1, term=1, context=0))
    assert not raft.has_ready()
    assert raft.ready().__class__(messages=()) == raft.ready()


def test_it_restarts_where_its_disk_left_it() -> None:
    raft = node(terms=(1, 1, 2), term=3, vote=2, applied=2)
    assert (raft.term, raft.voted_for, raft.last_index) == (3, 2, 3)
    assert (raft.commit_index, raft.applied_index) == (2, 2)
    assert not raft.has_ready(), "all of it is durable, and what is applied is applied"


def test_it_can_begin_behind_a_base() -> None:
    raft = Raft(
        node_id=1,
        voters=[1, 2, 3],
        hard_state=HardState(4),
        entries=[Entry(11, 4, EntryKind.NORMAL, b"x")],
        applied_index=10,
        base=EntryId(4, 10),
        random=node()._patience._random,
    )
    tell(raft, append(EntryId(4, 11), [Entry(12, 5, EntryKind.NORMAL, b"y")], term=5, commit=12))
    assert (raft.last_index, raft.commit_index) == (12, 12)


def test_a_long_backlog_is_applied_in_parts() -> None:
    raft = node(terms=[1] * 10, limits=Limits(committed=4))
    tell(raft, Heartbeat(sender=2, to=1, term=1, commit=0, context=0))
    raft.step(append(EntryId(1, 10), term=1, commit=10))
    parts = []
    while raft.has_ready():
        parts.append(len(raft.ready().committed))
    assert [part for part in parts if part] == [4, 4, 2]


def test_followers_refuse_reads_and_proposals_and_name_the_leader() -> None:
    raft = node()
    for ask in (lambda: raft.propose([b"x"]), lambda: raft.read_index(1)):
        with pytest.raises(NotLeader) as refusal:
            ask()
        assert refusal.value.leader is None
    assert not raft.has_ready()


def test_a_lone_voter_commits_what_is_durable() -> None:
    raft = node(voters=1)
    raft.tick()
    finish(raft, raft.ready())
    assert raft.role is Role.LEADER
    ready = raft.ready()
    raft.read_index(1)
    assert raft.commit_index == 0
    finish(raft, ready)
    assert raft.commit_index == 1
    raft.propose([b"x"])
    assert [read.index for read in raft.ready().reads] == [1]


# -- Flow control


def test_appends_follow_each_other_up_to_a_limit() -> None:
    raft = settled_leader(limits=Limits(in_flight=3))
    sent = []
    for item in (b"a", b"b", b"c", b"d", b"e"):
        raft.propose([item])
        sent += [message for message in of(AppendEntries, carry_out(raft)) if message.to == 2]
    assert [message.entries[0].data for message in sent] == [b"a", b"b", b"c"]
    (resumed,) = (m for m in of(AppendEntries, tell(raft, reply(raft, 2, match=3))) if m.to == 2)
    assert [entry.data for entry in resumed.entries] == [b"d", b"e"], "what waited travels together"


def test_a_paused_follower_stops_nobody_else() -> None:
    raft = settled_leader(limits=Limits(in_flight=1))
    for item in (b"a", b"b", b"c"):
        raft.propose([item])
        carry_out(raft)
        tell(raft, reply(raft, 3))
    assert raft.commit_index == raft.last_index


def test_a_probe_goes_out_once_until_it_is_answered() -> None:
    raft = leader()
    raft.propose([b"a"])
    assert of(AppendEntries, carry_out(raft)) == []
    (again,) = of(AppendEntries, tell(raft, HeartbeatReply(sender=2, to=1, term=1, context=0)))
    assert (again.to, len(again.entries)) == (2, 2)


def test_a_heartbeats_answer_recovers_lost_appends() -> None:
    raft = settled_leader()
    raft.propose([b"a"])
    carry_out(raft)
    (ask,) = of(AppendEntries, tell(raft, HeartbeatReply(sender=2, to=1, term=1, context=0)))
    assert (ask.previous, ask.entries) == (EntryId(1, 2), ())
    refusal = AppendRefusal(sender=2, to=1, term=1, previous=2, hint=EntryId(1, 1))
    (resent,) = of(AppendEntries, tell(raft, refusal))
    assert [entry.data for entry in resent.entries] == [b"a"]


def test_a_late_refusal_sets_nobody_back() -> None:
    raft = settled_leader()
    raft.propose([b"a"])
    carry_out(raft)
    tell(raft, reply(raft, 2))
    late = AppendRefusal(sender=2, to=1, term=1, previous=1, hint=NOTHING)
    assert of(AppendEntries, tell(raft, late)) == []


def test_heartbeats_wait_for_nothing() -> None:
    """Neither for room in flight, nor for our disk: a leader that cannot write leads all the same."""
    raft = settled_leader(limits=Limits(in_flight=1))
    raft.propose([b"a"])
    carry_out(raft)
    raft.propose([b"b"])
    raft.ready()  # .. and the disk never finishes
    raft.tick()
    assert {beat.to for beat in of(Heartbeat, raft.ready().messages)} == {2, 3}


def test_heartbeats_carry_no_commit_beyond_what_was_acknowledged() -> None:
    raft = settled_leader()
    raft.propose([b"a"])
    carry_out(raft)
    tell(raft, reply(raft, 2))
    raft.tick()
    assert {beat.to: beat.commit for beat in of(Heartbeat, carry_out(raft))} == {2: 2, 3: 1}


# -- Reads


def test_reads_of_a_turn_share_a_round_and_later_ones_wait() -> None:
    raft = settled_leader()
    raft.read_index(1)
    raft.read_index(2)
    assert {beat.context for beat in of(Heartbeat, carry_out(raft))} == {1}
    raft.read_index(3)
    assert of(Heartbeat, carry_out(raft)) == []
    raft.step(HeartbeatReply(sender=2, to=1, term=1, context=1))
    ready = raft.ready()
    assert [read.context for read in ready.reads] == [1, 2]
    assert {beat.context for beat in of(Heartbeat, ready.messages)} == {2}
    raft.step(HeartbeatReply(sender=3, to=1, term=1, context=1))
    assert raft.ready().reads == (), "a late answer of a round that is over"


def test_no_answer_of_an_earlier_term_confirms_a_read() -> None:
    raft = settled_leader()
    raft.read_index(1)
    (context,) = {beat.context for beat in of(Heartbeat, carry_out(raft))}
    tell(raft, append(NOTHING, term=2))
    assert raft.role is Role.FOLLOWER
    raft.step(HeartbeatReply(sender=3, to=1, term=1, context=context))
    assert not raft.has_ready()


def test_reads_are_lost_with_leadership() -> None:
    raft = settled_leader()
    raft.read_index(1)
    carry_out(raft)
    raft.read_index(2)
    raft.step(append(NOTHING, term=2))
    assert raft.ready().reads_lost == (1, 2)


# -- Patience


def follower_of_the_last(node_id: int, voters: int) -> Raft:
    raft = Raft(
        node_id=node_id,
        voters=range(1, voters + 1),
        hard_state=HardState(1),
        entries=(),
        applied_index=0,
        random=node()._patience._random,
    )
    raft.step(Heartbeat(sender=voters, to=node_id, term=1, commit=0, context=0))
    return raft


def test_voters_take_turns_when_a_leader_falls_silent() -> None:
    """Not by lot: the first asks when the others are just ready to grant it, and nobody asks beside it."""
    asked = {}
    for voters in (3, 5):
        for node_id in range(1, voters):
            raft, ticks = follower_of_the_last(node_id, voters), 0
            while raft.role is Role.FOLLOWER:
                raft.tick()
                ticks += 1
            asked[voters, node_id] = ticks
    assert asked == {(3, 1): 11, (3, 2): 13, (5, 1): 11, (5, 2): 13, (5, 3): 15, (5, 4): 17}


def test_whose_turn_led_to_nothing_draws() -> None:
    waited = set()
    for seed in range(100):
        raft = node(seed=seed)
        tell(raft, Heartbeat(sender=3, to=1, term=1, commit=0, context=0))
        for _ in range(11):
            raft.tick()
        refusals = [PreVote(sender=peer, to=1, term=1, granted=False) for peer in (2, 3)]
        carry_out(raft)
        tell(raft, *refusals)
        ticks = 0
        while raft.role is Role.FOLLOWER:
            raft.tick()
            ticks += 1
        waited.add(ticks)
    assert waited == set(range(10, 20))


# -- Hints


def test_the_first_in_rank_asks_at_once_and_the_next_soon_after() -> None:
    asked = {}
    for voters in (3, 5):
        for node_id in range(1, voters):
            raft = follower_of_the_last(node_id, voters)
            raft.peer_lost(voters)
            ticks = 0
            while raft.role is Role.FOLLOWER:
                raft.tick()
                ticks += 1
            asked[voters, node_id] = ticks
    assert asked == {(3, 1): 0, (3, 2): 2, (5, 1): 0, (5, 2): 2, (5, 3): 4, (5, 4): 6}


def test_a_hint_opens_to_pre_votes_and_to_the_votes_they_announce() -> None:
    raft = node(terms=(1,))
    tell(raft, append(EntryId(1, 1), term=1, sender=3))
    ask = PreVoteRequest(sender=2, to=1, term=2, last=EntryId(1, 1))
    assert [vote.granted for vote in of(PreVote, tell(raft, ask))] == [False]
    raft.peer_lost(3)
    carry_out(raft)
    assert tell(raft, vote_request(2, term=2, last=EntryId(1, 1))) == [], "no pre-vote announced it"
    assert [vote.granted for vote in of(PreVote, tell(raft, ask))] == [True]
    assert [vote.granted for vote in of(Vote, tell(raft, vote_request(2, term=2, last=EntryId(1, 1))))] == [
        True
    ]


def test_another_peers_loss_means_nothing_to_a_follower() -> None:
    raft = node()
    tell(raft, Heartbeat(sender=2, to=1, term=1, commit=0, context=0))
    raft.peer_lost(3)
    assert not raft.has_ready()
    assert raft.leader == 2


def test_a_candidate_ignores_hints() -> None:
    raft = candidate()
    carry_out(raft)
    raft.peer_lost(2)
    assert not raft.has_ready()
