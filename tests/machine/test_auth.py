"""Users and roles in the machine: what changes them, what they permit; they are state like any other."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobguard_store.errors import (
    AuthFailed,
    AuthNotEnabled,
    AuthRevisionOld,
    InvalidAuthManagement,
    PermissionDenied,
    PermissionNotGranted,
    RoleEmpty,
    RoleExists,
    RoleNotFound,
    RoleNotGranted,
    RootRoleNotExist,
    RootUserNotExist,
    UserEmpty,
    UserExists,
    UserNotFound,
)
from jobguard_store.machine.commands import (
    Access,
    AddRole,
    AddUser,
    AlarmKind,
    Authenticate,
    Caller,
    ChangePassword,
    Command,
    Compact,
    Compare,
    DeleteRange,
    DeleteRole,
    DeleteUser,
    DisableAuth,
    EnableAuth,
    ExpireLease,
    GrantLease,
    GrantPermission,
    GrantRole,
    Put,
    RaiseAlarm,
    Range,
    RevokeLease,
    RevokePermission,
    RevokeRole,
    Txn,
)
from jobguard_store.machine.permissions import Permission, Rights
from jobguard_store.machine.results import Authenticated
from tests.machine.started import TERM, Started

R, W, RW = Access.READ, Access.WRITE, Access.READWRITE


@pytest.fixture
def guarded(store: Started) -> Started:
    """Authentication is on; `worker` may read and write a/, and read b/."""
    store.do(AddUser("root", b"secret"))
    store.do(GrantRole("root", "root"))
    store.do(AddUser("worker", b"hash"))
    store.do(AddRole("worker"))
    store.do(GrantPermission("worker", RW, b"a/", b"a0"))
    store.do(GrantPermission("worker", R, b"b/", b"b0"))
    store.do(GrantRole("worker", "worker"))
    store.do(EnableAuth())
    return store


def root(store: Started) -> Caller:
    return Caller("root", store.machine.auth.revision)


def worker(store: Started) -> Caller:
    return Caller("worker", store.machine.auth.revision)


# --- changes ----------------------------------------------------------------------------------------


def test_what_cannot_be_changed_is_refused_as_etcd_refuses_it(store: Started) -> None:
    assert store.refusal(EnableAuth()) is RootUserNotExist
    assert store.refusal(AddUser("", b"")) is UserEmpty
    assert store.refusal(AddRole("")) is RoleEmpty
    store.do(AddUser("root", b"h"))
    assert store.refusal(EnableAuth()) is RootRoleNotExist
    assert store.refusal(AddUser("root", b"h")) is UserExists
    assert store.refusal(GrantRole("nobody", "root")) is UserNotFound
    assert store.refusal(GrantRole("root", "none")) is RoleNotFound
    assert store.refusal(RevokeRole("root", "none")) is RoleNotGranted
    assert store.refusal(RevokeRole("nobody", "none")) is UserNotFound
    assert store.refusal(DeleteUser("nobody")) is UserNotFound
    assert store.refusal(ChangePassword("nobody", b"h")) is UserNotFound
    assert store.refusal(DeleteRole("none")) is RoleNotFound
    assert store.refusal(GrantPermission("none", R, b"k")) is RoleNotFound
    assert store.refusal(RevokePermission("none", b"k")) is RoleNotFound
    store.do(AddRole("some"))
    assert store.refusal(AddRole("some")) is RoleExists
    assert store.refusal(RevokePermission("some", b"k")) is PermissionNotGranted
    assert store.refusal(Authenticate("root", b"t", 3)) is AuthNotEnabled


def test_each_change_counts_and_what_changes_nothing_does_not(store: Started) -> None:
    auth = store.machine.auth
    assert auth.revision == 1
    store.do(AddUser("root", b"h"))
    store.do(GrantRole("root", "root"))
    assert store.machine.auth.revision == 3
    store.do(GrantRole("root", "root"))
    store.do(EnableAuth())
    store.do(EnableAuth(), root(store))
    assert store.machine.auth.revision == 3
    store.do(DisableAuth(), root(store))
    store.do(DisableAuth())
    assert store.machine.auth.revision == 4
    assert store.revision == 1, "none of it is a revision of the keys"
    assert auth.revision == 1, "and what was seen stays as it was seen"


def test_a_role_that_goes_is_nobodys(guarded: Started) -> None:
    guarded.do(DeleteRole("worker"), root(guarded))
    guarded.do(AddRole("worker"), root(guarded))
    assert guarded.machine.auth.user("worker").roles == ()


def test_a_permission_is_given_once_for_an_interval(guarded: Started) -> None:
    """Given anew it is what it is given anew: etcd 3.5.1 may keep the wider one beside it."""
    guarded.do(GrantPermission("worker", W, b"a/", b"b"), root(guarded))
    guarded.do(GrantPermission("worker", R, b"a/", b"a0"), root(guarded))
    assert guarded.machine.auth.role("worker") == (
        Permission(b"a/", b"a0", R),
        Permission(b"a/", b"b", W),
        Permission(b"b/", b"b0", R),
    )
    guarded.do(RevokePermission("worker", b"a/", b"b"), root(guarded))
    assert guarded.refusal(Put(b"a/k"), worker(guarded)) is PermissionDenied


def test_root_is_left_as_it_is_while_authentication_is_on(guarded: Started) -> None:
    for command in (DeleteUser("root"), RevokeRole("root", "root"), DeleteRole("root")):
        assert guarded.refusal(command, root(guarded)) is InvalidAuthManagement


def test_who_has_no_password_gets_none(store: Started) -> None:
    store.do(AddUser("by certificate", None))
    store.do(ChangePassword("by certificate", b"h"))
    assert store.machine.auth.user("by certificate").password is None


def test_a_token_is_made_only_of_what_is_still_so(guarded: Started) -> None:
    """A password compared with a hash that was changed while it was being compared."""
    old = guarded.machine.auth.revision
    assert guarded.do(Authenticate("worker", b"t", old)) == Authenticated(1, "worker", b"t")
    guarded.do(ChangePassword("worker", b"another"), root(guarded))
    assert guarded.refusal(Authenticate("worker", b"t", old)) is AuthRevisionOld
    assert guarded.refusal(Authenticate("nobody", b"t", old + 1)) is AuthFailed


def test_who_has_users_has_read_their_commands(store: Started) -> None:
    """Also from a log of a build that did not yet ask whether all can: what is in use stays so."""
    assert store.machine.level == Put.level
    store.do(AddRole("r"))
    assert store.machine.level == AddRole.level > Put.level


def test_users_are_part_of_the_state(store: Started) -> None:
    before = store.machine.fingerprint()
    for command in (AddUser("u", b"h"), AddRole("r"), GrantRole("u", "r"), GrantPermission("r", R, b"k")):
        store.do(command)
        assert store.machine.fingerprint() != before
        before = store.machine.fingerprint()


# --- what is permitted ------------------------------------------------------------------------------

PERMITTED: list[Command] = [
    Range(b"a/k"),
    Range(b"a/", b"a0"),
    Range(b"b/x", b"b/y"),
    Put(b"a/k", prev_kv=True),
    Put(b"a/k", lease=1),
    DeleteRange(b"a/", b"a0", prev_kv=True),
    Txn((Compare(b"b/"),), (Put(b"a/k"), Range(b"b/")), (Txn(success=(DeleteRange(b"a/k"),)),)),
    GrantLease(9, 60),
    RevokeLease(1),
]
DENIED: list[Command] = [
    Range(b"c"),
    Range(b"a/", b"a1"),
    Range(b"a/", b"b0"),
    Range(b"\0", b"\0"),
    Range(b"a/", b"\0"),
    Put(b"b/k"),
    Put(b"write only", prev_kv=True),
    Put(b"a/k", lease=2),
    DeleteRange(b"b/", b"b0"),
    DeleteRange(b"write only", prev_kv=True),
    Txn(compare=(Compare(b"c"),)),
    Txn(compare=(Compare(b"a/", b"c"),)),
    Txn(success=(Range(b"c"),)),
    Txn(failure=(Put(b"b/"),)),
    Txn(success=(Put(b"write only", prev_kv=True),)),
    Txn(success=(Put(b"a/k", lease=2),)),
    Txn(success=(Txn(failure=(Put(b"b/"),)),)),
    Txn(failure=(Txn(compare=(Compare(b"c"),)),)),
    RevokeLease(2),
    Compact(1),
    RaiseAlarm(1, AlarmKind.NOSPACE, by_hand=True),
    EnableAuth(),
    DisableAuth(),
    AddUser("u", b"h"),
    DeleteUser("worker"),
    ChangePassword("worker", b"h"),
    GrantRole("worker", "root"),
    RevokeRole("worker", "worker"),
    AddRole("r"),
    DeleteRole("worker"),
    GrantPermission("worker", RW, b"\0", b"\0"),
    RevokePermission("worker", b"b/", b"b0"),
]


@pytest.fixture
def stocked(guarded: Started) -> Started:
    """Keys that the worker may write on lease 1, one that it may not on lease 2, one to be written unread."""
    guarded.do(GrantPermission("worker", W, b"write only"), root(guarded))
    for lease, key in ((1, b"a/leased"), (2, b"c/leased")):
        guarded.do(GrantLease(lease, 60), root(guarded))
        guarded.do(Put(key, lease=lease), root(guarded))
    return guarded


@pytest.mark.parametrize("command", PERMITTED, ids=repr)
def test_what_a_role_permits_is_done(stocked: Started, command: Command) -> None:
    stocked.do(command, worker(stocked))


@pytest.mark.parametrize("command", DENIED, ids=repr)
def test_what_no_role_permits_is_not_done_but_by_root(stocked: Started, command: Command) -> None:
    assert stocked.refusal(command, worker(stocked)) is PermissionDenied
    assert stocked.apply(command, caller=Caller("nobody", 99)).result.__class__ is PermissionDenied
    assert not isinstance(stocked.apply(command, caller=root(stocked)).result, PermissionDenied)


@pytest.mark.parametrize("command", [*DENIED, *PERMITTED], ids=repr)
def test_a_client_without_a_token_changes_nothing(stocked: Started, command: Command) -> None:
    """But for what leaders propose unasked; a client's is refused before it comes to the log."""
    if isinstance(command, Compact | RaiseAlarm):
        stocked.do(command)
    else:
        assert stocked.refusal(command) is UserEmpty


