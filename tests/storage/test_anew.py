"""A cluster that begins anew, with one member's file or a backup: wholly or not at all, with nobody else."""

from hashlib import sha256
from pathlib import Path

import pytest

from jobguard_store import anew
from jobguard_store.anew import Begun, examine, recover, restore
from jobguard_store.config import NodeConfig
from jobguard_store.errors import StartupError
from jobguard_store.machine.commands import AlarmKind, GrantLease, Put, RaiseAlarm
from jobguard_store.raft.configuration import Configuration
from jobguard_store.raft.configuration import Member as Voter
from jobguard_store.raft.messages import Entry, EntryId, EntryKind, Snapshot
from jobguard_store.storage.batch import Batch
from jobguard_store.storage.database import Database, Identity, InitialMember
from tests.storage.member import TERM, Member, normal

FOUNDERS = (InitialMember(2, "m2", ("http://h:2",)), InitialMember(3, "m3", ("http://h:3",)))
LATER = Configuration((Voter(2, True, b'{"name":"m2"}'), Voter(3, True), Voter(4, True)), (9,), 2)
NEWER = r"needs a newer jobguard: its log is at level 2, and this one reads level 1\.$"


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
    assert loaded.configuration == Configuration((LATER.members[0],), (3, 4, 9), 2)
    assert (left.machine.revision, left.machine.compact_revision) == (1002, 1002)
    assert left.machine.alarms == {}
    assert left.machine.lease_keys(5) == [b"a"]
    left.put("goes on")
    left.flush()
    left.sweep()
    left.restart()
    assert left.machine.revision == 1003
    left.database.close()


def test_a_log_that_this_build_cannot_read_is_left_alone(
    left: Member, backup: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(anew, "LEVEL", 1)
    with pytest.raises(StartupError, match=NEWER):
        recover(left.path.parent)
    with pytest.raises(StartupError, match=NEWER):
        restored(backup, tmp_path / "target")


def test_cut_off_in_the_middle_it_is_no_member_of_the_old_cluster(
    left: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has applied what may never have been committed: there it would take that for committed."""
    monkeypatch.setattr(Database, "begin_anew", interrupted)
    with pytest.raises(KeyboardInterrupt):
        recover(left.path.parent)
    monkeypatch.undo()
    left._start()
    assert left.loaded.applied_index == 6
    assert left.loaded.expelled is not None
    assert "run jobguard store recover --force-new-cluster again" in left.loaded.expelled
    left.database.close()
    recover(left.path.parent)
    left._start()
    assert left.loaded.expelled is None
    assert left.loaded.configuration == Configuration((LATER.members[0],), (3, 4, 9), 2)
    left.database.close()


def test_a_member_that_was_removed_is_still_reached_where_it_was(left: Member) -> None:
    left._start()
    batch = Batch()
    batch.append([Entry(7, TERM, EntryKind.CONFIG, Configuration((Voter(3, True),), (2, 9)).encode())])
    left.database.write(batch)
    left.database.close()
    recover(left.path.parent)
    left._start()
    assert left.loaded.configuration is not None
    (us,) = left.loaded.configuration.members
    assert (us.id, us.data) == (2, LATER.members[0].data)
    assert left.loaded.configuration.removed == (3, 9)
    left.database.close()


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("what", ["nothing", "leftovers", "a file"])
def test_where_there_is_no_member_none_is_made(tmp_path: Path, what: str) -> None:
    directory = tmp_path / "data"
    if what == "a file":
        directory.touch()
    if what == "leftovers":
        directory.mkdir()
        (directory / "node.arriving.sqlite").touch()
    before = sorted(tmp_path.rglob("*"))
    for do in (examine, recover):
        with pytest.raises(StartupError, match="holds no member"):
            do(directory)
    assert sorted(tmp_path.rglob("*")) == before


def test_there_must_be_a_member(tmp_path: Path) -> None:
    Member(tmp_path / "node.sqlite").database.close()
    for do in (examine, recover):
        with pytest.raises(StartupError, match="holds a member that never was in a cluster"):
            do(tmp_path)


# --- from a backup ------------------------------------------------------------------------------------


@pytest.fixture
def backup(left: Member, tmp_path: Path) -> Path:
    left._start()
    path = tmp_path / "backup"
    cut = left.database.cut(path)
    cut.copy(Snapshot(EntryId(TERM, cut.applied_index), Configuration((Voter(2, True),), level=2)))
    cut.close()
    left.database.close()
    content = path.read_bytes()
    path.write_bytes(content + sha256(content).digest())
    return path


def restored(backup: Path, data_dir: Path, name: str = "a", skipped: int = 1000) -> Begun:
    cluster = "a=http://h:1,b=http://h:2"
    return restore(
        backup, NodeConfig.from_flags(name=name, data_dir=data_dir, initial_cluster=cluster), skipped
    )


def test_a_restore_that_failed_is_in_nobodys_way(backup: Path, tmp_path: Path) -> None:
    rotten = tmp_path / "rotten"
    rotten.write_bytes(backup.read_bytes()[:-1])
    target = tmp_path / "target"
    with pytest.raises(StartupError, match="use another copy"):
        restored(rotten, target)
    (target / "node.arriving.sqlite").write_bytes(b"what a killed one leaves")
    begun = restored(backup, target)
    assert (begun.revision, begun.keys, begun.leases) == (1002, 1, 1)
    again = Database.open(target / "node.sqlite")
    configuration = again.load().configuration
    assert configuration is not None
    assert (len(configuration.voters), configuration.level) == (2, 2)
    again.close()
    with pytest.raises(StartupError, match="is not empty"):
        restored(backup, target)


def test_only_who_begin_alike_are_of_one_cluster(backup: Path, tmp_path: Path) -> None:
    """At other revisions, or from another backup, they would hold different things for the same."""
    begun = restored(backup, tmp_path / "a")
    assert restored(backup, tmp_path / "b", name="b").cluster_id == begun.cluster_id
    assert restored(backup, tmp_path / "further", skipped=2000).cluster_id != begun.cluster_id


@pytest.mark.parametrize("place", [Path("file"), Path("file/below")])
def test_where_no_folder_can_be_nothing_is_restored(backup: Path, tmp_path: Path, place: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StartupError, match=r"backup cannot be restored: .*Not a directory"):
        restored(backup, tmp_path / place)
