"""A value as a JSON answer, and the query parameters and preconditions that nouns share."""

from typing import Any

from flask import Response, request
from werkzeug.exceptions import BadRequest, PreconditionRequired

from jobguard.observe import VERDICTS, to_json
from jobguard_webui.freshness import stale_because

LIMIT_MAX = 500


def answer(value: Any, *, etag: str | None = None) -> Response:
    """The value as JSON. A list's ETag is that of its bytes, so an unchanged one costs no transfer."""
    response = Response(to_json(value), mimetype="application/json")
    response.headers["Jobguard-Read"] = "stale" if stale_because() else "linearizable"
    if etag is not None:
        response.set_etag(etag)
        return response
    response.headers["Cache-Control"] = "no-cache"
    response.add_etag()
    response.make_conditional(request.environ)
    return response


def limit() -> int:
    """How many items the caller wants on a page."""
    text = request.args.get("limit", "50")
    if not text.isdecimal() or not 1 <= int(text) <= LIMIT_MAX:
        raise BadRequest(f"limit is a number from 1 to {LIMIT_MAX}")
    return int(text)


def verdict() -> str | None:
    word = request.args.get("verdict") or None
    if word not in (None, *VERDICTS):
        raise BadRequest(f"verdict is one of {', '.join(VERDICTS)}")
    return word


def seen_revision(noun: str) -> int:
    """The revision in If-Match. One that is no revision of ours matches nothing, so it reads as 0."""
    offered = request.if_match
    if not offered or offered.star_tag:
        raise PreconditionRequired(f'send If-Match: "<revision>" with the revision of the {noun} you saw')
    revisions = [int(each) for each in offered.as_set() if each.isdecimal()]
    return revisions[0] if len(revisions) == 1 else 0
