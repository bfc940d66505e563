"""Runs: a list by job and verdict, and one with its attempts."""

from typing import Annotated

import msgspec
from flask import Blueprint

from jobguard import observe
from jobguard_webui.api.operation import Cursor, Id, JobName, Limit, operation
from jobguard_webui.freshness import look

bp = Blueprint("runs", __name__, url_prefix="/runs")

Verdict = Annotated[
    str,
    msgspec.Meta(
        pattern=f"^({'|'.join(observe.VERDICTS)})$",
        description="Only runs that ended, or stand, like this.",
        extra_json_schema={"enum": list(observe.VERDICTS)},
    ),
]


@bp.get("")
@operation()
def index(
    job: JobName | None = None,
    verdict: Verdict | None = None,
    limit: Limit = 50,
    cursor: Cursor | None = None,
) -> observe.Page[observe.Run]:
    """Runs on their way, all on the first page, then those that ended, the latest first."""
    return look(observe.runs, job=job, verdict=verdict, cursor=cursor, limit=limit)


@bp.get("/<id>")
@operation()
def show(id: Id) -> observe.Run:
    """One run, with its attempts and the deliveries of it that were told no."""
    return look(observe.run, id)
