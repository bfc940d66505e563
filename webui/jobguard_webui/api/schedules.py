"""Schedules: what is planned; made, changed and removed at run time; what was changed; backfills."""

from datetime import UTC, datetime
from typing import TypeVar

import msgspec
from flask import Blueprint, request, url_for
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import BadRequest

from jobguard import backfill, observe, registry
from jobguard.definition import Definition, shown
from jobguard.operate import Actor
from jobguard_webui.api.answer import answer, limit, seen_revision
from jobguard_webui.auth import actor
from jobguard_webui.freshness import look, store

bp = Blueprint("schedules", __name__)

T = TypeVar("T")


class Change(Definition, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of a PUT: a whole definition, and why."""

    reason: str = ""

    def definition(self) -> Definition:
        return Definition(**{name: getattr(self, name) for name in Definition.__struct_fields__})


class New(Change, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of a POST: the same, with its name."""

    job: str


class Removal(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    reason: str = ""


class Backfill(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    start: str
    end: str
    count: int
    reason: str = ""


@bp.get("/schedules")
def index() -> ResponseReturnValue:
    return answer(look(observe.schedules, limit=limit(), cursor=request.args.get("cursor")))


@bp.post("/schedules")
def add() -> ResponseReturnValue:
    new = body(New)
    made = registry.add(store().client, new.job, new.definition(), actor=who(new.reason))
    response = answer(made, etag=str(made.revision))
    response.status_code, response.headers["Location"] = 201, url_for(".show", id=made.id)
    return response


@bp.get("/schedules/<id>")
def show(id: str) -> ResponseReturnValue:
    found = look(observe.schedule, observe.job_of(id))
    return answer(found, etag=str(found.revision))


@bp.put("/schedules/<id>")
def change(id: str) -> ResponseReturnValue:
    """Put a definition in the place of the one that If-Match names."""
    revision, wanted = seen_revision("schedule"), body(Change)
    changed = registry.change(
        store().client,
        observe.job_of(id),
        wanted.definition(),
        actor=who(wanted.reason),
        revision=revision,
    )
    return answer(changed, etag=str(changed.revision))


@bp.delete("/schedules/<id>")
def remove(id: str) -> ResponseReturnValue:
    """Remove the schedule that If-Match names."""
    revision, removal = seen_revision("schedule"), body(Removal)
    job = observe.job_of(id)
    removed = registry.remove(store().client, job, actor=who(removal.reason), revision=revision)
    return answer({"job": job, "removed": shown(removed)})


@bp.get("/schedules/<id>/backfills")
def preview_backfill(id: str) -> ResponseReturnValue:
    """What a backfill of the window would run."""
    args = request.args
    start, end = (moment(args.get(name, ""), name) for name in ("start", "end"))
    return answer(backfill.preview(store().client, observe.job_of(id), start, end))


@bp.post("/schedules/<id>/backfills")
def plan_backfill(id: str) -> ResponseReturnValue:
    """Plan it; `count` is what the preview said."""
    asked, job = body(Backfill), observe.job_of(id)
    start, end = moment(asked.start, "start"), moment(asked.end, "end")
    planned = backfill.backfill(store().client, job, start, end, count=asked.count, actor=who(asked.reason))
    response = answer({"job": job, "planned": [each.nominal for each in planned]})
    response.status_code = 201
    return response


@bp.get("/late")
def late() -> ResponseReturnValue:
    """What should have been planned, published or started by now, and was not."""
    return answer(look(observe.late))


@bp.get("/schedule-changes")
def changes() -> ResponseReturnValue:
    job, cursor = request.args.get("job") or None, request.args.get("cursor")
    return answer(look(observe.schedule_changes, job=job, limit=limit(), cursor=cursor))


def body(kind: type[T]) -> T:
    try:
        return msgspec.json.decode(request.get_data() or b"{}", type=kind)
    except msgspec.DecodeError as error:
        raise BadRequest(f"the body is no {kind.__name__.lower()}: {error}") from None


def moment(text: str, name: str) -> datetime:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise BadRequest(f"{name} is a time such as 2026-12-01T06:00Z") from None
    if found.tzinfo is None:
        raise BadRequest(f"{name} needs an offset: {text}Z for UTC")
    return found.astimezone(UTC)


def who(reason: str) -> Actor:
    return Actor(by=actor(), via="api", reason=reason)
