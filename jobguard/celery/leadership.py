"""Which of the beats leads: a campaign in a thread of its own, so that renewals never wait for a publication.

Place in the house   beat -> here -> election
Takes                the settings
Gives                the fence while we lead, else None; a resignation that a signal handler may ask for
Never                shares its client with the scheduler's thread, which a signal may have stopped anywhere
"""

import time
from threading import Event, Thread

from celery.utils.log import get_logger

from jobguard.client import Client
from jobguard.errors import JobguardError, NotHolder
from jobguard.pulse import STALLED_S
from jobguard.schedule import CLOCK_LIMIT_S
from jobguard.settings import Settings
from jobguard.steps import Fence

logger = get_logger("jobguard.beat")

IDLE_LIMIT_S = STALLED_S
"""A leader that finished no turn for so long, because they fail or one hangs, lets the next in line try."""

_LOOK_S = 0.2
_AGAIN_S = 0.5
_RESIGN_S = 0.8
_RESIGN_AGAIN_S = 0.02


class Leadership:
    """One candidate per beat process. Making it starts the campaign."""

    def __init__(self, settings: Settings) -> None:
        self._client = Client.from_settings(settings)
        self._election = self._client.election("beat", settings.session_ttl)
        self._closed = Event()
        self._thread = Thread(target=self._run, name="jobguard-campaign", daemon=True)
        self._trouble = ""
        self._worked_at = 0.0
        self._thread.start()

    def fence(self) -> Fence | None:
        """The fence of our lead, by our own clock; costs no network."""
        if self._closed.is_set() or not self._election.is_leader() or self._clock_is_off():
            return None
        try:
            return Fence(self._election.key.encode(), self._election.create_revision)
        except NotHolder:  # resigned between the two lines
            return None

    @property
    def trouble(self) -> str:
        """Why this beat does not stand for election; empty while it does."""
        return self._trouble

    def worked(self) -> None:
        """A turn is done: this leader is of use."""
        self._worked_at = time.monotonic()

    def deposed(self) -> None:
        """The store says that another leads, whatever our clock says: campaign again."""
        try:
            self._election.resign(_RESIGN_S)
        except JobguardError as error:
            logger.debug("jobguard: resigning a lead that is gone: %s", error)

    def close(self) -> None:
        """Resign at once. For signal handlers: no lock of ours, bounded, and harmless if called again."""
        if self._closed.is_set():
            return
        self._closed.set()
        until = time.monotonic() + _RESIGN_S
        self.deposed()
        while self._thread.is_alive() and time.monotonic() < until:
            self._thread.join(_RESIGN_AGAIN_S)  # a candidate in the queue leaves it
            self.deposed()  # one that was about to enter it has entered it now

    # --- the thread ---

    def _run(self) -> None:
        while not self._closed.is_set():
            try:
                if self._clock_agrees() and self._election.campaign():
                    self._lead()
            except JobguardError as error:
                self._say(f"jobguard: this beat cannot stand for election: {error}")
            except Exception:
                # Without this thread a beat would follow for ever, and nobody would know.
                logger.exception("jobguard: the campaign failed and begins again")
            self._closed.wait(_AGAIN_S)
        self.deposed()  # where it was won after all

    def _lead(self) -> None:
        """Until the lead is lost or given up."""
        self._say("")
        self.worked()
        while self._election.is_leader() and self._clock_agrees(ask=False) and not self._idles():
            self._closed.wait(_LOOK_S)
            if self._closed.is_set():
                return
        self.deposed()

    def _idles(self) -> bool:
        if time.monotonic() - self._worked_at < IDLE_LIMIT_S:
            return False
        logger.error(
            "jobguard: this beat leads and has not finished a turn for %d s: it goes to the end of the line",
            IDLE_LIMIT_S,
        )
        return True

    def _clock_agrees(self, *, ask: bool = True) -> bool:
        """Nominal times are read off our clock. While we lead, each renewal brings the store's."""
        if ask:
            self._client.status()
        if not self._clock_is_off():
            return True
        offset = self._client.clock_offset() or 0.0
        self._say(
            f"jobguard: this beat's clock is {abs(offset):.0f} s {'behind' if offset > 0 else 'ahead of'} "
            f"the store's (limit {CLOCK_LIMIT_S:.0f} s): it does not lead until they agree"
        )
        return False

    def _clock_is_off(self) -> bool:
        return abs(self._client.clock_offset() or 0.0) > CLOCK_LIMIT_S

    def _say(self, trouble: str) -> None:
        """Each trouble once, and its end."""
        if trouble != self._trouble:
            self._trouble = trouble
            if trouble:
                logger.error("%s", trouble)
