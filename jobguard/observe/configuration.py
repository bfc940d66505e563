"""The live configuration, as it is set now.

Place in the house   the pages, the REST API and the CLI -> configuration -> reading
Never                changes anything: operate.py does
"""

from typing import TYPE_CHECKING, Any

import msgspec

from jobguard.config import read_value
from jobguard.observe.reading import NotFound, Page, read, to_json, under
from jobguard.records import Keys
from jobguard.wire import KeyValue, RangeRequest

if TYPE_CHECKING:
    from jobguard.client import Client


class ConfigEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A key under config/ with its value, and the revision that set it."""

    key: str
    value: Any
    revision: int

    @property
    def text(self) -> str:
        return self.value if isinstance(self.value, str) else to_json(self.value).decode()


def config(client: "Client", *, stale: bool = False) -> Page[ConfigEntry]:
    keys = Keys(client.namespace)
    snapshot = read(client, [under(keys.prefix("config"))], stale=stale)
    items = [config_entry(keys, kv) for kv in snapshot.ranges[0]]
    return Page(items=items, revision=snapshot.revision, stale=stale)


def config_entry(keys: Keys, kv: KeyValue) -> ConfigEntry:
    return ConfigEntry(
        key="/".join(keys.parts(kv.key)[1:]),
        value=read_value(kv.value),
        revision=int(kv.mod_revision),
    )


def config_value(client: "Client", key: str, *, stale: bool = False) -> ConfigEntry:
    """One value. Raises NotFound when it is not set."""
    keys = Keys(client.namespace)
    (found,) = read(client, [RangeRequest(key=config_key(keys, key))], stale=stale).ranges
    if not found:
        raise NotFound(f"{key} is not set")
    return config_entry(keys, found[0])


def config_key(keys: Keys, key: str) -> bytes:
    return keys.key("config", *key.split("/"))
