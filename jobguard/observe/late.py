"""What should have been planned, published or started by now, and was not. Anybody can see it from outside.

Place in the house   observe -> late -> reading, schedule; a beat that does not lead asks it all the time
Never                trusts the leader to say so of itself
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import msgspec

from jobguard.observe.holders import election_leaders
from jobguard.observe.reading import Page, read, under
from jobguard.records import Cursor, Keys, Occurrence, Open, Schedule, decode
from jobguard.schedule import times_of
from jobguard.wire import KeyValue

if TYPE_CHECKING:
    from jobguard.client import Client

PATIENCE = timedelta(seconds=30)
"""A takeover takes a session's time, and a message is sent again after so long."""


class Late(msgspec.Struct, frozen=True, kw_only=True):
    """An occurrence that is behind. `state` is not planned, not published, or not started."""

    job: str
    nominal_time: datetime
    state: str
    seconds: int
    why: str


class Lateness:
    """Asks again and again, and computes a next time only for a cursor that has moved."""

    def __init__(self, client: "Client", patience: timedelta = PATIENCE) -> None:
        self._client = client
        self._keys = Keys(client.namespace)
        self._patience = patience
        self._next: dict[str, tuple[int, int, datetime | None]] = {}

    def look(self, *, stale: bool = False) -> Page[Late]:
        """The longest behind first."""
        keys = self._keys
        parts = ("schedules", "cursors", "open", "running", "elections")
        asked = [under(keys.prefix(part)) for part in parts]
        snapshot = read(self._client, asked, stale=stale)
        schedules, cursors, opened, running, elections = snapshot.ranges
        now = datetime.now(UTC) + timedelta(seconds=self._client.clock_offset() or 0.0)
        leader = next((each for each in election_leaders(keys, elections) if each.election == "beat"), None)
        who = f"{leader.host} pid {leader.pid} leads, and has not planned it" if leader else "no beat leads"
        found = [
            *self._unplanned(schedules, cursors, now, who),
            *self._unstarted(opened, running, now),
        ]
        found.sort(key=lambda each: (-each.seconds, each.job))
        return Page(items=found, revision=snapshot.revision, stale=stale)

    def _unplanned(
        self, schedules: tuple[KeyValue, ...], cursors: tuple[KeyValue, ...], now: datetime, who: str
    ) -> Iterator[Late]:
        stands = {self._keys.parts(kv.key)[1]: kv for kv in cursors}
        before, self._next = self._next, {}
        for kv in schedules:
            name = self._keys.parts(kv.key)[1]
            cursor = stands.get(name)
            seen = (kv.mod_revision, cursor.mod_revision if cursor else 0)
            known = before.get(name)
            due = known[2] if known and known[:2] == seen else _due(kv, cursor)
            self._next[name] = (*seen, due)
            if due and now - due > self._patience:
                yield _late(Occurrence(name, due), "not planned", now - due, who)

    def _unstarted(
        self, opened: tuple[KeyValue, ...], running: tuple[KeyValue, ...], now: datetime
    ) -> Iterator[Late]:
        claimed = {self._keys.occurrence(kv.key) for kv in running}
        busy = {each.job for each in claimed}
        for kv in opened:
            try:
                record = decode(kv.value, Open)
            except msgspec.DecodeError:
                continue  # newer code's, and left to it
            since = max(filter(None, (record.nominal, record.not_before, record.published_at)))
            if record.occurrence in claimed or now - since <= self._patience:
                continue
            if record.overlap == "wait" and (record.job in busy or not record.planner):
                continue  # its turn has not come
            if record.published:
                why = f"published {record.published} times, and no worker has started it"
                yield _late(record.occurrence, "not started", now - since, why)
            else:
                yield _late(record.occurrence, "not published", now - since, "the broker has not taken it")


def late(client: "Client", *, stale: bool = False) -> Page[Late]:
    """What is behind by more than half a minute."""
    return Lateness(client).look(stale=stale)


def _due(schedule: KeyValue, cursor: KeyValue | None) -> datetime | None:
    """When the job is due next; None if it never is, or if only its code, or newer code, can tell."""
    try:
        definition = decode(schedule.value, Schedule)
        since = decode(cursor.value, Cursor).nominal if cursor else definition.since
        times = times_of(definition.fingerprint)
    except (msgspec.DecodeError, ValueError):
        return None
    return next(times.after(max(since, definition.since)), None)


def _late(occurrence: Occurrence, state: str, behind: timedelta, why: str) -> Late:
    return Late(
        job=occurrence.job,
        nominal_time=occurrence.nominal,
        state=state,
        seconds=int(behind.total_seconds()),
        why=why,
    )
