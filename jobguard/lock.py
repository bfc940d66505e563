"""A fair lock on many hosts, with a fencing token; and who holds what, for those who look.

Place in the house   users' programs, the web UI, the CLI  ->  lock  ->  place
Takes                a name, a TTL
Gives                Lock; holders() with those who wait
Never                says "held" after the lease's own, local deadline

Each held lock has a lease of its own. When its renewal fails for a TTL, `check()` raises and `is_valid()` is
False *before* the store gives the lock to the next in line. A holder that cannot be stopped in time (a pause,
a long C call) is what the fencing token is for.
"""

import logging
import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from threading import Lock as Mutex
from typing import Self
from urllib.parse import unquote

import msgspec

from jobguard import wire
from jobguard.client import Client
from jobguard.errors import LockLost, NotAcquired, NotHolder, OutcomeUnknown, Unavailable
from jobguard.ops import segment
from jobguard.place import Contender, Kind, Place
from jobguard.session import State
from jobguard.wire import Compare, KeyValue

log = logging.getLogger("jobguard.lock")

_ROOT: dict[Kind, str] = {"lock": "locks", "election": "elections"}


def root(client: Client, kind: Kind, name: str) -> str:
    """The key under which those who contend for `name` stand in line."""
    return client.key(_ROOT[kind], name)


class Lock:
    """Used like threading.Lock, across hosts; threads may share one object, and exclude each other too.

    `with lock:` raises NotAcquired if it did not get the lock within its `timeout` (default: it waits), and
    LockLost at its end if the lock was lost meanwhile.
    """

    def __init__(self, client: Client, name: str, ttl: float = 15.0, *, timeout: float | None = None) -> None:
        self.name = name
        self.ttl = ttl
        self._client = client
        self._timeout = timeout
        self._pid = os.getpid()
        self._gate = Mutex()  # held by the thread that holds or wants the lock: one key per object
        self._place: Place | None = None

    def __repr__(self) -> str:
        return f"<Lock {self.name!r} {'held' if self.is_valid() else 'not held'}>"

    def __enter__(self) -> Self:
        if not self.acquire():
            raise NotAcquired(f"lock {self.name!r} was not free within {self._timeout} s")
        return self

    def __exit__(self, failure: type[BaseException] | None, *_: object) -> None:
        try:
            self.release()
        except (Unavailable, OutcomeUnknown) as error:
            log.warning("lock %r frees itself within %d s: %s", self.name, self.ttl, error)
        except LockLost as error:
            if failure is None:
                raise
            log.warning("%s", error)  # what the body raised says more

    def acquire(self, timeout: float | None = None) -> bool:
        """Wait for our turn, at most `timeout` seconds (None: the lock's own, 0: only if it is free).

        False when others kept it for so long; then nothing of us is left in the queue. The store's own
        answers may take up to `Client.timeout` on top. Raises Unavailable or OutcomeUnknown when there are
        none, LeaseExpired when our lease ended while we waited.
        """
        self._after_fork()
        limit = self._timeout if timeout is None else timeout
        deadline = math.inf if limit is None else time.monotonic() + limit
        if not self._gate.acquire(timeout=-1 if limit is None else max(limit, 0)):
            return False
        try:
            self._place = self._turn(deadline, only_if_free=limit is not None and limit <= 0)
        finally:
            if self._place is None:
                self._gate.release()
        return self._place is not None

    def _turn(self, deadline: float, only_if_free: bool) -> Place | None:
        contender = Contender.ours("lock", self.name)
        place = Place.enter(
            self._client,
            root(self._client, "lock", self.name),
            contender,
            self.ttl,
            only_if_free=only_if_free,
        )
        if place is None or place.first:
            return place
        try:
            if place.wait(deadline):
                return place
        except BaseException:  # a signal's exception too: nobody shall wait behind us for a TTL
            place.discard()
            raise
        place.leave_quietly()
        return None

    def release(self) -> None:
        """Give it to the next in line.

        Raises NotHolder if we do not hold it, LockLost if it was lost meanwhile, Unavailable or
        OutcomeUnknown if the store does not answer: it then frees itself within the TTL.
        """
        self._after_fork()
        place, self._place = self._place, None
        if place is None:
            raise NotHolder(f"lock {self.name!r} is not held by this object")
        try:
            if not place.leave():
                raise LockLost(f"lock {self.name!r} was lost before its release; another may have held it")
        finally:
            self._gate.release()

    def is_valid(self) -> bool:
        """Do we hold it, as far as our own clock can tell? Costs no network."""
        place = self._place
        return place is not None and self._pid == os.getpid() and place.session.state is not State.LOST

    def check(self) -> None:
        """Raises LockLost if the lease may have ended, NotHolder if we never had it. Costs no network."""
        if not self.is_valid():
            place = self._held()
            raise LockLost(f"lock {self.name!r} (token {place.create_revision}) is lost: its lease ended")

    @property
    def fencing_token(self) -> int:
        """Larger than that of every holder before. For jobguard.fencing, or your own compare."""
        return self._held().create_revision

    @property
    def cluster_id(self) -> int:
        """The cluster in which the token means something."""
        return self._client.cluster_id()

    @property
    def guard(self) -> Compare:
        """A compare for your own transactions in the store: true while this very holder holds."""
        return self._held().guard

    def seconds_left(self) -> float:
        """Until the lease ends if it is not renewed any more; 0 when we do not hold the lock."""
        place = self._place
        return place.session.seconds_left() if place is not None else 0.0

    def _held(self) -> Place:
        place = self._place
        if place is None or self._pid != os.getpid():
            raise NotHolder(f"lock {self.name!r} is not held by this object")
        return place

    def _after_fork(self) -> None:
        """A forked child holds nothing, and must not wait for a mutex its parent's threads hold."""
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._gate = Mutex()
            self._place = None


# --- for those who look -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Seat:
    """One contender, as the store has it."""

    key: str
    lease: int
    token: int
    mod_revision: int
    contender: Contender

    @classmethod
    def read(cls, kv: KeyValue) -> "Seat":
        try:
            contender = wire.decode(kv.value, Contender)
        except msgspec.DecodeError:  # another program's key: it counts in the queue all the same
            contender = Contender()
        return cls(kv.key.decode(errors="replace"), kv.lease, kv.create_revision, kv.mod_revision, contender)


@dataclass(frozen=True, slots=True)
class Queue:
    """A lock or election with somebody in it: who has it, and who waits, in order."""

    name: str
    holder: Seat
    waiters: tuple[Seat, ...]


def holders(client: Client, prefix: str = "", *, kind: Kind = "lock") -> list[Queue]:
    """Every held lock (or election) whose name begins with `prefix`, by name, in one consistent view."""
    return sorted(_queues(client, prefix, kind), key=lambda queue: queue.name)


def _queues(client: Client, prefix: str, kind: Kind) -> Iterator[Queue]:
    above = client.key(_ROOT[kind], "")
    found = client.prefix(above + segment(prefix)).kvs
    for name, group in groupby(found, key=lambda kv: kv.key[len(above) :].split(b"/")[0]):
        first, *others = sorted((Seat.read(kv) for kv in group), key=lambda seat: seat.token)
        yield Queue(unquote(name.decode()), first, tuple(others))
