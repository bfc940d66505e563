"""Equal state, equal hash, whatever compaction has got to; and no other state has it."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobguard_store.errors import Compacted, DatabaseDamaged
from jobguard_store.machine.commands import Command, Compact, DeleteRange, Put
from jobguard_store.storage import hashkv
from tests.machine.commands import histories
from tests.storage.member import Member, member_on_a_new_file


@settings(max_examples=40, deadline=None)
@given(histories, st.data())
def test_members_agree_however_far_their_sweeps_are(history: list[Command], data: st.DataObject) -> None:
    with member_on_a_new_file() as one, member_on_a_new_file() as two:
        for member in (one, two):
            for command in history:
                member.do(command)
                if data.draw(st.integers(0, 3), label="flush, sweep or go on") == 0:
                    member.flush()
                    member.sweep()
            member.flush()
            member.index_all()
        oldest = max(one.machine.compact_revision, 1)
        for revision in range(oldest, one.machine.revision + 1):
            assert one.database.hash_kv(revision) == two.database.hash_kv(revision)


@pytest.mark.parametrize(
    "change",
    [
        Put(b"k3", b"other"),
        Put(b"k3", b"value of k3", lease=7),
        Put(b"k3x", b"value of k3"),
        DeleteRange(b"k3"),
    ],
)
def test_another_change_is_another_hash(change: Command, member: Member) -> None:
    hashes = []
    with member_on_a_new_file() as other:
        for each, third in ((member, Put(b"k3", b"value of k3")), (other, change)):
            each.machine.leases.grant(7, 60)
            each.put("k1", "k2", "k3")
            each.do(third)
            each.put("k4")
            each.flush()
            each.index_all()
            hashes.append([each.database.hash_kv(revision).value for revision in (4, 5, 6)])
    assert hashes[0][0] == hashes[1][0]
    assert hashes[0][1] != hashes[1][1]
    assert hashes[0][2] != hashes[1][2]


def test_many_stretches_make_one_hash(member: Member, monkeypatch: pytest.MonkeyPatch) -> None:
    member.put(*(f"k{number % 7}" for number in range(50)))
    member.do(DeleteRange(b"k", b"l"), Compact(20))
    member.flush()
    member.index_all()
    whole = member.database.hash_kv(40)
    monkeypatch.setattr(hashkv, "_STRETCH_ROWS", 3)
    assert member.database.hash_kv(40) == whole
    with pytest.raises(Compacted):
        member.database.hash_kv(19)


def test_a_row_that_is_not_what_was_written_has_no_hash(member: Member) -> None:
    member.put("k")
    member.flush()
    member.index_all()
    member.writer_sql("UPDATE history SET value = x'00'")
    with pytest.raises(DatabaseDamaged, match="revision 2 of key"):
        member.database.hash_kv(2)
