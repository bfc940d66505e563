"""Deliveries that were told no: a list by job and run."""

from flask import Blueprint, request
from flask.typing import ResponseReturnValue

from jobguard import observe
from jobguard_webui.api.answer import answer, limit
from jobguard_webui.freshness import look

bp = Blueprint("refusals", __name__, url_prefix="/refusals")


@bp.get("")
def index() -> ResponseReturnValue:
    args = request.args
    job, run = args.get("job") or None, args.get("run") or None
    return answer(look(observe.refusals, job=job, run=run, limit=limit(), cursor=args.get("cursor")))
