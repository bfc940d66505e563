"""A log that begins behind a base: compaction, offers and their adoption, peers that need a state."""

from collections.abc import Sequence

import pytest

from jobguard_store.raft import (
    NOBODY,
    NOTHING,
    AppendEntries,
    AppendRefusal,
    AppendReply,
    Configuration,
    Entry,
    EntryId,
    EntryKind,
    HardState,
    Heartbeat,
    HeartbeatReply,
    Limits,
    Raft,
    Role,
    Snapshot,
    SnapshotOffer,
)
from jobguard_store.raft.log import RaftLog
from jobguard_store.raft.progress import Progress, State
from tests.raft.alone import (
    append,
    carry_out,
    finish,
    log_of,
    node,
    of,
    reply,
    settled_leader,
    tell,
    terms_of,
)

US = Configuration.of([1, 2, 3])


def offer(last: EntryId, *, term: int, sender: int = 2, configuration: Configuration = US) -> SnapshotOffer:
    return SnapshotOffer(sender=sender, to=1, term=term, snapshot=Snapshot(last, configuration))


def leader_that_forgot(index: int, **how: object) -> Raft:
    """It holds 1 to 5, all of it committed by 1 and 2, and has forgotten up to `index`. 3 holds its no-op."""
    raft = settled_leader(**how)
    raft.propose([b"b", b"c", b"d", b"e"])
    carry_out(raft)
    tell(raft, reply(raft, 2))
    raft.compact(index)
    return raft


class Test_compaction:
    def test_what_is_behind_the_base_stays(self) -> None:
        raft = node(terms=(1, 1, 2, 2), applied=3)
        raft.compact(2)
        assert (raft.log.base, raft.last_index, raft.log.last) == (EntryId(1, 2), 4, EntryId(2, 4))
        assert [entry.index for entry in raft.log.slice(3, 4)] == [3, 4]
        assert not raft.has_ready()

    def test_it_names_the_base_for_the_file(self) -> None:
        raft = node(terms=(1, 1, 2, 2), applied=3)
        assert raft.compact(2) == Snapshot(EntryId(1, 2), US)

    def test_a_node_that_joined_forgets_nothing_before_it_knows_who_is_in(self) -> None:
        """Found by the simulation: its base named nobody, and who was sent that state forgot the voters."""
        raft = node(voters=0)
        more = Configuration.of([1, 2, 3])
        entries = [*log_of(1, 1), Entry(3, 1, EntryKind.CONFIG, more.encode())]
        tell(raft, append(NOTHING, entries, term=1, commit=3))
        assert raft.compact(2) is None
        assert raft.log.base == NOTHING
        assert raft.compact(3) == Snapshot(EntryId(1, 3), more)

    def test_the_whole_log_may_go(self) -> None:
        raft = node(terms=(1, 2), applied=2)
        raft.compact(2)
        assert (raft.log.last, raft.log.last_index) == (EntryId(2, 2), 2)
        (answer,) = tell(raft, append(EntryId(2, 2), log_of(2, 2, 3)[2:], term=3))
        assert isinstance(answer, AppendReply)
        assert answer.match == 3

    def test_compacting_again_or_less_is_nothing(self) -> None:
        raft = node(terms=(1, 1, 1), applied=3)
        raft.compact(2)
        assert raft.compact(2) is None
        assert raft.compact(1) is None
        assert raft.log.base == EntryId(1, 2)

    def test_what_is_not_applied_is_not_forgotten(self) -> None:
        with pytest.raises(AssertionError):
            node(terms=(1, 1, 1), applied=2).compact(3)

    def test_what_is_not_durable_is_not_forgotten(self) -> None:
        """Committed by the others, applied here, and still being written: a crash would leave a hole."""
        raft = node(term=1)
        raft.step(append(NOTHING, log_of(1), term=1, commit=1))
        ready = raft.ready()
        raft.applied(1)
        with pytest.raises(AssertionError, match="not durable"):
            raft.compact(1)
        finish(raft, ready)
        raft.compact(1)

    def test_word_of_the_disk_is_understood_after_it(self) -> None:
        log = RaftLog(NOTHING, log_of(1))
        log.extend(log_of(1, 1, 1)[1:])
        first = log.hand_out()[-1].id
        log.extend(log_of(1, 1, 1, 1)[3:])
        second = log.hand_out()[-1].id
        assert log.persisted(first)
        log.compact(3)
        assert log.persisted(second)
        assert log.durable_index == 4

    def test_a_node_restarts_behind_its_base(self) -> None:
        raft = Raft(
            node_id=1,
            hard_state=HardState(4),
            entries=(),
            applied_index=10,
            base=EntryId(4, 10),
            configuration=US,
            voters=[1, 2, 3],
            random=node()._patience._random,
        )
        assert (raft.commit_index, raft.last_index, raft.log.last) == (10, 10, EntryId(4, 10))
        assert raft.snapshot_at(10) == Snapshot(EntryId(4, 10), US)


