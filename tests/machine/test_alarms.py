"""Alarms in the machine: what they refuse, and that they are state like any other."""

import pytest

from jobguard_store.errors import CorruptCluster, NoSpace
from jobguard_store.machine.commands import (
    AlarmKind,
    Command,
    Compact,
    DeleteRange,
    ExpireLease,
    GrantLease,
    LowerAlarm,
    Put,
    RaiseAlarm,
    Range,
    RevokeLease,
    Txn,
)
from jobguard_store.machine.results import Alarm, AlarmResult
from tests.machine.started import TERM, Started

NOSPACE = Alarm(1, AlarmKind.NOSPACE)
NESTED_PUT = Txn(failure=(Txn(success=(Put(b"k"),)),))


@pytest.mark.parametrize(
    "command", [Put(b"k"), GrantLease(9, 60), NESTED_PUT], ids=lambda each: type(each).__name__
)
def test_without_space_nothing_grows(store: Started, command: Command) -> None:
    store.do(RaiseAlarm(*NOSPACE))
    assert store.refusal(command) is NoSpace
    store.do(LowerAlarm(*NOSPACE))
    store.do(command)


def test_without_space_whatever_frees_some_goes_on(store: Started) -> None:
    store.do(GrantLease(1, 60))
    store.do(GrantLease(2, 60))
    store.put("a", "b", "c")
    store.do(RaiseAlarm(*NOSPACE))
    assert store.do(DeleteRange(b"a")).deleted == 1
    assert store.do(Txn(success=(DeleteRange(b"b"), Range(b"c")))).succeeded
    store.do(RevokeLease(1))
    assert store.do(ExpireLease(2, TERM)).expired
    store.do(Compact(store.machine.revision))
    assert store.get(b"c") is not None


def test_with_one_member_corrupt_nothing_changes(store: Started) -> None:
    store.put("k")
    store.do(GrantLease(1, 60))
    corrupt = Alarm(3, AlarmKind.CORRUPT)
    store.do(RaiseAlarm(*corrupt, by_hand=True))
    for command in (
        Put(b"k"),
        DeleteRange(b"k"),
        Range(b"k"),
        Txn(),
        GrantLease(2, 60),
        RevokeLease(1),
        Compact(1),
    ):
        assert store.refusal(command) is CorruptCluster
    store.do(LowerAlarm(*corrupt, by_hand=True))
    assert store.get(b"k") is not None


def test_what_was_raised_by_hand_is_lowered_by_hand(store: Started) -> None:
    store.do(RaiseAlarm(*NOSPACE))
    store.do(RaiseAlarm(*NOSPACE, by_hand=True))
    store.do(RaiseAlarm(*NOSPACE))
    assert store.do(LowerAlarm(*NOSPACE)) == AlarmResult(1, None)
    assert store.machine.alarms == {NOSPACE: True}
    assert store.do(LowerAlarm(*NOSPACE, by_hand=True)) == AlarmResult(1, NOSPACE)
    assert store.do(LowerAlarm(*NOSPACE, by_hand=True)) == AlarmResult(1, None)


def test_alarms_take_no_revision_and_are_part_of_the_state(store: Started) -> None:
    before = store.machine.fingerprint()
    assert store.do(RaiseAlarm(*NOSPACE)) == AlarmResult(1, NOSPACE)
    assert store.machine.revision == 1
    assert store.machine.fingerprint() != before
    store.do(RaiseAlarm(2, AlarmKind.NOSPACE))
    store.do(LowerAlarm(*NOSPACE))
    assert store.refusal(Put(b"k")) is NoSpace
    store.do(LowerAlarm(2, AlarmKind.NOSPACE))
    assert store.machine.fingerprint() == before
