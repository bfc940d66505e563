"""Whose schedule is in force, and how to roll back."""

from typing import Annotated

import msgspec
from flask import Blueprint

from jobguard import observe, registry
from jobguard_webui.api.operation import operation
from jobguard_webui.auth import by_api
from jobguard_webui.freshness import look, store

bp = Blueprint("deploy", __name__, url_prefix="/deploy")


class WantedDeploy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The version of the code whose schedule is to be in force; with `force` also over a newer one."""

    version: Annotated[int, msgspec.Meta(ge=0)]
    force: bool = False
    reason: str = ""


class InstalledDeploy(msgspec.Struct, frozen=True, kw_only=True):
    """The next beat of `version` that leads installs its schedule. `deploy` is null where none has led."""

    version: int
    deploy: observe.Deploy | None


@bp.get("")
@operation(etag=True, refuses=(observe.NotFound,))
def show() -> observe.Deploy:
    """Whose schedule is in force."""
    return look(observe.deploy)


@bp.put("")
@operation(refuses=(registry.OlderSchedule,))
def install(wanted: WantedDeploy) -> InstalledDeploy:
    """Let a version of the code be the one whose schedule is in force: roll back, with `force`.

    The beats do so by themselves, but never over a newer version.
    """
    client = store().client
    registry.install(client, wanted.version, actor=by_api(wanted.reason), force=wanted.force)
    try:
        return InstalledDeploy(version=wanted.version, deploy=observe.deploy(client))
    except observe.NotFound:
        return InstalledDeploy(version=wanted.version, deploy=None)
