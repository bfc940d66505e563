"""The scene: deliver the digest twice, kill its worker, the leading beat, the store's leader; then judge.

Place in the house   demo.command -> scene -> stage, outbox, the client library
Takes                a stage on which everything runs
Gives                a Judgement: per planned occurrence who ran it, which e-mails went out, what is wrong
Never                believes its own memory: verdicts come from the store, e-mails from the outbox
"""

import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from celery import Celery

from jobguard import observe
from jobguard.client import Client
from jobguard.config import Config
from jobguard.demo import outbox
from jobguard.demo.account import Say, title
from jobguard.demo.outbox import RECIPIENTS
from jobguard.demo.stage import BEATS, STORES, WORKERS, Stage, StageError
from jobguard.errors import JobguardError
from jobguard.records import (
    HEADER,
    Active,
    Attempt,
    Cursor,
    Done,
    Keys,
    Occurrence,
    Open,
    Verdict,
    decode,
    header,
)

T = TypeVar("T")

JOB = "digest"
NEW_SENDER = "weekly@example.org"
PATIENCE_S = 90.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One occurrence in the final table."""

    occurrence: Occurrence
    done: Done | None
    attempts: Sequence[Attempt]
    emails: Sequence[outbox.Email]
    told_no: Sequence[observe.Refusal]

    @property
    def fault(self) -> str:
        """What is wrong with it; empty when each attempt ran once and everyone got one e-mail."""
        if self.done is None:
            return "no verdict"
        if self.done.verdict is not Verdict.RAN:
            return f"{self.done.verdict}: {self.done.reason or self.done.error}"
        got = Counter(email.recipient for email in self.emails)
        wrong = [
            f"{who} got {got[who]}" for who in {*RECIPIENTS, *got} if got[who] != 1 or who not in RECIPIENTS
        ]
        bodies = {(email.attempt, email.fencing_token, email.worker) for email in self.emails}
        ran = Counter(attempt for attempt, _, _ in bodies)
        wrong += [f"attempt {attempt} ran {times} times" for attempt, times in ran.items() if times > 1]
        return ", ".join(sorted(wrong))


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    lines: Sequence[Line]
    faults: Sequence[str]


class Scene:
    """Plays once. Each act waits until the digest has gone on before the next begins."""

    def __init__(self, stage: Stage, client: Client, say: Say) -> None:
        self.stage = stage
        self.client = client
        self.say = say
        self.keys = Keys(client.namespace)
        self.killed: str | None = None
        self.told_no: set[observe.Refusal] = set()  # they go with the worker that was told

    def play(self) -> Judgement:
        self.say("act 1: everything runs; the first digest goes out")
        self.digest_after(datetime.min.replace(tzinfo=UTC))
        self.deliver_it_twice()
        self.kill_the_worker_in_mid_body()
        self.kill_the_leading_beat()
        self.kill_the_store_leader()
        self.change_the_sender()
        self.say("curtain: no new digests are planned; what is open finishes")
        for beat in BEATS:
            os.kill(self.stage.actors[beat].pid, signal.SIGTERM)
        self.until(
            lambda: not self.client.prefix(self.keys.prefix("open")).kvs or None,
            "the open runs to end",
            BEATS,
        )
        return self.judge()

    # --- acts ---

    def deliver_it_twice(self) -> None:
        self.say("act 2: the broker delivers the message of the running digest a second time")
        occurrence, active = self.until(lambda: deliver_again(self.stage, self.client), "a digest to run")

        def told_no() -> observe.Refusal | None:
            refusals = observe.refusals(self.client, job=JOB).items
            return next((each for each in refusals if each.task_id == active.task_id), None)

        refusal = self.until(told_no, "the second delivery to be told no")
        self.told_no.add(refusal)
        self.say(f"        {title(occurrence)}: {refusal.why}")
        self.until(lambda: self.verdict(occurrence), f"{title(occurrence)} to end")

    def kill_the_worker_in_mid_body(self) -> None:
        self.say("act 3: kill -9 the worker that runs the digest, in the middle of its body")
        occurrence, active = self.until(self.half_sent, "a digest to be half sent")
        worker = self.stage.actor_of(active.pid)
        if worker not in WORKERS:
            raise StageError(f"pid {active.pid} claims to run the digest and is none of our workers")
        with outbox.reading(self.stage.folder / "outbox.sqlite") as tx:
            sent = len(outbox.sent(tx, title(occurrence)))
        self.kill(worker, f"{title(occurrence)} had sent {sent} of {len(RECIPIENTS)} e-mails")
        done = self.until(
            lambda: self.verdict(occurrence), f"{title(occurrence)} to be run by another worker"
        )
        self.say(f"        {title(occurrence)} was finished by {done.worker} as attempt {done.n}")
        self.revive()

    def kill_the_leading_beat(self) -> None:
        self.say("act 4: kill -9 the leading beat")
        leader = self.until(self.leading_beat, "a beat to lead")
        killed_at = self.kill(leader, "it led the election")
        follower = self.until(
            lambda: found if (found := self.leading_beat()) not in (None, leader) else None,
            "the other beat to lead",
        )
        self.say(f"        {follower} leads {(datetime.now(UTC) - killed_at).total_seconds():.1f} s later")
        self.digest_after(killed_at)
        self.revive()

    def kill_the_store_leader(self) -> None:
        self.say("act 5: kill -9 the store's leader")
        leader = self.until(self.store_leader, "the store to have a leader")
        killed_at = self.kill(leader, "it led the store")
        successor = self.until(self.store_leader, "another node to lead")
        self.say(f"        {successor} leads {(datetime.now(UTC) - killed_at).total_seconds():.1f} s later")
        self.digest_after(killed_at)
        self.revive()

    def change_the_sender(self) -> None:
        self.say(f"act 6: change the e-mails' sender to {NEW_SENDER}, for all workers, without a restart")
        with closing(Config(JOB, client=self.client)) as config:
            config["sender"] = NEW_SENDER

        def seen() -> set[str] | None:
            with outbox.reading(self.stage.folder / "outbox.sqlite") as tx:
                workers = outbox.workers_that_saw(tx, NEW_SENDER)
            return workers if workers == set(WORKERS) else None

        self.until(seen, "both workers to take up the new sender")
        self.say("        both workers have it")
        self.digest_after(datetime.now(UTC))

    # --- what the acts wait for ---

    def until(self, condition: Callable[[], T | None], what: str, absent: Sequence[str] = ()) -> T:
        """The first result of `condition` that is not None. The store may be without a leader meanwhile."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            self.stage.require_all((*absent, *([self.killed] if self.killed else [])))
            with suppress(JobguardError):  # asked again: the deadline decides
                if (found := condition()) is not None:
                    return found
            time.sleep(0.1)
        raise StageError(f"waited {PATIENCE_S:.0f} s for {what}")

    def digest_after(self, moment: datetime) -> Done:
        """Wait for a digest that was due after `moment` to have run."""

        def ran() -> Done | None:
            verdicts = (
                decode(kv.value, Done) for kv in self.client.prefix(self.keys.prefix("done", JOB)).kvs
            )
            return next((done for done in verdicts if done.nominal > moment), None)

        done = self.until(ran, "a digest to go out")
        self.say(f"        the digest goes on: {title(done.occurrence)} {done.verdict}")
        return done

    def half_sent(self) -> tuple[Occurrence, Active] | None:
        for kv in self.client.prefix(self.keys.prefix("active", JOB)).kvs:
            occurrence = self.keys.occurrence(kv.key)
            with outbox.reading(self.stage.folder / "outbox.sqlite") as tx:
                sent = len(outbox.sent(tx, title(occurrence)))
            if 0 < sent < len(RECIPIENTS) - 1:
                return occurrence, decode(kv.value, Active)
        return None

    def verdict(self, occurrence: Occurrence) -> Done | None:
        kv = self.client.get(self.keys.done(occurrence))
        return decode(kv.value, Done) if kv else None

    def leading_beat(self) -> str | None:
        """The beat whose election key is the oldest, if it is a process that runs."""
        candidates = self.client.prefix(self.keys.prefix("elections", "beat")).kvs
        if not candidates:
            return None
        leader = min(candidates, key=lambda kv: kv.create_revision)
        return self.stage.actor_of(json.loads(leader.value)["pid"])

    def store_leader(self) -> str | None:
        """The node that the living ones name as their leader, if it lives itself."""
        living = {s: self.stage.endpoints[s] for s in STORES if self.stage.actors[s].runs()}
        statuses = {store: self.client.status(url) for store, url in living.items()}
        ids = {status.header.member_id: store for store, status in statuses.items() if status.header}
        named = {ids.get(status.leader) for status in statuses.values()}
        return named.pop() if len(named) == 1 else None

    def kill(self, name: str, why: str) -> datetime:
        pid = self.stage.actors[name].pid
        self.stage.kill(name)
        self.killed = name
        self.say(f"        killed {name} (pid {pid}): {why}")
        return datetime.now(UTC)

    def revive(self) -> None:
        """Bring back what was killed, as its supervisor would."""
        assert self.killed is not None
        self.stage.revive(self.killed)
        self.say(f"        {self.killed} is started again")
        self.killed = None

    # --- judging ---

    def judge(self) -> Judgement:
        """Every nominal time from the first planned to the cursor, whether it has a verdict or not."""
        dones = {d.occurrence: d for d in self.records("done", Done)}
        told_no = self.told_no | set(observe.refusals(self.client, job=JOB, limit=500).items)
        with outbox.reading(self.stage.folder / "outbox.sqlite") as tx:
            emails = outbox.sent(tx)
        occurrences = self.planned(min(dones).nominal)
        lines = [
            Line(
                occurrence=occurrence,
                done=dones.get(occurrence),
                attempts=[
                    decode(kv.value, Attempt) for kv in self.client.prefix(self.keys.attempts(occurrence)).kvs
                ],
                emails=[email for email in emails if email.occurrence == title(occurrence)],
                told_no=[no for no in told_no if no.nominal_time == occurrence.nominal],
            )
            for occurrence in occurrences
        ]
        faults = [f"{title(line.occurrence)}: {line.fault}" for line in lines if line.fault]
        known = {title(occurrence) for occurrence in occurrences}
        faults += [
            f"an e-mail of {e.occurrence}, which was never planned"
            for e in emails
            if e.occurrence not in known
        ]
        if not any(len(line.attempts) > 1 for line in lines):
            faults.append("no occurrence needed a second attempt: the scene did not test what it should")
        return Judgement(lines=lines, faults=faults)

    def planned(self, first: datetime) -> list[Occurrence]:
        kv = self.client.get(self.keys.cursor(JOB))
        if kv is None:
            raise StageError("the store has no cursor for the digest")
        last, period = decode(kv.value, Cursor).nominal, timedelta(seconds=self.stage.period_seconds)
        return [Occurrence(JOB, first + period * n) for n in range((last - first) // period + 1)]

    def records(self, kind: str, record: type[Done]) -> list[Done]:
        return [decode(kv.value, record) for kv in self.client.prefix(self.keys.prefix(kind, JOB)).kvs]


def deliver_again(stage: Stage, client: Client) -> tuple[Occurrence, Active] | None:
    """Hand the broker the message of the digest that runs once more, as it would after a lost
    acknowledgement; which digest that is, or None when none runs.
    """
    keys = Keys(client.namespace)
    for kv in client.prefix(keys.prefix("active", JOB)).kvs:
        occurrence, active = keys.occurrence(kv.key), decode(kv.value, Active)
        opened = client.get(keys.open(occurrence))
        if opened is not None:
            record = decode(opened.value, Open)
            told = header(client.namespace, occurrence, active.n, record.overlap)
            with Celery("again", broker=stage.broker, set_as_current=False) as app:
                app.send_task(record.task, task_id=active.task_id, headers={HEADER: told})
            return occurrence, active
    return None


def report(judgement: Judgement) -> str:
    """The table at the end, and the sentence below it."""
    rows = [("occurrence", "verdict", "attempts by", "tokens", "told no", "e-mails")]
    for line in judgement.lines:
        ran = [f"{a.worker.partition('@')[0]}{f' ({a.outcome})' if a.outcome else ''}" for a in line.attempts]
        tokens = sorted({email.fencing_token for email in line.emails})
        rows.append(
            (
                title(line.occurrence),
                str(line.done.verdict) if line.done else "none",
                " then ".join(ran),
                ", ".join(map(str, tokens)),
                str(len(line.told_no) or ""),
                f"{len(line.emails)} of {len(RECIPIENTS)}",
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    table = "\n".join(
        "  ".join(f"{cell:{w}}" for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows
    )
    if judgement.faults:
        return f"{table}\n\nNOT once-only:\n" + "\n".join(f"  {fault}" for fault in judgement.faults)
    count = len(judgement.lines)
    emails = sum(len(line.emails) for line in judgement.lines)
    refused = sum(len(line.told_no) for line in judgement.lines)
    held = f"Once-only: {count} of {count} occurrences completed once"
    told = f"{refused} more {'delivery was' if refused == 1 else 'deliveries were'} told no"
    return f"{table}\n\n{held}, {emails} e-mails, none twice, none missing; {told}."
