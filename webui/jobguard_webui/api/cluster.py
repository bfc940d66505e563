"""The store's members, the leaders of elections, the configuration: each a single reading."""

from flask import Blueprint

from jobguard import observe
from jobguard_webui.api.operation import operation
from jobguard_webui.freshness import look, store

bp = Blueprint("cluster", __name__)


@bp.get("/cluster")
@operation()
def cluster() -> observe.Cluster:
    """The store's members, and is it well."""
    return observe.cluster(store().client)


@bp.get("/leaders")
@operation()
def leaders() -> observe.Page[observe.Leader]:
    """The leader of each election, and who stands by."""
    return look(observe.leaders)


@bp.get("/config")
@operation()
def config() -> observe.Page[observe.ConfigEntry]:
    """The live configuration, every value of it."""
    return look(observe.config)
