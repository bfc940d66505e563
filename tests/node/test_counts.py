"""What a member counts of itself when things go wrong: numbers move with what they count."""

import asyncio
from pathlib import Path

import pytest

from jobguard_store import applier, counts
from jobguard_store.counts import Counts, Histogram, Traffic
from jobguard_store.errors import NoLeader, RequestTimedOut
from jobguard_store.machine.commands import Put, Range
from jobguard_store.machine.results import Applied, ChangeEvent, ExpireResult, Rows, tombstone
from jobguard_store.raft.core import Raft
from tests.node.members import Members, eventually, members, put, run


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the clock says, to be moved by hand."""
    now = [0.0]
    monkeypatch.setattr(counts, "clock", lambda: now[0])
    return now


def test_a_bound_belongs_to_its_bucket() -> None:
    histogram = Histogram(0.5, 3)
    for value in (0.1, 0.5, 0.6, 2.0, 7.0):
        histogram.observe(value)
    assert (histogram.bounds, histogram.buckets) == ([0.5, 1.0, 2.0], [2, 1, 1, 1])
    assert histogram.sum == pytest.approx(10.2)


def test_an_answer_is_timed_against_its_own_question(time: list[float]) -> None:
    traffic = Traffic()
    traffic.asked(7)
    time[0] = 1.0
    traffic.asked(8)  # while 7 is under way
    traffic.answered(8)
    assert traffic.round_trips.sum == 0
    traffic.answered(7)
    assert traffic.round_trips.sum == 1.0
    traffic.asked(0)
    traffic.lost()
    time[0] = 50.0
    traffic.answered(0)
    assert traffic.round_trips.sum == 1.0, "what was asked on a connection that broke"


def test_without_a_quorum_writes_and_reads_are_counted_as_failed(tmp_path: Path) -> None:
    async def story() -> None:
        async with members(tmp_path, 3, patient=False) as three:
            await three.leader()
            await put(three[0], "a", "1")
            for member in (1, 2):
                await three.stop(member)
            await eventually(lambda: not three[0].has_leader)
            before = three[0].load()
            assert (before.proposals_failed, before.reads_failed, before.reads_slow) == (0, 0, 0)
            ends = await asyncio.gather(
                three[0].propose(Put(b"a", b"2")),
                three[0].range(Range(b"a"), serializable=False),
                return_exceptions=True,
            )
            assert [type(end) for end in ends] == [NoLeader, NoLeader]
            after = three[0].load()
            assert (after.proposals_failed, after.reads_failed, after.reads_slow) == (1, 1, 0)

    run(story())


def test_a_read_whose_round_nobody_confirms_is_slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        async with members(tmp_path, 1) as alone:
            alone[0]._replica._reads._timeout_s = 0.2
            monkeypatch.setattr(Raft, "read_index", lambda *_: None)
            with pytest.raises(RequestTimedOut):
                await alone[0].range(Range(b"a"), serializable=False)
            load = alone[0].load()
            assert (load.reads_slow, load.reads_failed) == (1, 0)

    run(story())


def test_what_keeps_the_loop_is_a_slow_apply_and_a_late_heartbeat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(alone: Members) -> None:
        before = alone[0].load()
        monkeypatch.setattr(applier, "SLOW_S", -1.0)  # as if everything took too long
        await put(alone[0], "a", "1")
        assert alone[0].load().applies_slow > before.applies_slow
        alone[0]._replica._ticked_at -= 1.0  # as if the last tick had been a second ago
        await eventually(lambda: alone[0].load().heartbeats_late > before.heartbeats_late)

    async def told() -> None:
        async with members(tmp_path, 1) as alone:
            await story(alone)

    run(told())


def test_what_watchers_have_not_taken_is_pending(tmp_path: Path) -> None:
    async def story() -> None:
        async with members(tmp_path, 1) as alone:
            subscription = alone[0].watch(b"a", b"\0")
            for number in range(3):
                await put(alone[0], "a", str(number))
            load = alone[0].load()
            assert (load.watchers, load.slow_watchers, load.pending_events) == (1, 0, 3)
            await anext(subscription)
            assert alone[0].load().pending_events == 2
            await subscription.aclose()

    run(story())


def test_a_lease_that_expired_counts_as_revoked_and_one_that_did_not_as_nothing() -> None:
    """As in etcd, where an expiry is a revocation; each of its keys is a deletion, and several are a txn."""
    counted = Counts()
    gone = tuple(ChangeEvent(tombstone(key, 7), None) for key in (b"a", b"b"))
    counted.applied(Applied(ExpireResult(6, expired=False), 6, Rows(6)))
    assert counted == Counts()
    counted.applied(Applied(ExpireResult(7), 7, Rows(7, gone)))
    assert counted == Counts(revoked=1, deletes=2, txns=1)
