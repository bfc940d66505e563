"""A contender's place in a queue: one key on a lease, from entering to leaving.

Place in the house   lock, election  ->  place  ->  session, watch  ->  client
Takes                a queue's root key, who contends, a deadline
Gives                Place: its turn, its token, its end
Never                takes "my host", "my process" or "my lease" for ownership, decides what holding means

A contender is a key `<root>/<lease hex>/<nonce>`; its turn comes when no key under `<root>/` has a smaller
create_revision. That revision is the fencing token: it grows from holder to holder, whatever happens.

Round trips (with a spare lease at hand, see session.py; without one, one more for the grant):

    enter, free      1    txn: own key absent -> put it; read the two newest in the queue: am I alone?
    enter, busy      1    the same txn has told who is before me
    wait             ..   a watch on the predecessor's end, then a read of own key and predecessor: that one
                          may have left out of turn, and our own key may have gone with its lease. Without
                          that second look a lock is unsafe.
    leave            1    txn: own create_revision is the token -> delete

An answer that got lost is not guessed: the identical transaction is sent again, and its failure branch shows
whether ours had landed. What stays unknown ends with the lease, which serves nobody else meanwhile.
"""

import logging
import os
import secrets
import socket
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from threading import Lock as Mutex
from typing import Literal

import msgspec

from jobguard import wire
from jobguard.client import Client, Known
from jobguard.errors import Compacted, JobguardError, LeaseExpired, LeaseNotFound, Unavailable
from jobguard.ops import compare_absent, compare_created, compare_none, delete_op, get_op, prefix_end, put_op
from jobguard.session import Session, State, borrow, give_back
from jobguard.watch import Watch
from jobguard.wire import Compare, KeyValue, RequestOp, int64

log = logging.getLogger("jobguard.lock")

Kind = Literal["lock", "election"]


