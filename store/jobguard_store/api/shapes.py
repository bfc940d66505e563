"""Results of the machine as messages of the API, large ones encoded in slices.

Place in the house   kv, lease, watch, cluster -> shapes -> wire
Takes                results and records
Gives                bodies: one piece of bytes, or several for what is large
Never                holds the loop for much longer than a millisecond, however large the result

A range of a hundred thousand keys takes a tenth of a second to encode. In that time heartbeats are due, and
everybody's writes wait. So the references are taken in one step, which is what makes the read consistent, and
turned into bytes slice by slice, with a turn for everybody else after each, or more than one: see
Node.give_way.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

from jobguard import wire
from jobguard.wire import int64
from jobguard_store.machine.results import (
    ChangeEvent,
    ChangeKind,
    DeleteResult,
    OpResult,
    PutResult,
    RangeResult,
    Record,
    TxnResult,
)

if TYPE_CHECKING:
    from jobguard_store.node import Node

T = TypeVar("T")
Body = bytes | Sequence[bytes]
GiveWay = Callable[[], Awaitable[None]]

# About a quarter of a millisecond each, measured; the rest of the millisecond is for slower machines.
SLICE_RECORDS = 128
SLICE_BYTES = 128 * 1024


def header(node: "Node", revision: int) -> wire.ResponseHeader:
    now = node.header()
    return wire.ResponseHeader(
        cluster_id=int64(now.cluster_id),
        member_id=int64(now.member_id),
        revision=int64(revision),
        raft_term=int64(now.term),
    )


def key_value(record: Record) -> wire.KeyValue:
    return wire.KeyValue(
        key=record.key,
        create_revision=int64(record.create_revision),
        mod_revision=int64(record.mod_revision),
        version=int64(record.version),
        value=record.value,
        lease=int64(record.lease),
    )


def event(change: ChangeEvent, prev_kv: bool) -> wire.Event:
    return wire.Event(
        type="PUT" if change.kind is ChangeKind.PUT else "DELETE",
        kv=key_value(change.record),
        prev_kv=key_value(change.previous) if prev_kv and change.previous is not None else None,
    )


def put_response(head: wire.ResponseHeader, result: PutResult) -> wire.PutResponse:
    return wire.PutResponse(header=head, prev_kv=key_value(result.prev) if result.prev else None)


async def next_turn() -> None:
    await asyncio.sleep(0)


async def range_body(head: wire.ResponseHeader, result: RangeResult, give_way: GiveWay = next_turn) -> Body:
    kvs = result.kvs
    if fits_in_a_slice(kvs):
        return wire.encode(_range_response(head, result, tuple(map(key_value, kvs))))
    frame = wire.encode(_range_response(head, result, ()))
    # The records go where etcd has them, between the header and the rest.
    after_header = len(wire.encode(wire.Response(header=head))) - 1
    return await _filled(frame[:after_header], b"kvs", kvs, frame[after_header:], give_way)


async def delete_body(head: wire.ResponseHeader, result: DeleteResult, give_way: GiveWay = next_turn) -> Body:
    prevs = result.prevs
    if fits_in_a_slice(prevs):
        return wire.encode(_delete_response(head, result, tuple(map(key_value, prevs))))
    frame = wire.encode(_delete_response(head, result, ()))
    return await _filled(frame[:-1], b"prev_kvs", prevs, b"}", give_way)


async def txn_body(head: wire.ResponseHeader, result: TxnResult, give_way: GiveWay = next_turn) -> Body:
    frame = wire.encode(wire.TxnResponse(header=head, succeeded=result.succeeded))
    if not result.responses:
        return frame
    parts = [frame[:-1] + b',"responses":[']
    for number, response in enumerate(result.responses):
        field, body = await _op_body(response, give_way)
        parts.append(b'%b{"%b":' % (b"," if number else b"", field))
        parts.extend([body] if isinstance(body, bytes) else body)
        parts.append(b"}")
    parts.append(b"]}")
    return _gathered(parts)


async def watch_body(
    response: wire.WatchResponse, events: Sequence[ChangeEvent], prev_kv: bool, give_way: GiveWay = next_turn
) -> bytes:
    """One message, whole: a client reads it from one chunk."""
    frame = wire.encode(response)
    parts = [frame[:-1], b',"events":[']
    for number, some in enumerate(sliced(events, lambda change: event_weight(change, prev_kv))):
        if number:
            parts.append(b",")
            await give_way()
        parts.append(wire.encode_items([event(each, prev_kv) for each in some]))
    parts.append(b"]}")
    return b"".join(parts)


def record_weight(record: Record) -> int:
    return len(record.key) + len(record.value)


def event_weight(change: ChangeEvent, prev_kv: bool) -> int:
    weight = record_weight(change.record)
    if prev_kv and change.previous is not None:
        weight += record_weight(change.previous)
    return weight


def fits_in_a_slice(records: Sequence[Record]) -> bool:
    return len(records) <= SLICE_RECORDS and sum(map(record_weight, records)) <= SLICE_BYTES


def sliced(items: Sequence[T], weight: Callable[[T], int]) -> Iterator[Sequence[T]]:
    """`items` in slices that each take well under a millisecond to encode."""
    start = size = 0
    for index, item in enumerate(items):
        size += weight(item)
        if size > SLICE_BYTES or index - start + 1 >= SLICE_RECORDS:
            yield items[start : index + 1]
            start, size = index + 1, 0
    if start < len(items):
        yield items[start:]


def _range_response(
    head: wire.ResponseHeader, result: RangeResult, kvs: tuple[wire.KeyValue, ...]
) -> wire.RangeResponse:
    return wire.RangeResponse(header=head, kvs=kvs, more=result.more, count=int64(result.count))


def _delete_response(
    head: wire.ResponseHeader, result: DeleteResult, prevs: tuple[wire.KeyValue, ...]
) -> wire.DeleteRangeResponse:
    return wire.DeleteRangeResponse(header=head, deleted=int64(result.deleted), prev_kvs=prevs)


async def _op_body(result: OpResult, give_way: GiveWay) -> tuple[bytes, Body]:
    """An answer inside a txn: its header says the revision and nothing else, a nested txn's not even that."""
    match result:
        case PutResult():
            return b"response_put", wire.encode(put_response(_revision_only(result.revision), result))
        case RangeResult():
            return b"response_range", await range_body(_revision_only(result.revision), result, give_way)
        case DeleteResult():
            return b"response_delete_range", await delete_body(
                _revision_only(result.revision), result, give_way
            )
        case TxnResult():
            return b"response_txn", await txn_body(wire.NO_HEADER, result, give_way)
        case _:
            raise AssertionError(f"the node left {type(result).__name__} in an answer")


def _revision_only(revision: int) -> wire.ResponseHeader:
    return wire.ResponseHeader(revision=int64(revision))


async def _filled(
    before: bytes, field: bytes, records: Sequence[Record], after: bytes, give_way: GiveWay
) -> list[bytes]:
    parts = []
    lead = b'%b,"%b":[' % (before, field)
    for some in sliced(records, record_weight):
        parts.append(lead + wire.encode_items([key_value(record) for record in some]))
        lead = b","
        await give_way()
    parts.append(b"]" + after)
    return parts


def _gathered(parts: Sequence[bytes]) -> Body:
    """Small pieces as one; what has slices of size stays in pieces, for each is sent for itself."""
    if sum(map(len, parts)) <= SLICE_BYTES:
        return b"".join(parts)
    return parts
