"""The leader's round over everything that is open: lost runs, late starts, lost messages; and the history.

Place in the house   beat -> here -> recovery (which decides), leader (which may act)
Takes                a term
Gives                reruns, verdicts, messages sent again, a history of bounded length
Never                acts on what it read before without comparing it: workers go on meanwhile
"""

import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TypeVar

import msgspec
from celery.utils.log import get_logger

from jobguard import planning
from jobguard.celery.entries import ended, occurrence_text
from jobguard.celery.lead import AFTER_FAILURE, apart
from jobguard.celery.leader import Leader
from jobguard.celery.workers import Fleet
from jobguard.ops import get_op, get_prefix_op, prefix_end
from jobguard.records import Active, Attempt, Done, Occurrence, Open, Record, Verdict, decode
from jobguard.recovery import AskWorkers, End, Publish, Rerun, Step, Wait, attempt_text, decide
from jobguard.steps import Seen, Written, first, kvs, see, seen
from jobguard.wire import KeyValue

logger = get_logger("jobguard.beat")

R = TypeVar("R", bound=Record)

_TRIM_STEP = 50


@dataclass(frozen=True, slots=True)
class History:
    """What is kept of each job: so many verdicts, and none for longer; the last of a planned job stays.

    And of the audit log: so many entries of all, and none for longer.
    """

    count: int = 1000
    age: timedelta = timedelta(days=400)
    audits: int = 10_000


@dataclass(frozen=True, slots=True)
class Sight:
    """What is open, of one revision."""

    opened: dict[Occurrence, Seen[Open]]
    running: dict[Occurrence, Seen[Active]]  # the last claim of each, alive or not
    active: dict[Occurrence, Seen[Active]]

    def busy(self, occurrence: Occurrence) -> bool:
        """Whether another occurrence of the job runs, or an earlier one is still to come."""
        others = (each for each in self.running if each.job == occurrence.job and each != occurrence)
        earlier = (each for each in self.opened if each.job == occurrence.job and each < occurrence)
        return any(True for _ in others) or any(True for _ in earlier)

    def maybe_lost(self, occurrence: Occurrence) -> bool:
        """Claimed at its present (n, r), and not active."""
        claim, opened = self.running.get(occurrence), self.opened[occurrence].record
        if claim is None or occurrence in self.active:
            return False
        return (claim.record.n, claim.record.r) == (opened.n, opened.r)


