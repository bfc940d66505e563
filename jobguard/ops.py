"""The parts of a transaction, and of a key: the one place where either is spelled.

Place in the house   client, lock, the plugin's steps, users' own transactions  ->  ops  ->  wire
Takes                keys and values as str or bytes, revisions that were seen
Gives                compares and operations for `Client.txn`
Never                talks to the store
"""

from functools import lru_cache
from urllib.parse import quote

from jobguard import wire
from jobguard.wire import Compare, RequestOp, int64


def compare_created(key: str | bytes, revision: int) -> Compare:
    """The key was created at `revision`, and not deleted since: the same holder."""
    return Compare(target="CREATE", key=to_bytes(key), create_revision=int64(revision))


def compare_mod(key: str | bytes, revision: int) -> Compare:
    """The key has not changed since `revision`."""
    return Compare(target="MOD", key=to_bytes(key), mod_revision=int64(revision))


def compare_value(key: str | bytes, value: str | bytes) -> Compare:
    """The key exists and holds `value`."""
    return Compare(target="VALUE", key=to_bytes(key), value=to_bytes(value))


def compare_absent(key: str | bytes) -> Compare:
    return compare_created(key, 0)


def compare_present(key: str | bytes) -> Compare:
    return Compare(target="CREATE", result="GREATER", key=to_bytes(key))


def compare_none(first: str | bytes, end: str | bytes) -> Compare:
    """No key from `first` up to `end` exists: every key there would have to have create_revision 0."""
    return Compare(target="CREATE", key=to_bytes(first), range_end=to_bytes(end))


def put_op(key: str | bytes, value: str | bytes, lease: int = 0) -> RequestOp:
    return RequestOp(
        request_put=wire.PutRequest(key=to_bytes(key), value=to_bytes(value), lease=int64(lease))
    )


def get_op(key: str | bytes, range_end: str | bytes = b"", limit: int = 0) -> RequestOp:
    return RequestOp(
        request_range=wire.RangeRequest(key=to_bytes(key), range_end=to_bytes(range_end), limit=int64(limit))
    )


def get_prefix_op(prefix: str | bytes, limit: int = 0) -> RequestOp:
    return get_op(prefix, prefix_end(prefix), limit)


def delete_op(key: str | bytes, range_end: str | bytes = b"") -> RequestOp:
    return RequestOp(
        request_delete_range=wire.DeleteRangeRequest(key=to_bytes(key), range_end=to_bytes(range_end))
    )


def delete_prefix_op(prefix: str | bytes) -> RequestOp:
    return delete_op(prefix, prefix_end(prefix))


def key(namespace: str, *parts: str) -> str:
    """A key of ours. Each part is percent-encoded: a name may hold anything, slashes too."""
    return "/".join(("/jobguard", segment(namespace), *map(segment, parts)))


@lru_cache(maxsize=1024)  # a task's two transactions spell the same few names a hundred times
def segment(name: str) -> str:
    """A name as one part of a key."""
    return quote(name, safe=":")


def prefix_end(prefix: str | bytes) -> bytes:
    """The range_end that makes a range of all keys that begin with `prefix`."""
    stem = to_bytes(prefix).rstrip(b"\xff")
    return stem[:-1] + bytes([stem[-1] + 1]) if stem else b"\0"


def to_bytes(text: str | bytes) -> bytes:
    return text.encode() if isinstance(text, str) else text