class Test_a_follower_that_is_offered_a_state:
    def test_takes_it_if_it_is_ahead(self) -> None:
        raft = node(terms=(1,), term=3, vote=2, applied=1)
        raft.step(offer(EntryId(2, 9), term=3))
        ready = raft.ready()
        assert ready.snapshot == Snapshot(EntryId(2, 9), US)
        assert (ready.entries, ready.committed, ready.messages) == ((), (), ())
        assert (raft.commit_index, raft.applied_index, raft.log.last) == (9, 9, EntryId(2, 9))
        (answer,) = of(AppendReply, ready.messages_after_persist)
        assert answer.match == 9

    def test_keeps_its_own_term_and_vote(self) -> None:
        """R13, 3.7: with someone else's hard state it could vote again."""
        raft = node(terms=(1,), term=3, vote=2, applied=1)
        raft.step(offer(EntryId(2, 9), term=3))
        assert raft.ready().hard_state is None
        assert (raft.term, raft.voted_for) == (3, 2)

    def test_acknowledges_nothing_before_the_state_is_durable(self) -> None:
        raft = node(term=3)
        raft.step(offer(EntryId(2, 9), term=3))
        first = raft.ready()
        raft.step(append(EntryId(2, 8), log_of(*[2] * 9)[8:], term=3))
        raft.step(append(EntryId(2, 9), log_of(*[2] * 9, 3)[9:], term=3))
        second = raft.ready()
        assert of(AppendReply, second.messages) == []
        assert first.snapshot
        raft.persisted(first.snapshot.last)
        raft.step(append(EntryId(2, 9), term=3))
        assert [answer.match for answer in of(AppendReply, raft.ready().messages)] == [9]

    def test_goes_on_behind_it_in_the_same_turn(self) -> None:
        """The state first, then the entries that follow it: an order in which a crash leaves no gap."""
        raft = node(term=3)
        raft.step(offer(EntryId(2, 9), term=3))
        raft.step(append(EntryId(2, 9), log_of(*[2] * 9, 3)[9:], term=3, commit=10))
        ready = raft.ready()
        assert ready.snapshot == Snapshot(EntryId(2, 9), US)
        assert [entry.index for entry in ready.entries] == [10]
        assert [entry.index for entry in ready.committed] == [10]
        assert [answer.match for answer in of(AppendReply, ready.messages_after_persist)] == [10]

    @pytest.mark.parametrize("last", [EntryId(1, 1), EntryId(1, 2)])
    def test_ignores_what_is_not_ahead_of_its_commit_index(self, last: EntryId) -> None:
        raft = node(terms=(1, 1), applied=2)
        (answer,) = tell(raft, offer(last, term=1))
        assert isinstance(answer, AppendReply)
        assert answer.match == 2
        assert terms_of(raft) == [1, 1]

    def test_keeps_a_log_that_leads_to_it(self) -> None:
        """Entry 3 is acknowledged, and may be committed: the state at 2 must not cost it."""
        raft = node(terms=(1, 1, 1))
        raft.step(offer(EntryId(1, 2), term=1))
        ready = raft.ready()
        assert ready.snapshot is None
        assert [entry.index for entry in ready.committed] == [1, 2]
        assert terms_of(raft) == [1, 1, 1]

    def test_drops_a_log_that_leads_elsewhere(self) -> None:
        raft = node(terms=(1, 1, 1, 1), term=3)
        tell(raft, offer(EntryId(2, 2), term=3))
        assert (raft.log.base, raft.last_index) == (EntryId(2, 2), 2)

    def test_takes_one_of_a_past_term_from_whoever_led(self) -> None:
        """It is committed all the same; and who offers it is not heard as a leader."""
        raft = node(term=5)
        sent = tell(raft, offer(EntryId(2, 9), term=3))
        assert raft.commit_index == 9
        assert raft.leader is None
        assert [(answer.term, answer.match) for answer in of(AppendReply, sent)] == [(5, 9)]

    def test_adopts_a_newer_term_with_it(self) -> None:
        raft = node(term=1, vote=3)
        raft.step(offer(EntryId(2, 9), term=4))
        assert raft.ready().hard_state == HardState(4, None)
        assert (raft.role, raft.leader) == (Role.FOLLOWER, 2)

    def test_word_of_writes_before_it_counts_for_nothing(self) -> None:
        """Entry 9 of a dead branch is being written when the state up to 9 takes its place."""
        log = RaftLog(NOTHING, ())
        log.extend(log_of(1, 1))
        written = log.hand_out()[-1].id
        log.restore(Snapshot(EntryId(1, 2), NOBODY))
        assert log.hand_out_snapshot() == Snapshot(EntryId(1, 2), NOBODY)
        assert not log.persisted(written)
        assert log.durable_index == 0
        assert log.persisted(EntryId(1, 2))
        assert log.durable_index == 2

    def test_it_brings_the_configuration(self) -> None:
        raft = node(term=1)
        more = Configuration.of([1, 2, 3, 4])
        tell(raft, offer(EntryId(1, 9), term=1, configuration=more))
        assert raft.log.configuration == more


