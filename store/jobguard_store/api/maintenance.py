"""What a member does about its file and its troubles.

Place in the house   server -> maintenance -> node
"""

import asyncio
import contextlib
import re
from typing import TYPE_CHECKING

from jobguard import wire
from jobguard.wire import int64
from jobguard_store.api.exchange import Disconnected, Exchange, decode
from jobguard_store.api.shapes import Body, header
from jobguard_store.errors import InvalidDowngradeTarget, NoDowngrade, WrongDowngradeFormat
from jobguard_store.machine.commands import AlarmKind, LowerAlarm, RaiseAlarm
from jobguard_store.machine.results import Alarm

if TYPE_CHECKING:
    from jobguard_store.node import Node

PART_TAKEN_S = 30.0

_VERSION = re.compile(r"\d+\.\d+(\.\d+)?")
_KIND: dict[str | int, AlarmKind] = {key: each for each in AlarmKind for key in (each.name, each.value)}


async def alarm(node: "Node", body: bytes) -> Body:
    request = decode(body, wire.AlarmRequest)
    kind, member = _KIND.get(request.alarm), int(request.memberID)
    match request.action:
        case "GET" | 0:
            await node.read_barrier()
            found = [each for each in node.alarms() if kind in (None, each.kind)]
        case _ if kind is None:
            found = []
        case "ACTIVATE" | 1:
            answer = await node.propose(RaiseAlarm(member, kind, by_hand=True))
            found = [answer.result.alarm]
        case _:
            answer = await node.propose(LowerAlarm(member, kind, by_hand=True))
            found = [answer.result.alarm] if answer.result.alarm else []
    return wire.encode(
        wire.AlarmResponse(header=header(node, node.header().revision), alarms=_spelled(found))
    )


async def defragment(node: "Node", body: bytes) -> Body:
    """Free pages go back to the file system by themselves, in slices; this waits until they have."""
    decode(body, wire.DefragmentRequest)
    await node.give_space_back()
    return wire.encode(wire.DefragmentResponse())


async def hash_(node: "Node", body: bytes) -> Body:
    """Of all keys as they are; etcd hashes its file here, and no two members have theirs alike."""
    decode(body, wire.HashRequest)
    found = await node.hash_kv(0)
    return wire.encode(wire.HashResponse(header=header(node, found.revision), hash=found.value))


async def downgrade(node: "Node", body: bytes) -> Body:
    """There is no older version of our file to go back to."""
    request = decode(body, wire.DowngradeRequest)
    node.require_root()
    if request.action in ("CANCEL", 2):
        raise NoDowngrade
    if not _VERSION.fullmatch(request.version):
        raise WrongDowngradeFormat
    raise InvalidDowngradeTarget


async def snapshot(node: "Node", exchange: Exchange) -> None:
    """A file that `jobguard store restore` reads, in parts, and last the SHA-256 of them all."""
    decode(await exchange.body(), wire.SnapshotRequest)
    await exchange.while_there(_send_backup(node, exchange))


async def _send_backup(node: "Node", exchange: Exchange) -> None:
    """To a client that takes it: one that hangs would keep the next from theirs, and the file on the disk."""
    async with contextlib.aclosing(node.backup()) as parts:
        async for part in parts:
            response = wire.SnapshotResponse(remaining_bytes=int64(part.remaining), blob=part.data)
            try:
                async with asyncio.timeout(PART_TAKEN_S):
                    await exchange.line(wire.stream_line(response))
            except TimeoutError:
                raise Disconnected from None
    await exchange.end()


def _spelled(alarms: list[Alarm]) -> tuple[wire.AlarmMember, ...]:
    return tuple([wire.AlarmMember(memberID=int64(each.member), alarm=each.kind.name) for each in alarms])