def test_leases_run_out_whoever_put_keys_on_them(stocked: Started) -> None:
    assert stocked.do(ExpireLease(2, TERM)).expired
    assert stocked.get(b"c/leased") is None


def test_what_was_permitted_on_the_way_in_is_asked_again(guarded: Started) -> None:
    """A write that waits in the log while its writer loses the right to it."""
    then = worker(guarded)
    guarded.do(RevokeRole("worker", "worker"), root(guarded))
    assert guarded.refusal(Put(b"a/k"), then) is AuthRevisionOld
    assert guarded.refusal(Put(b"a/k"), worker(guarded)) is PermissionDenied
    assert guarded.refusal(GrantLease(1, 60), then) is AuthRevisionOld, "his password may be another"


def test_with_authentication_off_nobody_asks_who_it_is(guarded: Started) -> None:
    then = worker(guarded)
    guarded.do(DisableAuth(), root(guarded))
    guarded.do(Put(b"c"))
    guarded.do(Put(b"c"), then)


# --- intervals --------------------------------------------------------------------------------------

KEYS = [bytes(key) for key in (b"a", b"a\0", b"aa", b"b", b"c", b"\xff", b"\xff\xff")]
keys = st.sampled_from(KEYS)
range_ends = st.sampled_from([b"", b"\0", *KEYS])
permissions = st.lists(st.builds(Permission, keys, range_ends, st.sampled_from(Access)), max_size=5)


