"""For probes: is this process alive, and can it serve. Open to everyone, and silent about anything else.

Never                puts the store into liveness: a restart of this process would not mend the store
"""

from flask import Blueprint
from flask.typing import ResponseReturnValue

from jobguard import observe
from jobguard.errors import JobguardError
from jobguard_webui.freshness import store

bp = Blueprint("health", __name__)
PLAIN = {"Content-Type": "text/plain; charset=utf-8"}


@bp.get("/livez")
def livez() -> ResponseReturnValue:
    """This process lives."""
    return "ok\n", PLAIN


@bp.get("/readyz")
def readyz() -> ResponseReturnValue:
    """The store confirms a read, so it has a leader."""
    try:
        observe.confirm(store().client)
    except JobguardError:
        return "the store has no leader or does not answer\n", 503, PLAIN
    return "ok\n", PLAIN
