"""Every run of every job: what is on its way, how the others ended, and why.

Place in the house   the pages, the REST API and the CLI -> occurrences -> reading, records
Gives                frozen values; their JSON is the API's body
Never                changes anything, or reads the whole history to show a page of it

What is on its way comes first, then what ended, newest first. The order of the ended is the revision that
wrote the verdict, then the key: several verdicts may share a revision, and none may fall between two pages.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import msgspec

from jobguard.observe.reading import BadCursor, NotFound, Page, opaque, read, run_id, transparent, under
from jobguard.observe.refusals import Refusal, latest_refusals, told_no
from jobguard.records import Active, Attempt, Done, Keys, Occurrence, Open, Verdict, decode, moment
from jobguard.wire import KeyValue, RangeRequest, int64

if TYPE_CHECKING:
    from jobguard.client import Client

UNENDED = ("running", "lapsed", "retrying", "waiting")
VERDICTS = (*UNENDED, *(str(verdict) for verdict in Verdict))
SCANNED_MAX = 2000  # verdicts read to fill one filtered page; its cursor goes on from there


class Try(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt: who claimed it, with which token, and what became of it."""

    attempt: int
    retry: int = 0
    host: str
    pid: int
    worker: str = ""
    task_id: str = ""
    fencing_token: int
    started_at: datetime
    ended_at: datetime | None = None
    outcome: str = ""
    error: str = ""

    @property
    def where(self) -> str:
        return f"{self.host} pid {self.pid}"


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """An occurrence of a job. `verdict` is how it ended, or where it stands while it has not.

    `attempts` counts dispatches; `why` is the sentence for people.
    """

    id: str
    job: str
    nominal_time: datetime
    verdict: str
    ended: bool
    why: str
    reason: str = ""
    task: str = ""
    trigger: str = "schedule"
    attempts: int = 0
    retries: int = 0
    lost: int = 0
    host: str = ""
    pid: int = 0
    worker: str = ""
    fencing_token: int | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    duration_seconds: float | None = None
    error: str = ""
    count: int = 1
    lock_id: str | None = None
    history: list[Try] | msgspec.UnsetType = msgspec.UNSET
    refusals: list[Refusal] | msgspec.UnsetType = msgspec.UNSET

    @property
    def where(self) -> str:
        return f"{self.host} pid {self.pid}" if self.host else ""


# --- asking -------------------------------------------------------------------------------------


def runs(
    client: "Client",
    *,
    job: str | None = None,
    verdict: str | None = None,
    limit: int = 50,
    cursor: str | None = None,
    stale: bool = False,
) -> Page[Run]:
    """A page of runs: those on their way, all on the first page, then the ended, newest first."""
    keys = Keys(client.namespace)
    position = read_cursor(cursor)
    going, revision = ([], 0) if position else unended(client, keys, job, stale)
    wanted = [run for run in going if verdict in (None, run.verdict)]
    if verdict in UNENDED:
        return Page(items=wanted, revision=revision, stale=stale)
    history = History(client, keys, job, stale)
    ended, following = history.page(limit, position, verdict)
    return Page(
        items=[*wanted, *ended],
        next_cursor=following and opaque(f"{following[0]} {following[1].decode()}"),
        revision=revision or history.revision,
        stale=stale,
    )


def run(client: "Client", id: str, *, stale: bool = False) -> Run:
    """One run with all its attempts, and the deliveries of it that were told no lately.

    Raises NotFound for one never planned, or trimmed long ago.
    """
    keys = Keys(client.namespace)
    occurrence = occurrence_of(id)
    key_of = (keys.open, keys.running, keys.active, keys.done)
    asked = [
        *(RangeRequest(key=of(occurrence)) for of in key_of),
        under(keys.attempts(occurrence)),
        latest_refusals(keys),
    ]
    *found, tries, refused = read(client, asked, stale=stale).ranges
    known = [*open_runs(keys, found[0], found[1], found[2]), *(ended_run(keys, kv) for kv in found[3])]
    if not known:
        raise NotFound(f"no run of {occurrence.job} is known for {occurrence.stamp}")
    return msgspec.structs.replace(
        known[0],
        history=[read_try(kv) for kv in tries],
        refusals=[each for each in told_no(refused) if each.run_id == known[0].id],
    )


def occurrence_of(id: str) -> Occurrence:
    try:
        stamp, _, job = transparent(id).partition(" ")
        return Occurrence(job, moment(stamp))
    except ValueError:
        raise NotFound("there is no run with this id") from None


