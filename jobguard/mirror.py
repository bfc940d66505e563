"""A prefix of the store as a live mapping that is always of one revision.

Place in the house   config, the plugin, the web UI  ->  mirror  ->  watch  ->  client
Takes                a prefix
Gives                Mirror: a read-only mapping of keys to records, that follows the store
Never                shows half of a transaction, or asks the network for a read once it is loaded

The first read loads the prefix and starts the one thread that follows it; a forked child does the same for
itself. Readers take no lock: each change makes a new dict. While the store cannot be reached, what was last
seen stays. After a compaction the prefix is read again, and the difference is told like any other change.
"""

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from threading import Condition, Event, Thread, current_thread
from threading import Lock as Mutex

from jobguard.client import Client
from jobguard.errors import Compacted, JobguardError
from jobguard.watch import Batch, Watch
from jobguard.wire import KeyValue

log = logging.getLogger("jobguard.mirror")

AGAIN = 1.0
"""Seconds before a store that refused is asked again."""

OnChange = Callable[[bytes, KeyValue | None], None]


class Mirror(Mapping[bytes, KeyValue]):
    """Keys below `prefix`, live. For prefixes of up to some ten thousand keys: a change copies the dict."""

    def __init__(self, client: Client, prefix: str | bytes) -> None:
        self._client = client
        self._prefix = prefix
        self._callbacks: list[OnChange] = []
        self._followers: dict[int, _Follower] = {}  # by pid: threads do not survive a fork

    def start(self) -> None:
        """Load and follow, if this process does not yet. Raises Unavailable."""
        self._follower()

    def on_change(self, callback: OnChange) -> None:
        """Call `callback(key, record or None)` in the following thread, after the mapping has changed."""
        self._callbacks.append(callback)
        self.start()

    def close(self) -> None:
        """Stop following; the next read starts again."""
        follower = self._followers.pop(os.getpid(), None)
        if follower is not None:
            follower.close()

    def __getitem__(self, key: bytes) -> KeyValue:
        return self._follower().items[key]

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._follower().items)

    def __len__(self) -> int:
        return len(self._follower().items)

    def snapshot(self) -> Mapping[bytes, KeyValue]:
        """The mapping as of one revision; it will not change any more."""
        return self._follower().items

    def wait_for(self, revision: int, timeout: float) -> bool:
        """Until a change of `revision`, which must be one below the prefix, is here. False at the timeout."""
        return self._follower().wait_for(revision, timeout)

    def _follower(self) -> "_Follower":
        found = self._followers.get(os.getpid())
        if found is None:
            new = _Follower(self._client, self._prefix, self._callbacks)
            found = self._followers.setdefault(os.getpid(), new)
        found.start()
        return found


class _Follower:
    """The mirror of one process."""

    def __init__(self, client: Client, prefix: str | bytes, callbacks: list[OnChange]) -> None:
        self.items: dict[bytes, KeyValue] = {}
        self._client = client
        self._prefix = prefix
        self._callbacks = callbacks
        self._revision = 0
        self._changed = Condition()
        self._starting = Mutex()
        self._thread: Thread | None = None
        self._watch: Watch | None = None
        self._closed = Event()

    def start(self) -> None:
        if self._thread is not None:
            return
        with self._starting:
            if self._thread is None:
                self._load()
                thread = Thread(target=self._follow, name="jobguard-mirror", daemon=True)
                thread.start()
                self._thread = thread

    def close(self) -> None:
        self._closed.set()
        if (watch := self._watch) is not None:
            watch.close()
        if (thread := self._thread) is not None and thread is not current_thread():
            thread.join(timeout=5.0)

    def wait_for(self, revision: int, timeout: float) -> bool:
        if current_thread() is self._thread:  # on_change itself: it would wait for its own return
            return self._revision >= revision
        with self._changed:
            return self._changed.wait_for(lambda: self._revision >= revision, timeout)

    def _follow(self) -> None:
        while not self._closed.is_set():
            with Watch(self._client, self._prefix, start_revision=self._revision + 1) as watch:
                self._watch = watch
                try:
                    self._read(watch)
                    continue
                except Compacted:
                    log.info("mirror of %r: its revision was compacted, reading all again", self._prefix)
                except JobguardError as error:
                    log.warning("mirror of %r: %s", self._prefix, error)
                    self._closed.wait(AGAIN)
            self._reload()

    def _read(self, watch: Watch) -> None:
        while not self._closed.is_set():
            if (batch := watch.poll(60.0)) is not None:
                self._apply(batch)

    def _reload(self) -> None:
        """Range again; as long as it takes, for until then nothing newer is known."""
        while not self._closed.is_set():
            try:
                self._load()
                return
            except JobguardError as error:
                log.warning("mirror of %r cannot be read: %s", self._prefix, error)
                self._closed.wait(AGAIN)

    def _load(self) -> None:
        answer = self._client.prefix(self._prefix)
        first = self._revision == 0
        before, now = self.items, {kv.key: kv for kv in answer.kvs}
        self._show(now, answer.revision)
        if not first:
            gone = [(key, None) for key in before if key not in now]
            new = [(key, kv) for key, kv in now.items() if before.get(key) != kv]
            self._tell([*gone, *new])

    def _apply(self, batch: Batch) -> None:
        items = dict(self.items)
        changes: list[tuple[bytes, KeyValue | None]] = []
        for event in batch.events:
            assert event.kv is not None
            if event.type == "DELETE":
                items.pop(event.kv.key, None)
                changes.append((event.kv.key, None))
            else:
                items[event.kv.key] = event.kv
                changes.append((event.kv.key, event.kv))
        self._show(items, batch.revision)
        self._tell(changes)

    def _show(self, items: dict[bytes, KeyValue], revision: int) -> None:
        with self._changed:
            self.items, self._revision = items, revision
            self._changed.notify_all()

    def _tell(self, changes: list[tuple[bytes, KeyValue | None]]) -> None:
        for key, kv in changes:
            for callback in list(self._callbacks):
                try:
                    callback(key, kv)
                except Exception:
                    log.exception("a callback for the change of %r failed", key)
