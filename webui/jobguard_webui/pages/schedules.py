"""Schedules: what is planned and when, where each comes from, who paused it; and what was changed lately."""

from flask import Blueprint, render_template, request
from flask.typing import ResponseReturnValue

from jobguard import observe
from jobguard_webui.freshness import look

bp = Blueprint("schedules", __name__, url_prefix="/schedules")

CHANGES_SHOWN = 20


@bp.get("/")
def index() -> ResponseReturnValue:
    cursor = request.args.get("cursor")
    page = look(observe.schedules, cursor=cursor)
    changes = look(observe.schedule_changes, limit=CHANGES_SHOWN)
    late = look(observe.late)
    return render_template("schedules/index.html", page=page, late=late, changes=changes, cursor=cursor)
