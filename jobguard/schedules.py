"""Schedules by hand: made, changed, removed, paused, resumed, started now. Each with its audit entry.

    from jobguard import schedules
    schedules.add(client, "digest", schedules.Definition(task="app.digest", cron="30 2 * * *"), actor=actor)

Place in the house   the CLI and users' own code  ->  schedules  ->  registry, operate, records, client
Takes                a job, who acts and why
Gives                what was done; the leading beat finds it in the store
Never                moves a cursor: what an operator starts is an occurrence of its own

A pause holds from the moment it is written: the leader's plan compares the job's control, so no occurrence
is planned past a pause the leader has not read yet. It lies beside the definition, so no deploy touches it.
"""

import secrets
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from jobguard.backfill import NotConfirmed, Window, backfill
from jobguard.backfill import preview as preview_backfill
from jobguard.definition import Definition, by_hand
from jobguard.errors import ConfigurationError
from jobguard.observe import schedules as list
from jobguard.observe.reading import read
from jobguard.observe.schedules import no_such_job
from jobguard.operate import PATIENCE_S, Actor, found
from jobguard.ops import compare_absent, compare_mod, compare_present, get_op, put_op
from jobguard.records import Control, Keys, Occurrence, Schedule, encode
from jobguard.registry import (
    OlderSchedule,
    ScheduleChanged,
    ScheduleExists,
    add,
    change,
    get,
    install,
    remove,
)
from jobguard.steps import see
from jobguard.wire import RangeRequest

if TYPE_CHECKING:
    from jobguard.client import Client

__all__ = [
    "Actor",
    "Definition",
    "NotConfirmed",
    "OlderSchedule",
    "ScheduleChanged",
    "ScheduleExists",
    "Window",
    "add",
    "backfill",
    "change",
    "get",
    "install",
    "list",
    "pause",
    "preview_backfill",
    "remove",
    "resume",
    "trigger",
]


def pause(client: "Client", job: str, *, actor: Actor, until: datetime | None = None) -> Control:
    """Start no occurrence that is not planned yet, or none due before `until`: each ends as skipped.

    What is planned already goes on. Raises NotFound, and ConfigurationError without a reason.
    """
    if not actor.reason.strip():
        raise ConfigurationError("a pause needs a reason")
    if until is not None and until <= datetime.now(UTC):
        raise ConfigurationError(f"a pause until {until:%Y-%m-%dT%H:%M:%SZ} would be over already")
    return _say(client, job, "pause", actor, paused=True, by=actor.by, why=actor.reason, until=until)


def resume(client: "Client", job: str, *, actor: Actor) -> Control:
    """Plan the job again, from its next nominal time on. Raises NotFound."""
    return _say(client, job, "resume", actor, paused=False, by=actor.by, why=actor.reason, until=None)


def _say(client: "Client", job: str, action: str, actor: Actor, **said: object) -> Control:
    keys = Keys(client.namespace)
    (before,) = read(client, [RangeRequest(key=keys.control(job))]).ranges
    old = see(before[0] if before else None, Control)
    new = msgspec.structs.replace(old.record if old else Control(), **said)
    text = before[0].value.decode() if before else ""
    audit = actor.audit(action, f"schedule {job}", before=text, after=encode(new).decode())
    entry = keys.audit(audit.at, secrets.token_hex(8))
    answer = client.txn_until_known(
        [compare_absent(entry), compare_present(keys.schedule(job))],
        [put_op(keys.control(job), encode(new)), put_op(entry, encode(audit))],
        [get_op(entry)],
        timeout=PATIENCE_S,
    )
    if not answer.succeeded and not found(answer.responses[0].response_range):
        raise no_such_job(client, job)
    return new


def trigger(client: "Client", job: str, *, actor: Actor) -> Occurrence:
    """Start the job now, paused or not. The leading beat publishes it; its policies hold for this run too.

    Its nominal time is now, with microseconds, which no cron field and no second-wise interval names.
    Raises NotFound.
    """
    keys = Keys(client.namespace)
    while True:
        (defined,) = read(client, [RangeRequest(key=keys.schedule(job))]).ranges
        schedule = see(defined[0] if defined else None, Schedule)
        if schedule is None:
            raise no_such_job(client, job)
        now = datetime.now(UTC)
        record = by_hand(schedule.record, now.replace(microsecond=now.microsecond or 1), now)
        audit = actor.audit("trigger", f"schedule {job}", after=record.occurrence.stamp)
        entry = keys.audit(audit.at, secrets.token_hex(8))
        answer = client.txn_until_known(
            [
                compare_absent(keys.open(record.occurrence)),
                compare_absent(keys.done(record.occurrence)),
                compare_mod(keys.schedule(job), schedule.mod_revision),
            ],
            [put_op(keys.open(record.occurrence), encode(record)), put_op(entry, encode(audit))],
            [get_op(entry)],
            timeout=PATIENCE_S,
        )
        if answer.succeeded or found(answer.responses[0].response_range):
            return record.occurrence
