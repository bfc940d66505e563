"""What the plugin keeps in the store: the keys, and the records under them.

Place in the house   runs, jobguard.celery, the CLI and the pages read and write these
Takes                names and times; bytes from the store
Gives                keys; frozen records; bytes for the store
Never                decides anything, reads a clock, or opens anything

Keys and records are formats for ever: a record names its version first ("v":1), and a field is only ever
added, with a default. Names are percent-encoded, so a job may be called anything, and times are UTC.
"""

import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from typing import Any, TypeVar
from urllib.parse import unquote

import msgspec

from jobguard import ops

R = TypeVar("R", bound=msgspec.Struct)

HEADER = "jobguard"  # the one message header of ours; celery merges headers flat, next to its own
_TASK_IDS = uuid.UUID("6ba6d1f5-6d9f-5b0e-9a4f-0f2b5d8f4c11")


@dataclass(frozen=True, slots=True, order=True)
class Occurrence:
    """One planned start of a job. Its identity is when it should have happened, never when it did."""

    job: str
    nominal: datetime

    @property
    def stamp(self) -> str:
        return stamp(self.nominal)


@lru_cache(maxsize=256)  # keys ask for the same one again and again
def stamp(moment: datetime) -> str:
    """UTC in fixed width; microseconds only for the intervals below a second that need them."""
    return f"{moment.astimezone(UTC).replace(tzinfo=None).isoformat()}Z"


def moment(text: str) -> datetime:
    """The time a stamp names. Raises ValueError for anything else."""
    found = datetime.fromisoformat(text)
    if stamp(found) != text:
        raise ValueError(f"{text!r} is not a time as jobguard writes it")
    return found


def task_id(namespace: str, occurrence: Occurrence, n: int) -> str:
    """The Celery id of dispatch n: the same from every beat, another for every n.

    A new n needs a new id because workers remember revoked ids: one revoke must not drop the rerun too.
    """
    return str(uuid.uuid5(_TASK_IDS, "\n".join((namespace, occurrence.job, occurrence.stamp, str(n)))))


# --- keys ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Keys:
    """The plugin's keyspace in one namespace."""

    namespace: str = "default"

    def key(self, *parts: str) -> bytes:
        return ops.key(self.namespace, *parts).encode()

    def prefix(self, *parts: str) -> bytes:
        return self.key(*parts) + b"/"

    def schedule(self, job: str) -> bytes:
        return self.key("schedules", job)

    def control(self, job: str) -> bytes:
        return self.key("controls", job)

    def deploy(self) -> bytes:
        return self.key("deploy")

    def cursor(self, job: str) -> bytes:
        return self.key("cursors", job)

    def open(self, occurrence: Occurrence) -> bytes:
        return self.key("open", occurrence.job, occurrence.stamp)

    def running(self, occurrence: Occurrence) -> bytes:
        return self.key("running", occurrence.job, occurrence.stamp)

    def active(self, occurrence: Occurrence) -> bytes:
        return self.key("active", occurrence.job, occurrence.stamp)

    def done(self, occurrence: Occurrence) -> bytes:
        return self.key("done", occurrence.job, occurrence.stamp)

    def attempt(self, occurrence: Occurrence, n: int, r: int = 0) -> bytes:
        """`…/<n>` for a dispatch, `…/<n>.<r>` for its r-th retry."""
        return self.key("attempts", occurrence.job, occurrence.stamp, f"{n}.{r}" if r else str(n))

    def attempts(self, occurrence: Occurrence) -> bytes:
        return self.prefix("attempts", occurrence.job, occurrence.stamp)

    def child(self, lease: int, child: str) -> bytes:
        return self.key("children", f"{lease:x}", child)

    def children(self, lease: int) -> bytes:
        return self.prefix("children", f"{lease:x}")

    def worker(self, nodename: str) -> bytes:
        return self.key("workers", nodename)

    def refusal(self, nodename: str, slot: int) -> bytes:
        return self.key("refusals", nodename, str(slot))

    def line(self, name: str) -> bytes:
        """The prefix of those who have a key or wait for it, in a task's lock as in any other."""
        return self.prefix("locks", name)

    def turn(self, name: str, lease: int, nonce: str) -> bytes:
        return self.key("locks", name, f"{lease:x}", nonce)

    def completed(self, name: str) -> bytes:
        return self.key("completed", name)

    def audit(self, at: datetime, nonce: str) -> bytes:
        return self.key("audit", f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%fZ}-{nonce}")

    def parts(self, key: bytes) -> tuple[str, ...]:
        """The decoded parts of one of our keys, without the namespace: ("open", job, stamp)."""
        root = self.key().decode() + "/"
        text = key.decode()
        if not text.startswith(root):
            raise ValueError(f"{text} is not in namespace {self.namespace}")
        return tuple(unquote(part) for part in text[len(root) :].split("/"))

    def occurrence(self, key: bytes) -> Occurrence:
        """Whose key this is, for open, running, active, done and attempts."""
        _, job, nominal, *_ = self.parts(key)
        return Occurrence(job, moment(nominal))

    def attempt_of(self, key: bytes) -> tuple[int, int]:
        """(n, r) of a key under attempts."""
        n, _, r = self.parts(key)[3].partition(".")
        return int(n), int(r or 0)