def within(probe: bytes, key: bytes, range_end: bytes) -> bool:
    if not range_end:
        return probe == key
    return probe >= key if range_end == b"\0" else key <= probe < range_end


@settings(deadline=None)
@given(permissions, keys, range_ends, st.sampled_from([R, W]))
def test_rights_cover_what_they_cover_key_by_key(
    given_: list[Permission], key: bytes, range_end: bytes, access: Access
) -> None:
    """Between any two of the keys that are named there is another one: together they stand for all."""
    probes = [probe for each in KEYS for probe in (each, each + b"\0", each + b"\0\0")]
    asked = [probe for probe in [*probes, b"\xff" * 9] if within(probe, key, range_end)]
    if not asked:
        return  # an interval of no keys: whatever is said of it, nothing is read
    allowed = all(
        any(within(probe, *each.interval) and each.access in (access, RW) for each in given_)
        for probe in asked
    )
    assert Rights(given_).cover((access, key, range_end)) == allowed


def test_permissions_that_touch_are_as_good_as_one() -> None:
    halves = Rights([Permission(b"a", b"b", R), Permission(b"b", b"c", RW)])
    assert halves.cover((R, b"a", b"c"))
    assert not halves.cover((W, b"a", b"c"))
    apart = Rights([Permission(b"a", b"b", R), Permission(b"b\0", b"c", R)])
    assert not apart.cover((R, b"a", b"c"))


def test_one_without_a_key_permits_nothing() -> None:
    assert not Rights([Permission(b"", b"\0", RW), Permission(b"", b"", RW)]).cover((R, b"a", b""))
