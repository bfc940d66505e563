"""What an operator changes by hand, each change in one transaction with its audit entry.

Place in the house   the web UI, the REST API and the CLI  ->  operate  ->  observe, runs, client
Takes                what the operator saw (an id and a revision), who they are, and why
Gives                what was done
Never                revokes a lease: it may carry every other claim of that worker

All of it may be sent again after a lost answer: the audit entry has a nonce, and finding it says that an
earlier sending had succeeded.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec

from jobguard import observe, runs
from jobguard.config import write_value
from jobguard.errors import ConfigurationError, JobguardError
from jobguard.observe.configuration import config_key
from jobguard.observe.holders import line_key
from jobguard.observe.reading import read, under
from jobguard.ops import compare_absent, compare_created, compare_mod, delete_op, get_op, put_op
from jobguard.records import Attempt, Audit, Done, Keys, Occurrence, Open, Verdict, encode
from jobguard.wire import KeyValue, RangeRequest, RangeResponse

if TYPE_CHECKING:
    from jobguard.client import Client


PATIENCE_S = 5.0
"""How long a change is sent again until its outcome is known; a person waits for it."""


class Then(StrEnum):
    """What becomes of a run that is taken from its holder."""

    END = "end"  # its verdict is `released`
    RERUN = "rerun"  # the leading beat publishes attempt n + 1


class HolderChanged(JobguardError):
    """Somebody else holds it than the operator saw; nothing was released. `now` is the present holder."""

    def __init__(self, now: observe.Lock) -> None:
        super().__init__(f"{now.name} is held by {now.where} now, at revision {now.revision}")
        self.now = now


class ValueChanged(JobguardError):
    """It is another value than the operator saw; nothing was set. `now` is what it is."""

    def __init__(self, now: observe.ConfigEntry) -> None:
        super().__init__(f"{now.key} was set meanwhile, at revision {now.revision}")
        self.now = now


@dataclass(frozen=True, slots=True)
class Released:
    """From whom the lock was taken, and the audit entry that says so."""

    lock: observe.Lock
    audit: Audit


@dataclass(frozen=True, slots=True)
class Actor:
    """Who acts, through which face, and why."""

    by: str
    via: str
    reason: str = ""

    def audit(self, action: str, target: str, *, before: str = "", after: str = "") -> Audit:
        return Audit(
            at=datetime.now(UTC),
            by=self.by,
            via=self.via,
            action=action,
            target=target,
            reason=self.reason,
            before=before,
            after=after,
        )


def release(client: "Client", id: str, *, revision: int, actor: Actor, then: Then = Then.END) -> Released:
    """Take a lock from the holder at `revision`; of a run, say also what becomes of it.

    The holder's process is not stopped: from here on its token is refused where tokens are checked.
    Raises NotFound if nobody holds it, HolderChanged if another does, ConfigurationError without a reason.
    """
    if not actor.reason.strip():
        raise ConfigurationError("a release needs a reason")
    lock = observe.lock(client, id)
    if lock.revision != revision:
        raise HolderChanged(lock)
    held_by = f"{lock.where}, token {lock.fencing_token}"
    if lock.kind == "run":
        audit = actor.audit("release", title(lock), before=held_by, after=then)
        taken = take_run(client, lock, audit, then)
    else:
        audit = actor.audit("release", title(lock), before=held_by)
        taken = take_lock(client, lock, audit)
    if not taken:
        raise HolderChanged(observe.lock(client, id))
    return Released(lock, audit)


def put_config(
    client: "Client", key: str, value: object, *, actor: Actor, revision: int | None = None
) -> Audit:
    """Set one configuration value; every host that watches it sees the change at once.

    `revision`: only if that set it last, 0 for one that is not set. Raises ValueChanged, or NotFound if it is
    not set (any more).
    """
    keys = Keys(client.namespace)
    full = config_key(keys, key)
    (before,) = read(client, [RangeRequest(key=full)]).ranges
    if revision not in (None, before[0].mod_revision if before else 0):
        raise ValueChanged(observe.config_value(client, key))
    replaced = before[0].value.decode(errors="replace") if before else ""
    audit = actor.audit("config", key, before=replaced, after=write_value(value).decode())
    entry = keys.audit(audit.at, secrets.token_hex(8))
    seen = [] if revision is None else [compare_mod(full, revision)]
    # The entry cannot exist yet, so a sending after one that succeeded finds it and writes nothing again.
    answer = client.txn_until_known(
        [compare_absent(entry), *seen],
        [put_op(full, write_value(value)), put_op(entry, encode(audit))],
        [get_op(entry)],
        timeout=PATIENCE_S,
    )
    if not answer.succeeded and not found(answer.responses[0].response_range):
        raise ValueChanged(observe.config_value(client, key))
    return audit


def title(lock: observe.Lock) -> str:
    due = f" due {lock.nominal_time:%Y-%m-%dT%H:%M:%SZ}" if lock.nominal_time else ""
    return f"{lock.kind} {lock.name}{due}"


def take_lock(client: "Client", lock: observe.Lock, audit: Audit) -> bool:
    """Delete the holder's own key; whoever waits longest is the holder from then on."""
    keys = Keys(client.namespace)
    (queue,) = read(client, [under(line_key(keys, lock.id) + b"/")]).ranges
    holder = next((kv.key for kv in queue if kv.create_revision == lock.revision), None)
    if holder is None:
        return False
    entry = keys.audit(audit.at, secrets.token_hex(8))
    answer = client.txn_until_known(
        [compare_created(holder, lock.revision)],
        [delete_op(holder), put_op(entry, encode(audit))],
        [get_op(entry)],
        timeout=PATIENCE_S,
    )
    return answer.succeeded or found(answer.responses[0].response_range)


