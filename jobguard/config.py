"""Live configuration: change a value once, and every host sees it at once, without a restart.

Place in the house   users' programs, the CLI, the web UI  ->  config  ->  mirror
Takes                a prefix, names such as "db/host", values that JSON can say
Gives                Config, a mutable mapping; callbacks for changes
Never                asks the network for a read once it is loaded

Values are written as JSON. A value that is not JSON, because `etcdctl` or an operator put bare text there, is
read as that text. Names may be paths; each part is percent-encoded, the slashes stay.
"""

from collections.abc import Callable, Iterator, MutableMapping
from typing import Any
from urllib.parse import unquote

import msgspec

from jobguard.client import Client, shared
from jobguard.mirror import Mirror
from jobguard.ops import segment
from jobguard.wire import KeyValue

OnChange = Callable[[str, Any], None]


class Config(MutableMapping[str, Any]):
    """The values below `prefix`. May be made at import: it connects at its first use, in each process.

    Reads come from memory, and a write is seen by our own reads when it returns. While the store cannot be
    reached, the last known values stay.
    """

    def __init__(self, prefix: str, client: Client | None = None) -> None:
        self.prefix = prefix.strip("/")
        self._given = client
        self._mirrors: dict[str, Mirror] = {}  # one, by its root, once it is used

    def __repr__(self) -> str:
        return f"Config({self.prefix!r})"

    @property
    def client(self) -> Client:
        """The one given, else the process's own."""
        return self._given or shared()

    def key(self, name: str) -> str:
        """The store's key of `name`."""
        return self._root() + "/".join(segment(part) for part in name.split("/"))

    def __getitem__(self, name: str) -> Any:
        try:
            return read_value(self._live()[self.key(name).encode()].value)
        except KeyError:
            raise KeyError(name) from None

    def __setitem__(self, name: str, value: Any) -> None:
        """Raises Unavailable, or OutcomeUnknown: then read it, or just write it again."""
        if not name:
            raise KeyError("a configuration value needs a name")
        mirror = self._live()
        answer = self.client.put(self.key(name), write_value(value))
        mirror.wait_for(answer.revision, self.client.timeout)

    def __delitem__(self, name: str) -> None:
        mirror = self._live()
        answer = self.client.delete(self.key(name))
        if not answer.deleted:
            raise KeyError(name)
        mirror.wait_for(answer.revision, self.client.timeout)

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._name(key) for key in self._live().snapshot()))

    def __len__(self) -> int:
        return len(self._live())

    def on_change(self, callback: OnChange) -> OnChange:
        """Call `callback(name, value)` after every change, from any host; None for a deleted value.

        Called in the following thread of this process, one change after the other. A forked child follows
        from its first read on. Can be used as a decorator.
        """

        def changed(key: bytes, kv: KeyValue | None) -> None:
            callback(self._name(key), None if kv is None else read_value(kv.value))

        self._live().on_change(changed)
        return callback

    def close(self) -> None:
        """Stop following; the next use starts again."""
        for mirror in self._mirrors.values():
            mirror.close()

    def _live(self) -> Mirror:
        root = self._root()
        if root not in self._mirrors:
            self._mirrors.setdefault(root, Mirror(self.client, root))
        return self._mirrors[root]

    def _root(self) -> str:
        parts = self.prefix.split("/") if self.prefix else []
        return self.client.key("config", *parts) + "/"

    def _name(self, key: bytes) -> str:
        return unquote(key.decode(errors="replace").removeprefix(self._root()))


def write_value(value: Any) -> bytes:
    """A value as it is stored. Raises TypeError for what JSON cannot say."""
    return msgspec.json.encode(value)


def read_value(stored: bytes) -> Any:
    """A stored value; bare text, which is not JSON, is read as text."""
    try:
        return msgspec.json.decode(stored)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return stored.decode(errors="replace")
