"""Answers that say what went wrong, as application/problem+json.

Place in the house   errors -> api.problem -> jobguard.problems
"""

from collections.abc import Iterable

from flask import Response, request

from jobguard import problems
from jobguard.observe import to_json


def problem(
    kind: problems.Kind,
    detail: str,
    *,
    current: object = None,
    headers: Iterable[tuple[str, str]] = (),
) -> Response:
    body = problems.body(kind, detail, instance=request.path, current=current)
    response = Response(to_json(body), kind.status, mimetype="application/problem+json")
    response.headers.extend((name, value) for name, value in headers if name.lower() != "content-type")
    return response