# --- on their way -------------------------------------------------------------------------------


def open_ranges(keys: Keys, job: str | None = None) -> tuple[RangeRequest, RangeRequest, RangeRequest]:
    names = (job,) if job else ()
    open_, running, active = (under(keys.prefix(kind, *names)) for kind in ("open", "running", "active"))
    return open_, running, active


def unended(client: "Client", keys: Keys, job: str | None, stale: bool) -> tuple[list[Run], int]:
    snapshot = read(client, open_ranges(keys, job), stale=stale)
    return open_runs(keys, *snapshot.ranges), snapshot.revision


def open_runs(
    keys: Keys, opened: Iterable[KeyValue], running: Iterable[KeyValue], active: Iterable[KeyValue]
) -> list[Run]:
    """What is on its way, the latest nominal time first."""
    started = {keys.occurrence(kv.key): decode(kv.value, Active) for kv in running}
    held = {keys.occurrence(kv.key): kv for kv in active}
    records = (decode(kv.value, Open) for kv in opened)
    found = [
        open_run(keys, each, held.get(each.occurrence), started.get(each.occurrence)) for each in records
    ]
    return sorted(found, key=lambda run: (run.nominal_time, run.job), reverse=True)


def open_run(keys: Keys, record: Open, held: KeyValue | None, started: Active | None) -> Run:
    holder = decode(held.value, Active) if held else started
    verdict, why = standing(record, held is not None, holder)
    return Run(
        id=run_id(record.occurrence),
        job=record.job,
        nominal_time=record.nominal,
        verdict=verdict,
        ended=False,
        why=why,
        task=record.task,
        trigger=record.trigger,
        attempts=record.n,
        retries=record.r,
        lost=record.lost,
        host=holder.host if holder else "",
        pid=holder.pid if holder else 0,
        worker=holder.worker if holder else "",
        fencing_token=int(held.create_revision) if held else None,
        started_at=holder.since if holder else None,
        lock_id=opaque(held.key.removeprefix(keys.key() + b"/").decode()) if held else None,
    )


def standing(record: Open, held: bool, holder: Active | None) -> tuple[str, str]:
    """Where an open occurrence stands, as a word and as a sentence."""
    attempt = f"attempt {record.n}" + (f", retry {record.r}" if record.r else "")
    if held and holder:
        return "running", f"{who(holder)} runs {attempt} since {clock(holder.since)}."
    if record.retry_at:
        return "retrying", f"The task asked for a retry; {attempt} is due at {clock(record.retry_at)}."
    if holder and (record.n, record.r) == (holder.n, holder.r):
        return (
            "lapsed",
            f"{who(holder)} lost its claim on {attempt}; the leading beat decides.",
        )
    if record.published:
        return "waiting", f"Published as {attempt} and not yet started by any worker."
    again = f" after {record.lost} lost" if record.lost else ""
    tries = "the leading beat publishes it, and tries again until its deadline."
    return "waiting", f"Planned as {attempt}{again}; {tries}"


# --- ended --------------------------------------------------------------------------------------


Position = tuple[int, bytes]  # a verdict's revision and key: where a page ended