# --- records ------------------------------------------------------------------------------------

CODE, RUN_TIME = "code", "run time"
"""Where a schedule comes from."""


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="v", tag=1):
    """A value under one of our keys: JSON that begins with "v":1."""


class Header(Record, frozen=True, kw_only=True):
    """What a message carries under the header `jobguard`: which attempt of which occurrence it is."""

    job: str
    nominal: str
    n: int
    ns: str = "default"
    overlap: str = "skip"  # skip: end as skipped; wait: stay open, sent again later; allow

    @property
    def occurrence(self) -> Occurrence:
        return Occurrence(self.job, moment(self.nominal))


class Schedule(Record, frozen=True, kw_only=True):
    """schedules/<job>: the definition in force."""

    job: str
    task: str
    text: str  # for people: "30 2 * * * Europe/Berlin", "every 5 s"
    fingerprint: str  # equal fingerprints give equal nominal times
    version: int = 0  # of the code that installed it
    zone: str = "UTC"
    since: datetime  # nothing is owed for the time before
    policy: dict[str, Any] = {}
    source: str = CODE
    by: str = ""  # who made or changed it last: an operator; of the code's, the beat's host
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    options: dict[str, Any] = {}
    portable: bool = False  # whether these three are all that a message of it needs

    @property
    def made(self) -> bool:
        """Whether it was made at run time, so that no deploy changes or removes it."""
        return self.source == RUN_TIME

    def says_the_same(self, other: "Schedule") -> bool:
        """Whether only who installed it differs."""
        return msgspec.structs.replace(self, version=other.version, by=other.by) == other


class Deploy(Record, frozen=True, kw_only=True):
    """deploy: whose schedule is in force, of all the beats that ever led."""

    version: int = 0
    registered: datetime  # when the beat that brought it started; decides where no version does
    by: str = ""
    over: int = 0  # an operator rolled back from this version: it stays out, and what is between

    def is_of(self, version: int, registered: datetime) -> bool:
        """Equal versions are equal code."""
        return version == self.version and (version > 0 or registered == self.registered)

    def gives_way_to(self, version: int, registered: datetime) -> bool:
        """Whether other code, of that version and started then, may install its schedule."""
        if version == self.version:
            return registered > self.registered
        return version > max(self.version, self.over)


class Control(Record, frozen=True, kw_only=True):
    """controls/<job>: an operator's word, which no deploy touches."""

    paused: bool = False
    by: str = ""
    why: str = ""
    until: datetime | None = None

    def pauses(self, nominal: datetime) -> bool:
        """Whether an occurrence that is due then must not start."""
        return self.paused and (self.until is None or nominal < self.until)


class Cursor(Record, frozen=True, kw_only=True):
    """cursors/<job>: every occurrence up to here is planned or settled. Never trimmed."""

    nominal: datetime
    nonce: str  # of the transaction that wrote it, so its sender can recognise it after a lost answer


class Open(Record, frozen=True, kw_only=True):
    """open/<job>/<nominal>: an occurrence on its way.

    v, n, r stay the first three fields: a claim compares the value's first bytes with its own (n, r), in one
    round trip, whatever the leader has noted behind them meanwhile.
    """

    n: int  # dispatches so far
    r: int  # Celery's request.retries within dispatch n
    job: str
    nominal: datetime
    task: str
    trigger: str = "schedule"  # schedule, catch-up, manual, backfill
    overlap: str = "skip"  # as in Header
    reruns: int = 0  # how many lost attempts may be dispatched again
    lost: int = 0  # lost attempts so far
    deadline: datetime | None = None  # the first start must come before
    not_before: datetime | None = None  # the leader publishes n no earlier: the brake after a loss
    retry_at: datetime | None = None  # when retry r is due; set by the attempt before it
    published: int = 0  # how often n was published, and when last; 0: an intent, perhaps sent
    published_at: datetime | None = None
    planner: str = ""  # nonce of the leader that wrote n

    @property
    def occurrence(self) -> Occurrence:
        return Occurrence(self.job, self.nominal)

    @property
    def claimed(self) -> bool:
        """Whether some attempt has run already, so that this one is a rerun or a retry."""
        return self.n > 1 or self.r > 0


class Active(Record, frozen=True, kw_only=True):
    """active/… on the worker's lease, its create_revision is the fencing token; running/… without a lease."""

    n: int
    r: int
    host: str
    pid: int
    nonce: str  # of this delivery
    since: datetime
    worker: str = ""  # Celery's node name
    child: str = ""  # incarnation under children/<lease>/
    task_id: str = ""

    @property
    def holder(self) -> str:
        return f"{self.host} pid {self.pid}"


