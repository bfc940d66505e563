"""Older states and past changes: from the file, from the tail that is not in it yet, and from both."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobguard_store.errors import Compacted
from jobguard_store.machine.commands import Command, Compact, DeleteRange, Put, Range, Txn
from jobguard_store.machine.keyspace import interval
from jobguard_store.machine.results import ChangeEvent, HistoricRange, tombstone
from jobguard_store.storage import history, index
from tests.machine.commands import TERM, histories, keys, range_ends, ranges
from tests.machine.model import Model, plain
from tests.storage.member import Member, member_on_a_new_file


def at(member: Member, revision: int, key: bytes = b"\0", range_end: bytes = b"\0") -> dict[bytes, bytes]:
    asked = HistoricRange(member.machine.revision, Range(key, range_end, revision=revision), revision)
    return {record.key: record.value for record in member.database.range_at(asked, member.tail).kvs}


def changes(
    member: Member, first: int, last: int | None = None, *, key: bytes = b"\0", range_end: bytes = b"\0"
) -> list[ChangeEvent]:
    """All of them, however many calls it takes."""
    last = last or member.machine.revision
    found: list[ChangeEvent] = []
    while first <= last:
        stretch = member.database.changes(
            key, range_end, first, last, limit=2, previous=True, tail=member.tail
        )
        assert stretch.through >= first, "no progress"
        found += stretch.events
        first = stretch.through + 1
    return found


# --- against the model ------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    history=histories,
    flushed=st.sets(st.integers(0, 30)),
    restarted=st.sets(st.integers(0, 30), max_size=3),
    round_weight=st.sampled_from([0, 1000, index.ROUND_WEIGHT]),
    asked=st.lists(ranges, min_size=2, max_size=4),
    key=keys,
    range_end=range_ends,
)
def test_history_and_tail_answer_as_the_machine_once_did(
    history: list[Command],
    flushed: set[int],
    restarted: set[int],
    round_weight: int,
    asked: list[Range],
    key: bytes,
    range_end: bytes,
) -> None:
    """`flushed`: after which commands all so far is written, and in `restarted` taken up by the next start,
    in the middle of a round or a sweep. What is not indexed by then is the tail."""
    model = Model()
    with member_on_a_new_file() as member, pytest.MonkeyPatch.context() as patched:
        patched.setattr(index, "ROUND_WEIGHT", round_weight)
        patched.setattr(index, "SLICE_ROWS", 2)
        for number, command in enumerate(history):
            member.do(command)
            model.apply(command, TERM)
            if number in flushed:
                member.flush()
                if number in restarted:
                    member.restart()
                else:
                    member.sweep()
        first = max(1, model.compact_revision)
        for revision in range(first, model.revision + 1):
            for ask in asked:
                at = HistoricRange(model.revision, ask, revision)
                assert plain(member.database.range_at(at, member.tail)) == plain(model.range(ask, revision))
        assert changes(member, first, key=key, range_end=range_end) == [
            event if event.revision > durable_compact(member) else ChangeEvent(event.record, None)
            for event in model.events(first, model.revision)
            if event.record.key in interval(key, range_end)
        ]


def durable_compact(member: Member) -> int:
    """At and before the compact revision, what was before is not told. In the tail it still is."""
    return member.database._meta.compact_revision


# --- one by one ---------------------------------------------------------------------------------------


def test_each_revision_can_be_read_again(member: Member) -> None:
    member.do(Put(b"a", b"1"), Put(b"b", b"1"), Put(b"a", b"2"), DeleteRange(b"b"))
    member.flush()
    assert at(member, 1) == {}
    assert at(member, 3) == {b"a": b"1", b"b": b"1"}
    assert at(member, 4) == {b"a": b"2", b"b": b"1"}
    assert at(member, 5) == {b"a": b"2"}
    assert at(member, 4, key=b"b", range_end=b"") == {b"b": b"1"}


def test_what_is_not_durable_yet_is_seen_too(member: Member) -> None:
    member.do(Put(b"a", b"1"), Put(b"b", b"1"))
    member.flush()
    member.do(Put(b"a", b"2"), DeleteRange(b"b"), Put(b"c", b"1"))
    assert at(member, 4) == {b"a": b"2", b"b": b"1"}
    assert at(member, 5) == {b"a": b"2"}
    assert [event.revision for event in changes(member, 3)] == [3, 4, 5, 6]


def test_a_tail_that_became_durable_meanwhile_is_seen_once(member: Member) -> None:
    """The node took the tail, the writer committed it, then the reader began its transaction."""
    member.put("a", "b")
    tail = member.tail
    member.flush()
    found = member.database.changes(b"\0", b"\0", 2, 3, tail=tail)
    assert ([event.revision for event in found.events], found.through) == ([2, 3], 3)
    asked = HistoricRange(3, Range(b"\0", b"\0"), 2)
    assert len(member.database.range_at(asked, tail).kvs) == 1


def test_without_the_tail_a_reader_goes_only_as_far_as_the_index(member: Member) -> None:
    member.put("a", "b")
    member.flush()
    member.index_all()
    member.put("c")
    member.flush()
    found = member.database.changes(b"\0", b"\0", 2, 4)
    assert ([event.revision for event in found.events], found.through) == ([2, 3], 3)


def test_a_revision_is_never_split(member: Member) -> None:
    member.do(Txn(success=tuple(Put(b"%d" % number) for number in range(5))), Put(b"last"))
    member.flush()
    member.index_all()
    first = member.database.changes(b"\0", b"\0", 2, 3, limit=2)
    assert ([event.record.key for event in first.events], first.through) == (
        [b"0", b"1", b"2", b"3", b"4"],
        2,
    )
    second = member.database.changes(b"\0", b"\0", 3, 3, limit=2)
    assert ([event.record.key for event in second.events], second.through) == ([b"last"], 3)


def test_a_stretch_ends_where_it_grows_heavy(member: Member) -> None:
    """A thousand changes may be a gigabyte and a half."""
    megabyte = bytes(1 << 20)
    member.do(*(Put(b"k%d" % (number % 2), megabyte) for number in range(20)))
    member.flush()
    start, seen = 2, []
    while start <= 21:
        found = member.database.changes(b"k", b"l", start, 21, previous=True)
        assert found.events
        assert (
            sum(len(e.record.value) + len(e.previous.value if e.previous else b"") for e in found.events)
            < 6 << 20
        )
        seen += [event.revision for event in found.events]
        start = found.through + 1
    assert seen == list(range(2, 22))


def test_stretches_without_a_match_still_move_on(member: Member) -> None:
    member.put(*(f"noise{number}" for number in range(20)), "signal")
    member.flush()
    member.index_all()
    found = member.database.changes(b"s", b"t", 2, 22, limit=5)
    assert (found.events, found.through) == ([], 6)
    assert [event.record.key for event in changes(member, 2, key=b"s", range_end=b"t")] == [b"signal"]


def test_one_key_is_found_by_key(member: Member) -> None:
    member.put(*(f"noise{number}" for number in range(20)), "signal")
    member.flush()
    member.index_all()
    found = member.database.changes(b"signal", b"", 2, 22, limit=5)
    assert ([event.record.key for event in found.events], found.through) == ([b"signal"], 22)


def test_many_pages_make_one_answer(member: Member, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "_PAGE_KEYS", 3)
    member.put(*(f"{number:02}" for number in range(10)))
    member.do(DeleteRange(b"03", b"06"))
    member.flush()
    member.put("99")
    assert len(at(member, 11)) == 10
    assert len(at(member, 12)) == 7
    asked = HistoricRange(13, Range(b"\0", b"\0", limit=4), 12)
    found = member.database.range_at(asked, member.tail)
    assert (len(found.kvs), found.count, found.more, found.revision) == (4, 7, True, 13)


def test_a_reader_overtaken_by_compaction_is_told_how_far(member: Member) -> None:
    member.put("a", "b", "c")
    member.do(Compact(3))
    member.flush()
    with pytest.raises(Compacted) as refused:
        at(member, 2)
    assert refused.value.compact_revision == 3
    with pytest.raises(Compacted):
        member.database.changes(b"\0", b"\0", 2, 4)
    assert len(at(member, 3)) == 2
    assert [event.revision for event in changes(member, 3)] == [3, 4]


# --- compaction -----------------------------------------------------------------------------------------


def rows(member: Member) -> list[tuple[int, bytes]]:
    with member.database._reading() as tx:
        found = tx.exec_driver_sql("SELECT mod_revision, key FROM history ORDER BY mod_revision, sub")
        return [tuple(row) for row in found]


def test_compaction_keeps_what_can_still_be_read(member: Member) -> None:
    member.put("a", "b", "a", "c")  # revisions 2 to 5
    member.do(DeleteRange(b"b"), Put(b"a"), Compact(6))
    member.flush()
    member.index_all()
    assert member.sweep() == 1
    assert rows(member) == [(4, b"a"), (5, b"c"), (6, b"b"), (7, b"a")]
    assert at(member, 6) == {b"a": b"value of a", b"c": b"value of c"}


def test_a_watch_from_the_compacted_revision_still_sees_a_delete_of_it(member: Member) -> None:
    """The tombstone of the compacted revision itself stays until the next compaction."""
    member.put("k")
    member.do(DeleteRange(b"k"), Compact(3))
    member.flush()
    member.sweep()
    assert changes(member, 3) == [ChangeEvent(tombstone(b"k", 3), None)]
    member.put("x")
    member.do(Compact(4))
    member.flush()
    member.sweep()
    assert rows(member) == [(4, b"x")]


def test_a_sweep_cut_off_by_a_restart_is_taken_up_again(member: Member) -> None:
    member.put(*(["k"] * 1200))
    member.do(Compact(1201))
    member.flush()
    member.index_all()
    assert member.database.compact()
    assert 1 < len(rows(member)) < 1200
    member.restart()
    assert member.sweep() >= 1
    assert rows(member) == [(1201, b"k")]
    assert not member.database.compact()


def test_no_step_of_a_sweep_removes_more_than_a_thousand_rows(member: Member) -> None:
    member.put(*(f"{number:04}" for number in range(1500)))
    member.do(DeleteRange(b"0", b"9"), Put(b"x"), Compact(1503))
    member.flush()
    left = [len(rows(member))]
    while member.database.compact():
        left.append(len(rows(member)))
    assert left[-1] == 1
    assert max(before - after for before, after in pairwise(left)) <= 1000


def test_a_compaction_during_a_sweep_gets_its_own(member: Member) -> None:
    member.put(*(["k"] * 700))
    member.do(Compact(650))
    member.flush()
    assert member.database.compact()
    member.do(Compact(690))
    member.flush()
    member.sweep()
    assert [revision for revision, _ in rows(member)] == list(range(690, 702))


def test_space_is_given_back(member: Member) -> None:
    member.do(*(Put(b"k", b"x" * 10_000) for _ in range(100)))
    member.do(Compact(member.machine.revision))
    member.flush()
    full = member.database.sizes()
    member.sweep()
    swept = member.database.sizes()
    while member.database.reclaim():
        pass
    reclaimed = member.database.sizes()
    assert full.in_use > swept.in_use > 0
    assert reclaimed.total < full.total - 99 * 10_000
    assert reclaimed.total == reclaimed.in_use
