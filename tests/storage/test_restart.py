"""A machine that is loaded is the machine that was written, whatever had happened to it."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobguard_store.errors import DatabaseDamaged
from jobguard_store.machine.commands import Command, Compact, DeleteRange, Put
from jobguard_store.storage.lives import Life
from tests.machine.commands import histories
from tests.storage.member import Member, member_on_a_new_file


@settings(max_examples=60, deadline=None)
@given(histories, st.data())
def test_a_restart_gives_the_machine_in_memory(history: list[Command], data: st.DataObject) -> None:
    with member_on_a_new_file() as member:
        for command in history:
            member.do(command)
            if data.draw(st.integers(0, 4), label="flush, sweep or go on") == 0:
                member.flush()
                member.sweep()
        member.flush()
        before = member.machine
        member.restart()
        assert member.machine.fingerprint() == before.fingerprint()
        assert list(member.machine.keys) == list(before.keys)
        for lease in before.lease_ids():
            assert member.machine.lease_keys(lease) == before.lease_keys(lease)


def test_what_was_not_written_is_replayed_from_the_log(member: Member) -> None:
    """A crash between an entry's append and the rows of its applying: applied_index says where to go on."""
    member.put("a", "b")
    entries, member.batch.entries = member.batch.entries, []
    events, member.batch.events = member.batch.events, []
    assert events
    member.batch.append(entries)
    member.batch.applied_index = member.batch.revision = None
    member.flush()
    after = member.machine.fingerprint()
    member.restart()
    assert (member.loaded.applied_index, len(member.loaded.entries), member.machine.revision) == (0, 2, 1)
    member.do(Put(b"a", b"value of a"), Put(b"b", b"value of b"))
    assert member.machine.fingerprint() == after


def test_the_revision_outlives_all_its_rows(member: Member) -> None:
    """Else a restart after compaction would give a revision out twice, and fencing tokens with it."""
    member.put("k")
    member.do(DeleteRange(b"k"), Compact(3))
    member.put("k")
    member.do(DeleteRange(b"k"))
    member.do(Compact(5))
    member.flush()
    assert member.sweep()
    member.restart()
    assert (member.machine.revision, member.machine.compact_revision) == (5, 5)


def test_whom_a_member_met_and_that_it_was_expelled_is_remembered(member: Member) -> None:
    member.database.remember(2, Life(disk=5, boot=1, nonce=8))
    member.database.remember(1 << 62, Life(disk=6, boot=1, nonce=9))
    member.database.remember(2, Life(disk=5, boot=2, nonce=10))
    disk = member.loaded.disk
    member.restart()
    assert member.loaded.lives == {2: Life(5, 2, 10), 1 << 62: Life(6, 1, 9)}
    assert (member.loaded.disk, member.loaded.expelled) == (disk, None)
    member.database.expel("nobody wants it")
    member.restart()
    assert member.loaded.expelled == "nobody wants it"
    member.writer_sql("UPDATE lives SET boot = 7 WHERE member_id = '2'")
    with pytest.raises(DatabaseDamaged, match="member 2 is not what was written"):
        member.restart()
