"""Transactions: what is compared, which branch runs, what its operations see, and all or nothing."""

import pytest

from jobguard_store.errors import Compacted, FutureRevision, KeyNotFound, LeaseNotFound
from jobguard_store.machine.commands import (
    Compact,
    Compare,
    CompareResult,
    CompareTarget,
    DeleteRange,
    GrantLease,
    Put,
    Range,
    Txn,
)
from jobguard_store.machine.results import HistoricRange, RangeResult, TxnResult
from jobguard_store.machine.txn import writes
from tests.machine.started import Started

EQUAL, GREATER, LESS, NOT_EQUAL = CompareResult
ABSENT = Compare(b"new", target=CompareTarget.CREATE, number=0)


def outcome(store: Started, *compares: Compare) -> bool:
    result = store.do(Txn(compares))
    assert isinstance(result, TxnResult)
    return result.succeeded


def test_the_empty_txn_succeeds_and_takes_no_revision(store: Started) -> None:
    assert store.do(Txn()) == TxnResult(revision=1, succeeded=True, responses=())


def test_a_key_is_created_once(store: Started) -> None:
    create = Txn((ABSENT,), (Put(b"new", b"mine"),), (Range(b"new"),))
    first, second = store.do(create), store.do(create)
    assert (first.succeeded, first.revision) == (True, 2)
    assert (second.succeeded, second.revision) == (False, 2)
    assert second.responses[0].kvs[0].create_revision == 2


@pytest.mark.parametrize(
    ("target", "number"),
    [
        (CompareTarget.VERSION, 2),
        (CompareTarget.CREATE, 3),
        (CompareTarget.MOD, 4),
        (CompareTarget.LEASE, 7),
    ],
)
def test_numbers_stand_in_every_relation(store: Started, target: CompareTarget, number: int) -> None:
    store.do(GrantLease(7, 60))
    store.put("other")
    store.put("k", "k", lease=7)
    assert outcome(store, Compare(b"k", target=target, number=number))
    assert outcome(store, Compare(b"k", target=target, result=GREATER, number=number - 1))
    assert outcome(store, Compare(b"k", target=target, result=LESS, number=number + 1))
    assert outcome(store, Compare(b"k", target=target, result=NOT_EQUAL, number=0))
    assert not outcome(store, Compare(b"k", target=target, number=number + 1))


def test_values_compare_as_bytes(store: Started) -> None:
    store.do(Put(b"k", b"b"))
    assert outcome(store, Compare(b"k", target=CompareTarget.VALUE, result=GREATER, value=b"ab"))
    assert outcome(store, Compare(b"k", target=CompareTarget.VALUE, result=LESS, value=b"b\0"))
    assert not outcome(store, Compare(b"k", target=CompareTarget.VALUE, value=b"c"))


def test_a_missing_key_reads_as_zero_but_has_no_value_at_all(store: Started) -> None:
    for target in (CompareTarget.VERSION, CompareTarget.CREATE, CompareTarget.MOD, CompareTarget.LEASE):
        assert outcome(store, Compare(b"k", target=target))
        assert outcome(store, Compare(b"k", target=target, result=LESS, number=1))
        assert not outcome(store, Compare(b"k", target=target, result=NOT_EQUAL))
    for result in CompareResult:
        assert not outcome(store, Compare(b"k", target=CompareTarget.VALUE, result=result, value=b"x"))


def test_a_compare_on_a_range_holds_for_every_key_of_it(store: Started) -> None:
    store.put("a", "b")
    assert outcome(store, Compare(b"a", b"c", CompareTarget.MOD, GREATER, 1))
    assert not outcome(store, Compare(b"a", b"c", CompareTarget.MOD, GREATER, 2))
    assert outcome(store, Compare(b"x", b"z", CompareTarget.CREATE, EQUAL, 0))
    assert not outcome(store, Compare(b"x", b"z", CompareTarget.VALUE, NOT_EQUAL, value=b"v"))


