"""Which revisions may be compacted, and that the newest state does not notice."""

import pytest

from jobguard_store.errors import Compacted, FutureRevision
from jobguard_store.machine.commands import Compact, Range
from tests.machine.started import Started


@pytest.fixture(autouse=True)
def _five_revisions(store: Started) -> None:
    store.put("a", "b", "a", "c")


def test_nothing_is_compacted_in_a_fresh_store(store: Started) -> None:
    assert store.machine.compact_revision == -1


def test_the_current_revision_may_be_compacted_one_to_come_may_not(store: Started) -> None:
    assert store.refusal(Compact(6)) is FutureRevision
    store.do(Compact(5))
    assert store.machine.compact_revision == 5


def test_compacting_again_at_or_before_is_refused_and_says_how_far_it_went(store: Started) -> None:
    store.do(Compact(3))
    assert store.refusal(Compact(3)) is Compacted
    assert store.refusal(Compact(2)) is Compacted
    assert store.apply(Compact(2)).result.compact_revision == 3
    store.do(Compact(4))


def test_compaction_takes_no_revision_and_keeps_the_newest_state(store: Started) -> None:
    before = store.range(Range(b"\0", b"\0"))
    applied = store.apply(Compact(5))
    assert (applied.revision, applied.events, applied.rows.compact_revision) == (5, (), 5)
    assert store.range(Range(b"\0", b"\0")) == before
