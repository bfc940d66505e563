"""Locks: who holds what and who waits; and the one thing an operator may do by hand, which is to release."""

from collections.abc import Mapping

from flask import Blueprint, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import BadRequest

from jobguard import observe, operate
from jobguard_webui.auth import actor
from jobguard_webui.freshness import look, stale_because, store

bp = Blueprint("locks", __name__, url_prefix="/locks")


@bp.get("/")
def index() -> ResponseReturnValue:
    name = request.args.get("name", "").strip()
    page = look(observe.locks, containing=name or None, cursor=request.args.get("cursor"))
    return render_template("locks/index.html", page=page, filter=name)


@bp.get("/<id>")
def show(id: str) -> ResponseReturnValue:
    return page_of(look(observe.lock, id))


@bp.post("/<id>")
def release(id: str) -> ResponseReturnValue:
    """Take the lock from the holder the operator saw; from another one, never."""
    form = request.form
    lock = look(observe.lock, id)
    wrong = objection(lock, form)
    if wrong:
        return page_of(lock, form, refused=wrong), 422
    try:
        operate.release(
            store().client,
            id,
            revision=int(form["revision"]),
            actor=operate.Actor(by=actor(), via="web", reason=form["reason"].strip()),
            then=operate.Then(form.get("then", "end")),
        )
    except operate.HolderChanged as changed:
        return page_of(changed.now, form, changed=True), 412
    flash(f"{lock.name} was taken from {lock.where}. The audit log has your reason.", "good")
    return redirect(url_for("locks.index"), code=303)


def objection(lock: observe.Lock, form: Mapping[str, str]) -> str:
    """What is missing before the store is asked; empty when nothing is."""
    if not form.get("revision", "").isdigit():
        raise BadRequest("the form has no revision")
    if stale_because():
        return "Nothing was released: the store has no leader, so nobody can say who holds this lock."
    if not form.get("reason", "").strip():
        return "Nothing was released: a reason is needed."
    if lock.kind == "run" and form.get("then") not in ("end", "rerun"):
        return "Nothing was released: say what is to become of the run."
    if lock.liveness != "gone" and form.get("confirmation", "").strip() != lock.name:
        return "Nothing was released: the name typed to confirm is not the lock's name."
    return ""


def page_of(
    lock: observe.Lock, given: Mapping[str, str] | None = None, *, refused: str = "", changed: bool = False
) -> str:
    return render_template(
        "locks/show.html",
        lock=lock,
        verdict=judgement(lock),
        given={} if changed else given or {},
        refused=refused,
        changed=changed,
        actor=actor(),
    )


def judgement(lock: observe.Lock) -> str:
    """What the lease's clock says about the holder, and so about releasing."""
    left, ttl = lock.seconds_left, lock.ttl_seconds
    match lock.liveness:
        case "alive":
            return f"The holder is alive: it renewed its lease about {(ttl or 0) - (left or 0)} s ago."
        case "suspect":
            return f"The holder has missed renewals. Its lease ends in {left} s, then the lock is free."
        case "gone":
            return "The lease has ended: the lock is about to be free by itself."
        case "unknown":
            return "Nobody can tell whether the holder is alive: its lease has no clock that we can read now."