@dataclass
class Upkeep:
    leader: Leader
    fleet: Fleet
    history: History = History()
    _trim_from: bytes = b""
    _named: set[str] = field(default_factory=set)
    _aside: dict[Occurrence, datetime] = field(default_factory=dict)
    _reran: bool = False

    def round(self) -> None:
        """Look at everything open, and do what it needs; a rerun that need not wait goes out at once."""
        self._reran = False
        self._mend_all()
        if self._reran:
            self._mend_all()
        with apart("the history"):
            self._trim()
            self._trim_audit()

    def _mend_all(self) -> None:
        sight, now = self._look(), self.leader.clock()
        self.leader.keep_only(opened.record for opened in sight.opened.values())
        self._aside = {each: until for each, until in self._aside.items() if until > now}
        for occurrence in sight.opened:
            if occurrence not in self._aside and not self._mend(occurrence, sight):
                self._aside[occurrence] = now + AFTER_FAILURE

    def _mend(self, occurrence: Occurrence, sight: Sight) -> bool:
        """What one occurrence needs; False if that cannot be done."""
        with apart(occurrence_text(occurrence)):
            self._take_step(occurrence, sight)
            return True
        return False

    def _take_step(self, occurrence: Occurrence, sight: Sight) -> None:
        opened, active = sight.opened[occurrence], sight.active.get(occurrence)
        attempt = self._attempt(opened.record) if sight.maybe_lost(occurrence) else None
        step = decide(
            opened.record,
            active=active.record if active else None,
            attempt=attempt,
            busy=opened.record.overlap == "wait" and sight.busy(occurrence),
            maybe_sent=self.leader.maybe_sent(opened.record),
            workers=self.fleet.state,
            now=self.leader.clock(),
        )
        self._do(step, opened, attempt)

    def _look(self) -> Sight:
        keys = self.leader.keys
        prefixes = [keys.prefix(part) for part in ("open", "running", "active")]
        answer = self.leader.client.txn(success=[get_prefix_op(prefix) for prefix in prefixes])
        left: set[Occurrence] = set()
        opened = self._readable(kvs(answer, 0), Open, left)
        running = self._readable(kvs(answer, 1), Active, left)
        active = self._readable(kvs(answer, 2), Active, left)
        return Sight({each: opened[each] for each in opened.keys() - left}, running, active)

    def _readable(
        self, found: Iterable[KeyValue], kind: type[R], left: set[Occurrence]
    ) -> dict[Occurrence, Seen[R]]:
        """The records this code understands; an occurrence with one that it does not is `left` alone."""
        records = {}
        for kv in found:
            key = kv.key.decode(errors="replace")
            try:
                occurrence = self.leader.keys.occurrence(kv.key)
            except ValueError:
                self._warn_once(key, f"jobguard: {key} is no key of ours and is left alone")
                continue
            try:
                records[occurrence] = seen(kv, kind)
            except msgspec.DecodeError as error:
                self._warn_once(key, f"jobguard: {key} is left alone; has newer code written it? {error}")
                left.add(occurrence)
        return records

    def _warn_once(self, about: str, text: str) -> None:
        if about not in self._named:
            self._named.add(about)
            logger.warning("%s", text)

    def _attempt(self, record: Open) -> Attempt | None:
        key = self.leader.keys.attempt(record.occurrence, record.n, record.r)
        found = see(first(self.leader.client.txn(success=[get_op(key)]), 0), Attempt)
        return found.record if found else None

    def _do(self, step: Step, opened: Seen[Open], attempt: Attempt | None) -> None:
        match step:
            case Wait():
                return
            case AskWorkers():
                self.fleet.ask()
            case Publish(first=True):
                self._publish_first(opened)
            case Publish():
                self._publish_again(opened)
            case Rerun(not_before, reason):
                self._rerun(opened, attempt, not_before, reason)
            case End(verdict, reason):
                self._end(opened, attempt, verdict, reason)

    def _publish_first(self, opened: Seen[Open]) -> None:
        """The intent before the message, see planning.intend."""
        leader = self.leader
        if self._has_entry(opened) and opened.record.planner != leader.nonce:
            step = planning.intend(leader.keys, leader.fence, opened, leader.nonce)
            outcome = leader.send(step)
            if not isinstance(outcome, Written):
                return
            record = msgspec.structs.replace(opened.record, planner=leader.nonce)
            opened = Seen(record, outcome.revision)
        if self._has_entry(opened):
            leader.publish_planned(opened)

    def _publish_again(self, opened: Seen[Open]) -> None:
        if self._has_entry(opened):
            name, attempt = occurrence_text(opened.record.occurrence), attempt_text(opened.record)
            logger.warning("jobguard: %s, %s: not claimed yet; sent again", name, attempt)
            self.leader.publish_planned(opened)

    def _has_entry(self, opened: Seen[Open]) -> bool:
        """Whether this beat can publish it. If not, perhaps another can; if none does, it ends in time."""
        job = opened.record.job
        if job not in self.leader.jobs:
            self._warn_once(job, f"jobguard: {job} is open, but is no entry of this beat")
        return job in self.leader.jobs

    def _rerun(self, opened: Seen[Open], attempt: Attempt | None, not_before: datetime, reason: str) -> None:
        leader = self.leader
        step = planning.reopen(
            leader.keys, leader.fence, opened, attempt=self._lost(attempt, reason), not_before=not_before
        )
        if isinstance(leader.send(step), Written):
            name = occurrence_text(opened.record.occurrence)
            logger.warning("jobguard: %s: %s; attempt %d follows", name, reason, opened.record.n + 1)
            self._reran = self._reran or not_before <= leader.clock()

    def _end(self, opened: Seen[Open], attempt: Attempt | None, verdict: Verdict, reason: str) -> None:
        leader = self.leader
        if verdict is Verdict.UNCLAIMED:
            reason += f" ({', '.join(self.fleet.unguarded)})"
        done = ended(opened.record, verdict, reason, leader.clock(), secrets.token_hex(8))
        step = planning.close(leader.keys, leader.fence, opened, done, self._lost(attempt, reason))
        if isinstance(leader.send(step), Written):
            logger.warning("jobguard: %s: %s, %s", occurrence_text(opened.record.occurrence), verdict, reason)

    def _lost(self, attempt: Attempt | None, reason: str) -> Attempt | None:
        if attempt is None:
            return None
        return msgspec.structs.replace(
            attempt,
            outcome="lost",
            ended=attempt.ended or self.leader.clock(),
            error=attempt.error or "its lease lapsed: the worker died or was cut off",
        )

    # --- history ---

    def _trim(self) -> None:
        """One job per round, also one that left the schedule: its oldest verdicts go."""
        leader, keys = self.leader, self.leader.keys
        everything = keys.prefix("done")
        start, end = self._trim_from or everything, prefix_end(everything)
        first_left = leader.client.range(start, end, limit=1, keys_only=True).kvs
        if not first_left:
            self._trim_from = b""
            return
        job = keys.parts(first_left[0].key)[1]
        prefix = keys.prefix("done", job)
        self._trim_from = prefix_end(prefix)
        oldest = leader.client.range(prefix, self._trim_from, limit=_TRIM_STEP)
        gone = list(oldest.kvs)
        if oldest.count < self.history.count + _TRIM_STEP:
            gone = [kv for kv in oldest.kvs if self._is_past(kv)]
            if len(gone) == oldest.count and job in leader.jobs:
                gone.pop()
        if gone:
            leader.send(planning.trim(keys, leader.fence, [keys.occurrence(kv.key) for kv in gone]))

    def _is_past(self, kv: KeyValue) -> bool:
        """By when it ended: an old window that was backfilled yesterday is a day old."""
        try:
            return decode(kv.value, Done).finished < self.leader.clock() - self.history.age
        except msgspec.DecodeError:
            return False  # newer code's

    def _trim_audit(self) -> None:
        """The oldest entries go, in every round: one deploy may write as many as there are jobs."""
        leader, prefix = self.leader, self.leader.keys.prefix("audit")
        oldest = leader.client.range(prefix, prefix_end(prefix), limit=_TRIM_STEP, keys_only=True)
        gone = [kv.key for kv in oldest.kvs]
        if oldest.count < self.history.audits + _TRIM_STEP:
            past = leader.keys.audit(leader.clock() - self.history.age, "")
            gone = [key for key in gone if key < past]
        if gone:
            leader.send(planning.forget(leader.fence, gone))
