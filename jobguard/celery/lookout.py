"""A beat that does not lead looks whether the one that leads does its work, and says what is behind.

Place in the house   beat -> here -> observe.late
Takes                the settings, whether this beat leads at the moment
Gives                a line in the log for what is behind, and one for its end
Never                acts on what it sees, or holds up the beat: it has a thread and a client of its own
"""

from collections.abc import Callable
from threading import Event, Thread

from celery.utils.log import get_logger

from jobguard.client import Client
from jobguard.errors import JobguardError
from jobguard.observe.late import Late, Lateness
from jobguard.settings import Settings

logger = get_logger("jobguard.beat")

LOOK_S = 10.0
_NAMED_MAX = 10


class Lookout:
    """One per beat process. `start` it once; it looks while `leads` says no."""

    def __init__(self, settings: Settings, leads: Callable[[], bool]) -> None:
        self._client = Client.from_settings(settings)
        self._lateness = Lateness(self._client)
        self._leads = leads
        self._told: set[tuple[str, str]] = set()
        self._closed = Event()

    def start(self) -> None:
        Thread(target=self._run, name="jobguard-lookout", daemon=True).start()

    def close(self) -> None:
        self._closed.set()

    def _run(self) -> None:
        while not self._closed.wait(LOOK_S):
            if self._leads():
                self._told.clear()
                continue
            try:
                self.look()
            except JobguardError as error:
                logger.debug("jobguard: nobody can say what is behind: %s", error)
            except Exception:
                # Without this thread a leader that hangs would be nobody's business.
                logger.exception("jobguard: looking for what is behind failed, and goes on")

    def look(self) -> None:
        """Say what is behind since the last look; a job once for each way of being so."""
        found = {(each.job, each.state): each for each in reversed(self._lateness.look().items)}
        new = [each for key, each in found.items() if key not in self._told]
        for each in new[:_NAMED_MAX]:
            logger.warning("jobguard: %s", sentence(each))
        if len(new) > _NAMED_MAX:
            logger.warning("jobguard: and %d more are behind: jobguard schedules late", len(new) - _NAMED_MAX)
        if self._told and not found:
            logger.info("jobguard: nothing is behind any more")
        self._told = set(found)


def sentence(each: Late) -> str:
    occurrence = f"{each.job} of {each.nominal_time:%Y-%m-%dT%H:%M:%SZ}"
    return f"{occurrence} is {each.state}, {each.seconds} s behind: {each.why}"
