"""What is done for a child that died: its name is deleted, then what it held is freed.

Place in the house   parent -> here -> client, runs
Takes                the child's last word, and what the request knew
Gives                transactions carried through; the verdict of the occurrence, if there is one
Never                frees anything while a process of the child may still run

The order is the argument. First the process group is gone: nothing runs any more. Then the incarnation is
deleted: a claim that the child had sent, and that is still on its way, compares it and can no longer land.
Only then is the claim in the store the last one, and is freed by its token.
"""

import os
import signal
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar

import msgspec
from celery.utils.log import get_logger

from jobguard import runs
from jobguard.celery.abort import kill_group
from jobguard.celery.child import HOST
from jobguard.celery.request import Ending
from jobguard.client import Client
from jobguard.ops import compare_present, delete_op, get_op
from jobguard.records import Active, Attempt, Done, Keys, Occurrence, Open, Verdict
from jobguard.steps import Transaction, first, see

T = TypeVar("T")

logger = get_logger(__name__)

_EXIT_PATIENCE_S = 2.0
_PAUSE_S = 0.01


@dataclass(frozen=True, slots=True)
class Store:
    """The store as burials use it."""

    client: Client
    keys: Keys

    def send(self, step: Transaction[T]) -> T:
        return step.read(self.client.txn_until_known(step.compare, step.success, step.failure))


def make_sure_it_ended(pid: int) -> None:
    """Wait for the child to be gone, help it after a while, and end what it had started.

    The pool collects the exit status; looking with WNOWAIT leaves it there.
    """
    until = time.monotonic() + _EXIT_PATIENCE_S
    while is_child(pid):
        if time.monotonic() >= until:
            kill_group(pid)
        time.sleep(_PAUSE_S)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)  # a group outlives its leader


def is_child(pid: int) -> bool:
    """Whether `pid` is a process of ours that has not exited."""
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
    except ChildProcessError:
        return False


def withdraw(store: Store, lease: int, incarnation: str) -> None:
    """From here on nothing that this child has sent can become a claim."""
    if lease:
        store.client.txn_until_known(success=(delete_op(store.keys.child(lease, incarnation)),))


def free(
    store: Store,
    occurrence: Occurrence,
    number: tuple[int, int],
    incarnation: str,
    ending: Ending,
    reason: str,
) -> Done | Open | None:
    """Free the child's claim of this occurrence, if it holds it.

    Gives the verdict, if there is one then; the open record, if attempt and retry `number` are another's
    or still nobody's; nothing where they are lost.
    """
    keys = store.keys
    answer = store.client.txn(
        success=(
            get_op(keys.active(occurrence)),
            get_op(keys.open(occurrence)),
            get_op(keys.done(occurrence)),
            get_op(keys.attempt(occurrence, *number)),
        )
    )
    active, opened = see(first(answer, 0), Active), see(first(answer, 1), Open)
    done = see(first(answer, 2), Done)
    if opened is None:
        return done.record if done else None
    if active is None or active.record.child != incarnation:
        theirs = active is not None or first(answer, 3) is None
        return opened.record if theirs and (opened.record.n, opened.record.r) == number else None
    if ending is Ending.LOST:
        give_up(store, occurrence, active.record, active.create_revision, reason)
        return None
    verdict = _stopped(opened.record, active.record, active.create_revision, reason)
    store.send(runs.finish(keys, occurrence, token=active.create_revision, done=verdict))
    return verdict


def give_up(store: Store, occurrence: Occurrence, active: Active, token: int, reason: str) -> bool:
    """Free a claim as lost: what becomes of the occurrence is the leader's, by on_lost."""
    attempt = Attempt(
        **{name: getattr(active, name) for name in Active.__struct_fields__},
        outcome="lost",
        ended=datetime.now(UTC),
        error=reason,
    )
    return store.send(runs.abandon(store.keys, occurrence, token=token, attempt=attempt))


def turns_among(store: Store, keys: Iterable[bytes]) -> dict[bytes, str]:
    """By key: the nonce of each place in line, held or waited in."""
    found = ((key, store.keys.parts(key)) for key in keys)
    return {key: parts[3] for key, parts in found if parts[0] == "locks"}


def turns_anywhere(store: Store) -> set[str]:
    """The same of all leases, by a quorum's word: the nonces alone."""
    found = store.client.prefix(store.keys.prefix("locks"), keys_only=True).kvs
    return {kv.key.rpartition(b"/")[2].decode() for kv in found}


def give_up_turns(store: Store, keys: Iterable[bytes]) -> None:
    """Take places away of which no process speaks any more. Each was of one delivery alone."""
    for key in keys:
        if store.client.txn_until_known((compare_present(key),), (delete_op(key),)).succeeded:
            logger.warning("jobguard: freed %s: no process of its worker runs it", key.decode())


def _stopped(opened: Open, active: Active, token: int, reason: str) -> Done:
    return Done(
        job=opened.job,
        nominal=opened.nominal,
        verdict=Verdict.FAILED,
        nonce=active.nonce,
        finished=datetime.now(UTC),
        reason=reason,
        task=opened.task,
        trigger=opened.trigger,
        n=active.n,
        r=active.r,
        lost=opened.lost,
        token=int(token),
        host=HOST,
        pid=active.pid,
        worker=active.worker,
        started=active.since,
        error=reason,
    )


def never_started(store: Store, occurrence: Occurrence, n: int, r: int, verdict: Done) -> None:
    """The message will not come again: the attempt ends here, unless somebody claimed it after all."""
    store.send(runs.settle(store.keys, occurrence, n, r, msgspec.structs.replace(verdict, n=n, r=r)))
