"""Who holds what: locks and running jobs with their waiters, and the leaders of elections.

Place in the house   the pages, the REST API and the CLI -> holders -> reading, records
Gives                frozen values; their JSON is the API's body
Never                changes anything

Whoever came first holds: of the keys under one name, the one with the smallest create_revision, which is
also its fencing token; of a task's `limit` as many as it says, each a lock of its own. A running job is a
lock too, on its occurrence, and is listed among them.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Literal, TypeVar

import msgspec

from jobguard.observe.reading import NotFound, Page, cut, opaque, read, run_id, transparent, under
from jobguard.place import Contender
from jobguard.records import Active, Keys, decode
from jobguard.wire import KeyValue, RangeRequest

if TYPE_CHECKING:
    from jobguard.client import Client

Liveness = Literal["alive", "suspect", "gone", "unknown"]


class Holder(msgspec.Struct, frozen=True, kw_only=True):
    """A process that holds a key, or waits for its turn."""

    host: str
    pid: int
    since: datetime | None = None
    worker: str = ""
    lease_id: str = ""
    fencing_token: int

    @property
    def where(self) -> str:
        return f"{self.host} pid {self.pid}" if self.host else "an unknown process"


class Held(Holder, frozen=True, kw_only=True):
    """A holder whose lease was asked for; without a leader nobody can tell its time."""

    ttl_seconds: int | None = None
    seconds_left: int | None = None

    @property
    def liveness(self) -> Liveness:
        """A holder renews at a third of its TTL: below the last third it has missed two renewals."""
        if self.seconds_left is None or self.ttl_seconds is None:
            return "unknown"
        if self.seconds_left < 0:
            return "gone"
        return "alive" if 3 * self.seconds_left >= self.ttl_seconds else "suspect"


class Lock(Held, frozen=True, kw_only=True):
    """What is held, by whom, and who waits for it. `revision` is what a release must name."""

    id: str
    name: str
    kind: Literal["lock", "run"]
    revision: int
    waiters: int = 0
    waiting: list[Holder] = []
    nominal_time: datetime | None = None
    attempt: int | None = None
    run_id: str | None = None


class Leader(Held, frozen=True, kw_only=True):
    """Who leads an election, since when, and who stands by."""

    election: str
    value: str = ""
    candidates: int = 0
    standing_by: list[Holder] = []


H = TypeVar("H", bound=Held)


# --- asking -------------------------------------------------------------------------------------


def locks(
    client: "Client",
    *,
    name: str | None = None,
    containing: str | None = None,
    limit: int = 100,
    cursor: str | None = None,
    stale: bool = False,
) -> Page[Lock]:
    """What is held now, ordered by name. `name` matches exactly, `containing` a part of it."""
    keys = Keys(client.namespace)
    snapshot = read(client, [under(keys.prefix("locks")), under(keys.prefix("active"))], stale=stale)
    found = [
        lock
        for lock in held_locks(keys, *snapshot.ranges)
        if name in (None, lock.name) and (containing or "").casefold() in lock.name.casefold()
    ]
    shown, next_cursor = cut(found, [order(lock) for lock in found], limit, cursor)
    return Page(
        items=with_leases(client, shown, stale),
        next_cursor=next_cursor,
        revision=snapshot.revision,
        stale=stale,
    )


def lock(client: "Client", id: str, *, stale: bool = False) -> Lock:
    """One lock by its id. Raises NotFound when nobody holds it."""
    keys = Keys(client.namespace)
    line, key = line_key(keys, id), lock_key(keys, id)
    snapshot = read(client, [under(line + b"/"), RangeRequest(key=key)], stale=stale)
    contended, exact = snapshot.ranges
    found = [lock for lock in held_locks(keys, contended, exact if key == line else ()) if lock.id == id]
    if not found:
        raise NotFound("nobody holds this lock now: it was released, or its lease has ended")
    return with_leases(client, found, stale)[0]


def leaders(client: "Client", *, stale: bool = False) -> Page[Leader]:
    """The leader of every election, and those who stand by."""
    keys = Keys(client.namespace)
    snapshot = read(client, [under(keys.prefix("elections"))], stale=stale)
    found = election_leaders(keys, snapshot.ranges[0])
    return Page(items=with_leases(client, found, stale), revision=snapshot.revision, stale=stale)


# --- reading what came back ---------------------------------------------------------------------


def lock_id(keys: Keys, key: bytes) -> str:
    return opaque(key.removeprefix(keys.key() + b"/").decode())


def lock_key(keys: Keys, id: str) -> bytes:
    """`locks/<name>`, a holder's key under it, or `active/<job>/<nominal>`. Raises NotFound for other ids."""
    try:
        key = keys.key() + b"/" + transparent(id).encode()
        match keys.parts(key):
            case ("locks", _) | ("locks", _, _, _) | ("active", _, _):
                return key
    except ValueError:
        pass
    raise NotFound("there is no lock with this id")


