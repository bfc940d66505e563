"""Deliveries that were told no: a list by job and run."""

from typing import Annotated

import msgspec
from flask import Blueprint

from jobguard import observe
from jobguard_webui.api.operation import Cursor, JobName, Limit, operation
from jobguard_webui.freshness import look

bp = Blueprint("refusals", __name__, url_prefix="/refusals")


@bp.get("")
@operation()
def index(
    job: JobName | None = None,
    run: Annotated[str, msgspec.Meta(description="Only of the run with this id.")] | None = None,
    limit: Limit = 50,
    cursor: Cursor | None = None,
) -> observe.Page[observe.Refusal]:
    """Deliveries that workers dropped lately, the latest first: of each living worker its last few."""
    return look(observe.refusals, job=job, run=run, limit=limit, cursor=cursor)
