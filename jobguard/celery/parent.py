"""The worker's main process: holds the lease, says that it guards, buries children, kills late bodies.

Place in the house   worker's bootsteps, request -> here -> session, errands, burial, deadline
Takes                a booted worker; reports about requests
Gives                a lease for the children; freed claims; the worker's entry under workers/
Never                talks to the store in the event loop, or renews a lease for bodies it can no longer stop

Two threads. The keeper makes no calls, so nothing delays it: a few times a second it copies the session's
deadline to the children and kills what would outlive it. The errands talk to the store, and may take long.
"""

import os
import threading
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any, TypeVar

import msgspec
from celery.app.task import Context
from celery.utils.log import get_logger

from jobguard import wire
from jobguard.celery import burial
from jobguard.celery.abort import kill_group
from jobguard.celery.burial import Store
from jobguard.celery.child import HOST
from jobguard.celery.deadline import ChildState, Deadline, Running, WorkerDirectory
from jobguard.celery.errands import AGAIN_S, Errands
from jobguard.celery.refusals import Ring
from jobguard.celery.request import Ending
from jobguard.celery.turn import BESIDE
from jobguard.client import Client
from jobguard.errors import JobguardError, ServerError
from jobguard.ops import put_op
from jobguard.records import Active, Done, Header, Keys, Open, Verdict, Worker, decode, encode
from jobguard.session import Session, State, boottime, native_thread, write_log
from jobguard.settings import Settings

T = TypeVar("T")

logger = get_logger(__name__)

_LOOK_S = 0.25
_UNSENT_S = 0.5
_REFUSALS_S = 1.0
_STOP_PATIENCE_S = 1.0
_EXHAUSTED = 8  # the gRPC code of a full store; it passes


