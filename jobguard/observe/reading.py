"""Reading the store for an operator: several ranges as of one revision, and pages of them.

Place in the house   observe's nouns -> reading -> client, wire
Never                mixes two revisions in one answer, or hides that an answer may be out of date
"""

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

import msgspec

from jobguard.errors import JobguardError
from jobguard.ops import prefix_end
from jobguard.records import Occurrence
from jobguard.wire import KeyValue, RangeRequest, RequestOp

if TYPE_CHECKING:
    from jobguard.client import Client

T = TypeVar("T")


class NotFound(JobguardError):
    """Nothing stands under this id (any more)."""


class BadCursor(JobguardError):
    """This cursor was not given out by us; begin again without one."""


class Page(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    """A part of a list. `next_cursor` is null on the last; `stale` says that no leader confirmed it."""

    items: list[T]
    next_cursor: str | None = None
    revision: int
    stale: bool = False


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What several ranges held at one revision, in the order they were asked for."""

    ranges: tuple[tuple[KeyValue, ...], ...]
    revision: int


def read(client: "Client", asked: Sequence[RangeRequest], *, stale: bool = False) -> Snapshot:
    """One read-only transaction. `stale` asks a single node what it remembers: it needs no leader."""
    ops = tuple(RequestOp(request_range=msgspec.structs.replace(each, serializable=stale)) for each in asked)
    answer = client.txn((), ops)
    ranges = tuple(op.response_range.kvs if op.response_range else () for op in answer.responses)
    return Snapshot(ranges, int(answer.revision))


def under(prefix: bytes) -> RangeRequest:
    """All keys that begin with `prefix`."""
    return RangeRequest(key=prefix, range_end=prefix_end(prefix))


def to_json(value: object) -> bytes:
    """Any of our values as the API's body."""
    return msgspec.json.encode(value)


def opaque(text: str) -> str:
    """An id or cursor for others to hand back, not to read: names may hold anything, base64url does not."""
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def transparent(text: str) -> str:
    """What `opaque` was made from. Raises ValueError."""
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True).decode()
    except (binascii.Error, UnicodeDecodeError) as error:
        raise ValueError(str(error)) from None


def run_id(occurrence: Occurrence) -> str:
    return opaque(f"{occurrence.stamp} {occurrence.job}")


def cut(items: Sequence[T], ids: Sequence[str], limit: int, cursor: str | None) -> tuple[list[T], str | None]:
    """The next `limit` of `items`, whose `ids` are in rising order, after the one `cursor` names."""
    after = ""
    if cursor is not None:
        try:
            after = transparent(cursor)
        except ValueError:
            raise BadCursor("this cursor was not given out by this server") from None
    rest = [(each, item) for each, item in zip(ids, items, strict=True) if each > after]
    more = len(rest) > limit
    return [item for _, item in rest[:limit]], opaque(rest[limit - 1][0]) if more else None