def test_operations_run_in_order_and_see_what_went_before(store: Started) -> None:
    store.do(Put(b"k", b"old"))
    result = store.do(
        Txn(
            success=(
                Range(b"k"),
                Put(b"k", b"new", prev_kv=True),
                Range(b"k"),
                DeleteRange(b"j", b"l", prev_kv=True),
                Range(b"k"),
            )
        )
    )
    before, put, between, deleted, after = result.responses
    assert (before.kvs[0].value, put.prev.value, between.kvs[0].value) == (b"old", b"old", b"new")
    assert (deleted.prevs[0].value, list(after.kvs)) == (b"new", [])
    assert [response.revision for response in result.responses] == [2, 3, 3, 3, 3]


def test_what_is_written_shares_one_revision_in_the_order_of_writing(store: Started) -> None:
    store.put("d")
    applied = store.apply(Txn(success=(Put(b"b"), DeleteRange(b"d"), Put(b"a"))))
    assert [(event.record.key, event.revision) for event in applied.events] == [
        (b"b", 3),
        (b"d", 3),
        (b"a", 3),
    ]
    assert store.revision == 3


def test_nested_compares_are_evaluated_before_anything_is_written(store: Started) -> None:
    inner = Txn((ABSENT,), (Put(b"seen", b"absent"),), (Put(b"seen", b"present"),))
    result = store.do(Txn(success=(Put(b"new"), inner)))
    assert result.responses[1].succeeded
    assert store.record(b"seen").value == b"absent"
    assert store.revision == 2


def test_only_the_branch_taken_is_checked_and_run(store: Started) -> None:
    doubtful = (Put(b"k", lease=99), Range(b"k", revision=99))
    assert store.do(Txn((ABSENT,), (), doubtful)).succeeded


@pytest.mark.parametrize(
    ("op", "refusal"),
    [
        (Put(b"x", lease=99), LeaseNotFound),
        (Put(b"x", ignore_value=True), KeyNotFound),
        (Range(b"x", revision=99), FutureRevision),
        (Range(b"x", revision=2), Compacted),
        (Txn(success=(Put(b"x", ignore_lease=True),)), KeyNotFound),
    ],
)
def test_one_operation_refused_is_all_refused(store: Started, op: Put | Range | Txn, refusal: type) -> None:
    store.put("a", "b", "c")
    store.do(Compact(3))
    assert store.refusal(Txn(success=(Put(b"a", b"changed"), DeleteRange(b"b"), op))) is refusal


def test_checks_look_at_the_state_before_the_txn(store: Started) -> None:
    """A key that the same txn creates is not there yet, as far as ignore_value is concerned."""
    assert store.refusal(Txn(success=(Put(b"k", b"v"), Put(b"k", ignore_value=True)))) is KeyNotFound


def test_puts_are_refused_before_ranges(store: Started) -> None:
    both = Txn(success=(Range(b"k", revision=99), Put(b"k", lease=99)))
    assert store.refusal(both) is LeaseNotFound


def test_a_range_at_an_older_revision_is_left_to_history(store: Started) -> None:
    store.put("k", "k")
    asked = Range(b"k", revision=2)
    result = store.do(Txn(success=(Put(b"k", b"new"), asked)))
    assert result.responses[1] == HistoricRange(revision=4, request=asked, at=2)


def test_a_range_at_the_revision_before_the_txn_does_not_see_its_writes(store: Started) -> None:
    store.put("k")
    unwritten, written = store.do(
        Txn(success=(Range(b"k", revision=2), Put(b"k"), Range(b"k", revision=2)))
    ).responses[::2]
    assert isinstance(unwritten, RangeResult)
    assert written == HistoricRange(revision=3, request=Range(b"k", revision=2), at=2)


def test_a_key_changed_twice_in_a_revision_tells_both_times_what_was_before_it(store: Started) -> None:
    """etcd lets a later nested txn delete what an earlier one has put."""
    store.do(Put(b"k", b"old"))
    old = store.get(b"k")
    twice = Txn(success=(Txn(success=(Put(b"k", b"new"),)), Txn(success=(DeleteRange(b"k"),))))
    put, deleted = store.apply(twice).events
    assert (put.previous, deleted.previous) == (old, old)


def test_a_txn_without_writes_needs_no_log() -> None:
    assert not writes(Txn((ABSENT,), (Range(b"k"),), (Txn(success=(Range(b"k"),)),)))
    assert writes(Txn((ABSENT,), (Range(b"k"),), (Txn(failure=(DeleteRange(b"k"),)),)))
