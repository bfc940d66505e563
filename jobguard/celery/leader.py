"""One term as the leading beat: what is due is planned in the store, and only then published.

Place in the house   beat -> here -> definitions, planning, lead
Takes                the fence of an election that was won, the definitions, a way to publish
Gives                occurrences, planned once each and handed to the broker
Never                publishes what is not planned, or plans what its fence no longer covers

The order is the argument: plan (one transaction: cursor and open), publish, note that it was published. A
leader that dies after the first leaves an occurrence that its successor finds; after the second, one that may
be out twice, which the claim makes harmless.

What is due at once is planned at once, many jobs to a transaction; only then is it published, a part at a
time. `planner` is written before the first message of a part can be out, and not for the parts behind it: of
those a successor knows that they were never sent.
"""

import heapq
import secrets
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum, auto
from typing import TypeVar

import msgspec
from celery.utils.log import get_logger

from jobguard import planning
from jobguard.celery.definitions import Definitions, Installation
from jobguard.celery.entries import Job, ended, occurrence_text
from jobguard.celery.lead import AFTER_FAILURE, LONG_AGO, Stale, apart, send, send_all
from jobguard.client import Client
from jobguard.errors import ServerError
from jobguard.records import Control, Cursor, Done, Keys, Open, Verdict
from jobguard.schedule import Due, due, next_look
from jobguard.steps import TOGETHER, Deposed, Fence, Moved, Seen, Transaction, Written

logger = get_logger("jobguard.beat")

T = TypeVar("T")

_WITHOUT_BROKER = timedelta(seconds=5)


class Sent(Enum):
    YES = auto()
    NO = auto()  # not even tried: there is no connection to the broker
    MAYBE = auto()
    UNANSWERED = auto()  # it may be out, and the broker answers nothing: neither would it to the next one


@dataclass(frozen=True, slots=True)
class Plan:
    """What is due of one job, ready to be written."""

    job: str
    cursor: Cursor
    opens: list[Open]
    dones: list[Done]
    step: Transaction[Written | Deposed | Moved[Cursor]]


