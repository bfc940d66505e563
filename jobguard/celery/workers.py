"""Which workers are there, and whether all of them guard their tasks.

Place in the house   upkeep -> here -> Celery's remote control, and the keys under workers/
Takes                an app, a client
Gives                what was last known, at once; a fresh answer some moments after it was asked for
Never                blocks its caller: a ping takes a second, and the scheduler has occurrences to plan
"""

import time
from threading import Thread

from celery import Celery
from celery.utils.log import get_logger

from jobguard.client import Client
from jobguard.records import Keys
from jobguard.recovery import Workers

logger = get_logger("jobguard.beat")

_FRESH_S = 10.0
_PING_S = 1.0
_BEAT = "celerybeat@"  # a beat that answers ping runs no tasks


class Fleet:
    """The workers, as asked for not more than ten seconds ago."""

    def __init__(self, app: Celery, client: Client, keys: Keys) -> None:
        self._app = app
        self._client = client
        self._keys = keys
        self._asked: Thread | None = None
        self._answer: tuple[float, Workers, tuple[str, ...]] = (-_FRESH_S, Workers.UNKNOWN, ())
        self._named: frozenset[str] = frozenset()

    @property
    def state(self) -> Workers:
        at, state, _ = self._answer
        return state if time.monotonic() - at < _FRESH_S else Workers.UNKNOWN

    @property
    def unguarded(self) -> tuple[str, ...]:
        """The workers that answered and guard nothing."""
        return self._answer[2]

    def ask(self) -> None:
        """Find out, in a thread; a question that is under way is enough."""
        if self._asked is None or not self._asked.is_alive():
            self._asked = Thread(target=self._ask, name="jobguard-ping", daemon=True)
            self._asked.start()

    def _ask(self) -> None:
        try:
            answered = {node for answer in self._app.control.ping(timeout=_PING_S) for node in answer}
            guarded = {
                self._keys.parts(kv.key)[1]
                for kv in self._client.prefix(self._keys.prefix("workers"), keys_only=True).kvs
            }
        except Exception as error:  # noqa: BLE001 - brokers raise what they like; unknown stays unknown
            logger.warning("jobguard: the workers could not be asked: %s", error)
            return
        alive = {node for node in answered if not node.startswith(_BEAT)}
        unguarded = tuple(sorted(alive - guarded))
        state = Workers.NONE if not alive else Workers.MIXED if unguarded else Workers.GUARDED
        self._answer = (time.monotonic(), state, unguarded)
        self._warn(frozenset(unguarded))

    def _warn(self, unguarded: frozenset[str]) -> None:
        for node in sorted(unguarded - self._named):
            logger.warning(
                "jobguard: worker %s answers but does not guard its tasks: call jobguard.install(app) there. "
                "Until then an occurrence it takes ends as unclaimed, and nothing is published again.",
                node,
            )
        self._named = unguarded
