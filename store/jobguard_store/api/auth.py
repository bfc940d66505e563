"""Users, roles, permissions and tokens.

Place in the house   server -> auth -> node
Never                hands a password on: only its hash leaves here
"""

from typing import TYPE_CHECKING

from jobguard import wire
from jobguard.wire import int64
from jobguard_store.api.exchange import decode
from jobguard_store.api.kv import check_proposal
from jobguard_store.api.shapes import Body, header
from jobguard_store.errors import PermissionNotGiven
from jobguard_store.machine.commands import (
    Access,
    AddRole,
    AddUser,
    AuthCommand,
    ChangePassword,
    DeleteRole,
    DeleteUser,
    DisableAuth,
    EnableAuth,
    GrantPermission,
    GrantRole,
    RevokePermission,
    RevokeRole,
)

if TYPE_CHECKING:
    from jobguard_store.node import Node

_ACCESS: dict[str | int, Access] = {key: each for each in Access for key in (each.name, each.value)}


async def status(node: "Node", body: bytes) -> Body:
    decode(body, wire.AuthStatusRequest)
    auth = await node.auth()
    return wire.encode(
        wire.AuthStatusResponse(header=_header(node), enabled=auth.enabled, authRevision=int64(auth.revision))
    )


async def enable(node: "Node", body: bytes) -> Body:
    decode(body, wire.AuthRequest)
    return await _changed(node, body, EnableAuth())


async def disable(node: "Node", body: bytes) -> Body:
    decode(body, wire.AuthRequest)
    return await _changed(node, body, DisableAuth())


async def authenticate(node: "Node", body: bytes) -> Body:
    request = decode(body, wire.AuthenticateRequest)
    token = await node.authenticate(request.name, request.password)
    return wire.encode(wire.AuthenticateResponse(header=_header(node), token=token))


# --- users ----------------------------------------------------------------------------------------


async def user_add(node: "Node", body: bytes) -> Body:
    request = decode(body, wire.UserAddRequest)
    password = None if request.options.no_password else await node.hash_password(request.password)
    return await _changed(node, body, AddUser(request.name, password))


async def user_get(node: "Node", body: bytes) -> Body:
    user = await node.user(decode(body, wire.UserRequest).name)
    return wire.encode(wire.UserGetResponse(header=_header(node), roles=user.roles))


async def user_list(node: "Node", body: bytes) -> Body:
    decode(body, wire.AuthRequest)
    users = tuple(sorted((await node.auth()).users))
    return wire.encode(wire.UserListResponse(header=_header(node), users=users))


async def user_delete(node: "Node", body: bytes) -> Body:
    return await _changed(node, body, DeleteUser(decode(body, wire.UserRequest).name))


async def user_change_password(node: "Node", body: bytes) -> Body:
    request = decode(body, wire.UserChangePasswordRequest)
    password = await node.hash_password(request.password)
    return await _changed(node, body, ChangePassword(request.name, password))


async def user_grant(node: "Node", body: bytes) -> Body:
    request = decode(body, wire.UserGrantRoleRequest)
    return await _changed(node, body, GrantRole(request.user, request.role))


async def user_revoke(node: "Node", body: bytes) -> Body:
    request = decode(body, wire.UserRevokeRoleRequest)
    return await _changed(node, body, RevokeRole(request.name, request.role))


# --- roles ----------------------------------------------------------------------------------------


async def role_add(node: "Node", body: bytes) -> Body:
    return await _changed(node, body, AddRole(decode(body, wire.RoleAddRequest).name))


async def role_get(node: "Node", body: bytes) -> Body:
    role = await node.role(decode(body, wire.RoleRequest).role)
    given = tuple([_permission(each.access, each.key, each.range_end) for each in role])
    return wire.encode(wire.RoleGetResponse(header=_header(node), perm=given))


async def role_list(node: "Node", body: bytes) -> Body:
    decode(body, wire.AuthRequest)
    roles = tuple(sorted((await node.auth()).roles))
    return wire.encode(wire.RoleListResponse(header=_header(node), roles=roles))


async def role_delete(node: "Node", body: bytes) -> Body:
    return await _changed(node, body, DeleteRole(decode(body, wire.RoleRequest).role))


async def role_grant(node: "Node", body: bytes) -> Body:
    request = decode(body, wire.RoleGrantPermissionRequest)
    if request.perm is None:
        node.require_root()
        raise PermissionNotGiven
    access = _ACCESS[request.perm.permType]
    command = GrantPermission(request.name, access, request.perm.key, request.perm.range_end)
    return await _changed(node, body, command)


async def role_revoke(node: "Node", body: bytes) -> Body:
    request = decode(body, wire.RoleRevokePermissionRequest)
    return await _changed(node, body, RevokePermission(request.role, request.key, request.range_end))


async def _changed(node: "Node", body: bytes, command: AuthCommand) -> Body:
    check_proposal(command, len(body))
    await node.propose(command)
    return wire.encode(wire.AuthResponse(header=_header(node)))


def _permission(access: Access, key: bytes, range_end: bytes) -> wire.Permission:
    match access:
        case Access.READ:
            return wire.Permission(permType="READ", key=key, range_end=range_end)
        case Access.WRITE:
            return wire.Permission(permType="WRITE", key=key, range_end=range_end)
        case Access.READWRITE:
            return wire.Permission(permType="READWRITE", key=key, range_end=range_end)


def _header(node: "Node") -> wire.ResponseHeader:
    return header(node, node.header().revision)