class Test_a_leader_whose_peer_lacks_what_it_forgot:
    def refused(self, raft: Raft, sender: int = 3) -> Sequence[SnapshotOffer]:
        """`sender` is back, and holds entry 1 only."""
        tell(raft, HeartbeatReply(sender=sender, to=1, term=1, context=0))
        raft.step(AppendRefusal(sender=sender, to=1, term=1, previous=5, hint=EntryId(1, 1)))
        ready = raft.ready()
        finish(raft, ready)
        return ready.offers

    def test_offers_the_state_at_its_base_once(self) -> None:
        raft = leader_that_forgot(3)
        (offered,) = self.refused(raft)
        assert (offered.to, offered.term, offered.snapshot) == (3, 1, Snapshot(EntryId(1, 3), US))
        raft.propose([b"x"])
        tell(raft, HeartbeatReply(sender=3, to=1, term=1, context=0))
        ready = raft.ready()
        assert ready.offers == ()
        assert [message.to for message in of(AppendEntries, ready.messages)] == []

    def test_still_sends_it_heartbeats(self) -> None:
        raft = leader_that_forgot(3)
        self.refused(raft)
        raft.tick()
        assert {(beat.to, beat.commit) for beat in of(Heartbeat, carry_out(raft))} == {(2, 5), (3, 1)}

    def test_goes_on_behind_the_state_that_was_sent(self) -> None:
        raft = leader_that_forgot(3)
        self.refused(raft)
        raft.snapshot_sent(3, 4)
        (probe,) = of(AppendEntries, tell(raft, HeartbeatReply(sender=3, to=1, term=1, context=0)))
        assert (probe.previous, len(probe.entries)) == (EntryId(1, 4), 1)

    def test_an_acknowledgement_from_before_the_base_does_not_end_it(self) -> None:
        raft = leader_that_forgot(4)
        self.refused(raft)
        tell(raft, reply(raft, 3, match=2))
        raft.propose([b"x"])
        assert [message.to for message in of(AppendEntries, carry_out(raft))] == [2]

    def test_an_append_that_arrived_after_all_ends_it(self) -> None:
        raft = leader_that_forgot(3)
        self.refused(raft)
        (resumed,) = of(AppendEntries, tell(raft, reply(raft, 3, match=3)))
        assert [entry.index for entry in resumed.entries] == [4, 5]

    def test_compacting_past_what_is_on_its_way_makes_it_ask(self) -> None:
        """A peer whose window is full, next in line something that is forgotten."""
        raft = settled_leader(limits=Limits(in_flight=1))
        for item in (b"b", b"c", b"d"):
            raft.propose([item])
            carry_out(raft)
            tell(raft, reply(raft, 2))
        raft.compact(4)
        raft.step(HeartbeatReply(sender=3, to=1, term=1, context=0))
        (offered,) = raft.ready().offers
        assert offered.to == 3

    def test_the_new_leader_begins_anew(self) -> None:
        raft = leader_that_forgot(3)
        self.refused(raft)
        tell(raft, append(EntryId(1, 5), term=2))
        raft.snapshot_sent(3, 3)
        raft.snapshot_failed(3)
        assert not raft.has_ready()


class Test_progress:
    def test_bytes_in_flight_are_bounded(self) -> None:
        raft = settled_leader(limits=Limits(in_flight_bytes=10))
        sent = []
        for item in (b"123456", b"123456", b"123456"):
            raft.propose([item])
            sent += [message for message in of(AppendEntries, carry_out(raft)) if message.to == 2]
        assert len(sent) == 2, "what is out, and one append more"
        (resumed,) = (m for m in of(AppendEntries, tell(raft, reply(raft, 2, match=2))) if m.to == 2)
        assert resumed.previous.index == 3

    def test_a_lost_connection_frees_the_window_but_ends_no_transfer(self) -> None:
        progress = Progress(5, 1, 100)
        progress.acknowledged(4, 0)
        progress.sent(9, 1000, 0)
        assert not progress.may_append
        progress.connection_lost()
        assert (progress.state, progress.next_index, progress.may_append) == (State.PROBE, 5, True)
        progress.snapshot_offered()
        progress.connection_lost()
        assert progress.state is State.SNAPSHOT

    def test_reports_of_a_transfer_that_ended_otherwise_change_nothing(self) -> None:
        progress = Progress(5, 1, 100)
        progress.acknowledged(4, 0)
        progress.snapshot_ended(9)
        assert (progress.state, progress.next_index) == (State.REPLICATE, 5)
