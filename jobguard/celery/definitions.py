"""By whose word each job is planned: this beat's code, other code, or an operator's at run time.

Place in the house   leader -> here -> entries, planning, lead
Takes                the entries of this beat, whose code is in force, what lies in the store
Gives                the jobs of the term, where each stands, and the revision a plan compares
Never                plans, or overwrites what newer code has installed or somebody made at run time
"""

import logging
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from celery.utils.log import get_logger

from jobguard import planning
from jobguard.celery.entries import Job, stored_job
from jobguard.celery.lead import LONG_AGO, Stale, send, send_all
from jobguard.client import Client
from jobguard.definition import changed
from jobguard.ops import get_op
from jobguard.records import Audit, Control, Cursor, Deploy, Keys, Schedule, encode
from jobguard.steps import Deposed, Fence, Moved, Seen, Transaction, Written, first, see
from jobguard.wire import KeyValue

logger = get_logger("jobguard.beat")

Found = tuple[KeyValue | None, KeyValue | None, KeyValue | None]  # definition, cursor, control


@dataclass(frozen=True, slots=True)
class Installation:
    """A definition of our code's, ready to be written."""

    job: Job
    cursor: Cursor
    step: Transaction[Written | Deposed | Moved[Cursor]]
    what: str


@dataclass
class Definitions:
    """What is planned in this term: `code`, but for what others have the word on."""

    client: Client
    keys: Keys
    fence: Fence
    code: Mapping[str, Job]
    version: int = 0
    registered: datetime = LONG_AGO
    host: str = ""
    jobs: dict[str, Job] = field(default_factory=dict)
    cursors: dict[str, Seen[Cursor]] = field(default_factory=dict)
    controls: dict[str, Seen[Control] | None] = field(default_factory=dict)
    revisions: dict[str, int] = field(default_factory=dict)  # of the definition that a job is planned by
    revision: int = 0  # as of which the term began
    _deploy: Seen[Deploy] | None = None
    _installs: bool = False
    _found: dict[str, Found] = field(default_factory=dict)

    def begin(self) -> list[str]:
        """Read where the last leader stood, and say whose schedule is in force; gives what to take up."""
        schedules, cursors, controls = map(self._stored, ("schedules", "cursors", "controls"))
        self.jobs, self.cursors, self.controls, self.revisions = {}, {}, {}, {}
        self._installs = self._register()
        names = [*self.code, *sorted(schedules.keys() - self.code.keys())]
        self._found = {name: (schedules.get(name), cursors.get(name), controls.get(name)) for name in names}
        return names

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
        outcome = send(
            self.client, planning.register(self.keys, self.fence, ours, found.mod_revision if found else 0)
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

    def read_again(self, name: str) -> None:
        """What is in the store of this job may be other than we know."""
        keys = (self.keys.schedule(name), self.keys.cursor(name), self.keys.control(name))
        answer = self.client.txn(success=[get_op(key) for key in keys])
        self._found[name] = (first(answer, 0), first(answer, 1), first(answer, 2))

    def knows(self, kv: KeyValue) -> bool:
        """Whether a change of schedules/… or of deploy is our own, or was read already."""
        if kv.key == self.keys.deploy():
            return self._deploy is not None and kv.mod_revision <= self._deploy.mod_revision
        return kv.mod_revision <= max(self.revisions.get(self.keys.parts(kv.key)[1], 0), self.revision)

    def take_up(self, name: str, now: datetime) -> None:
        """Plan this job from now on, by whoever has the word on it."""
        if installation := self.decide(name, now):
            self.install([installation])

    def decide(self, name: str, now: datetime) -> Installation | None:
        """By whose word this job is planned, and from when on; no cursor if this beat cannot.

        Gives what must be installed first, if it is our code's word and other than what is in force.
        """
        schedule_kv, cursor_kv, control_kv = self._found[name]
        self.cursors.pop(name, None)
        self.jobs.pop(name, None)
        old, cursor = see(schedule_kv, Schedule), see(cursor_kv, Cursor)
        self.controls[name] = see(control_kv, Control)
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
            return self._installation(own, old, cursor, now)
        elif self._installs and old:
            self._withdraw(name, old, now)
        elif old:
            self._adopt(self._of_others(own, old.record), old, cursor)
        return None

    def _adopt(self, job: Job | None, old: Seen[Schedule], cursor: Seen[Cursor] | None) -> None:
        """Plan by a definition that is not ours to write. It owes nothing for the time before it."""
        if job is None:
            return
        start = max(cursor.record.nominal, old.record.since) if cursor else old.record.since
        self.jobs[job.name], self.revisions[job.name] = job, old.mod_revision
        self.cursors[job.name] = Seen(Cursor(nominal=start, nonce=""), cursor.mod_revision if cursor else 0)

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

    def _installation(
        self, job: Job, old: Seen[Schedule] | None, cursor: Seen[Cursor] | None, now: datetime
    ) -> Installation | None:
        """Our definition in force, and the cursor to plan from; None if they are."""
        if old and cursor and old.record.fingerprint == job.times.fingerprint:
            new = job.definition(old.record.since, self.version, self.host)
            if old.record.says_the_same(new):
                self.jobs[job.name], self.cursors[job.name] = job, cursor
                self.revisions[job.name] = old.mod_revision
                return None
            start = cursor.record.nominal
        else:
            new = job.definition(now, self.version, self.host)
            start = max(cursor.record.nominal, now) if cursor else now
        following = Cursor(nominal=start, nonce=secrets.token_hex(8))
        step = planning.install(
            self.keys,
            self.fence,
            new,
            old.mod_revision if old else 0,
            following,
            cursor.mod_revision if cursor else 0,
            **self._noted(new.job, now, old.record if old else None, new),
        )
        changes = f"; changed: {changed(old.record, new)}" if old else ""
        return Installation(job, following, step, f"task {job.task}{changes}")

    def install(self, installations: Sequence[Installation]) -> None:
        """Put our definitions in force, at most TOGETHER of them. Raises Stale, LeadLost."""
        outcomes = send_all(self.client, [each.step for each in installations])
        for each, outcome in zip(installations, outcomes, strict=True):
            name = each.job.name
            if not isinstance(outcome, Written):
                raise Stale(name)
            self.jobs[name], self.cursors[name] = each.job, Seen(each.cursor, outcome.revision)
            self.revisions[name] = outcome.revision
            logger.info("jobguard: %s is planned %s, %s", name, each.job.times.text, each.what)

    def _withdraw(self, name: str, old: Seen[Schedule], now: datetime) -> None:
        noted = self._noted(name, now, old.record, None)
        send(self.client, planning.withdraw(self.keys, self.fence, name, old.mod_revision, **noted))
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
