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
import logging
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import Enum, auto
from typing import Any, TypeVar

from celery.utils.log import get_logger

from jobguard import planning
from jobguard.celery.entries import Job, ended, occurrence_text, stored_job
from jobguard.client import Client
from jobguard.definition import changed
from jobguard.errors import OutcomeUnknown, Unavailable
from jobguard.ops import get_op
from jobguard.records import Audit, Control, Cursor, Deploy, Done, Keys, Open, Schedule, Verdict, encode
from jobguard.schedule import Due, due
from jobguard.steps import Deposed, Fence, Seen, Transaction, Written, first, see
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
    """A term. `publish` hands a message to the broker and says how that went.

    `code` are the entries of this beat, and `jobs` what is planned: mostly the same; but what was made at run
    time, or installed by code that this beat's must give way to, is planned by the store's word.
    """

    client: Client
    keys: Keys
    fence: Fence
    code: Mapping[str, Job]
    publish: Callable[[Open, Job], Sent]
    clock: Callable[[], datetime]
    version: int = 0
    registered: datetime = _LONG_AGO
    host: str = ""
    nonce: str = field(default_factory=lambda: secrets.token_hex(8))
    jobs: dict[str, Job] = field(default_factory=dict)
    revision: int = 0  # as of which the term began
    _deploy: Seen[Deploy] | None = None
    _installs: bool = False
    _attempted: set["Attempt"] = field(default_factory=set)
    _paused: dict["Attempt", datetime] = field(default_factory=dict)
    _broker_away_until: datetime = _LONG_AGO
    _found: dict[str, "Found"] = field(default_factory=dict)
    _defined: dict[str, int] = field(default_factory=dict)  # the mod_revision of what is planned by
    _cursors: dict[str, Seen[Cursor]] = field(default_factory=dict)
    _controls: dict[str, Seen[Control] | None] = field(default_factory=dict)
    _due: dict[str, datetime] = field(default_factory=dict)
    _queue: list[tuple[datetime, str]] = field(
        default_factory=list
    )  # one that is not in _due counts for nothing

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
        self.jobs, self._cursors, self._controls, self._defined = {}, {}, {}, {}
        self._due, self._queue, self._found = {}, [], {}
        self._installs = self._register()
        for name in [*self.code, *sorted(schedules.keys() - self.code.keys())]:
            self._found[name] = (schedules.get(name), cursors.get(name), controls.get(name))
            self._queue_at(name, self._apart(name, self._take_up, now))

    def _stored(self, part: str) -> dict[str, KeyValue]:
        answer = self.client.prefix(self.keys.prefix(part))
        if part == "schedules":
            self.revision = answer.revision
        return {self.keys.parts(kv.key)[1]: kv for kv in answer.kvs}

    def _register(self) -> bool:
        """Whether it is our schedule that is in force, from now on if it was not yet."""
        self._deploy = found = see(self.client.get(self.keys.deploy()), Deploy)
        if found and found.record.is_of(self.version, self.registered):
            return True
        if found and not found.record.gives_way_to(self.version, self.registered):
            self._say_whose_it_is(found.record)
            return False
        over = found.record.over if found and found.record.version == self.version else 0
        ours = Deploy(version=self.version, registered=self.registered, by=self.host, over=over)
        outcome = self.send(
            planning.register(self.keys, self.fence, ours, found.mod_revision if found else 0)
        )
        if not isinstance(outcome, Written):
            raise Stale("deploy")
        self._deploy = Seen(ours, outcome.revision)
        return True

    def _say_whose_it_is(self, deploy: Deploy) -> None:
        logger.log(
            logging.INFO if deploy.version == self.version else logging.WARNING,
            "jobguard: the schedule in force is version %d, registered by %s at %s; this beat's, version %d, "
            "is not installed",
            *(deploy.version, deploy.by or "an operator", deploy.registered.isoformat(), self.version),
        )

    def look_again(self, name: str) -> None:
        """Somebody changed the definition of this job."""
        self._read_again(name)
        self._queue_at(name, self._apart(name, self._take_up, self.clock()))

    def _read_again(self, name: str) -> None:
        keys = (self.keys.schedule(name), self.keys.cursor(name), self.keys.control(name))
        answer = self.client.txn(success=[get_op(key) for key in keys])
        self._found[name] = (first(answer, 0), first(answer, 1), first(answer, 2))

    def knows(self, kv: KeyValue) -> bool:
        """Whether a change of schedules/… or of deploy is our own, or was read already."""
        if kv.key == self.keys.deploy():
            return self._deploy is not None and kv.mod_revision <= self._deploy.mod_revision
        return kv.mod_revision <= max(self._defined.get(self.keys.parts(kv.key)[1], 0), self.revision)

    def _apart(self, name: str, do: Callable[[str, datetime], None], now: datetime) -> datetime | None:
        """A step for one job; when its next one is due, None if never."""
        with apart(name):
            do(name, now)
            cursor = self._cursors.get(name)
            return next(self.jobs[name].times.after(cursor.record.nominal), None) if cursor else None
        return now + AFTER_FAILURE

    def _queue_at(self, name: str, moment: datetime | None) -> None:
        if moment is None:
            self._due.pop(name, None)
        elif self._due.get(name) != moment:
            self._due[name] = moment
            heapq.heappush(self._queue, (moment, name))

    def _take_up(self, name: str, now: datetime) -> None:
        """Decide by whose word this job is planned, and from when on; no cursor if this beat cannot."""
        schedule_kv, cursor_kv, control_kv = self._found[name]
        self._cursors.pop(name, None)
        self.jobs.pop(name, None)
        old, cursor = see(schedule_kv, Schedule), see(cursor_kv, Cursor)
        self._controls[name] = see(control_kv, Control)
        own = self.code.get(name)
        if old and old.record.made:
            if own:
                logger.error(
                    "jobguard: %s was made at run time by %s; the beat entry of that name is not planned: "
                    "rename or remove one of the two",
                    *(name, old.record.by),
                )
            self._adopt(stored_job(old.record), old, cursor)
        elif self._installs and own:
            self._install(own, old, cursor, now)
        elif self._installs and old:
            self._withdraw(name, old, now)
        elif old:
            self._adopt(self._of_others(own, old.record), old, cursor)

    def _adopt(self, job: Job | None, old: Seen[Schedule], cursor: Seen[Cursor] | None) -> None:
        """Plan by a definition that is not ours to write. It owes nothing for the time before it."""
        if job is None:
            return
        start = max(cursor.record.nominal, old.record.since) if cursor else old.record.since
        self.jobs[job.name], self._defined[job.name] = job, old.mod_revision
        self._cursors[job.name] = Seen(Cursor(nominal=start, nonce=""), cursor.mod_revision if cursor else 0)

    def _of_others(self, own: Job | None, record: Schedule) -> Job | None:
        """How to plan what other code has installed: its word is enough, or our entry is the same."""
        if own and own.definition(record.since, 0).says_the_same(record):
            return own
        if record.portable:
            return stored_job(record)
        if own and own.times.fingerprint == record.fingerprint:
            return own
        logger.warning(
            "jobguard: %s was installed by other code (version %d, this beat has %d) and is left to it",
            *(record.job, record.version, self.version),
        )
        return None

    def _install(
        self, job: Job, old: Seen[Schedule] | None, cursor: Seen[Cursor] | None, now: datetime
    ) -> None:
        """Our definition in force, and the cursor to plan from."""
        name = job.name
        if old and cursor and old.record.fingerprint == job.times.fingerprint:
            new = job.definition(old.record.since, self.version, self.host)
            if old.record.says_the_same(new):
                self.jobs[name], self._cursors[name], self._defined[name] = job, cursor, old.mod_revision
                return
            following = Cursor(nominal=cursor.record.nominal, nonce=secrets.token_hex(8))
        else:
            new = job.definition(now, self.version, self.host)
            start = max(cursor.record.nominal, now) if cursor else now
            following = Cursor(nominal=start, nonce=secrets.token_hex(8))
        outcome = self.send(
            planning.install(
                self.keys,
                self.fence,
                new,
                old.mod_revision if old else 0,
                following,
                cursor.mod_revision if cursor else 0,
                **self._noted(new.job, now, old.record if old else None, new),
            )
        )
        if not isinstance(outcome, Written):
            raise Stale(name)
        self.jobs[name], self._cursors[name] = job, Seen(following, outcome.revision)
        self._defined[name] = outcome.revision
        changes = f"; changed: {changed(old.record, new)}" if old else ""
        logger.info("jobguard: %s is planned %s, task %s%s", name, job.times.text, job.task, changes)

    def _withdraw(self, name: str, old: Seen[Schedule], now: datetime) -> None:
        noted = self._noted(name, now, old.record, None)
        self.send(planning.withdraw(self.keys, self.fence, name, old.mod_revision, **noted))
        logger.info("jobguard: %s is no beat entry any more and is no longer planned", name)

    def _noted(
        self, name: str, now: datetime, before: Schedule | None, after: Schedule | None
    ) -> dict[str, Any]:
        """What shares the transaction with a change: whose schedule is in force, and the audit entry."""
        assert self._deploy is not None
        audit = Audit(
            at=now,
            by=self.host,
            via="beat",
            action="install" if after else "withdraw",
            target=f"schedule {name}",
            reason=f"version {self.version}",
            before=encode(before).decode() if before else "",
            after=encode(after).decode() if after else "",
        )
        return {"deploy_mod": self._deploy.mod_revision, "audit": audit, "nonce": secrets.token_hex(8)}

    # --- the term ---

    def plan_due(self) -> datetime | None:
        """Plan and publish what is due by now; gives the next time something will be."""
        while self._queue:
            moment, name = self._queue[0]
            if counts := self._due.get(name) == moment:
                if moment > (now := self.clock()):
                    return moment
                del self._due[name]
            heapq.heappop(self._queue)
            if counts:
                self._queue_at(name, self._apart(name, self._plan, now))
        return None

    def _plan(self, name: str, now: datetime) -> None:
        if name not in self._cursors:  # it had been set aside
            self._read_again(name)
            self._take_up(name, now)
        job, cursor = self.jobs.get(name), self._cursors.get(name)
        if job is None or cursor is None:
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
                schedule_mod=self._defined[name],
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
        sent = self.publish(record, self.jobs[record.job])
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
Found = tuple[KeyValue | None, KeyValue | None, KeyValue | None]  # definition, cursor, control


def _attempt(record: Open) -> Attempt:
    return record.job, record.nominal, record.n, record.r
