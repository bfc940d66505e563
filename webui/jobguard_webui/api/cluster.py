"""The store's members, the leaders of elections, and what the doctor finds in the store."""

from flask import Blueprint

from jobguard import doctor as examination
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


@bp.get("/doctor")
@operation()
def doctor() -> examination.Diagnosis:
    """What is wrong with the store, clocks, beats and run-time schedules, or will be, and what to do.

    It is seen from the host of this server. Settings, tasks and workers of an app are looked at by
    `celery -A proj jobguard doctor` alone.
    """
    return examination.diagnosis(examination.of_store(store().client))
