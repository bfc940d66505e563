"""Who the users are, which roles they have, what the roles permit: state of the machine like its keys.

Place in the house   apply, guarded -> auth -> permissions
Takes                commands that change it; callers, and what they want to do
Gives                what each command changes; the state after that; refusals of who may not
Never                sees a password or a token, only what they are told by: a hash, a digest

A value: every change makes another one. Whoever has seen one knows by its identity whether anything is new.
"""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, assert_never, get_args

import msgspec

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
    ANONYMOUS,
    AddRole,
    AddUser,
    AuthCommand,
    Authenticate,
    Caller,
    ChangePassword,
    Command,
    Compact,
    DeleteRange,
    DeleteRole,
    DeleteUser,
    DisableAuth,
    EnableAuth,
    ExpireLease,
    GrantLease,
    GrantPermission,
    GrantRole,
    LowerAlarm,
    Put,
    RaiseAlarm,
    Range,
    RevokeLease,
    RevokePermission,
    RevokeRole,
    Txn,
)
from jobguard_store.machine.permissions import Need, Permission, Rights, needs

if TYPE_CHECKING:
    from jobguard_store.machine.leases import LeaseTable

ROOT = "root"
"""The user without whom authentication cannot be on, and the role that may do everything."""


def is_roots(command: Command) -> bool:
    """Whether nobody else may ask for it while authentication is on."""
    return type(command) in _ROOTS


_ROOTS = frozenset((Compact, RaiseAlarm, LowerAlarm, *get_args(AuthCommand)))


class User(msgspec.Struct, frozen=True, gc=False):
    """`password` is a bcrypt hash, None for one who cannot come by password. `roles` are sorted."""

    password: bytes | None
    roles: tuple[str, ...] = ()


Role = tuple[Permission, ...]
"""Sorted by interval, one for each."""


class AuthChange(msgspec.Struct, frozen=True):
    """What a command changes: where the whole now stands, and each user and role concerned, None if gone."""

    enabled: bool
    revision: int
    users: dict[str, User | None] = {}
    roles: dict[str, Role | None] = {}

    def then(self, later: "AuthChange") -> "AuthChange":
        """Both, as one."""
        users, roles = {**self.users, **later.users}, {**self.roles, **later.roles}
        return AuthChange(later.enabled, later.revision, users, roles)


