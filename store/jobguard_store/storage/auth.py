"""The rows of users and roles: those that a batch changed, written; all of them, loaded.

Place in the house   database, state -> auth -> tables
Takes                the transaction it works in
Gives                users and roles equal to those whose rows were written, or Damage
Never                commits
"""

from collections.abc import Iterator
from typing import Any
from zlib import crc32

import msgspec
from sqlalchemy import Connection, Table, delete, insert, select

from jobguard_store.machine.auth import Auth, AuthChange, Role, User
from jobguard_store.storage.damage import Damage
from jobguard_store.storage.tables import auth, roles, users


def write(tx: Connection, change: AuthChange) -> None:
    """There are few, and they change seldom."""
    _replace(tx, auth, 1, int(change.enabled), change.revision)
    for name, user in change.users.items():
        if user is None:
            tx.execute(delete(users).where(users.c.name == name))
        else:
            _replace(tx, users, name, user.password, msgspec.json.encode(user.roles).decode())
    for name, role in change.roles.items():
        if role is None:
            tx.execute(delete(roles).where(roles.c.name == name))
        else:
            _replace(tx, roles, name, msgspec.msgpack.encode(role))


def load(tx: Connection) -> Auth:
    """Raises Damage."""
    whole = list(_rows(tx, auth))
    try:
        named = {name: User(password, _roles.decode(held)) for name, password, held in _rows(tx, users)}
        given = {name: _role.decode(permissions) for name, permissions in _rows(tx, roles)}
    except (msgspec.DecodeError, TypeError) as error:
        raise Damage(f"users or roles are not what a build of ours wrote ({error})") from None
    if not whole:
        if named or given:  # open to everybody, if it were not noticed
            raise Damage("whether authentication is on is not written anywhere")
        return Auth()
    [(_, enabled, revision)] = whole
    return Auth(bool(enabled), revision, named, given)


_roles = msgspec.json.Decoder(tuple[str, ...])
_role = msgspec.msgpack.Decoder(Role)


def _replace(tx: Connection, table: Table, *row: Any) -> None:
    tx.execute(insert(table).prefix_with("OR REPLACE").values((*row, _checksum(row))))


def _rows(tx: Connection, table: Table) -> Iterator[tuple[Any, ...]]:
    for *row, noted in tx.execute(select(table)):
        if _checksum(row) != noted:
            raise Damage(f"a row of {table.name} is not what was written")
        yield tuple(row)


def _checksum(row: Any) -> int:
    """Over the whole row."""
    return crc32(msgspec.msgpack.encode(row))
