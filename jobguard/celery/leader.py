"""One term as the leading beat: what is due is planned in the store, and only then published.

Place in the house   beat -> here -> entries, planning, client
Takes                the fence of an election that was won, the jobs, a way to publish
Gives                occurrences, planned once each and handed to the broker
Never                publishes what is not planned, or plans what its fence no longer covers

The order is the argument: plan (one transaction: cursor and open), publish, note that it was published. A
leader that dies after the first leaves an occurrence that its successor finds; after the second, one that may
be out twice, which the claim makes harmless.
"""

import heapq
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import Enum, auto
from typing import TypeVar

from celery.utils.log import get_logger

from jobguard import planning
from jobguard.celery.entries import Job, changed, ended, occurrence_text
from jobguard.client import Client
from jobguard.errors import OutcomeUnknown, Unavailable
from jobguard.ops import get_op
from jobguard.records import Control, Cursor, Done, Keys, Open, Schedule, Verdict
from jobguard.schedule import Due, due
from jobguard.steps import Deposed, Fence, Seen, Transaction, Written, first, see, seen
from jobguard.wire import KeyValue

logger = get_logger("jobguard.beat")

T = TypeVar("T")

AFTER_FAILURE = timedelta(seconds=30)
_WITHOUT_BROKER = timedelta(seconds=5)
_LONG_AGO = datetime.min.replace(tzinfo=UTC)


class Sent(Enum):
    YES = auto()
    NO = auto()  # not even tried: there is no connection to the broker
    MAYBE = auto()


class LeadLost(Exception):
    """Another beat leads, or none: drop everything and follow."""


class Stale(Exception):
    """The store holds something else than we remember: read it again before the next step."""


@contextmanager
def apart(what: str) -> Iterator[None]:
    """One job's trouble (a record of a newer version, a refusal, a bug) stays its own: the others go on.

    What concerns the whole term passes through.
    """
    try:
        yield
    except (LeadLost, Stale, Unavailable, OutcomeUnknown):
        raise
    except Exception:
        logger.exception("jobguard: %s is set aside for %d s", what, AFTER_FAILURE.total_seconds())