class Contender(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The value of a contender's key: for people and pages. Only ever added to."""

    kind: Kind = "lock"
    name: str = ""
    host: str = ""
    pid: int = 0
    nonce: str = ""
    since: str = ""
    value: str = ""
    worker: str = ""  # where it is a task's turn: Celery's node name
    most: int = 1  # how many of the first in line hold

    @classmethod
    def ours(cls, kind: Kind, name: str, value: str = "") -> "Contender":
        since = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        return cls(
            kind=kind,
            name=name,
            host=socket.gethostname(),
            pid=os.getpid(),
            nonce=secrets.token_hex(8),
            since=since,
            value=value,
        )


class Place:
    """Made by `enter`. One thread waits; any thread may cancel."""

    def __init__(self, client: Client, session: Session, root: str, key: str) -> None:
        self.client = client
        self.session = session
        self.key = key
        self.create_revision = 0
        self._range = (f"{root}/".encode(), prefix_end(f"{root}/"))
        self._before: bytes | None = None
        self._seen = 0  # the revision at which `_before` was in the queue
        self._cancelled = False
        self._leaving = Mutex()  # taken by the first who leaves, and never given back
        self._watch: Watch | None = None

    @property
    def guard(self) -> Compare:
        """True in a transaction while this very place is in the queue."""
        return compare_created(self.key, self.create_revision)

    @property
    def first(self) -> bool:
        return self._before is None

    # --- entering ---

    @classmethod
    def enter(
        cls, client: Client, root: str, contender: Contender, ttl: float, *, only_if_free: bool = False
    ) -> "Place | None":
        """Take a place, on a lease of its own; None if `only_if_free` and it is not.

        Raises Unavailable or OutcomeUnknown; then nothing of us stays longer than the TTL.
        """
        while True:
            session = borrow(client, ttl)
            place = cls(client, session, root, f"{root}/{session.lease_id:x}/{contender.nonce}")
            try:
                return place if place._enter(msgspec.json.encode(contender), only_if_free) else None
            except LeaseNotFound:  # a spare lease that somebody revoked
                session.abandon()
            except BaseException:
                session.discard()
                raise

    def _enter(self, value: bytes, only_if_free: bool) -> bool:
        compare = [compare_absent(self.key)]
        if only_if_free:
            compare.append(compare_none(*self._range))
        answer, repeated = self.client.txn_known(
            compare,
            (put_op(self.key, value, self.session.lease_id), self._newest(2)),
            (get_op(self.key),),
        )
        self._seen = answer.revision
        if answer.succeeded:
            own, *before = _kvs(answer, 1)
            self._stand(own, before)
            return True
        found = _kvs(answer, 0)
        if found:  # an earlier sending had landed, and nobody read its answer
            self._stand(found[0], ())
            self._look(self.client.timeout)
            return True
        if repeated:  # an earlier sending may still land: not on this lease
            self.session.discard()
        else:
            give_back(self.session)
        return False

    def _stand(self, own: KeyValue, before: Sequence[KeyValue]) -> None:
        self.create_revision = own.create_revision
        self._before = before[0].key if before else None

    def _newest(self, limit: int, before: int = 0) -> RequestOp:
        """The newest places in the queue, or the newest that are older than `before`."""
        return RequestOp(
            request_range=wire.RangeRequest(
                key=self._range[0],
                range_end=self._range[1],
                sort_target="CREATE",
                sort_order="DESCEND",
                limit=int64(limit),
                keys_only=True,
                max_create_revision=int64(max(before - 1, 0)),
            )
        )

    # --- waiting ---

    def wait(self, deadline: float) -> bool:
        """Until it is our turn: True; False at the deadline or when cancelled. Raises LeaseExpired."""
        in_time = True
        while self._before is not None and in_time and not self._cancelled:
            in_time = self._ended(self._before, deadline)
            if self._cancelled:
                break
            left = deadline - time.monotonic()
            try:  # also when it is over: it may be our turn since we were last run
                self._look(min(self.client.timeout, max(left, 0.1)))
            except Unavailable as error:  # we keep our place for as long as the lease lives
                log.info("waiting for %s: %s", self.key, error)
        return self._before is None and not self._cancelled

    def _ended(self, before: bytes, deadline: float) -> bool:
        """Has the place before ours been left? False at the deadline or when cancelled."""
        with Watch(self.client, before, prefix=False, start_revision=self._seen + 1) as watch:
            self._watch = watch
            while not self._cancelled:
                self.session.check()
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                try:
                    batch = watch.poll(min(left, self.session.ttl / 3))
                except Compacted:
                    return True  # it cannot be told: look
                if batch and any(event.type == "DELETE" for event in batch.events):
                    return True
        return False

    def _look(self, timeout: float) -> None:
        """Read own key and the one before it, in one view. Raises LeaseExpired when ours is gone."""
        answer = self.client.txn(
            (), (get_op(self.key), self._newest(1, before=self.create_revision)), timeout=timeout
        )
        own, before = _kvs(answer, 0), _kvs(answer, 1)
        if not own or own[0].create_revision != self.create_revision:
            raise LeaseExpired(f"{self.key} is gone: its lease ended, or an operator released it")
        self._seen = answer.revision
        self._stand(own[0], before)

    def cancel(self) -> None:
        """Make `wait` return False at once."""
        if not self._cancelled:  # a signal may strike in the middle of it, and closing takes a lock
            self._cancelled = True
            if (watch := self._watch) is not None:
                watch.close()

    # --- leaving ---

    def leave(self, timeout: float | None = None) -> bool:
        """Delete our key, if it is still ours; False if it was gone before. A second call does nothing.

        Raises Unavailable or OutcomeUnknown; the key is then gone within the TTL.
        """
        if not self._leaving.acquire(blocking=False):
            return True
        held = self.session.state is not State.LOST
        try:
            answer = self._delete(timeout)
        except BaseException:
            self.session.discard()
            raise
        give_back(self.session)
        # Sent twice and gone: the first sending did it, if it was ours when we began.
        return answer.response.succeeded or (answer.repeated and held)

    def _delete(self, timeout: float | None) -> Known:
        return self.client.txn_known((self.guard,), (delete_op(self.key),), timeout=timeout)

    def discard(self) -> None:
        """Leave without waiting for the store: the lease is revoked in the background."""
        self.session.discard()

    def leave_quietly(self) -> None:
        """Leave; if the store does not answer, leave it to the lease."""
        try:
            self.leave()
        except JobguardError as error:
            log.warning("%s goes with its lease, within %d s: %s", self.key, self.session.ttl, error)


def _kvs(answer: wire.TxnResponse, index: int) -> tuple[KeyValue, ...]:
    found = answer.responses[index].response_range
    return found.kvs if found is not None else ()
