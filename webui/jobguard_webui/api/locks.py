"""Locks and running jobs with their holders, and their release by hand."""

from typing import Annotated

import msgspec
from flask import Blueprint

from jobguard import observe, operate
from jobguard.records import Audit
from jobguard_webui.api.operation import Cursor, Id, IfMatch, Limit, Why, operation
from jobguard_webui.auth import by_api
from jobguard_webui.freshness import look, store

bp = Blueprint("locks", __name__, url_prefix="/locks")


class Release(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Why a lock is taken from its holder, and for a run whether to end it or to run it again."""

    reason: Why
    then: operate.Then = operate.Then.END


class Released(msgspec.Struct, frozen=True, kw_only=True):
    """The lock as it was held, and the entry of the audit log."""

    released: observe.Lock
    audit: Audit


@bp.get("")
@operation()
def index(
    name: Annotated[str, msgspec.Meta(description="Only the locks of exactly this name.")] | None = None,
    limit: Limit = 50,
    cursor: Cursor | None = None,
) -> observe.Page[observe.Lock]:
    """What is held, locks and runs, by name."""
    return look(observe.locks, name=name, limit=limit, cursor=cursor)


@bp.get("/<id>")
@operation(etag=True)
def show(id: Id) -> observe.Lock:
    """One lock, with its holder and who waits."""
    return look(observe.lock, id)


@bp.delete("/<id>")
@operation(refuses=(operate.HolderChanged,))
def release(id: Id, revision: Annotated[int, IfMatch("holder")], asked: Release) -> Released:
    """Take the lock from the holder that If-Match names, and from no other.

    The holder's process is not stopped: from here on its token is refused where tokens are checked.
    """
    released = operate.release(
        store().client,
        id,
        revision=revision,
        actor=by_api(asked.reason),
        then=asked.then,
    )
    return Released(released=released.lock, audit=released.audit)
