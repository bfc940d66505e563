"""Schedules made, changed and removed at run time, deploys rolled back: each in one step with an audit entry.

Place in the house   jobguard.schedules, the CLI, the REST API  ->  registry  ->  definition, operate, client
Takes                a name, a definition, the revision the caller saw, who acts and why
Gives                the schedule as it is now; the leading beat watches, and plans by it within a second
Never                touches a schedule of the code, or moves a cursor

One name is one key, whoever wrote it: so a schedule made at run time and a beat entry cannot both be planned
under it. What comes first keeps the name, and who comes second is told.
"""

import secrets
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from jobguard import observe
from jobguard.definition import Definition, definition_of, unmasked
from jobguard.errors import ConfigurationError, JobguardError
from jobguard.observe.reading import read
from jobguard.observe.schedules import no_such_job
from jobguard.operate import PATIENCE_S, Actor, found
from jobguard.ops import compare_absent, compare_mod, delete_op, get_op, put_op
from jobguard.records import Audit, Deploy, Keys, Schedule, encode
from jobguard.schedule import At
from jobguard.steps import Seen, see
from jobguard.wire import RangeRequest, RequestOp

if TYPE_CHECKING:
    from jobguard.client import Client

_BEFORE_ALL = datetime(1970, 1, 1, tzinfo=UTC)


class ScheduleExists(JobguardError):
    """The name is taken."""


class ScheduleChanged(JobguardError):
    """It is another one than the caller saw; nothing was changed. `now` is what is there."""

    def __init__(self, now: observe.Schedule) -> None:
        super().__init__(f"{now.job} was changed by {now.by or 'somebody'}: it is at revision {now.revision}")
        self.now = now


class OlderSchedule(JobguardError):
    """A newer version is in force, and nobody said that it is to go."""


def add(client: "Client", job: str, definition: Definition, *, actor: Actor) -> observe.Schedule:
    """Make a schedule. Raises ScheduleExists, and ConfigurationError for one that cannot be planned."""
    now = _now(client)
    record = definition.record(job, by=actor.by, since=now)
    _must_come(definition, now)
    audit = actor.audit("add", f"schedule {job}", after=encode(record).decode())
    if not _write(client, job, 0, [put_op(Keys(client.namespace).schedule(job), encode(record))], audit):
        there = observe.schedule(client, job)
        whose = "comes from the code" if there.source == "code" else f"was made at run time by {there.by}"
        raise ScheduleExists(f"there is a schedule {job} already: it {whose}")
    return observe.schedule(client, job)


def change(
    client: "Client",
    job: str,
    changing: Callable[[Definition], Definition] | Definition,
    *,
    actor: Actor,
    revision: int | None = None,
) -> observe.Schedule:
    """Put another definition in its place; what is planned already goes on, and other times owe nothing.

    Raises NotFound, ScheduleChanged if it is not at `revision` any more, ConfigurationError.
    """
    seen, now = _made_at_run_time(client, job, revision), _now(client)
    old = seen.record
    before = definition_of(old)
    definition = unmasked(changing if isinstance(changing, Definition) else changing(before), before)
    new = definition.record(job, by=actor.by, since=now)
    if new.fingerprint == old.fingerprint:
        new = definition.record(job, by=actor.by, since=old.since)
    else:
        _must_come(definition, now)
    audit = actor.audit("change", f"schedule {job}", before=_text(old), after=_text(new))
    _write_seen(client, job, seen, [put_op(Keys(client.namespace).schedule(job), encode(new))], audit)
    return observe.schedule(client, job)


def remove(client: "Client", job: str, *, actor: Actor, revision: int | None = None) -> Definition:
    """Take it away, and a pause of it too; what is planned already goes on.

    Gives what it was. Raises NotFound, ScheduleChanged if it is not at `revision` any more.
    """
    seen, keys = _made_at_run_time(client, job, revision), Keys(client.namespace)
    audit = actor.audit("remove", f"schedule {job}", before=_text(seen.record))
    _write_seen(client, job, seen, [delete_op(keys.schedule(job)), delete_op(keys.control(job))], audit)
    return definition_of(seen.record)


