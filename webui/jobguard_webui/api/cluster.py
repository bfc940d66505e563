"""The store's members, the leaders of elections, the configuration: each a single reading."""

from flask import Blueprint
from flask.typing import ResponseReturnValue

from jobguard import observe
from jobguard_webui.api.answer import answer
from jobguard_webui.freshness import look, store

bp = Blueprint("cluster", __name__)


@bp.get("/cluster")
def cluster() -> ResponseReturnValue:
    return answer(observe.cluster(store().client))


@bp.get("/leaders")
def leaders() -> ResponseReturnValue:
    return answer(look(observe.leaders))


@bp.get("/config")
def config() -> ResponseReturnValue:
    return answer(look(observe.config))
