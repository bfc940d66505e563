"""Runs: a list by job and verdict, and one with its attempts."""

from flask import Blueprint, request
from flask.typing import ResponseReturnValue

from jobguard import observe
from jobguard_webui.api.answer import answer, limit, verdict
from jobguard_webui.freshness import look

bp = Blueprint("runs", __name__, url_prefix="/runs")


@bp.get("")
def index() -> ResponseReturnValue:
    job, cursor = request.args.get("job") or None, request.args.get("cursor")
    return answer(look(observe.runs, job=job, verdict=verdict(), cursor=cursor, limit=limit()))


@bp.get("/<id>")
def show(id: str) -> ResponseReturnValue:
    return answer(look(observe.run, id))