def line_key(keys: Keys, id: str) -> bytes:
    """Under which key those stand who hold this lock or wait for it; a run's own key, where nobody waits."""
    key = lock_key(keys, id)
    return key.rsplit(b"/", 2)[0] if len(keys.parts(key)) == 4 else key


def held_locks(keys: Keys, contended: Iterable[KeyValue], active: Iterable[KeyValue]) -> list[Lock]:
    """What is held, by the keys under locks/ and active/, in the order of `order`."""
    queues = contenders_by_key(contended).items()
    named = [lock for key, queue in queues for lock in named_locks(keys, key, queue)]
    return sorted((*named, *(running_job(keys, kv) for kv in active)), key=order)


def order(lock: Lock) -> str:
    return f"{lock.name}\0{lock.id}"


def named_locks(keys: Keys, key: bytes, queue: Sequence[KeyValue]) -> list[Lock]:
    """One for each who holds. Where several do, each is known by its own key."""
    most = max(contender(queue[0]).most, 1)
    waiting = [holder(kv) for kv in queue[most:]]
    return [
        Lock(
            **msgspec.structs.asdict(held),
            id=lock_id(keys, key if most == 1 else kv.key),
            name=keys.parts(key)[1],
            kind="lock",
            revision=held.fencing_token,
            waiters=len(waiting),
            waiting=waiting,
        )
        for kv, held in ((kv, holder(kv)) for kv in queue[:most])
    ]


def running_job(keys: Keys, kv: KeyValue) -> Lock:
    record, occurrence = decode(kv.value, Active), keys.occurrence(kv.key)
    return Lock(
        id=lock_id(keys, kv.key),
        name=occurrence.job,
        kind="run",
        host=record.host,
        pid=record.pid,
        since=record.since,
        worker=record.worker,
        lease_id=f"{kv.lease:x}",
        fencing_token=int(kv.create_revision),
        revision=int(kv.create_revision),
        nominal_time=occurrence.nominal,
        attempt=record.n,
        run_id=run_id(occurrence),
    )


def election_leaders(keys: Keys, kvs: Iterable[KeyValue]) -> list[Leader]:
    return [leader(keys.parts(key)[1], queue) for key, queue in sorted(contenders_by_key(kvs).items())]


def leader(election: str, queue: Sequence[KeyValue]) -> Leader:
    first, *others = (holder(kv) for kv in queue)
    return Leader(
        **msgspec.structs.asdict(first),
        election=election,
        value=contender(queue[0]).value,
        candidates=len(queue),
        standing_by=others,
    )


def contenders_by_key(kvs: Iterable[KeyValue]) -> dict[bytes, list[KeyValue]]:
    """The queue under each `<name>` of keys `<name>/<lease>/<nonce>`, the holder first."""
    queues: dict[bytes, list[KeyValue]] = {}
    for kv in sorted(kvs, key=lambda kv: kv.create_revision):
        queues.setdefault(kv.key.rsplit(b"/", 2)[0], []).append(kv)
    return queues


def holder(kv: KeyValue) -> Holder:
    found = contender(kv)
    return Holder(
        host=found.host,
        pid=found.pid,
        since=datetime.fromisoformat(found.since) if found.since else None,
        worker=found.worker,
        lease_id=f"{kv.lease:x}",
        fencing_token=int(kv.create_revision),
    )


def contender(kv: KeyValue) -> Contender:
    """Who wrote the key; an unreadable value still holds the lock, so it is shown as of nobody known."""
    try:
        return decode(kv.value, Contender)
    except msgspec.DecodeError:
        return Contender()


def with_leases(client: "Client", held: Sequence[H], stale: bool) -> list[H]:
    """Each with the time its lease has left. Only a leader can tell, so not in a stale reading."""
    if stale:
        return list(held)
    leases = {each.lease_id: None for each in held}
    clocks = {id: client.time_to_live(int(id, 16)) for id in leases if int(id, 16)}
    return [
        msgspec.structs.replace(each, ttl_seconds=int(clock.grantedTTL), seconds_left=int(clock.TTL))
        if (clock := clocks.get(each.lease_id))
        else each
        for each in held
    ]