class History:
    """The ended runs, read backwards in pieces."""

    def __init__(self, client: "Client", keys: Keys, job: str | None, stale: bool) -> None:
        self.client, self.keys, self.stale = client, keys, stale
        self.range = under(keys.prefix("done", *((job,) if job else ())))
        self.revision = 0

    def page(
        self, limit: int, position: Position | None, verdict: str | None
    ) -> tuple[list[Run], Position | None]:
        """Up to `limit` runs after `position`, and where the next page begins."""
        found: list[Run] = []
        size = limit + 1 if verdict is None else max(limit + 1, SCANNED_MAX // 4)
        for _ in range(4):
            piece, last = self.piece(size, position)
            for kv in piece:
                position = (int(kv.mod_revision), kv.key)
                run = ended_run(self.keys, kv)
                if verdict in (None, run.verdict):
                    found.append(run)
                if len(found) == limit:
                    return found, None if last and kv is piece[-1] else position
            if last:
                return found, None
        return found, position

    def piece(self, size: int, position: Position | None) -> tuple[list[KeyValue], bool]:
        """At least one and about `size` verdicts after `position`, and whether they are the last.

        Verdicts that share a revision come in no order the store promises, and a limit may cut through
        them: those at the edge are asked for again, all of them, and put in the order of their keys.
        """
        beside: Sequence[KeyValue] = ()
        if position:
            beside = [kv for kv in self.ask(position[0], position[0]) if kv.key > position[1]]
        older = list(self.ask(0, position[0] - 1 if position else 0, size))
        last = len(older) < size
        if not last:
            edge = older[-1].mod_revision
            older = [kv for kv in older if kv.mod_revision != edge] + list(self.ask(edge, edge))
        return sorted((*beside, *older), key=lambda kv: (-kv.mod_revision, kv.key)), last

    def ask(self, oldest: int, newest: int, limit: int = 0) -> tuple[KeyValue, ...]:
        """The newest verdicts written within two revisions; 0 for no bound."""
        asked = msgspec.structs.replace(
            self.range,
            limit=int64(limit),
            sort_target="MOD",
            sort_order="DESCEND",
            min_mod_revision=int64(oldest),
            max_mod_revision=int64(newest),
        )
        snapshot = read(self.client, [asked], stale=self.stale)
        self.revision = self.revision or snapshot.revision
        return snapshot.ranges[0]


def read_cursor(cursor: str | None) -> Position | None:
    if cursor is None:
        return None
    try:
        revision, _, key = transparent(cursor).partition(" ")
        return int(revision), key.encode()
    except ValueError:
        raise BadCursor("this cursor was not given out by this server") from None


def ended_run(keys: Keys, kv: KeyValue) -> Run:
    done = decode(kv.value, Done)
    duration = (done.finished - done.started).total_seconds() if done.started else None
    return Run(
        id=run_id(done.occurrence),
        job=done.job,
        nominal_time=done.nominal,
        verdict=str(done.verdict),
        ended=True,
        why=ending(done),
        reason=done.reason,
        task=done.task,
        trigger=done.trigger,
        attempts=done.n,
        retries=done.r,
        lost=done.lost,
        host=done.host,
        pid=done.pid,
        worker=done.worker,
        fencing_token=done.token or None,
        started_at=done.started,
        finished_at=done.finished,
        duration_seconds=duration,
        error=done.error,
        count=done.count,
    )


def ending(done: Done) -> str:
    """The verdict as a sentence."""
    at = f" on {done.worker or done.host} pid {done.pid}" if done.host else ""
    because = f": {done.reason}" if done.reason else ""
    lost = f", after {times(done.lost)} lost with its worker" if done.lost else ""
    match done.verdict:
        case Verdict.RAN:
            return f"Ran{at} as attempt {done.n}{lost}{because}."
        case Verdict.FAILED:
            return (
                f"Failed{at} as attempt {done.n}{lost}: {done.error or done.reason or 'no error recorded'}."
            )
        case Verdict.SKIPPED:
            return f"Not started{because or ': another occurrence of the job was running'}."
        case Verdict.MISSED:
            many = f" {done.count} occurrences" if done.count > 1 else ""
            return f"Missed{many}{because or ': no beat led when it was due'}."
        case Verdict.LATE:
            return f"Not started{because or ': nobody could start it before its deadline'}."
        case Verdict.EXPIRED:
            return f"Not started{because or ': its message expired or was revoked'}."
        case Verdict.LOST:
            return f"Lost with its worker{at}{because or ', and its policy allows no (further) rerun'}."
        case Verdict.RELEASED:
            return f"Taken from its holder{at} by an operator{because}."
        case Verdict.UNCLAIMED:
            return f"Published, and never claimed{because or ': an unguarded worker may have run it'}."
        case Verdict.UNRECORDED:
            return f"The body finished{at}, but its claim was gone by then{because}."


def who(holder: Active) -> str:
    """A process by its worker's node name, which tells more than the host, where it is known."""
    return f"{holder.worker or holder.host} pid {holder.pid}"


def times(count: int) -> str:
    return "one attempt was" if count == 1 else f"{count} attempts were"


def clock(moment: datetime) -> str:
    return f"{moment:%H:%M:%S} UTC"


def read_try(kv: KeyValue) -> Try:
    record = decode(kv.value, Attempt)
    return Try(
        attempt=record.n,
        retry=record.r,
        host=record.host,
        pid=record.pid,
        worker=record.worker,
        task_id=record.task_id,
        fencing_token=int(kv.create_revision),  # the claim wrote it beside active/…
        started_at=record.since,
        ended_at=record.ended,
        outcome=record.outcome,
        error=record.error,
    )
