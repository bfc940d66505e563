"""Requests of the etcd v3 API as the JSON documents they are, with keys and values in plain text."""

from typing import Any

from tests.gateway import b64

Message = dict[str, Any]

PUT, RANGE, DELETE, TXN = "/v3/kv/put", "/v3/kv/range", "/v3/kv/deleterange", "/v3/kv/txn"
COMPACTION, WATCH = "/v3/kv/compaction", "/v3/watch"
GRANT, REVOKE, KEEPALIVE = "/v3/lease/grant", "/v3/lease/revoke", "/v3/lease/keepalive"
TIME_TO_LIVE, LEASES = "/v3/lease/timetolive", "/v3/lease/leases"
HASHKV = "/v3/maintenance/hashkv"


def put(key: str, value: str = "", **rest: object) -> Message:
    return {"key": b64(key), "value": b64(value), **rest}


def range_(key: str, end: str = "", **rest: object) -> Message:
    return {"key": b64(key), "range_end": b64(end), **rest}


delete = range_


def txn(*success: Message, failure: tuple[Message, ...] = (), compare: tuple[Message, ...] = ()) -> Message:
    return {"compare": list(compare), "success": list(success), "failure": list(failure)}


def op(kind: str, message: Message) -> Message:
    return {f"request_{kind}": message}


def put_op(key: str, value: str = "", **rest: object) -> Message:
    return op("put", put(key, value, **rest))


def range_op(key: str, end: str = "", **rest: object) -> Message:
    return op("range", range_(key, end, **rest))


def delete_op(key: str, end: str = "", **rest: object) -> Message:
    return op("delete_range", delete(key, end, **rest))


def txn_op(
    *success: Message, failure: tuple[Message, ...] = (), compare: tuple[Message, ...] = ()
) -> Message:
    return op("txn", txn(*success, failure=failure, compare=compare))


def compare(key: str, target: str, result: str = "EQUAL", **operand: object) -> Message:
    return {"key": b64(key), "target": target, "result": result, **operand}


def create(key: str, end: str = "", **rest: object) -> Message:
    """A request that makes a watcher."""
    return {"create_request": {"key": b64(key), "range_end": b64(end), **rest}}


def cancel(watch_id: int) -> Message:
    return {"cancel_request": {"watch_id": watch_id}}


PROGRESS: Message = {"progress_request": {}}
