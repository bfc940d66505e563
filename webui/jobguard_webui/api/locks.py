"""Locks and running jobs with their holders, and their release by hand."""

import msgspec
from flask import Blueprint, request
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import BadRequest

from jobguard import observe, operate
from jobguard_webui.api.answer import answer, limit, seen_revision
from jobguard_webui.auth import actor
from jobguard_webui.freshness import look, store

bp = Blueprint("locks", __name__, url_prefix="/locks")


class Release(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of a release: why, and for a run whether to end it or to run it again."""

    reason: str
    then: operate.Then = operate.Then.END


@bp.get("")
def index() -> ResponseReturnValue:
    args = request.args
    return answer(look(observe.locks, name=args.get("name"), limit=limit(), cursor=args.get("cursor")))


@bp.get("/<id>")
def show(id: str) -> ResponseReturnValue:
    lock = look(observe.lock, id)
    return answer(lock, etag=str(lock.revision))


@bp.delete("/<id>")
def release(id: str) -> ResponseReturnValue:
    """Take the lock from the holder that If-Match names, and from no other."""
    revision = seen_revision("holder")
    try:
        asked = msgspec.json.decode(request.get_data(), type=Release)
    except msgspec.DecodeError as error:
        raise BadRequest(f'the body is {{"reason": "…"}}: {error}') from None
    released = operate.release(
        store().client,
        id,
        revision=revision,
        actor=operate.Actor(by=actor(), via="api", reason=asked.reason),
        then=asked.then,
    )
    return answer({"released": released.lock, "audit": released.audit})