def take_run(client: "Client", lock: observe.Lock, audit: Audit, then: Then) -> bool:
    """`runs.release`, asked again for as long as only the leader's notes on the occurrence have changed."""
    keys = Keys(client.namespace)
    assert lock.nominal_time is not None, "a run has a nominal time"
    occurrence = Occurrence(lock.name, lock.nominal_time)
    nonce = secrets.token_hex(8)
    while True:
        opened, attempts = read(
            client, [RangeRequest(key=keys.open(occurrence)), under(keys.attempts(occurrence))]
        ).ranges
        seen = runs.see(opened[0] if opened else None, Open)
        if seen is None:
            return False
        step = runs.release(
            keys,
            seen,
            token=lock.revision,
            audit=audit,
            nonce=nonce,
            done=verdict(seen.record, lock, audit, nonce) if then is Then.END else None,
            attempt=ended(attempts, seen.record, lock, audit),
        )
        answer = step.read(
            client.txn_until_known(step.compare, step.success, step.failure, timeout=PATIENCE_S)
        )
        if isinstance(answer, runs.Written):
            return True
        if answer.now is None or observe.lock(client, lock.id).revision != lock.revision:
            return False


def verdict(record: Open, lock: observe.Lock, audit: Audit, nonce: str) -> Done:
    return Done(
        job=record.job,
        nominal=record.nominal,
        verdict=Verdict.RELEASED,
        nonce=nonce,
        finished=audit.at,
        reason=f"released by {audit.by}: {audit.reason}",
        task=record.task,
        trigger=record.trigger,
        n=record.n,
        r=record.r,
        lost=record.lost,
        token=lock.fencing_token,
        host=lock.host,
        pid=lock.pid,
        worker=lock.worker,
        started=lock.since,
    )


def ended(attempts: Sequence[KeyValue], record: Open, lock: observe.Lock, audit: Audit) -> Attempt | None:
    """The record of the attempt that is taken away, marked as released."""
    tried = (msgspec.json.decode(kv.value, type=Attempt) for kv in attempts)
    return next(
        (
            msgspec.structs.replace(
                each, outcome="released", ended=audit.at, error=f"by {audit.by}: {audit.reason}"
            )
            for each in tried
            if (each.n, each.r) == (record.n, record.r)
        ),
        None,
    )


def found(answer: RangeResponse | None) -> bool:
    return answer is not None and bool(answer.kvs)