class Parent:
    """One per worker. Built when the worker boots, started when its pool runs, stopped after it."""

    def __init__(
        self,
        settings: Settings,
        directory: WorkerDirectory,
        worker: Worker,
        words_here: Callable[[], list[ChildState]] = list,
    ) -> None:
        """`words_here`: of bodies that run in this very process, in pools without processes."""
        self._settings, self._directory, self._worker = settings, directory, worker
        self._words_here = words_here
        self._said: set[str] = set()
        self._pid = os.getpid()
        keys = Keys(settings.namespace)
        timeout = min(settings.timeout, settings.session_ttl / 3)
        client = Client.from_settings(settings, timeout=timeout)
        self._store = Store(client, keys)
        self._refusals = Ring(self._store, directory, worker.worker)
        self._lease_file = directory.lease()
        self._session: Session | None = None
        self._written = Deadline()
        self._kill_at: dict[int, float] = {}  # by lease: when no body may run under it any more
        self._errands = Errands()
        self._stopping = threading.Event()
        self._keeper = native_thread(self._keep, "jobguard-keeper")
        self._in_loop: Callable[[Callable[[], None]], None] = lambda call: call()
        self._lacking: set[str] = set()  # why there is no lease: all that was said since there was one
        self._advertised_on = 0
        self._seen_dead: set[int] = set()
        self._burying: set[int | None] = set()
        self._kept: set[str] = set()

    def start(self, in_loop: Callable[[Callable[[], None]], None] | None = None) -> None:
        """`in_loop` hands a call to the worker's event loop, where it has one."""
        self._in_loop = in_loop or self._in_loop
        self._errands.add(self._have_lease)
        self._errands.add(self._carry_unsent, _UNSENT_S)
        self._errands.add(self._write_refusals, _REFUSALS_S)
        self._errands.add(self._compare_claims, self._settings.session_ttl / 3)
        self._errands.start()
        self._keeper.start()

    def stop(self) -> None:
        """After the pool: nothing runs any more, so the lease and all that hangs on it can go at once.

        Without a store it goes by itself, and a supervisor would kill a worker that waits for long. Only an
        outcome that nobody else will record is worth a whole call.
        """
        if self._pid != os.getpid() or not self._keeper.is_alive():
            return
        self._stopping.set()
        self._errands.stop(_STOP_PATIENCE_S)
        self._keeper.join(_STOP_PATIENCE_S)
        try:
            self._carry_unsent()
        except JobguardError as error:
            logger.error("jobguard: outcomes of this worker could not be recorded: %s", error)
        if self._session is not None:
            self._session.close(_STOP_PATIENCE_S)
        self._directory.remove()

    # --- the keeper ---

    def _keep(self) -> None:
        while not self._stopping.wait(min(_LOOK_S, self._settings.session_ttl / 40)):
            try:
                self._publish_deadline()
                self._kill_late_bodies()
            except Exception as error:  # noqa: BLE001 - without this thread the children would see no renewals
                text = "jobguard: a look at the lease failed; the next one follows"
                write_log(logger.error, text, exc_info=error)

    def _publish_deadline(self) -> None:
        session, now = self._session, Deadline()
        if session is not None:
            held = Deadline(session.lease_id, session.deadline, session.ttl)
            if session.state is not State.LOST:  # looked at last: a lost lease has no deadline
                now = held
        if now == self._written:
            return
        gone = self._written
        if gone.lease and gone.lease != now.lease:
            self._kill_at[gone.lease] = min(gone.kill_at, boottime() + gone.grace)
        if now.lease:
            self._kill_at[now.lease] = now.kill_at
        self._lease_file.write(now)
        self._written = now

    def _kill_late_bodies(self) -> None:
        """The last resort, before the lease can pass on: a body that did not stop when it was asked to."""
        moment = boottime()
        late = {lease for lease, at in self._kill_at.items() if moment >= at}
        if not late:
            return
        for pid, state in self._directory.children().items():
            if state.running is Running.STOPPABLE and state.lease in late and burial.is_child(pid):
                write_log(logger.error, "jobguard: killing process %d: its body outlives its lease", pid)
                kill_group(pid)
        self._say_unstoppable(
            (word for word in self._words_here() if word.lease in late), "outlives its lease"
        )
        self._kill_at = {lease: at for lease, at in self._kill_at.items() if at > moment - 60}

    def _say_unstoppable(self, words: Iterable[ChildState], what: str) -> None:
        """A body in a thread or a greenlet goes on. Once for each; it is told when it asks, by `check()`."""
        found = [word for word in words if word.running and not word.incarnation]
        for word in found:
            if word.nonce not in self._said:
                write_log(
                    logger.error,
                    "jobguard: a body %s and cannot be stopped in this pool: check() tells it, its outcome "
                    "will not count, and only fencing protects what it writes",
                    what,
                )
        self._said = (self._said & {word.nonce for word in self._words_here()}) | {w.nonce for w in found}

    # --- errands: the lease ---

    def _have_lease(self) -> float:
        """A session, and our entry on its lease. Children wait for it; without a store they wait in vain."""
        try:
            if self._session is None or self._session.state is State.LOST:
                self._session = Session(self._store.client, self._settings.session_ttl)
                logger.info("jobguard: %s guards on lease %x", self._worker.worker, self._session.lease_id)
            if self._advertised_on != self._session.lease_id:
                self._advertise(self._session.lease_id)
        except JobguardError as error:
            if str(error) not in self._lacking:
                logger.warning("jobguard: no lease, so claims wait: %s", error)
            self._lacking.add(str(error))
            return AGAIN_S
        if self._lacking:
            logger.warning("jobguard: the store answers again")
        self._lacking = set()
        return _LOOK_S

    def _advertise(self, lease: int) -> None:
        entry = msgspec.structs.replace(self._worker, since=datetime.now(UTC))
        key = self._store.keys.worker(self._worker.worker)
        self._store.client.txn_until_known(success=(put_op(key, encode(entry), lease),))
        self._advertised_on = lease

    # --- errands: what children left ---

    def _carry_unsent(self) -> float:
        """What a child could not carry through. Each is its own twin's answer, so it is sent at will."""
        unsent = self._directory.unsent()
        self._kept &= unsent.keys()
        for nonce, request in unsent.items():
            step = wire.decode(request, wire.TxnRequest)
            try:
                self._store.client.txn_until_known(step.compare, step.success, step.failure)
            except ServerError as error:
                if error.code == _EXHAUSTED:
                    self._say_full(nonce, error)
                    continue
                logger.error("jobguard: the store refused an outcome for good: %s", error)
            self._directory.carried(nonce, request)
        return _UNSENT_S

    def _say_full(self, nonce: str, error: ServerError) -> None:
        if nonce not in self._kept:
            self._kept.add(nonce)
            logger.error("jobguard: an outcome waits for the store to have room again: %s", error)

    def _write_refusals(self) -> float:
        self._refusals.write(self._written.lease)
        return _REFUSALS_S

    def _compare_claims(self) -> float:
        """The store's claims on our lease, and what our children say they run, must be the same.

        A claim that no child runs: its answer was lost, or its child died between two deliveries. A body
        without a claim: an operator has taken it. What is read first decides which of the two cannot be told
        from a claim that has just begun or ended, so each is read in its own order.
        """
        self._directory.touch()
        self._forget_dead_children()
        lease = self._written.lease
        if lease:
            before = self._words()
            keys = self._keys_on(lease)
            turns, claims = burial.turns_among(self._store, keys), self._claims_among(keys)
            after = self._words()
            claimed = {active.nonce for _, active in claims.values()} | set(turns.values())
            self._stop_bodies_without_claim(before, claimed, lease)
            self._give_back_orphans(claims, turns, after)
        return self._settings.session_ttl / 3

    def _words(self) -> list[ChildState]:
        return [*self._directory.children().values(), *self._words_here()]

    def _forget_dead_children(self) -> None:
        """One that died under a request is buried with it, which tells more: it has a round for that."""
        found = self._directory.children().items()
        dead = {pid: w for pid, w in found if pid not in self._burying and not burial.is_child(pid)}
        for pid in dead.keys() & self._seen_dead:
            burial.withdraw(self._store, dead[pid].lease, dead[pid].incarnation)
            self._directory.forget(pid)
        self._seen_dead = set(dead)

    def _keys_on(self, lease: int) -> tuple[bytes, ...]:
        return self._store.client.time_to_live(lease, keys=True).keys

    def _claims_among(self, keys: Iterable[bytes]) -> dict[bytes, tuple[int, Active]]:
        """By key: the token, and who claimed."""
        store = self._store
        found = (store.client.get(key) for key in keys if store.keys.parts(key)[0] == "active")
        return {kv.key: (kv.create_revision, decode(kv.value, Active)) for kv in found if kv}

    def _stop_bodies_without_claim(self, words: list[ChildState], claimed: set[str], lease: int) -> None:
        """The words were read first: a body that ran then had its claim then, and has it no more.

        A node tells a lease's keys without asking a quorum, and may be behind. So a claim that is missing
        there is looked for once more before its body is stopped.
        """
        missing = {word.nonce for word in words if word.running and word.lease == lease} - claimed
        if missing:
            store = self._store
            active = store.client.prefix(store.keys.prefix("active")).kvs
            missing -= {decode(kv.value, Active).nonce for kv in active if kv.lease == lease}
            missing -= burial.turns_anywhere(store)
            missing &= {word.nonce for word in self._words() if word.running}  # not ended since
        for nonce in missing:
            self._directory.stop(nonce)
        self._say_unstoppable((word for word in words if word.nonce in missing), "has lost its claim")
        for nonce in set(self._directory.told()) - {word.nonce for word in words}:
            self._directory.take_back_stop(nonce)

    def _give_back_orphans(
        self, claims: dict[bytes, tuple[int, Active]], turns: dict[bytes, str], words: list[ChildState]
    ) -> None:
        """The claims were read first, and a child's word is there before its claim: in no word, so nobody's.

        One that has just ended is refused by its token.
        """
        known = {word.nonce for word in words} | set(self._directory.unsent())
        for key, (token, active) in claims.items():
            if active.nonce not in known:
                occurrence, reason = self._store.keys.occurrence(key), "no process of its worker runs it"
                if burial.give_up(self._store, occurrence, active, token, reason):
                    logger.warning("jobguard: gave back %s: %s", key.decode(), reason)
        burial.give_up_turns(
            self._store,
            [key for key, nonce in turns.items() if not {nonce, nonce.removesuffix(BESIDE)} & known],
        )

    # --- reports from requests ---

    def child_ended(
        self,
        header: Header,
        request: Any,
        ending: Ending,
        reason: str,
        then: Callable[[Done | Open | None], None] | None = None,
    ) -> None:
        pid, retries = request.worker_pid, request._context.retries or 0
        self._bury_first(pid, lambda: self._bury(pid, header, retries, ending, reason), then)

    def turn_ended(self, request: Any, then: Callable[[Any], None]) -> None:
        pid = request.worker_pid

        def bury() -> None:
            if self._end_child(pid) is not None:
                self._directory.forget(pid)

        self._bury_first(pid, bury, then)

    def _bury_first(
        self, pid: int | None, bury: Callable[[], T], then: Callable[[T | None], None] | None
    ) -> None:
        """`then` is told once: what is left, or nothing when the store does not answer in time."""
        patience, told = boottime() + self._settings.claim_timeout, then is None
        self._burying.add(pid)

        def errand() -> float | None:
            nonlocal told
            left: T | None = None
            try:
                left = bury()
            except JobguardError as error:
                logger.warning("jobguard: process %s ended; its claim is not freed yet: %s", pid, error)
                again = AGAIN_S if self._session else None
            else:
                again = None
            if again is None:
                self._burying.discard(pid)
            if then is not None and not told and (again is None or boottime() >= patience):
                told = True
                self._in_loop(lambda: then(left))
            return again

        self._errands.add(errand)

    def _bury(
        self, pid: int | None, header: Header, retries: int, ending: Ending, reason: str
    ) -> Done | Open | None:
        state = self._end_child(pid)
        incarnation = state.incarnation if state else "none"
        number = (header.n, retries)
        left = burial.free(self._store, header.occurrence, number, incarnation, ending, reason)
        if pid is not None:
            self._directory.forget(pid)
        logger.warning("jobguard: %s %s attempt %d: %s", header.job, header.nominal, header.n, reason)
        return left

    def _end_child(self, pid: int | None) -> ChildState | None:
        """Nothing of it runs from here on, or can begin to; its task's key is free. Gives its last word."""
        state: ChildState | None = None
        if pid is not None:
            burial.make_sure_it_ended(pid)
            state = self._directory.children().get(pid)
        self._carry_unsent()  # first: an outcome the child left behind is no loss
        if state is not None and state.lease:
            burial.withdraw(self._store, state.lease, state.incarnation)
            turns = burial.turns_among(self._store, self._keys_on(state.lease))
            burial.give_up_turns(
                self._store,
                [key for key, nonce in turns.items() if nonce.removesuffix(BESIDE) == state.nonce],
            )
        return state

    def never_started(self, header: Header, request: Context, reason: str) -> None:
        verdict = Done(
            job=header.job,
            nominal=header.occurrence.nominal,
            verdict=Verdict.EXPIRED,
            nonce=f"{request.id}-expired",
            finished=datetime.now(UTC),
            reason=reason,
            task=str(getattr(request, "task", "")),
            host=HOST,
            worker=self._worker.worker,
        )

        def settle() -> None:
            retries = int(request.retries or 0)
            burial.never_started(self._store, header.occurrence, header.n, retries, verdict)

        self._errands.add(settle)


def advertisement(hostname: str, pool: str, concurrency: int) -> Worker:
    """What workers/<node name> says: this worker guards, and in which version."""
    return Worker(
        worker=hostname,
        host=HOST,
        pid=os.getpid(),
        since=datetime.now(UTC),
        version=version("jobguard"),
        pool=pool,
        concurrency=concurrency,
        turns=True,
    )