@dataclass
class Leader:
    """A term. `publish` hands a message to the broker and says how that went."""

    client: Client
    keys: Keys
    fence: Fence
    jobs: Mapping[str, Job]
    publish: Callable[[Open], Sent]
    clock: Callable[[], datetime]
    version: int = 0
    nonce: str = field(default_factory=lambda: secrets.token_hex(8))
    _attempted: set["Attempt"] = field(default_factory=set)
    _paused: dict["Attempt", datetime] = field(default_factory=dict)
    _broker_away_until: datetime = _LONG_AGO
    _found: dict[str, tuple[KeyValue | None, KeyValue | None, KeyValue | None]] = field(default_factory=dict)
    _cursors: dict[str, Seen[Cursor]] = field(default_factory=dict)
    _controls: dict[str, Seen[Control] | None] = field(default_factory=dict)
    _next: list[tuple[datetime, str]] = field(default_factory=list)

    def send(self, step: Transaction[T]) -> T:
        """Carry out a step. Raises LeadLost, Unavailable, OutcomeUnknown."""
        outcome = step.read(self.client.txn_until_known(step.compare, step.success, step.failure))
        if isinstance(outcome, Deposed):
            raise LeadLost
        return outcome

    # --- the beginning of a term ---

    def begin(self) -> None:
        """Read where the last leader stood, and put the definitions that differ in force from now on."""
        now = self.clock()
        schedules, cursors, controls = map(self._stored, ("schedules", "cursors", "controls"))
        self._found = {
            name: (schedules.get(name), cursors.get(name), controls.get(name)) for name in self.jobs
        }
        self._cursors = {}
        self._next = [(again, name) for name in self.jobs if (again := self._apart(name, self._install, now))]
        heapq.heapify(self._next)
        for name in schedules.keys() - self.jobs.keys():
            with apart(f"{name}, which is no entry of this beat,"):
                self._withdraw(name, seen(schedules[name], Schedule))

    def _stored(self, part: str) -> dict[str, KeyValue]:
        return {self.keys.parts(kv.key)[1]: kv for kv in self.client.prefix(self.keys.prefix(part)).kvs}

    def _look_again(self, name: str) -> None:
        """What could not be read may have been put right since the term began."""
        keys = (self.keys.schedule(name), self.keys.cursor(name), self.keys.control(name))
        answer = self.client.txn(success=[get_op(key) for key in keys])
        self._found[name] = (first(answer, 0), first(answer, 1), first(answer, 2))

    def _apart(self, name: str, do: Callable[[str, datetime], None], now: datetime) -> datetime | None:
        """A step for one job; when its next one is due, None if never."""
        with apart(name):
            do(name, now)
            cursor = self._cursors.get(name)
            return next(self.jobs[name].times.after(cursor.record.nominal), None) if cursor else None
        return now + AFTER_FAILURE

    def _install(self, name: str, now: datetime) -> None:
        """Our definition in force, and the cursor to plan from; no cursor if it is left to newer code."""
        job, (schedule_kv, cursor_kv, control_kv) = self.jobs[name], self._found[name]
        old, cursor = see(schedule_kv, Schedule), see(cursor_kv, Cursor)
        self._controls[name] = see(control_kv, Control)
        newer = old is not None and old.record.version > self.version
        if old and cursor and old.record.fingerprint == job.times.fingerprint:
            new = old.record if newer else job.definition(old.record.since, self.version)
            following = Cursor(nominal=cursor.record.nominal, nonce=secrets.token_hex(8))
            if old.record == new:
                self._cursors[name] = cursor
                return
        elif old and newer:
            logger.warning(
                "jobguard: %s was installed by newer code (version %d, this beat has %d) and is left to it",
                *(name, old.record.version, self.version),
            )
            return
        else:
            new = job.definition(now, self.version)
            start = max(cursor.record.nominal, now) if cursor else now
            following = Cursor(nominal=start, nonce=secrets.token_hex(8))
        mods = (each.mod_revision if each else 0 for each in (old, cursor))
        outcome = self.send(planning.install(self.keys, self.fence, new, next(mods), following, next(mods)))
        if not isinstance(outcome, Written):
            raise Stale(name)
        self._cursors[name] = Seen(following, outcome.revision)
        changes = f"; changed: {changed(old.record, new)}" if old and old.record != new else ""
        logger.info("jobguard: %s is planned %s, task %s%s", name, job.times.text, job.task, changes)

    def _withdraw(self, name: str, old: Seen[Schedule]) -> None:
        if old.record.version <= self.version:
            self.send(planning.withdraw(self.keys, self.fence, name, old.mod_revision))
            logger.info("jobguard: %s is no beat entry any more and is no longer planned", name)

    # --- the term ---

    def plan_due(self) -> datetime | None:
        """Plan and publish what is due by now; gives the next time something will be."""
        while self._next and self._next[0][0] <= (now := self.clock()):
            name = self._next[0][1]
            again = self._apart(name, self._plan, now)
            if again is None:
                heapq.heappop(self._next)
            else:
                heapq.heapreplace(self._next, (again, name))
        return self._next[0][0] if self._next else None

    def _plan(self, name: str, now: datetime) -> None:
        if name not in self._cursors:  # it had been set aside
            self._look_again(name)
            self._install(name, now)
        job, cursor = self.jobs[name], self._cursors.get(name)
        if cursor is None:
            return
        found = due(job.times, cursor.record.nominal, now, catch_up=job.policy.catch_up)
        if found.upto is None:
            return
        control = self._controls[name]
        opens, dones = self._divided(job, found, control.record if control else Control(), now)
        following = Cursor(nominal=found.upto, nonce=secrets.token_hex(8))
        outcome = self.send(
            planning.plan(
                self.keys,
                self.fence,
                following,
                cursor.mod_revision,
                opens,
                dones,
                control_mod=control.mod_revision if control else 0,
            )
        )
        if not isinstance(outcome, Written):
            raise Stale(name)
        self._cursors[name] = Seen(following, outcome.revision)
        for done in dones:
            logger.warning(
                "jobguard: %s: %s, %s", occurrence_text(done.occurrence), done.verdict, done.reason
            )
        for record in opens:
            if record.planner == self.nonce:
                self.publish_planned(Seen(record, outcome.revision))

    def _divided(
        self, job: Job, found: Due, control: Control, now: datetime
    ) -> tuple[list[Open], list[Done]]:
        opens: list[Open] = []
        dones = [job.missed(each, now, self.nonce) for each in found.missed]
        waiting = job.policy.overlap == "queue-one" and self._one_waits(job.name)
        for nominal in found.starts:
            record = job.opened(nominal, now, several=len(found.starts) > 1, planner=self.nonce)
            if control.pauses(nominal):
                reason = f"the job is paused by {control.by}: {control.why}"
                dones.append(ended(record, Verdict.SKIPPED, reason, now, self.nonce))
            elif record.deadline and record.deadline <= now:
                reason = "no beat led before its start_deadline"
                dones.append(ended(record, Verdict.MISSED, reason, now, self.nonce))
            elif waiting:
                reason = "another occurrence is waiting already; overlap is queue-one"
                dones.append(ended(record, Verdict.SKIPPED, reason, now, self.nonce))
            else:
                opens.append(record)
        return opens, dones

    def _one_waits(self, name: str) -> bool:
        opened = self.client.prefix(self.keys.prefix("open", name), keys_only=True).kvs
        running = self.client.prefix(self.keys.prefix("running", name), keys_only=True).kvs
        return len(opened) > len(running)

    def publish_planned(self, planned: Seen[Open]) -> None:
        """Hand (n, r) to the broker and note it. A failure is left to the upkeep, which finds it unnoted."""
        record, attempt = planned.record, _attempt(planned.record)
        if max(self._paused.get(attempt, _LONG_AGO), self._broker_away_until) > self.clock():
            return
        sent = self.publish(record)
        if sent is Sent.YES:
            self._attempted.add(attempt)
            self.send(planning.mark_published(self.keys, self.fence, planned, self.clock()))
        elif sent is Sent.MAYBE:
            self._attempted.add(attempt)
            self._paused[attempt] = self.clock() + AFTER_FAILURE
        else:
            self._broker_away_until = self.clock() + _WITHOUT_BROKER  # each try may take seconds

    def maybe_sent(self, record: Open) -> bool:
        """Whether a message of (n, r) may be out: by our own doing, or by that of a leader before us."""
        if record.published or _attempt(record) in self._attempted:
            return True
        return record.planner not in ("", self.nonce)

    def keep_only(self, opened: Iterable[Open]) -> None:
        """Forget what is closed by now."""
        attempts = {_attempt(record) for record in opened}
        self._attempted &= attempts
        for gone in self._paused.keys() - attempts:
            del self._paused[gone]


Attempt = tuple[str, datetime, int, int]


def _attempt(record: Open) -> Attempt:
    return record.job, record.nominal, record.n, record.r
