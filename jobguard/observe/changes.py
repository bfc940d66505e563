"""What was changed in the schedule, and done to it, by a deploy or by hand: from the audit log, latest first.

Place in the house   observe -> changes -> reading, definition
"""

from datetime import datetime
from typing import TYPE_CHECKING

import msgspec

from jobguard.definition import changed
from jobguard.observe.reading import BadCursor, Page, opaque, read, transparent
from jobguard.ops import prefix_end
from jobguard.records import Audit, Control, Keys, Schedule, decode
from jobguard.wire import RangeRequest, int64

if TYPE_CHECKING:
    from jobguard.client import Client

_TARGET = "schedule"
_DEFINED = frozenset(("install", "withdraw", "add", "change", "remove"))
_DONE = frozenset(("roll back", "pause", "resume", "trigger", "backfill"))
_STEP = 200


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One definition that came, went, or became another; or a pause, its end, a start or a backfill by hand.

    `action` is install or withdraw for a deploy's.

    A deploy that was rolled back is none of one job: its `job` is empty.
    """

    at: datetime
    job: str
    action: str
    what: str
    by: str
    via: str
    reason: str


def schedule_changes(
    client: "Client",
    *,
    job: str | None = None,
    limit: int = 100,
    cursor: str | None = None,
    stale: bool = False,
) -> Page[Change]:
    """Of one job, or of all."""
    keys = Keys(client.namespace)
    first = keys.prefix("audit")
    end = _end(keys, cursor) if cursor else prefix_end(first)
    found: list[Change] = []
    while True:
        asked = RangeRequest(
            key=first, range_end=end, limit=int64(_STEP), sort_target="KEY", sort_order="DESCEND"
        )
        snapshot = read(client, [asked], stale=stale)
        for kv in snapshot.ranges[0]:
            change = _change(decode(kv.value, Audit))
            if change and job in (None, change.job):
                found.append(change)
            end = kv.key
            if len(found) == limit:
                following = opaque(keys.parts(end)[1])
                return Page(items=found, next_cursor=following, revision=snapshot.revision, stale=stale)
        if len(snapshot.ranges[0]) < _STEP:
            return Page(items=found, revision=snapshot.revision, stale=stale)


def _end(keys: Keys, cursor: str) -> bytes:
    try:
        return keys.key("audit", transparent(cursor))
    except ValueError:
        raise BadCursor("this cursor was not given out by this server") from None


def _change(audit: Audit) -> Change | None:
    if audit.action not in _DEFINED | _DONE:
        return None
    return Change(
        at=audit.at,
        job=audit.target.removeprefix(_TARGET).strip(),
        action=audit.action,
        what=_what(audit),
        by=audit.by,
        via=audit.via,
        reason=audit.reason,
    )


def _what(audit: Audit) -> str:
    match audit.action:
        case "roll back":
            return f"from {audit.before} to {audit.after}"
        case "pause":
            until = decode(audit.after.encode(), Control).until
            return f"until {until:%Y-%m-%dT%H:%M:%SZ}" if until else "until it is resumed"
        case "resume":
            return ""
        case "trigger":
            return f"the run of {audit.after}"
        case "backfill":
            return audit.after
    return _difference(audit)


def _difference(audit: Audit) -> str:
    before, after = (
        decode(each.encode(), Schedule) if each else None for each in (audit.before, audit.after)
    )
    if before and after:
        return changed(before, after)
    one = after or before
    return f"{one.text}, task {one.task}" if one else ""
