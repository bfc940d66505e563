"""A cluster that begins anew with one member's file: with all of its log, and with nobody else."""

from pathlib import Path

import pytest

from jobguard_store.anew import examine, recover
from jobguard_store.errors import StartupError
from jobguard_store.machine.commands import AlarmKind, GrantLease, Put, RaiseAlarm
from jobguard_store.raft.configuration import Configuration
from jobguard_store.raft.configuration import Member as Voter
from jobguard_store.raft.messages import Entry, EntryId, EntryKind
from jobguard_store.storage.batch import Batch
from jobguard_store.storage.database import Identity, InitialMember
from tests.storage.member import TERM, Member, normal

FOUNDERS = (InitialMember(2, "m2", ("http://h:2",)), InitialMember(3, "m3", ("http://h:3",)))
LATER = Configuration((Voter(2, True), Voter(3, True), Voter(4, True)), (9,))


@pytest.fixture
def left(tmp_path: Path) -> Member:
    """Applied up to 3; what follows is in the log, and may or may not be committed."""
    member = Member(tmp_path / "node.sqlite")
    member.database.found(Identity(7, 2, "m2", FOUNDERS))
    member.do(GrantLease(5, 60), Put(b"a", b"1", 5), RaiseAlarm(3, AlarmKind.NOSPACE))
    member.flush()
    batch = Batch()
    batch.append(
        [
            Entry(4, TERM, EntryKind.CONFIG, LATER.encode()),
            normal(5, Put(b"refused", b"there is no space")),
            Entry(6, TERM, EntryKind.NOOP, b""),
        ]
    )
    member.database.write(batch)
    member.database.close()
    return member


def test_to_look_changes_nothing(left: Member) -> None:
    survivor = examine(left.path.parent)
    assert (survivor.name, survivor.member_id, survivor.cluster_id) == ("m2", 2, 7)
    assert (survivor.last, survivor.applied, survivor.term) == (EntryId(TERM, 6), 3, TERM)
    assert (survivor.revision, survivor.keys, survivor.leases) == (2, 1, 1)
    assert survivor.others == ("3", "4")
    left._start()
    assert (left.loaded.identity, left.loaded.applied_index) == (Identity(7, 2, "m2", FOUNDERS), 3)
    assert [entry.index for entry in left.loaded.entries] == [1, 2, 3, 4, 5, 6]
    left.database.close()


def test_it_is_alone_at_a_revision_beyond_and_has_all_of_its_log(left: Member) -> None:
    begun = recover(left.path.parent, skipped=1000)
    left._start()
    loaded = left.loaded
    assert loaded.identity is not None
    assert (loaded.identity.member_id, loaded.identity.initial_members) == (2, ())
    assert loaded.identity.cluster_id == begun.cluster_id != 7
    assert (loaded.base, loaded.applied_index, loaded.entries) == (EntryId(TERM, 6), 6, [])
    assert loaded.configuration == Configuration((Voter(2, True),), (3, 4, 9))
    assert (left.machine.revision, left.machine.compact_revision) == (1002, 1002)
    assert left.machine.alarms == {}
    assert left.machine.lease_keys(5) == [b"a"]
    left.put("goes on")
    left.flush()
    left.sweep()
    left.restart()
    assert left.machine.revision == 1003
    left.database.close()


@pytest.mark.parametrize("what", ["nothing", "a stranger's file"])
def test_there_must_be_a_member(tmp_path: Path, what: str) -> None:
    if what != "nothing":
        Member(tmp_path / "node.sqlite").database.close()
    for do in (examine, recover):
        with pytest.raises(StartupError, match=r"holds (no member|a member that never was in a cluster)"):
            do(tmp_path)
