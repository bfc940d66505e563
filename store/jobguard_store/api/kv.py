"""Keys: requests checked in etcd's order and made into commands, answers made into messages.

Place in the house   server -> kv -> node (propose, range, read_txn)
Takes                bodies of kv/range, put, deleterange, txn, compaction
Gives                bodies of their answers
Never                lets a request into the log that can be refused by itself

The order of the checks is part of the contract: a request with two faults gets the text etcd has for it.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from jobguard import wire
from jobguard_store.api import shapes
from jobguard_store.api.exchange import decode
from jobguard_store.api.shapes import Body, header
from jobguard_store.errors import (
    DuplicateKey,
    InvalidSortOption,
    KeyNotFound,
    KeyNotProvided,
    LeaseProvided,
    RequestTooLarge,
    TooManyOps,
    ValueProvided,
)
from jobguard_store.machine.commands import (
    Command,
    Compact,
    Compare,
    CompareResult,
    CompareTarget,
    DeleteRange,
    Op,
    Put,
    Range,
    SortOrder,
    SortTarget,
    Txn,
)

if TYPE_CHECKING:
    from jobguard_store.node import Node

TXN_OPS_MAX = 128
PROPOSAL_BYTES_MAX = 1536 * 1024
PROPOSAL_OVERHEAD_BYTES = 16  # about what surrounds a command in an entry, in etcd as here

# --- calls ----------------------------------------------------------------------------------------


async def put(node: "Node", body: bytes) -> Body:
    command = put_command(decode(body, wire.PutRequest))
    check_proposal(command, len(body))
    answer = await node.propose(command)
    return wire.encode(shapes.put_response(header(node, answer.revision), answer.result))


async def range_(node: "Node", body: bytes) -> Body:
    request = decode(body, wire.RangeRequest)
    answer = await node.range(range_command(request), serializable=request.serializable)
    return await shapes.range_body(header(node, answer.revision), answer.result, node.give_way)


async def delete_range(node: "Node", body: bytes) -> Body:
    command = delete_command(decode(body, wire.DeleteRangeRequest))
    check_proposal(command, len(body))
    answer = await node.propose(command)
    return await shapes.delete_body(header(node, answer.revision), answer.result, node.give_way)


async def txn(node: "Node", body: bytes) -> Body:
    request = decode(body, wire.TxnRequest)
    command = txn_command(request)
    if writes(command):
        check_proposal(command, len(body))
        answer = await node.propose(command)
    else:
        answer = await node.read_txn(command, serializable=only_serializable(request))
    return await shapes.txn_body(header(node, answer.revision), answer.result, node.give_way)


async def compact(node: "Node", body: bytes) -> Body:
    request = decode(body, wire.CompactionRequest)
    answer = await node.propose(Compact(int(request.revision)))
    if request.physical:
        await node.give_space_back()
    return wire.encode(wire.CompactionResponse(header=header(node, answer.revision)))


# --- requests to commands -------------------------------------------------------------------------

_ORDER: dict[str | int, SortOrder] = {key: each for each in SortOrder for key in (each.name, each.value)}
_TARGET: dict[str | int, SortTarget] = {key: each for each in SortTarget for key in (each.name, each.value)}
_RESULT: dict[str | int, CompareResult] = {
    key: each for each in CompareResult for key in (each.name, each.value)
}
_COMPARED: dict[str | int, CompareTarget] = {
    key: each for each in CompareTarget for key in (each.name, each.value)
}


def put_command(request: wire.PutRequest) -> Put:
    if not request.key:
        raise KeyNotProvided
    if request.ignore_value and request.value:
        raise ValueProvided
    if request.ignore_lease and request.lease:
        raise LeaseProvided
    return Put(
        request.key,
        request.value,
        int(request.lease),
        request.prev_kv,
        request.ignore_value,
        request.ignore_lease,
    )


def range_command(request: wire.RangeRequest) -> Range:
    if not request.key:
        raise KeyNotProvided
    if request.sort_order not in _ORDER or request.sort_target not in _TARGET:
        raise InvalidSortOption
    return Range(
        request.key,
        request.range_end,
        int(request.limit),
        int(request.revision),
        _ORDER[request.sort_order],
        _TARGET[request.sort_target],
        request.keys_only,
        request.count_only,
        int(request.min_mod_revision),
        int(request.max_mod_revision),
        int(request.min_create_revision),
        int(request.max_create_revision),
    )


def delete_command(request: wire.DeleteRangeRequest) -> DeleteRange:
    if not request.key:
        raise KeyNotProvided
    return DeleteRange(request.key, request.range_end, request.prev_kv)


def txn_command(request: wire.TxnRequest) -> Txn:
    command = _txn_command(request, TXN_OPS_MAX)
    changes(command.success)
    changes(command.failure)
    return command


def _txn_command(request: wire.TxnRequest, ops_max: int) -> Txn:
    """`ops_max`: what the enclosing txns have left of the limit."""
    ops = max(len(request.compare), len(request.success), len(request.failure))
    if ops > ops_max:
        raise TooManyOps
    return Txn(
        tuple([_compare(each) for each in request.compare]),
        tuple([_op(each, ops_max - ops) for each in request.success]),
        tuple([_op(each, ops_max - ops) for each in request.failure]),
    )


def _op(request: wire.RequestOp, ops_max: int) -> Op:
    if request.request_range is not None:
        return range_command(request.request_range)
    if request.request_put is not None:
        return put_command(request.request_put)
    if request.request_delete_range is not None:
        return delete_command(request.request_delete_range)
    if request.request_txn is not None:
        return _txn_command(request.request_txn, ops_max)
    raise KeyNotFound


def _compare(request: wire.Compare) -> Compare:
    if not request.key:
        raise KeyNotProvided
    target = _COMPARED[request.target]
    number = 0
    match target:
        case CompareTarget.VERSION:
            number = request.version
        case CompareTarget.CREATE:
            number = request.create_revision
        case CompareTarget.MOD:
            number = request.mod_revision
        case CompareTarget.LEASE:
            number = request.lease
    value = request.value if target is CompareTarget.VALUE else b""
    return Compare(request.key, request.range_end, target, _RESULT[request.result], int(number), value)


# --- what a txn may hold --------------------------------------------------------------------------


class Changes:
    """The keys that a list of ops puts, and the intervals it deletes."""

    __slots__ = ("deletes", "puts")

    def __init__(self) -> None:
        self.puts: set[bytes] = set()
        self.deletes: list[tuple[bytes, bytes]] = []

    def put(self, key: bytes) -> None:
        if key in self.puts or self.deleted(key):
            raise DuplicateKey
        self.puts.add(key)

    def deleted(self, key: bytes) -> bool:
        return any(start <= key < end for start, end in self.deletes)


def changes(ops: Sequence[Op]) -> Changes:
    """What `ops` change, in etcd's order: this list's deletions, then nested txns, then this list's puts.

    Raises DuplicateKey when a key is put twice, or put and covered by a deletion. Not seen, as in etcd: a put
    in a nested txn before a deletion in a later one, and a range_end of one zero byte, which is taken
    literally. Both run as they stand, op after op.
    """
    found = Changes()
    for op in ops:
        if isinstance(op, DeleteRange):
            found.deletes.append((op.key, op.range_end or op.key + b"\0"))
    for op in ops:
        if isinstance(op, Txn):
            _add_nested(found, changes(op.success), changes(op.failure))
    for op in ops:
        if isinstance(op, Put):
            found.put(op.key)
    return found


def _add_nested(found: Changes, success: Changes, failure: Changes) -> None:
    """Only one branch of a nested txn runs: the two may put the same key."""
    for key in success.puts:
        found.put(key)
    for key in failure.puts - success.puts:
        found.put(key)
    found.deletes += success.deletes + failure.deletes


def writes(command: Txn) -> bool:
    """Whether the txn could change anything, whichever branches run."""
    return any(
        isinstance(op, Put | DeleteRange) or (isinstance(op, Txn) and writes(op))
        for op in (*command.success, *command.failure)
    )


def only_serializable(request: wire.TxnRequest) -> bool:
    """Served from local state only if each read asks for that, and there is one to ask: compares alone are
    reads too, and a caller who did not say so must not get stale ones."""
    ops = [*request.success, *request.failure]
    reads = [op.request_range for op in ops if op.request_range is not None]
    return bool(reads) and len(reads) == len(ops) and all(read.serializable for read in reads)


def check_proposal(command: Command, body_bytes: int) -> None:
    """Raises RequestTooLarge. A body, being base64, is larger than its command: most need no second look."""
    if body_bytes <= PROPOSAL_BYTES_MAX:
        return
    if len(msgspec.msgpack.encode(command)) + PROPOSAL_OVERHEAD_BYTES > PROPOSAL_BYTES_MAX:
        raise RequestTooLarge
