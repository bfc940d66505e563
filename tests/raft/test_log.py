"""The log by itself: conflicts, hints, batches, and what word of the disk is worth."""

import pytest

from jobguard_store.raft import NOTHING, Entry, EntryId, EntryKind
from jobguard_store.raft.log import RaftLog
from tests.raft.alone import log_of


def log(*terms: int) -> RaftLog:
    return RaftLog(NOTHING, log_of(*terms))


def after(base: EntryId, *terms: int) -> RaftLog:
    entries = [Entry(i, term, EntryKind.NORMAL, b"") for i, term in enumerate(terms, base.index + 1)]
    return RaftLog(base, entries)


def test_it_knows_terms_from_its_base_on() -> None:
    kept = after(EntryId(4, 10), 4, 5)
    assert [kept.term_at(i) for i in (9, 10, 11, 12, 13)] == [None, 4, 4, 5, None]
    assert (kept.last, kept.last_index) == (EntryId(5, 12), 12)
    assert RaftLog(EntryId(4, 10), ()).last == EntryId(4, 10)


def test_a_gap_is_refused() -> None:
    with pytest.raises(AssertionError, match="gap"):
        RaftLog(NOTHING, log_of(1, 1, 1)[1:])


@pytest.mark.parametrize(
    ("held", "other", "match"),
    [
        ((1, 1, 1), EntryId(1, 2), EntryId(1, 2)),
        ((1, 1, 1), EntryId(1, 9), EntryId(1, 3)),
        ((1, 1, 1, 2, 2, 2, 3, 3), EntryId(6, 6), EntryId(2, 6)),
        ((1, 1, 1, 4, 4, 5, 5), EntryId(3, 7), EntryId(1, 3)),
        ((4, 4), EntryId(3, 2), NOTHING),
        ((), EntryId(3, 2), NOTHING),
    ],
)
def test_where_two_logs_can_still_agree(held: tuple[int, ...], other: EntryId, match: EntryId) -> None:
    assert log(*held).latest_possible_match(other) == match


def test_a_hint_never_reaches_before_the_base() -> None:
    assert after(EntryId(4, 10), 5, 5).latest_possible_match(EntryId(3, 11)) == EntryId(4, 10)
    assert after(EntryId(4, 10), 5, 5).latest_possible_match(EntryId(5, 7)) == EntryId(4, 10)


def test_a_batch_is_bounded_but_never_empty() -> None:
    kept = log()
    kept.extend([Entry(i, 1, EntryKind.NORMAL, b"x" * 10) for i in range(1, 9)])
    assert [len(kept.batch(1, 100, size).entries) for size in (1, 10, 25, 80, 1000)] == [1, 1, 2, 8, 8]
    assert len(kept.batch(3, 4, 1000).entries) == 4
    assert kept.batch(3, 100, 1000) is kept.batch(3, 100, 1000), "followers in step share one"


def test_a_batch_made_before_the_log_changed_is_not_shared() -> None:
    kept = log(1, 1)
    assert len(kept.batch(1, 100, 100).entries) == 2
    kept.graft(log_of(1, 3)[1:], commit_index=0)
    assert [entry.term for entry in kept.batch(1, 100, 100).entries] == [1, 3]


def test_what_is_handed_out_is_handed_out_once() -> None:
    kept = log(1)
    kept.extend(log_of(1, 1, 1)[1:])
    assert [entry.index for entry in kept.hand_out()] == [2, 3]
    assert kept.hand_out() == ()
    kept.graft(log_of(1, 1, 2)[2:], commit_index=0)
    assert [entry.id for entry in kept.hand_out()] == [EntryId(2, 3)]


def test_durable_is_what_was_reported() -> None:
    kept = log(1)
    kept.extend(log_of(1, 1)[1:])
    first = kept.hand_out()[-1].id
    kept.extend(log_of(1, 1, 1)[2:])
    second = kept.hand_out()[-1].id
    assert kept.durable_index == 1
    assert kept.persisted(first)
    assert kept.durable_index == 2
    assert kept.persisted(second)
    assert kept.durable_index == 3
    assert not kept.persisted(second), "nothing new"


def test_one_report_for_several_batches_will_do() -> None:
    kept = log()
    for terms in ((1,), (1, 1), (1, 1, 1)):
        kept.extend(log_of(*terms)[-1:])
        last = kept.hand_out()[-1].id
    assert kept.persisted(last)
    assert kept.durable_index == 3


def test_word_of_an_overwritten_entry_counts_for_nothing() -> None:
    kept = log(1)
    kept.extend(log_of(1, 1)[1:])
    lost = kept.hand_out()[-1].id
    kept.graft(log_of(1, 2)[1:], commit_index=0)
    kept.hand_out()
    assert not kept.persisted(lost)
    assert kept.durable_index == 1


def test_word_of_an_entry_that_went_and_came_back_counts_for_nothing() -> None:
    """A B A: three writes under way, and the report is of the first."""
    kept = log(1)
    kept.extend(log_of(1, 1)[1:])
    kept.hand_out()
    kept.graft(log_of(1, 2)[1:], commit_index=0)
    kept.hand_out()
    kept.graft(log_of(1, 1)[1:], commit_index=0)
    kept.hand_out()
    assert not kept.persisted(EntryId(1, 2)), "the second write is about to undo the first"
    assert not kept.persisted(EntryId(2, 2))
    assert kept.durable_index == 1
    assert kept.persisted(EntryId(1, 2)), "the third"
    assert kept.durable_index == 2


def test_word_of_what_a_truncation_left_in_place_counts() -> None:
    """Found by the simulation: entry 2 was on disk and applied, and the log did not believe it."""
    kept = log(1)
    kept.extend(log_of(1, 1, 1)[1:2])
    first = kept.hand_out()[-1].id
    kept.extend(log_of(1, 1, 1, 1)[2:])
    second = kept.hand_out()[-1].id
    kept.graft(log_of(1, 1, 1, 2)[3:], commit_index=2)
    kept.hand_out()
    assert kept.persisted(first)
    assert kept.durable_index == 2
    assert kept.persisted(second)
    assert kept.durable_index == 3, "entry 4 is another by now"
    kept.compact(3)


def test_truncation_takes_durability_back() -> None:
    kept = log(1, 1, 1)
    kept.graft(log_of(1, 2)[1:], commit_index=1)
    assert (kept.durable_index, kept.last_index) == (1, 2)