def get(client: "Client", job: str) -> Definition:
    """The definition in force, of the code's too. Raises NotFound."""
    return definition_of(_seen(client, job).record)


def install(client: "Client", version: int, *, actor: Actor, force: bool = False) -> Deploy | None:
    """Let the code of `version` be the one whose schedule is in force; None if nothing stood against it.

    A beat of that version installs its schedule as soon as it leads. With `force` it does so over a newer
    one, whose beats install nothing any more until there is a version newer still. Raises OlderSchedule.
    """
    while True:
        keys = Keys(client.namespace)
        (there,) = read(client, [RangeRequest(key=keys.deploy())]).ranges
        seen = see(there[0] if there else None, Deploy)
        if seen is None or version > max(seen.record.version, seen.record.over):
            return None
        if version == seen.record.version:
            return None
        newest = max(seen.record.version, seen.record.over)
        if not force:
            raise OlderSchedule(
                f"version {seen.record.version} is in force; only --force puts version {version} in its place"
            )
        new = Deploy(version=version, registered=_BEFORE_ALL, by=actor.by, over=newest)
        audit = actor.audit(
            "roll back", "schedule", before=f"version {seen.record.version}", after=f"version {version}"
        )
        entry = keys.audit(audit.at, secrets.token_hex(8))
        answer = client.txn_until_known(
            [compare_absent(entry), compare_mod(keys.deploy(), seen.mod_revision)],
            [put_op(keys.deploy(), encode(new)), put_op(entry, encode(audit))],
            [get_op(entry)],
            timeout=PATIENCE_S,
        )
        if answer.succeeded or found(answer.responses[0].response_range):
            return new


def _made_at_run_time(client: "Client", job: str, revision: int | None) -> Seen[Schedule]:
    seen = _seen(client, job)
    if not seen.record.made:
        raise ConfigurationError(f"the schedule {job} comes from the code: change it there, or pause it")
    if revision not in (None, seen.mod_revision):
        raise ScheduleChanged(observe.schedule(client, job))
    return seen


def _seen(client: "Client", job: str) -> Seen[Schedule]:
    (there,) = read(client, [RangeRequest(key=Keys(client.namespace).schedule(job))]).ranges
    seen = see(there[0] if there else None, Schedule)
    if seen is None:
        raise no_such_job(client, job)
    return seen


def _write_seen(
    client: "Client", job: str, seen: Seen[Schedule], writes: list[RequestOp], audit: Audit
) -> None:
    if not _write(client, job, seen.mod_revision, writes, audit):
        raise ScheduleChanged(observe.schedule(client, job))


def _write(client: "Client", job: str, revision: int, writes: list[RequestOp], audit: Audit) -> bool:
    """The writes and their entry, if the schedule is at `revision`; sent again, it finds its own entry."""
    keys = Keys(client.namespace)
    entry = keys.audit(audit.at, secrets.token_hex(8))
    answer = client.txn_until_known(
        [compare_absent(entry), compare_mod(keys.schedule(job), revision)],
        [*writes, put_op(entry, encode(audit))],
        [get_op(entry)],
        timeout=PATIENCE_S,
    )
    return answer.succeeded or found(answer.responses[0].response_range)


def _must_come(definition: Definition, now: datetime) -> None:
    times = definition.times()
    if isinstance(times, At) and times.moment <= now:
        raise ConfigurationError(f"{times.text} is over already")


def _now(client: "Client") -> datetime:
    """By the store's clock: the beats that lead agree with it, and this host may not."""
    client.status()
    return datetime.now(UTC) + timedelta(seconds=round(client.clock_offset() or 0.0))


def _text(record: Schedule) -> str:
    return encode(record).decode()
