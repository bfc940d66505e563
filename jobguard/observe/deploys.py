"""Whose schedule is in force: which version of the code, and whether somebody rolled back to it.

Place in the house   observe -> deploys -> reading
"""

from datetime import datetime
from typing import TYPE_CHECKING

import msgspec

from jobguard.observe.reading import NotFound, read
from jobguard.records import Deploy as Registered
from jobguard.records import Keys, decode
from jobguard.wire import RangeRequest

if TYPE_CHECKING:
    from jobguard.client import Client


class Deploy(msgspec.Struct, frozen=True, kw_only=True):
    """Of all versions that a beat brought, the one that counts.

    `registered_at` is null until a beat of it has led; `rolled_back_from` is the version that stays out, and
    with it what lies between.
    """

    version: int
    by: str
    registered_at: datetime | None
    rolled_back_from: int | None
    revision: int


def deploy(client: "Client", *, stale: bool = False) -> Deploy:
    """Raises NotFound where no beat has led yet."""
    (found,) = read(client, [RangeRequest(key=Keys(client.namespace).deploy())], stale=stale).ranges
    if not found:
        raise NotFound("no schedule was installed yet: no beat has led")
    record = decode(found[0].value, Registered)
    return Deploy(
        version=record.version,
        by=record.by,
        registered_at=record.registered if record.registered.timestamp() > 0 else None,
        rolled_back_from=record.over or None,
        revision=int(found[0].mod_revision),
    )