@dataclass
class Leader:
    """A term. `publish` hands a message to the broker and says how that went.

    `sent_alone`: what went out while the store was away, by job; it counts as published when it is planned.
    """

    definitions: Definitions
    publish: Callable[[Open, Job], Sent]
    clock: Callable[[], datetime]
    sent_alone: Mapping[str, Collection[datetime]] = field(default_factory=dict)
    nonce: str = field(default_factory=lambda: secrets.token_hex(8))
    _attempted: set["Attempt"] = field(default_factory=set)
    _paused: dict["Attempt", datetime] = field(default_factory=dict)
    _broker_away_until: datetime = LONG_AGO
    _due: dict[str, datetime] = field(default_factory=dict)
    _queue: list[tuple[datetime, str]] = field(default_factory=list)  # what is not in _due counts for nothing

    @property
    def client(self) -> Client:
        return self.definitions.client

    @property
    def keys(self) -> Keys:
        return self.definitions.keys

    @property
    def fence(self) -> Fence:
        return self.definitions.fence

    @property
    def jobs(self) -> dict[str, Job]:
        return self.definitions.jobs

    def send(self, step: Transaction[T]) -> T:
        """Carry out a step. Raises LeadLost, Unavailable, OutcomeUnknown."""
        return send(self.client, step)

    def begin(self) -> None:
        """Go on where the last leader stood, and put the definitions that differ in force from now on."""
        now, definitions = self.clock(), self.definitions
        self._due, self._queue = {}, []
        waiting: list[Installation] = []
        for name in definitions.begin():
            with apart(name):
                if installation := definitions.decide(name, now):
                    waiting.append(installation)
                else:
                    self._queue_at(name, self._next(name))
                continue
            self._queue_at(name, now + AFTER_FAILURE)
        for position in range(0, len(waiting), TOGETHER):
            self._install(waiting[position : position + TOGETHER], now)

    def _install(self, part: Sequence[Installation], now: datetime) -> None:
        """In one transaction; where the store refuses it for one job's sake, in one for each."""
        try:
            self.definitions.install(part)
        except ServerError:
            if len(part) == 1:
                logger.exception("jobguard: %s", _set_aside(part[0].job.name))
                self._queue_at(part[0].job.name, now + AFTER_FAILURE)
                return
            for each in part:
                self._install([each], now)
            return
        for each in part:
            self._queue_at(each.job.name, self._next_apart(each.job.name))

    def look_again(self, name: str) -> None:
        """Somebody changed the definition of this job."""
        now = self.clock()
        self.definitions.read_again(name)
        with apart(name):
            self.definitions.take_up(name, now)
            self._queue_at(name, self._next(name))
            return
        self._queue_at(name, now + AFTER_FAILURE)

    def _next(self, name: str) -> datetime | None:
        """When the job is due next; None if never."""
        cursor = self.definitions.cursors.get(name)
        return next_look(self.jobs[name].times, cursor.record.nominal, self.clock()) if cursor else None

    def _next_apart(self, name: str) -> datetime | None:
        with apart(name):
            return self._next(name)
        return self.clock() + AFTER_FAILURE

    def _queue_at(self, name: str, moment: datetime | None) -> None:
        if moment is None:
            self._due.pop(name, None)
        elif self._due.get(name) != moment:
            self._due[name] = moment
            heapq.heappush(self._queue, (moment, name))

    # --- planning ---

    def plan_due(self) -> datetime | None:
        """Plan and publish what is due by now; gives the next time something will be."""
        while names := self._take_due(now := self.clock()):
            planned = self._plan_all(names, now)
            for position in range(0, len(planned), TOGETHER):
                self._publish_part(planned[position : position + TOGETHER])
        return self._queue[0][0] if self._queue else None

    def _take_due(self, now: datetime) -> list[str]:
        names = []
        while self._queue and self._queue[0][0] <= now:
            moment, name = heapq.heappop(self._queue)
            if self._due.get(name) == moment:
                del self._due[name]
                names.append(name)
        return names

    def _plan_all(self, names: Sequence[str], now: datetime) -> list[Seen[Open]]:
        """Write what is due; gives what is to be published, in order."""
        plans: list[Plan] = []
        for name in names:
            with apart(name):
                # Signed is only what is published first; see above.
                if plan := self._plan_of(name, now, self.nonce if len(plans) < TOGETHER else ""):
                    plans.append(plan)
                else:
                    self._queue_at(name, self._next(name))
                continue
            self._queue_at(name, now + AFTER_FAILURE)
        return [planned for part in _parts(plans) for planned in self._write(part, now)]

    def _plan_of(self, name: str, now: datetime, planner: str) -> Plan | None:
        definitions = self.definitions
        if name not in definitions.cursors:  # it had been set aside
            definitions.read_again(name)
            definitions.take_up(name, now)
        job, cursor = self.jobs.get(name), definitions.cursors.get(name)
        if job is None or cursor is None:
            return None
        found = due(job.times, cursor.record.nominal, now, catch_up=job.policy.catch_up)
        if found.upto is None:
            return None
        control = definitions.controls[name]
        opens, dones = self._divided(job, found, control.record if control else Control(), now, planner)
        following = Cursor(nominal=found.upto, nonce=secrets.token_hex(8))
        step = planning.plan(
            self.keys,
            self.fence,
            following,
            cursor.mod_revision,
            opens,
            dones,
            schedule_mod=definitions.revisions[name],
            control_mod=control.mod_revision if control else 0,
        )
        return Plan(name, following, opens, dones, step)

    def _divided(
        self, job: Job, found: Due, control: Control, now: datetime, planner: str
    ) -> tuple[list[Open], list[Done]]:
        opens: list[Open] = []
        alone = self.sent_alone.get(job.name, ())
        opens += [
            job.opened_alone(each.nominal, now, self.nonce) for each in found.missed if each.nominal in alone
        ]
        dones = [job.missed(each, now, self.nonce) for each in found.missed if each.nominal not in alone]
        waiting = job.policy.overlap == "queue-one" and self._one_waits(job.name)
        for nominal in found.starts:
            record = job.opened(nominal, now, several=len(found.starts) > 1, planner=planner)
            if nominal in alone:
                opens.append(job.opened_alone(nominal, now, self.nonce))
            elif control.pauses(nominal):
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

    def _write(self, plans: Sequence[Plan], now: datetime) -> list[Seen[Open]]:
        """One transaction; where the store refuses it for one job's sake, one for each."""
        try:
            outcomes = send_all(self.client, [plan.step for plan in plans])
        except ServerError:
            if len(plans) > 1:
                return [planned for plan in plans for planned in self._write([plan], now)]
            logger.exception("jobguard: %s", _set_aside(plans[0].job))
            self._queue_at(plans[0].job, now + AFTER_FAILURE)
            return []
        planned, moved = [], []
        for plan, outcome in zip(plans, outcomes, strict=True):
            if isinstance(outcome, Written):
                planned += self._written(plan, outcome.revision)
            else:
                moved.append(plan.job)
        if moved:
            raise Stale(", ".join(moved))
        return planned

    def _written(self, plan: Plan, revision: int) -> list[Seen[Open]]:
        self.definitions.cursors[plan.job] = Seen(plan.cursor, revision)
        self._queue_at(plan.job, self._next_apart(plan.job))
        for done in plan.dones:
            logger.warning(
                "jobguard: %s: %s, %s", occurrence_text(done.occurrence), done.verdict, done.reason
            )
        return [
            Seen(record, revision)
            for record in plan.opens
            if record.overlap != "wait" and not record.published
        ]

    # --- publishing ---

    def publish_planned(self, planned: Seen[Open]) -> None:
        """Hand (n, r) to the broker and note it. A failure is left to the upkeep, which finds it unnoted."""
        self._note([planned] if self._handed_over(planned) else [])

    def _publish_part(self, part: Sequence[Seen[Open]]) -> None:
        sent = []
        for planned in self._signed(part):
            with apart(occurrence_text(planned.record.occurrence)):
                if self._handed_over(planned):
                    sent.append(planned)
        self._note(sent)

    def _signed(self, part: Sequence[Seen[Open]]) -> list[Seen[Open]]:
        """The intent before the message, see planning.intend; all that is to be published, in order."""
        part = [planned for planned in part if not self._held_back(planned.record)]
        unsigned = [planned for planned in part if planned.record.planner != self.nonce]
        if not unsigned:
            return part
        steps = [planning.intend(self.keys, self.fence, each, self.nonce) for each in unsigned]
        outcomes = send_all(self.client, steps)
        return [each for each in part if each.record.planner == self.nonce] + [
            Seen(msgspec.structs.replace(planned.record, planner=self.nonce), outcome.revision)
            for planned, outcome in zip(unsigned, outcomes, strict=True)
            if isinstance(outcome, Written)
        ]

    def _held_back(self, record: Open) -> bool:
        return max(self._paused.get(_attempt(record), LONG_AGO), self._broker_away_until) > self.clock()

    def _handed_over(self, planned: Seen[Open]) -> bool:
        """Whether the broker has taken the message."""
        record, attempt = planned.record, _attempt(planned.record)
        if self._held_back(record):
            return False
        sent = self.publish(record, self.jobs[record.job])
        if sent in (Sent.NO, Sent.UNANSWERED):
            self._broker_away_until = self.clock() + _WITHOUT_BROKER  # each try may take seconds
        if sent is not Sent.NO:
            self._attempted.add(attempt)
        if sent in (Sent.MAYBE, Sent.UNANSWERED):
            self._paused[attempt] = self.clock() + AFTER_FAILURE
        return sent is Sent.YES

    def _note(self, sent: Sequence[Seen[Open]]) -> None:
        now = self.clock()
        if sent:
            send_all(
                self.client, [planning.mark_published(self.keys, self.fence, each, now) for each in sent]
            )

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


def _set_aside(job: str) -> str:
    return f"{job} is set aside for {AFTER_FAILURE.total_seconds():.0f} s"


def _parts(plans: Iterable[Plan]) -> Iterator[list[Plan]]:
    """As many as one transaction holds."""
    part: list[Plan] = []
    for plan in plans:
        if len(plan.step.success) > TOGETHER:
            yield [plan]
            continue
        part.append(plan)
        if len(part) == TOGETHER:
            yield part
            part = []
    if part:
        yield part
