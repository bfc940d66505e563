"""A value as a JSON answer, which says how fresh it is.

Place in the house   operation, document -> answer -> jobguard.observe
"""

from typing import Any

from flask import Response, request

from jobguard.observe import to_json
from jobguard_webui.freshness import stale_because


def answer(value: Any, *, status: int = 200, etag: str | None = None) -> Response:
    """The value as JSON. A list's ETag is that of its bytes, so an unchanged one costs no transfer."""
    response = Response(to_json(value), status, mimetype="application/json")
    response.headers["Jobguard-Read"] = "stale" if stale_because() else "linearizable"
    if etag is not None:
        response.set_etag(etag)
        return response
    response.headers["Cache-Control"] = "no-cache"
    response.add_etag()
    response.make_conditional(request.environ)
    return response
