"""Who leads: a lock with an audience.

Place in the house   beat, users' programs  ->  election  ->  place
Takes                a name, a value that tells the audience about the leader
Gives                Election: campaign, resign; leader and observe for everybody else
Never                says "leading" after the lease's own, local deadline
"""

import math
import os
import time
from collections.abc import Iterator
from threading import Lock as Mutex

import msgspec

from jobguard import wire
from jobguard.client import Client
from jobguard.errors import Compacted, NotHolder
from jobguard.lock import Seat, root
from jobguard.ops import prefix_end, put_op
from jobguard.place import Contender, Place
from jobguard.session import Session, State
from jobguard.watch import Watch
from jobguard.wire import Compare, int64


class Election:
    """One candidate. A thread campaigns, any thread may ask whether it leads, or resign."""

    def __init__(self, client: Client, name: str, ttl: float = 15.0) -> None:
        self.name = name
        self.ttl = ttl
        self._client = client
        self._root = root(client, "election", name)
        self._pid = os.getpid()
        self._campaigning = Mutex()
        self._resigned = False  # no Event, which has a lock
        self._standing: Place | None = None  # in the queue
        self._elected: Place | None = None  # and first

    def __enter__(self) -> "Election":
        self.campaign()
        return self

    def __exit__(self, *_: object) -> None:
        self.resign()

    def campaign(self, value: str = "", timeout: float | None = None) -> bool:
        """Wait until we lead: True. False after `timeout` seconds, or when `resign` was called meanwhile.

        True at once if we lead already. Raises Unavailable or OutcomeUnknown if the store does not answer at
        the start, LeaseExpired if our lease ends while we wait: campaign again.
        """
        self._after_fork()
        if not self._campaigning.acquire(blocking=False):
            raise RuntimeError(f"election {self.name!r}: this candidate is campaigning already")
        try:
            return self.is_leader() or self._campaign(value, timeout)
        finally:
            self._campaigning.release()

    def _campaign(self, value: str, timeout: float | None) -> bool:
        self._resigned = False
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        self._elected = None
        place = Place.enter(self._client, self._root, Contender.ours("election", self.name, value), self.ttl)
        assert place is not None
        self._standing = place
        try:
            if not self._resigned and place.wait(deadline):
                self._elected = place
                if not self._resigned:
                    return True
                self._elected = None  # resign() came in between, and may or may not have seen the place
        except BaseException:
            place.discard()
            raise
        finally:
            self._standing = None
        place.leave_quietly()
        return False

    def resign(self, timeout: float | None = None) -> None:
        """Stop leading, or campaigning, at once; nothing if we did neither.

        Raises Unavailable or OutcomeUnknown if the store does not answer: the lead then ends within the TTL.
        Takes no lock, so a signal handler may call it, and twice.
        """
        self._after_fork()
        self._resigned = True
        standing, place = self._standing, self._elected
        self._elected = None
        if standing is not None and standing is not place:
            standing.cancel()
        if place is not None:
            place.leave(timeout)

    def is_leader(self) -> bool:
        """Do we lead, as far as our own clock can tell? Costs no network."""
        place = self._elected
        return place is not None and self._pid == os.getpid() and place.session.state is not State.LOST

    def check(self) -> None:
        """Raises NotHolder unless `is_leader()`."""
        if not self.is_leader():
            raise NotHolder(f"not the leader of {self.name!r}")

    @property
    def key(self) -> str:
        """Our key while we lead; with `create_revision` it fences what a leader writes."""
        return self._leading().key

    @property
    def create_revision(self) -> int:
        return self._leading().create_revision

    fencing_token = create_revision

    @property
    def guard(self) -> Compare:
        """A compare for the leader's transactions: true while this very lead lasts."""
        return self._leading().guard

    @property
    def session(self) -> Session:
        """The lease we lead on, for its callbacks. It is another one after the next campaign."""
        return self._leading().session

    @property
    def cluster_id(self) -> int:
        return self._client.cluster_id()

    def proclaim(self, value: str) -> None:
        """Tell the audience something new. Raises NotHolder if we do not lead any more."""
        place = self._leading()
        record = msgspec.json.encode(Contender.ours("election", self.name, value))
        answer = self._client.txn((place.guard,), (put_op(place.key, record, place.session.lease_id),))
        if not answer.succeeded:
            raise NotHolder(f"not the leader of {self.name!r} any more")

    def leader(self) -> Seat | None:
        """Who leads now, by the store; None if nobody does."""
        return self._look()[1]

    def observe(self) -> Iterator[Seat | None]:
        """Who leads: now, and again whenever it, or what it proclaims, changes. May skip some in between."""
        revision, seat = self._look()
        while True:
            yield seat
            before = seat
            with Watch(self._client, f"{self._root}/", start_revision=revision + 1) as watch:
                while seat == before:
                    try:
                        watch.poll(60.0)
                    except Compacted:
                        break
                    revision, seat = self._look()

    def _look(self) -> tuple[int, Seat | None]:
        oldest = wire.RangeRequest(
            key=f"{self._root}/".encode(),
            range_end=prefix_end(f"{self._root}/"),
            sort_target="CREATE",
            sort_order="ASCEND",
            limit=int64(1),
        )
        answer = self._client.range_request(oldest)
        return answer.revision, Seat.read(answer.kvs[0]) if answer.kvs else None

    def _leading(self) -> Place:
        place = self._elected
        if place is None or self._pid != os.getpid():
            raise NotHolder(f"not the leader of {self.name!r}")
        return place

    def _after_fork(self) -> None:
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._campaigning = Mutex()
            self._standing = self._elected = None