class Attempt(Active, frozen=True, kw_only=True):
    """attempts/…: who claimed (n, r). Without a lease, so *never started* and *lost* differ."""

    outcome: str = ""  # lost, retry, released; empty: still active, or told by done
    ended: datetime | None = None
    error: str = ""

    def as_active(self) -> Active:
        """What it writes under active/ and running/ while it runs."""
        return Active(**{name: getattr(self, name) for name in Active.__struct_fields__})


class Verdict(StrEnum):
    """How an occurrence ended. Every planned one gets exactly one of these."""

    RAN = "ran"
    FAILED = "failed"
    SKIPPED = "skipped"  # another occurrence of the job was running, or the job was paused
    MISSED = "missed"  # no beat led when it was due, and catch_up says no
    LATE = "late"  # nobody could start it before its deadline
    EXPIRED = "expired"  # its message expired, or was revoked, before a worker started it
    LOST = "lost"  # its worker died and on_lost says no (more)
    RELEASED = "released"  # by an operator
    UNCLAIMED = "unclaimed"  # published, but an unguarded worker may have taken it
    UNRECORDED = "unrecorded"  # the body finished, but its claim was gone by then


class Done(Record, frozen=True, kw_only=True):
    """done/<job>/<nominal>: the verdict."""

    job: str
    nominal: datetime
    verdict: Verdict
    nonce: str  # of who wrote it
    finished: datetime
    reason: str = ""
    task: str = ""
    trigger: str = "schedule"
    n: int = 0
    r: int = 0
    lost: int = 0
    token: int = 0
    host: str = ""
    pid: int = 0
    worker: str = ""
    started: datetime | None = None
    error: str = ""
    result: str | None = None  # the JSON of the return value, where a redelivery may need it
    count: int = 1  # a missed record may stand for many, up to `until`
    until: datetime | None = None

    @property
    def occurrence(self) -> Occurrence:
        return Occurrence(self.job, self.nominal)


class Turn(Record, frozen=True, kw_only=True):
    """locks/<name>/<lease>/<nonce>, on the worker's lease: a call that has its task's key, or waits for it.

    The first `most` in line have it; the create_revision is the fencing token. Others who look at locks read
    it as a place.Contender, so what both name is the same.
    """

    name: str
    host: str
    pid: int
    nonce: str
    since: datetime
    worker: str = ""
    task_id: str = ""
    r: int = 0  # Celery's request.retries
    most: int = 1

    @property
    def holder(self) -> str:
        return f"{self.host} pid {self.pid}"


class Completed(Record, frozen=True, kw_only=True):
    """completed/<name>, on a lease that outlives `until`: a call returned, and none starts before then."""

    name: str
    host: str
    pid: int
    nonce: str  # of the turn it was
    finished: datetime
    until: datetime
    task_id: str = ""
    result: str | None = None  # as in Done


class Worker(Record, frozen=True, kw_only=True):
    """workers/<node name>, on the worker's lease: this worker guards its tasks."""

    worker: str  # Celery's node name, as `ping` answers it
    host: str
    pid: int
    since: datetime
    version: str = ""
    pool: str = ""
    concurrency: int = 0
    turns: bool = False  # whether a task with a `jobguard` option gets its turn there


class ToldNo(Record, frozen=True, kw_only=True):
    """refusals/<node name>/<slot>, on that worker's lease: a delivery it dropped. The slots are a ring."""

    job: str
    nominal: datetime
    n: int
    r: int = 0
    task_id: str = ""
    reason: str  # a claims.Refusal
    text: str  # the reason, for people
    at: datetime
    worker: str  # who was told no
    host: str
    pid: int
    token: int = 0  # of who holds it, or has completed it; 0: nobody, and the next three are empty
    holder_host: str = ""
    holder_pid: int = 0
    holder_worker: str = ""

    @property
    def occurrence(self) -> Occurrence:
        return Occurrence(self.job, self.nominal)


class Audit(Record, frozen=True, kw_only=True):
    """audit/<time>-<nonce>: what an operator changed, written in the same transaction."""

    at: datetime
    by: str
    action: str
    target: str
    reason: str
    via: str = ""
    before: str = ""
    after: str = ""


def encode(record: Record) -> bytes:
    return msgspec.json.encode(record)


def decode(value: bytes, kind: type[R]) -> R:
    """Raises msgspec.ValidationError for a version this code does not know, DecodeError for no record."""
    try:
        return msgspec.json.decode(value, type=kind)
    except (RecursionError, UnicodeDecodeError) as error:
        raise msgspec.DecodeError(str(error)) from None


def header(namespace: str, occurrence: Occurrence, n: int, overlap: str = "skip") -> dict[str, Any]:
    """The value of the message header `jobguard`, as plain as every broker and serializer can carry."""
    built: dict[str, Any] = msgspec.to_builtins(
        Header(job=occurrence.job, nominal=occurrence.stamp, n=n, ns=namespace, overlap=overlap)
    )
    return built


def read_header(value: object) -> Header | None:
    """The header of a delivery; None for a message that is not ours or is from a version we do not know."""
    try:
        read = msgspec.convert(value, Header)
        read.occurrence  # noqa: B018 - a stamp that names no time makes it none of ours
    except (msgspec.ValidationError, ValueError):
        return None
    return read