class Auth:
    """`revision` counts the changes, from 1 on."""

    def __init__(
        self,
        enabled: bool = False,
        revision: int = 1,
        users: Mapping[str, User] | None = None,
        roles: Mapping[str, Role] | None = None,
    ) -> None:
        self.enabled = enabled
        self.revision = revision
        self.users = users or {}
        self.roles = roles or {}
        self._rights: dict[str, Rights] = {}

    def after(self, change: AuthChange) -> "Auth":
        users, roles = {**self.users, **change.users}, {**self.roles, **change.roles}
        return Auth(
            change.enabled,
            change.revision,
            {name: user for name, user in users.items() if user is not None},
            {name: role for name, role in roles.items() if role is not None},
        )

    def is_root(self, user: str) -> bool:
        """Whether there is such a user, and he may do everything."""
        found = self.users.get(user)
        return found is not None and ROOT in found.roles

    def password(self, user: str) -> bytes | None:
        """Its hash; None for one who has none, or does not exist."""
        found = self.users.get(user)
        return None if found is None else found.password

    def rights(self, user: str) -> Rights:
        """All that his roles permit; nothing for one who does not exist."""
        if user not in self._rights:
            roles = self.users[user].roles if user in self.users else ()
            self._rights[user] = Rights(each for role in roles for each in self.roles.get(role, ()))
        return self._rights[user]

    @property
    def state(self) -> tuple[object, ...]:
        """All of it, in one order on all nodes."""
        return self.enabled, self.revision, sorted(self.users.items()), sorted(self.roles.items())

    # --- who may ------------------------------------------------------------------------------------

    def check(self, caller: Caller, command: Command, leases: "LeaseTable") -> None:
        """Of a command at its turn in the log. Raises UserEmpty, AuthRevisionOld, PermissionDenied.

        Nobody's are what members propose in their own affairs; a client's were refused on the way in.
        """
        match command:
            case ExpireLease() | Authenticate():
                pass
            case Compact() | RaiseAlarm() | LowerAlarm():
                if caller != ANONYMOUS:
                    self.allow_root(caller)
            case GrantLease() | RevokeLease():
                self._require_current(caller)
                self.allow(caller, needs(command, leases))
            case Range() | Put() | DeleteRange() | Txn():
                self.allow(caller, needs(command, leases))
            case _:
                self.allow_root(caller)

    def allow(self, caller: Caller, needed: Iterable[Need]) -> None:
        """Who needs nothing need not be anybody. Raises UserEmpty, AuthRevisionOld, PermissionDenied."""
        rights = None
        for need in needed:
            if rights is None:
                self._require_current(caller)
                if self.is_root(caller.user):
                    return
                rights = self.rights(caller.user)
            if not rights.cover(need):
                raise PermissionDenied

    def _require_current(self, caller: Caller) -> None:
        if not caller.user:
            raise UserEmpty
        if caller.auth_revision < self.revision:
            raise AuthRevisionOld

    def allow_root(self, caller: Caller) -> None:
        """Raises UserEmpty, PermissionDenied."""
        if not caller.user:
            raise UserEmpty
        if not self.is_root(caller.user):
            raise PermissionDenied

    # --- changes ------------------------------------------------------------------------------------

    def change(self, command: AuthCommand) -> AuthChange:
        """What `command` changes; the same revision where it changes nothing. Raises what etcd says."""
        match command:
            case EnableAuth():
                return self._enable()
            case DisableAuth():
                return AuthChange(False, self.revision + 1) if self.enabled else self._nothing()
            case Authenticate():
                return self._authenticate(command)
            case AddUser():
                return self._add_user(command)
            case DeleteUser():
                return self._delete_user(command.name)
            case ChangePassword():
                return self._change_password(command)
            case GrantRole():
                return self._grant_role(command)
            case RevokeRole():
                return self._revoke_role(command)
            case AddRole():
                return self._add_role(command.name)
            case DeleteRole():
                return self._delete_role(command.name)
            case GrantPermission():
                return self._grant_permission(command)
            case RevokePermission():
                return self._revoke_permission(command)
            case never:
                assert_never(never)

    def user(self, name: str) -> User:
        """Raises UserNotFound."""
        if name not in self.users:
            raise UserNotFound
        return self.users[name]

    def role(self, name: str) -> Role:
        """Raises RoleNotFound."""
        if name not in self.roles:
            raise RoleNotFound
        return self.roles[name]

    def _nothing(self) -> AuthChange:
        return AuthChange(self.enabled, self.revision)

    def _changed(
        self, users: dict[str, User | None] | None = None, roles: dict[str, Role | None] | None = None
    ) -> AuthChange:
        return AuthChange(self.enabled, self.revision + 1, users or {}, roles or {})

    def _enable(self) -> AuthChange:
        """Not a change that makes callers old: their revision is that of users and roles."""
        if not self.enabled:
            if ROOT not in self.users:
                raise RootUserNotExist
            if not self.is_root(ROOT):
                raise RootRoleNotExist
        return AuthChange(True, self.revision)

    def _authenticate(self, command: Authenticate) -> AuthChange:
        """The password was compared with what a member knew then; whatever came since may have changed it."""
        if not self.enabled:
            raise AuthNotEnabled
        if command.auth_revision != self.revision:
            raise AuthRevisionOld
        if command.user not in self.users:
            raise AuthFailed
        return self._nothing()

    def _add_user(self, command: AddUser) -> AuthChange:
        if not command.name:
            raise UserEmpty
        if command.name in self.users:
            raise UserExists
        return self._changed({command.name: User(command.password)})

    def _delete_user(self, name: str) -> AuthChange:
        if self.enabled and name == ROOT:
            raise InvalidAuthManagement
        self.user(name)
        return self._changed({name: None})

    def _change_password(self, command: ChangePassword) -> AuthChange:
        user = self.user(command.name)
        password = None if user.password is None else command.password
        return self._changed({command.name: User(password, user.roles)})

    def _grant_role(self, command: GrantRole) -> AuthChange:
        user = self.user(command.user)
        if command.role != ROOT:
            self.role(command.role)
        if command.role in user.roles:
            return self._nothing()
        roles = tuple(sorted((*user.roles, command.role)))
        return self._changed({command.user: User(user.password, roles)})

    def _revoke_role(self, command: RevokeRole) -> AuthChange:
        if self.enabled and command.user == command.role == ROOT:
            raise InvalidAuthManagement
        user = self.user(command.user)
        if command.role not in user.roles:
            raise RoleNotGranted
        return self._changed({command.user: _without(user, command.role)})

    def _add_role(self, name: str) -> AuthChange:
        if not name:
            raise RoleEmpty
        if name in self.roles:
            raise RoleExists
        return self._changed(roles={name: ()})

    def _delete_role(self, name: str) -> AuthChange:
        """Nobody has it any more: a new role of that name begins without anyone."""
        if self.enabled and name == ROOT:
            raise InvalidAuthManagement
        self.role(name)
        had = {each: _without(user, name) for each, user in self.users.items() if name in user.roles}
        return self._changed({**had}, {name: None})

    def _grant_permission(self, command: GrantPermission) -> AuthChange:
        given = Permission(command.key, command.range_end, command.access)
        others = [each for each in self.role(command.role) if each.interval != given.interval]
        return self._changed(roles={command.role: tuple(sorted([*others, given], key=_interval))})

    def _revoke_permission(self, command: RevokePermission) -> AuthChange:
        role = self.role(command.role)
        kept = tuple(each for each in role if each.interval != (command.key, command.range_end))
        if len(kept) == len(role):
            raise PermissionNotGranted
        return self._changed(roles={command.role: kept})


def _without(user: User, role: str) -> User:
    return User(user.password, tuple(each for each in user.roles if each != role))


def _interval(permission: Permission) -> tuple[bytes, bytes]:
    return permission.interval
