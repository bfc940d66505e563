"""Who guards in this process: its hold on the worker's lease, and its name in the store.

Place in the house   guard -> here -> client, deadline, abort, watchdog
Takes                the app's settings; the directory that the worker announced
Gives                the lease to claim on, an incarnation registered on it, transactions carried through
Never                connects, or starts a thread, before the first delivery that needs it; outlives a fork
"""

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from functools import cache, partial
from typing import TypeVar

from celery.utils.log import get_logger

from jobguard import wire
from jobguard.celery.abort import Stopper, own_process_group
from jobguard.celery.deadline import ChildState, Deadline, Running, WorkerDirectory
from jobguard.celery.watchdog import Watchdog
from jobguard.client import Client
from jobguard.errors import LeaseNotFound, OutcomeUnknown, ServerError, Unavailable
from jobguard.ops import put_op
from jobguard.policy import policy_of
from jobguard.records import Keys
from jobguard.settings import Settings
from jobguard.steps import Transaction

T = TypeVar("T")

logger = get_logger(__name__)

HOST = socket.gethostname()
_PAUSE_S = 0.02
_ASK_S = 0.2  # a node that leads answers at once


class Child:
    """One process that runs guarded bodies: a prefork child, or the main process for the other pools.

    Only a prefork child has an incarnation and can be stopped. Bodies in threads and greenlets share the main
    process, which nobody may kill for one of them: they have the fencing token and `check()`, and that is
    all. Many run at a time, so each says its own word, under its nonce, where the parent's threads read it.
    """

    def __init__(self, settings: Settings, directory: WorkerDirectory) -> None:
        self.pid = os.getpid()
        self.settings = settings
        self.keys = Keys(settings.namespace)
        self.policy = cache(partial(policy_of, settings.jobs))  # by job
        self.client = Client.from_settings(settings)
        self._directory = directory
        self._lease = directory.lease()
        self._registered = 0
        self._words: dict[str, ChildState] = {}  # of bodies that run here
        self.file = None
        if directory.owner != self.pid:
            own_process_group()
            self.file = directory.own_child()
        self.stopper = Stopper(signal.Signals[settings.abort_signal])
        self.watchdog = Watchdog(self._lease, self.stopper, directory.told_to_stop)

    @property
    def incarnation(self) -> str:
        return self.file.incarnation if self.file else ""

    def deadline(self) -> Deadline:
        """The worker's lease as its parent last renewed it."""
        return self._lease.read()

    def told_to_stop(self, nonce: str) -> bool:
        """Whether the parent saw that this claim was taken from us."""
        return self._directory.told_to_stop(nonce)

    def can_be_stopped(self) -> bool:
        return self.file is not None and threading.current_thread() is threading.main_thread()

    def tell(self, running: Running, nonce: str, lease: int) -> None:
        """Our word to the parent, before each step of a delivery."""
        if self.file:
            self.file.tell(running, nonce, lease)
        else:
            self._words[nonce] = ChildState("", running, nonce, lease)

    def tell_the_end(self, nonce: str) -> None:
        """Whatever of this delivery is still in the store, nobody runs it: the parent may take it back.

        Where the process itself is ending its last word stands: it is buried with its request, which knows
        why. Without a word its claim would be an orphan's until then, and a limit a loss.
        """
        if self.file is None:
            self._words.pop(nonce, None)
        elif isinstance(sys.exception(), Exception | None):
            self.file.tell(Running.NOTHING)

    def words(self) -> list[ChildState]:
        """What runs in this very process; nothing in prefork."""
        return list(self._words.copy().values())  # other threads begin and end bodies

    def lease_to_claim_on(self, until: float) -> Deadline:
        """The worker's lease, with our incarnation registered under it. Raises Unavailable after `until`.

        The parent may be without a lease for a while: it has just started, or the store cannot be reached.
        """
        while True:
            deadline = self.deadline()
            if deadline.may_start() and self._register(deadline.lease, until):
                return deadline
            if time.monotonic() >= until:
                raise Unavailable("the worker has no lease: its main process cannot reach the store")
            time.sleep(_PAUSE_S)

    def _register(self, lease: int, until: float) -> bool:
        """Put our incarnation on the lease, once per lease; the parent deletes it when we are dead.

        Putting it twice changes nothing, so a lost answer is no harm. If we die with the put in flight,
        nothing of ours can follow it: a claim is only sent after its answer.
        """
        if self.file is None or self._registered == lease:
            return True
        key = self.keys.child(lease, self.incarnation)
        try:
            self.client.txn_until_known(
                success=(put_op(key, b'{"v":1,"pid":%d}' % self.pid, lease),), timeout=_left(until)
            )
        except LeaseNotFound:
            return False
        except OutcomeUnknown as error:
            raise Unavailable(str(error)) from error
        self._registered = lease
        self.client.prefer_leader(_ASK_S)
        return True

    def be_new(self) -> None:
        """Take another name: the next claim registers it first."""
        if self.file:
            self.file.be_new()
        self._registered = 0

    def send(self, step: Transaction[T], until: float) -> T:
        """Carry a step through. Raises Unavailable (not done) or OutcomeUnknown after `until`."""
        answer = self.client.txn_until_known(step.compare, step.success, step.failure, timeout=_left(until))
        return step.read(answer)

    def send_or_leave(self, nonce: str, step: Transaction[T], until: Callable[[], float]) -> T | None:
        """Carry a step through; leave it to the parent when that takes long, and go on trying meanwhile.

        None: not known by `until`; the parent tries on. Both may send it: the step is its own twin's answer.
        Raises LeaseNotFound where it writes on a lease that has ended: that will not change.
        """
        left_behind = False
        while True:
            try:
                known = self.send(step, min(time.monotonic() + 1.0, until()))
            except LeaseNotFound:
                raise
            except (Unavailable, OutcomeUnknown, ServerError) as error:
                if not left_behind:
                    logger.warning("jobguard: an outcome is not recorded yet: %s; going on trying", error)
                    self.leave(nonce, step)
                    left_behind = True
                if time.monotonic() >= until():
                    return None
                continue
            if left_behind:
                self._directory.sent(nonce)
            return known

    def leave(self, nonce: str, step: Transaction[T]) -> None:
        """Leave a step to the parent altogether."""
        request = wire.TxnRequest(compare=step.compare, success=step.success, failure=step.failure)
        self._directory.leave_unsent(nonce, wire.encode(request))

    def leave_refusal(self, nonce: str, record: bytes) -> None:
        """Leave the parent a record that a delivery was told no."""
        self._directory.leave_refusal(nonce, record)


def _left(until: float) -> float:
    return max(until - time.monotonic(), 0.1)
