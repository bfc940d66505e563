"""Schedules: what is planned; made, changed and removed at run time; what was changed; backfills."""

from datetime import UTC, datetime
from typing import Annotated

import msgspec
from flask import Blueprint, url_for
from werkzeug.exceptions import BadRequest

from jobguard import backfill, observe, registry
from jobguard import schedules as by_hand
from jobguard.definition import Definition, shown
from jobguard.preview import Fire
from jobguard_webui.api.operation import Cursor, Id, IfMatch, JobName, Limit, Moment, Why, operation
from jobguard_webui.auth import by_api
from jobguard_webui.freshness import look, store

bp = Blueprint("schedules", __name__)

Revision = Annotated[int, IfMatch("schedule")]


class ChangedSchedule(Definition, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A whole definition, and why."""

    reason: str = ""

    def definition(self) -> Definition:
        return Definition(**{name: getattr(self, name) for name in Definition.__struct_fields__})


class NewSchedule(ChangedSchedule, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A definition with its name, and why."""

    job: str


class Reason(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Why; kept in the audit log."""

    reason: str = ""


class Removed(msgspec.Struct, frozen=True, kw_only=True):
    """What is planned no more, as it was."""

    job: str
    removed: Definition


class Pause(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Why, and when it ends by itself."""

    reason: Why
    until: Moment | None = None


class Started(msgspec.Struct, frozen=True, kw_only=True):
    """The run that was started; the leading beat publishes it."""

    job: str
    nominal_time: datetime
    run_id: str


class Fires(msgspec.Struct, frozen=True, kw_only=True):
    """What is to come of a job; fewer where its times end."""

    job: str
    fires: list[Fire]


class Backfill(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A window from `start` until just before `end`, and how many runs it holds as the preview said."""

    start: Moment
    end: Moment
    count: int
    reason: str = ""


class Backfilled(msgspec.Struct, frozen=True, kw_only=True):
    """The nominal times of the runs that are planned, each one's own."""

    job: str
    planned: list[datetime]


@bp.get("/schedules")
@operation()
def index(limit: Limit = 50, cursor: Cursor | None = None) -> observe.Page[observe.Schedule]:
    """What is planned, by name."""
    return look(observe.schedules, limit=limit, cursor=cursor)


@bp.post("/schedules")
@operation(
    status=201,
    etag=True,
    location=lambda made: url_for(".show", id=made.id),
    refuses=(registry.ScheduleExists,),
)
def add(new: NewSchedule) -> observe.Schedule:
    """Make a schedule; the leading beat plans it within a second, and no deploy removes it."""
    return registry.add(store().client, new.job, new.definition(), actor=by_api(new.reason))


@bp.get("/schedules/<id>")
@operation(etag=True)
def show(id: Id) -> observe.Schedule:
    """One schedule."""
    return look(observe.schedule, observe.job_of(id))


@bp.put("/schedules/<id>")
@operation(etag=True, refuses=(registry.ScheduleChanged,))
def change(id: Id, revision: Revision, wanted: ChangedSchedule) -> observe.Schedule:
    """Put a definition in the place of the one that If-Match names; it was made at run time.

    A mask that was read and is sent back stands for what it hides.
    """
    job, definition = observe.job_of(id), wanted.definition()
    return registry.change(store().client, job, definition, actor=by_api(wanted.reason), revision=revision)


@bp.delete("/schedules/<id>")
@operation(refuses=(registry.ScheduleChanged,))
def remove(id: Id, revision: Revision, why: Reason) -> Removed:
    """Remove the schedule that If-Match names; it was made at run time. What is planned still runs."""
    job = observe.job_of(id)
    removed = registry.remove(store().client, job, actor=by_api(why.reason), revision=revision)
    return Removed(job=job, removed=shown(removed))


@bp.get("/schedules/<id>/backfills")
@operation()
def preview_backfill(id: Id, start: Moment, end: Moment) -> backfill.Window:
    """What a backfill from `start` until just before `end` would run."""
    return backfill.preview(store().client, observe.job_of(id), utc(start), utc(end))


@bp.post("/schedules/<id>/backfills")
@operation(status=201, refuses=(backfill.NotConfirmed,))
def plan_backfill(id: Id, asked: Backfill) -> Backfilled:
    """Run the window once more; `count` is what the preview said."""
    job, window = observe.job_of(id), (utc(asked.start), utc(asked.end))
    planned = backfill.backfill(store().client, job, *window, count=asked.count, actor=by_api(asked.reason))
    return Backfilled(job=job, planned=[each.nominal for each in planned])


@bp.get("/schedules/<id>/fires")
@operation()
def fires(id: Id, count: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 5) -> Fires:
    """The next times of a job, and what the clocks do to them."""
    job = observe.job_of(id)
    return Fires(job=job, fires=look(observe.upcoming_fires, job, count))


@bp.post("/schedules/<id>/pause")
@operation(etag=True)
def pause(id: Id, asked: Pause) -> observe.Schedule:
    """Start no further occurrence, or none that is due before `until`. None of them is caught up later."""
    job, until = observe.job_of(id), asked.until and utc(asked.until)
    by_hand.pause(store().client, job, actor=by_api(asked.reason), until=until)
    return observe.schedule(store().client, job)


@bp.post("/schedules/<id>/resume")
@operation(etag=True)
def resume(id: Id, why: Reason) -> observe.Schedule:
    """Plan a paused job again, from its next time on."""
    job = observe.job_of(id)
    by_hand.resume(store().client, job, actor=by_api(why.reason))
    return observe.schedule(store().client, job)


@bp.post("/schedules/<id>/trigger")
@operation(status=201, location=lambda started: url_for("api.runs.show", id=started.run_id))
def trigger(id: Id, why: Reason) -> Started:
    """Start a job now, as an occurrence of its own, paused or not."""
    job = observe.job_of(id)
    occurrence = by_hand.trigger(store().client, job, actor=by_api(why.reason))
    return Started(job=job, nominal_time=occurrence.nominal, run_id=observe.run_id(occurrence))


@bp.get("/late")
@operation()
def late() -> observe.Page[observe.Late]:
    """What should have been planned, published or started by now, and was not."""
    return look(observe.late)


@bp.get("/schedule-changes")
@operation()
def changes(
    job: JobName | None = None, limit: Limit = 50, cursor: Cursor | None = None
) -> observe.Page[observe.Change]:
    """What deploys and operators changed, the latest first."""
    return look(observe.schedule_changes, job=job, limit=limit, cursor=cursor)


def utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError as error:
        raise BadRequest(f"{moment.isoformat()} cannot be used: {error}") from None
