"""The first page: who leads, who runs what and was told no, what is configured, and is the store well."""

from flask import Blueprint, render_template
from flask.typing import ResponseReturnValue

from jobguard import observe
from jobguard_webui.freshness import look

bp = Blueprint("overview", __name__)


@bp.get("/")
def show() -> ResponseReturnValue:
    return render_template("overview.html", view=look(observe.overview))
