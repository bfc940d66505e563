"""The door of the pages: one form for the token, and the way out."""

from flask import Blueprint, redirect, render_template, request, session, url_for
from flask.typing import ResponseReturnValue

from jobguard_webui.auth import caller, door, safe_target

bp = Blueprint("session", __name__)


@bp.get("/sign-in")
def sign_in() -> ResponseReturnValue:
    return render_template("session/sign_in.html", next=request.args.get("next", ""), name="")


@bp.post("/sign-in")
def open_session() -> ResponseReturnValue:
    form = request.form
    if not door().opens_to(form.get("token", "").strip(), caller()):
        return (
            render_template(
                "session/sign_in.html",
                next=form.get("next", ""),
                name=form.get("name", ""),
                refused="This is not the token of this server.",
            ),
            403,
        )
    session.clear()
    session.permanent = True
    session["signed_in"] = True
    session["name"] = form.get("name", "").strip()[:80]
    return redirect(safe_target(form.get("next")), code=303)


@bp.post("/sign-out")
def close() -> ResponseReturnValue:
    session.clear()
    return redirect(url_for("session.sign_in"), code=303)
