"""Errors become answers here and nowhere else: a page for people, problem+json for programs.

Place in the house   app -> errors -> api.problem
Never                shows a stack trace
"""

from flask import Flask, render_template, request
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import HTTPException

from jobguard import problems
from jobguard.errors import JobguardError
from jobguard.problems import Kind, kind_of
from jobguard_webui import auth, freshness
from jobguard_webui.api.problem import problem


def install(app: Flask) -> None:
    app.register_error_handler(JobguardError, refusal)
    app.register_error_handler(HTTPException, http_error)


def refusal(error: JobguardError) -> ResponseReturnValue:
    kind = kind_of(error)
    if auth.is_api(request):
        return problem(kind, str(error), current=problems.current(error))
    return page(kind.status, kind.title, freshness.sentence(str(error)), kind.next_step)


def http_error(error: HTTPException) -> ResponseReturnValue:
    if error.code is None or error.code < 400:
        return error
    if auth.is_api(request):
        kind = Kind(error.name.lower().replace(" ", "-"), error.code, error.name.capitalize())
        return problem(kind, error.description or "", headers=error.get_headers())
    return page(error.code, error.name, freshness.sentence(error.description or ""))


def page(status: int, title: str, detail: str, next_step: str = "") -> ResponseReturnValue:
    shown = render_template("error.html", status=status, title=title, detail=detail, next_step=next_step)
    return shown, status
