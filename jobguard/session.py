"""One lease, kept alive by one thread; and whether we may still count on it, decided here and early.

Place in the house   lock, election, the plugin  ->  session  ->  client
Takes                a client and a TTL; or, in a prefork child, the id and deadline its parent shares
Gives                lease_id, deadline, state (held, suspect, lost), callbacks
Never                trusts a lease past its own deadline, survives a fork, lets a callback delay a renewal

The rule that everything rests on: the store counts a TTL from when it renewed, we count it from when we
*sent* the renewal. So our deadline comes first, on any network, as long as both clocks run at the same speed.
It is read on CLOCK_BOOTTIME where there is one: a machine that slept has lost its leases, and the monotonic
clock would not know.

    sent ───── TTL/3: renew ───── TTL/2: suspect ──────────────────── TTL: lost, here
         └─ arrives ─ the store's TTL ───────────────────────────────────────────────── lapses, there
"""

import logging
import math
import os
import sys
import time
from collections.abc import Callable
from enum import Enum
from threading import Event, Thread
from threading import Lock as Mutex
from typing import Any

from jobguard.client import Client
from jobguard.errors import JobguardError, LeaseExpired

log = logging.getLogger("jobguard.session")

Callback = Callable[[], None]

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def boottime() -> float:
    """Seconds on a clock that never jumps and, where the system has such a one, runs on through a suspend."""
    return time.clock_gettime(_CLOCK)


def green() -> bool:
    """Whether gevent has put greenlets in threads' place."""
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and bool(monkey.is_module_patched("threading"))


def native_thread(target: Callable[[], None], name: str) -> Thread:
    """A daemon thread of the system's, not started, also where gevent has put greenlets in threads' place.

    A body that computes lets no other greenlet run, and a renewal must not wait for it.
    """
    if not green():
        return Thread(target=target, name=name, daemon=True)
    from jobguard.greenlets import NativeThread

    return NativeThread(target=target, name=name, daemon=True)


def write_log(write: Callable[..., None], *args: Any, **kwargs: Any) -> None:
    """Log, in code that may run in a `native_thread`.

    Under gevent the locks of `logging` are the greenlets'. A thread that waits for one waits for whatever the
    greenlet that has it does meanwhile, and may never be woken at all: nobody would renew any more.
    """
    if green():
        from jobguard.greenlets import call_among_greenlets

        call_among_greenlets(write, *args, **kwargs)
    else:
        write(*args, **kwargs)


class State(Enum):
    HELD = "held"
    SUSPECT = "suspect"  # half the TTL has gone without a renewal: stop starting things
    LOST = "lost"  # for good: stop doing things


class SharedSession:
    """A lease that somebody else keeps alive, such as a prefork worker's MainProcess for its children.

    `read_deadline` gives the deadline on `boottime()` that the renewing side publishes; 0 when it is unknown.
    """

    def __init__(self, lease_id: int, ttl: float, read_deadline: Callable[[], float]) -> None:
        self.lease_id = lease_id
        self.ttl = ttl
        self._read_deadline = read_deadline

    @property
    def deadline(self) -> float:
        """Until when, on `boottime()`, the lease certainly lives."""
        return self._read_deadline()

    @property
    def state(self) -> State:
        """Decided from the deadline and the clock alone, so it holds even if nothing renews any more."""
        left = self.deadline - boottime()
        if left <= 0:
            return State.LOST
        return State.SUSPECT if left < self.ttl / 2 else State.HELD

    def seconds_left(self) -> float:
        return max(self.deadline - boottime(), 0.0)

    def check(self) -> None:
        """Raises LeaseExpired once the lease may have ended. Costs no network."""
        if self.state is State.LOST:
            raise LeaseExpired(f"lease {self.lease_id:x} has ended, or may have")


