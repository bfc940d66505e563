"""The live configuration: read, and set by who saw what it was."""

from typing import Annotated, Any

import msgspec
from flask import Blueprint

from jobguard import observe, operate
from jobguard_webui.api.operation import IfMatch, operation
from jobguard_webui.auth import by_api
from jobguard_webui.freshness import look, store

bp = Blueprint("config", __name__, url_prefix="/config")

Key = Annotated[str, msgspec.Meta(description="Its name; slashes part it.")]


class NewValue(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What it is to be, anything that JSON can say; and why."""

    value: Any
    reason: str = ""


@bp.get("")
@operation()
def index() -> observe.Page[observe.ConfigEntry]:
    """The live configuration, every value of it."""
    return look(observe.config)


@bp.get("/<path:key>")
@operation(etag=True)
def show(key: Key) -> observe.ConfigEntry:
    """One value."""
    return look(observe.config_value, key)


@bp.put("/<path:key>")
@operation(etag=True, refuses=(operate.ValueChanged,))
def put(
    key: Key, revision: Annotated[int, IfMatch("value", or_new=True)], asked: NewValue
) -> observe.ConfigEntry:
    """Set the value that If-Match names; every host sees it at once.

    With `If-None-Match: *` in its place one that is not set.
    """
    operate.put_config(store().client, key, asked.value, actor=by_api(asked.reason), revision=revision)
    return observe.config_value(store().client, key)
