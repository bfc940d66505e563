"""What others change in the schedule while this beat leads: told as it happens.

Place in the house   beat -> here -> watch
Takes                a client, the keys to watch, the revision from which on
Gives                the changed records, oldest first; or that some can no longer be told
Never                decides what follows from a change, or touches the leader's state from its threads
"""

from collections import deque
from collections.abc import Iterator
from threading import Event, Thread

from celery.utils.log import get_logger

from jobguard.client import Client
from jobguard.errors import JobguardError
from jobguard.watch import Watch
from jobguard.wire import KeyValue

logger = get_logger("jobguard.beat")

_POLL_S = 30.0
_AGAIN_S = 1.0


class Changes:
    """One thread per key or prefix, from `start` to `close`."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._told: deque[KeyValue] = deque()
        self._gap = Event()
        self._closed = Event()
        self._watches: dict[bytes, Watch] = {}

    def start(self, keys: dict[bytes, bool], revision: int) -> None:
        """Tell every change after `revision` of these keys, or prefixes where the value is True."""
        for key, prefix in keys.items():
            self._watches[key] = Watch(self._client, key, prefix=prefix, start_revision=revision + 1)
            Thread(target=self._follow, args=(key,), name="jobguard-changes", daemon=True).start()

    def take(self) -> Iterator[KeyValue]:
        """What was changed since the last call; a deleted record has no value."""
        while self._told:
            yield self._told.popleft()

    def missed_some(self) -> bool:
        """Whether something changed that nobody can tell any more: read everything, and start anew."""
        return self._gap.is_set()

    def close(self) -> None:
        self._closed.set()
        for watch in self._watches.values():
            watch.close()

    def _follow(self, key: bytes) -> None:
        try:
            with self._watches[key] as watch:
                while not self._closed.is_set():
                    batch = watch.poll(_POLL_S)
                    self._told.extend(event.kv for event in (batch.events if batch else ()) if event.kv)
        except JobguardError as error:
            if not self._closed.wait(_AGAIN_S):
                logger.info("jobguard: what changes in the schedule has to be read again: %s", error)
        finally:
            self._gap.set()
