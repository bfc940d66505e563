"""The file's log begins where it is told to, whatever of it is still there."""

import pytest

from jobguard_store.errors import DatabaseDamaged
from jobguard_store.raft.configuration import Configuration
from jobguard_store.raft.configuration import Member as Peer
from jobguard_store.raft.messages import EntryId, Snapshot
from tests.storage.member import TERM, Member, sql

CONFIGURATION = Configuration((Peer(1, True, b"here"), Peer(2, False)), removed=(3,))


def base(index: int) -> Snapshot:
    return Snapshot(EntryId(TERM, index), CONFIGURATION)


def indexes(member: Member) -> list[int]:
    return [row[0] for row in sql(member.path, 'SELECT "index" FROM log')]


def test_a_trimmed_log_begins_behind_its_base(member: Member) -> None:
    member.put(*(f"k{number}" for number in range(2500)))
    member.flush()
    before = member.machine.fingerprint()
    member.database.rebase(base(2200))
    slices = []
    while member.database.trim():
        slices.append(len(indexes(member)))
    assert slices == [1500, 500, 300]
    member.put("later")
    member.flush()
    member.restart()
    assert (member.loaded.base, member.loaded.configuration) == (EntryId(TERM, 2200), CONFIGURATION)
    assert [entry.index for entry in member.loaded.entries] == list(range(2201, 2502))
    assert member.loaded.applied_index == 2501
    assert member.machine.fingerprint() != before


def test_a_crash_in_the_middle_leaves_rows_that_count_for_nothing(member: Member) -> None:
    member.put(*(f"k{number}" for number in range(2500)))
    member.flush()
    member.database.rebase(base(2400))
    member.database.trim()
    member.restart()
    assert [entry.index for entry in member.loaded.entries] == list(range(2401, 2501))
    assert indexes(member)[0] == 1001
    while member.database.trim():
        pass
    assert indexes(member) == list(range(2401, 2501))


def test_the_base_never_goes_back(member: Member) -> None:
    member.put("a", "b", "c")
    member.flush()
    member.database.rebase(base(2))
    member.database.rebase(base(1))
    member.restart()
    assert member.loaded.base.index == 2


def test_all_of_it_may_go(member: Member) -> None:
    member.put("a", "b", "c")
    member.flush()
    member.database.rebase(base(3))
    while member.database.trim():
        pass
    member.restart()
    assert (member.loaded.base.index, member.loaded.entries) == (3, [])
    member.put("d")
    member.flush()
    member.restart()
    assert [entry.index for entry in member.loaded.entries] == [4]


def test_a_gap_behind_the_base_is_damage(member: Member) -> None:
    member.put("a", "b", "c", "d")
    member.flush()
    member.database.rebase(base(2))
    member.database.close()
    sql(member.path, 'DELETE FROM log WHERE "index" = 3')
    with pytest.raises(DatabaseDamaged, match="log entry 3 is missing"):
        member.restart()
    sql(member.path, "DELETE FROM log")
    with pytest.raises(DatabaseDamaged, match="entries up to 4 are applied"):
        member.restart()
