"""Runs: what is on its way and how the others ended; one run with its attempts and the reason."""

from flask import Blueprint, render_template, request
from flask.typing import ResponseReturnValue

from jobguard import observe
from jobguard_webui.freshness import look

bp = Blueprint("runs", __name__, url_prefix="/runs")


@bp.get("/")
def index() -> ResponseReturnValue:
    job, verdict = request.args.get("job", "").strip(), request.args.get("verdict", "")
    cursor = request.args.get("cursor")
    page = look(observe.runs, job=job or None, verdict=verdict or None, cursor=cursor)
    return render_template(
        "runs/index.html", page=page, job=job, verdict=verdict, cursor=cursor, verdicts=observe.VERDICTS
    )


@bp.get("/<id>")
def show(id: str) -> ResponseReturnValue:
    return render_template("runs/show.html", run=look(observe.run, id))