class Session(SharedSession):
    """A lease of our own. Close it, or leave the `with` block, to give back at once what hangs on it."""

    def __init__(self, client: Client, ttl: float = 15.0) -> None:
        """Grants the lease and starts its thread. Raises Unavailable.

        The store raises a TTL that is too short for it (2 s and less); `ttl` then says what it gave.
        """
        sent = boottime()
        grant = client.grant(ttl)
        super().__init__(grant.id, grant.ttl, self._own_deadline)
        self.client = client
        self._renewing = self._of_this_thread()
        self.asked_ttl = ttl
        self._pid = os.getpid()
        self._deadline = sent + grant.ttl
        self._next_renewal = sent + grant.ttl / 3
        self._spare_until = math.inf
        self._closed = False
        self._seen_lost = False
        self._revoke_behind = False
        self._wake = Event()  # ends the pause of the renewing thread
        self._news = Event()  # ends the pause of the watching thread
        self._on_suspect: list[Callback] = []
        self._on_lost: list[Callback] = []
        self._registering = Mutex()  # the callbacks, and whether somebody is there to call them, go together
        self._watcher: Thread | None = None
        native_thread(self._keep_alive, f"jobguard-lease-{grant.id:x}").start()

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def state(self) -> State:
        """Lost is for good once anybody has seen it: a renewal confirmed a moment later is too late."""
        state = super().state
        if state is State.LOST:
            self._seen_lost = True
        return State.LOST if self._seen_lost else state

    def _own_deadline(self) -> float:
        """0 after the end, and in a forked child: the lease is the parent's."""
        return 0.0 if self._closed or self._pid != os.getpid() else self._deadline

    def on_suspect(self, callback: Callback) -> None:
        """Call, each time half a TTL has gone without a renewal, `callback` in a thread of its own."""
        with self._registering:
            self._on_suspect.append(callback)
            self._start_watching()

    def on_lost(self, callback: Callback) -> None:
        """Call once, when the lease has ended other than by `close()`, `callback` in a thread of its own."""
        with self._registering:
            self._on_lost.append(callback)
            self._start_watching()

    def close(self, timeout: float | None = None) -> None:
        """End the lease, and with it every key on it. If the store does not answer within `timeout` seconds
        (None: the client's), it lapses by itself.

        Takes no lock that the calling thread might hold, so a signal handler may call it, and twice.
        """
        was_held = self.state is not State.LOST
        self.abandon()
        if was_held:
            self._revoke(timeout)

    def _revoke(self, timeout: float | None = None) -> bool:
        if self._pid != os.getpid():
            return True  # the parent's
        try:
            self._of_this_thread().revoke(self.lease_id, timeout=timeout)
        except JobguardError as error:
            text = "lease %x not revoked, it lapses within %d s: %s"
            write_log(log.warning, text, self.lease_id, self.ttl, error)
            return False
        return True

    def _of_this_thread(self) -> Client:
        """Our client; where gevent rules, one whose sockets no other thread has."""
        return self.client.at(self.client.urls) if green() else self.client

    def abandon(self) -> None:
        """Stop renewing and say nothing to the store: the lease lapses within its TTL."""
        if self._pid == os.getpid() and not self._closed:
            self._closed = True
            self._wake.set()
            self._news.set()

    def discard(self) -> None:
        """`close()` without waiting for the store: the renewing thread revokes the lease."""
        self._revoke_behind = True
        self.abandon()

    # --- the renewing thread ---

    def _keep_alive(self) -> None:
        while not self._closed:
            self._wake.wait(max(self._next_renewal - boottime(), 0.0))
            if self._closed:
                break
            if self._spare_until < boottime() and _retire(self):
                self.close()
            elif not self._renew():
                return
        if self._revoke_behind:
            self._revoke()

    def _renew(self) -> bool:
        """One renewal, over as many nodes as it takes; False when the lease is gone."""
        sent = boottime()
        if sent >= self._deadline:
            self._lose("no renewal succeeded in time")
            return False
        try:
            ttl = self._renewing.keepalive(self.lease_id, timeout=min(self.ttl / 3, self._deadline - sent))
        except JobguardError as error:
            text = "lease %x: renewal failed, %.1f s left: %s"
            write_log(log.warning, text, self.lease_id, self.seconds_left(), error)
            self._next_renewal = boottime() + min(self.ttl / 20, 0.5)
            return True
        if not ttl:
            self._lose("the store says it has ended")
            return False
        in_time = boottime() < self._deadline
        if in_time:
            self._deadline = sent + ttl
        if not in_time or self._seen_lost:  # seen between the two lines, perhaps: look after the change
            self._lose("its renewal was confirmed too late")
            return False
        self._next_renewal = sent + ttl / 3
        return True

    def _lose(self, why: str) -> None:
        if not self._closed:
            write_log(log.warning, "lease %x is lost: %s", self.lease_id, why)
            self._deadline = 0.0
            self._news.set()

    # --- the watching thread, for those who want to be called ---

    def _start_watching(self) -> None:
        if self._watcher is None or not self._watcher.is_alive():
            self._watcher = Thread(target=self._watch, name="jobguard-lease-watch", daemon=True)
            self._watcher.start()

    def _watch(self) -> None:
        seen = State.HELD
        while not self._closed:
            state = self.state
            if state is not seen:
                seen = state
                self._tell(state)
            if state is State.LOST:
                return
            left = self.seconds_left()
            turning = left - self.ttl / 2 if state is State.HELD else left
            self._news.wait(min(turning, 1.0))  # a wait does not count a suspend: look again soon

    def _tell(self, state: State) -> None:
        with self._registering:
            callbacks = {State.SUSPECT: list(self._on_suspect), State.LOST: self._on_lost}.get(state, [])
            if state is State.LOST:  # who registers from here on needs another watcher
                self._on_lost, self._watcher = [], None
        for callback in callbacks:
            Thread(target=callback, name=f"jobguard-{state.value}", daemon=True).start()


# --- spare leases: what makes lock and unlock two round trips instead of four ---
#
# A lock has a lease of its own while it is held or waited for. Given back, the lease stays alive for one TTL
# more and serves the next lock of the same TTL. That is safe because ownership never was the lease: it is the
# nonce in the key, and the key's create_revision.


def borrow(client: Client, ttl: float) -> Session:
    """A session for one holder: a spare one, else a new one. Raises Unavailable."""
    spare = client.spare_sessions[ttl]
    while spare:
        try:
            session: Session = spare.pop()
        except IndexError:  # another thread was faster
            break
        session._spare_until = math.inf
        if session.state is State.HELD:
            return session
        session.discard()  # its renewals are failing
    return Session(client, ttl)


def give_back(session: Session) -> None:
    """The holder is done and nothing of it is left on the lease."""
    session._on_suspect, session._on_lost = [], []  # they were the holder's
    if session.state is State.LOST:
        session.abandon()
        return
    session._spare_until = boottime() + session.ttl
    session.client.spare_sessions[session.asked_ttl].append(session)


def close_spare(client: Client) -> None:
    """End the spare leases. If the store does not answer for one, the others lapse by themselves too."""
    spare = [session for each in list(client.spare_sessions.values()) for session in list(each)]
    retired = [session for session in spare if _retire(session)]
    for session in retired:
        session.abandon()
    for session in retired:
        if not session._revoke():
            return


def _retire(session: Session) -> bool:
    """Take a session out of the spare ones; False if a holder has just borrowed it."""
    try:
        session.client.spare_sessions[session.asked_ttl].remove(session)
    except (ValueError, IndexError):  # IndexError: the deque changed under us; the next renewal looks again
        return False
    return True
