"""What a store without users says to those who ask for them.

Place in the house   server -> auth -> node
"""

from typing import TYPE_CHECKING

from jobguard import wire
from jobguard.wire import int64
from jobguard_store.api.exchange import decode
from jobguard_store.api.shapes import Body, header
from jobguard_store.errors import AuthNotEnabled, RootUserNotExist

if TYPE_CHECKING:
    from jobguard_store.node import Node

NO_CHANGES = 1  # the revision of the users before the first one, in etcd


async def status(node: "Node", body: bytes) -> Body:
    decode(body, wire.AuthStatusRequest)
    head = header(node, node.header().revision)
    return wire.encode(wire.AuthStatusResponse(header=head, authRevision=int64(NO_CHANGES)))


async def enable(node: "Node", body: bytes) -> Body:
    decode(body, wire.AuthRequest)
    raise RootUserNotExist


async def disable(node: "Node", body: bytes) -> Body:
    decode(body, wire.AuthRequest)
    return wire.encode(wire.AuthResponse(header=header(node, node.header().revision)))


async def authenticate(node: "Node", body: bytes) -> Body:
    decode(body, wire.AuthenticateRequest)
    raise AuthNotEnabled
