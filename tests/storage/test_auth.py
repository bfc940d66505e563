"""Users and roles in a file: through restarts, snapshots and recoveries; and what rot is taken for."""

from pathlib import Path

import pytest

from jobguard_store.anew import recover
from jobguard_store.errors import DatabaseDamaged
from jobguard_store.machine.commands import (
    Access,
    AddRole,
    AddUser,
    Authenticate,
    Caller,
    DeleteRole,
    DeleteUser,
    EnableAuth,
    GrantPermission,
    GrantRole,
    Origin,
    Put,
    encode,
)
from jobguard_store.raft.messages import Entry, EntryKind, HardState
from jobguard_store.storage.batch import Batch
from jobguard_store.storage.database import Database, Identity, InitialMember
from tests.storage.member import TERM, Member, sql
from tests.storage.test_snapshots import transfer

USERS = (
    AddUser("root", b"$2b$root"),
    AddUser("gone", b"$2b$gone"),
    AddUser("ünïcode", None),
    GrantRole("root", "root"),
    AddRole("worker"),
    AddRole("gone"),
    GrantPermission("worker", Access.READWRITE, b"\0\xff", b"\0"),
    GrantPermission("worker", Access.READ, b"k"),
    GrantRole("ünïcode", "worker"),
    GrantRole("ünïcode", "gone"),
    DeleteUser("gone"),
    DeleteRole("gone"),
    EnableAuth(),
    Authenticate("root", b"digest", 13),
)


def populate(member: Member) -> bytes:
    member.do(*USERS[:6])
    member.flush()
    member.do(*USERS[6:])
    assert member.machine.auth.enabled
    member.flush()
    return member.machine.fingerprint()


def test_a_restart_knows_them_all(member: Member) -> None:
    written = populate(member)
    member.restart()
    assert member.machine.fingerprint() == written
    assert member.machine.auth.users.keys() == {"root", "ünïcode"}
    assert member.machine.auth.user("ünïcode").roles == ("worker",)


def test_what_waits_together_is_written_as_one(member: Member) -> None:
    """A user made and deleted before anything was written, a role changed twice."""
    later = Batch()
    for number, command in enumerate(USERS, start=1):
        batch = Batch() if number % 3 else later
        batch.apply(number, member.machine.apply(command, TERM).rows)
        later = later if batch is later else _merged(later, batch)
    assert later.auth is not None
    assert later.auth.users["gone"] is later.auth.roles["gone"] is None
    member.index = len(USERS)
    later.append([Entry(number, TERM, EntryKind.NOOP, b"") for number in range(1, len(USERS) + 1)])
    member.batch = later
    member.flush()
    written = member.machine.fingerprint()
    member.restart()
    assert member.machine.fingerprint() == written


def _merged(one: Batch, other: Batch) -> Batch:
    one.merge(other)
    return one


def test_they_go_along_with_a_snapshot(member: Member, tmp_path: Path) -> None:
    written = populate(member)
    other = Member(tmp_path / "other" / "node.sqlite")
    try:
        other.database.found(Identity(7, 2, "m2", ()))
        other.do(AddUser("mine", b"h"))
        other.flush()
        staged = transfer(member, other)
        assert staged.machine.fingerprint() == written
        other.database.adopt(staged, HardState(9, 2))
        other.restart()
        assert other.machine.fingerprint() == written
    finally:
        other.database.close()


def test_the_one_that_is_left_keeps_them_and_asks_them_for_the_rest_of_its_log(tmp_path: Path) -> None:
    member = Member(tmp_path / "node.sqlite")
    founder = InitialMember(2, "m2", ("http://127.0.0.1:1",))
    member.database.found(Identity(7, 2, "m2", (founder,)))
    populate(member)
    signed = [
        encode(Origin(1, 1, 90, Caller("root", 13)), Put(b"by root")),
        encode(Origin(1, 1, 91), Put(b"by nobody")),
    ]
    batch = Batch()
    first = len(USERS) + 1
    batch.append([Entry(first + n, TERM, EntryKind.NORMAL, data) for n, data in enumerate(signed)])
    member.database.write(batch)
    member.database.close()
    recover(tmp_path, skipped=1000)
    member._start()
    assert [record.key for record in member.machine.keys] == [b"by root"]
    assert member.machine.auth.enabled
    member.database.close()


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        ("UPDATE users SET password = x'00' WHERE name = 'root'", "a row of users is not what was written"),
        ("UPDATE users SET name = 'toor' WHERE name = 'root'", "a row of users is not what was written"),
        ("UPDATE roles SET permissions = x'90'", "a row of roles is not what was written"),
        ("UPDATE auth SET enabled = 0", "a row of auth is not what was written"),
        ("DELETE FROM auth", "whether authentication is on is not written anywhere"),
    ],
)
def test_rot_opens_no_door(member: Member, harm: str, reason: str) -> None:
    populate(member)
    member.database.close()
    sql(member.path, harm)
    database = Database.open(member.path)
    with pytest.raises(DatabaseDamaged, match=reason):
        database.load()
    database.close()
