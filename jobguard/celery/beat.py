"""The scheduler: any number of beats run it, one of them leads.

    app.conf.beat_scheduler = "jobguard"

Place in the house   celery beat -> here -> leadership, leader, upkeep
Takes                Celery's beat entries, its clockwork (tick, close), its way to publish (apply_entry)
Gives                occurrences planned once and published; a follower that takes over from a leader gone
Never                touches the store in its constructor (beat makes a second one for its banner), lets an
                     exception out of tick (it would end the process), publishes what the store did not plan

Celery's own machinery stays where others hook into it: every message leaves through `apply_entry(entry,
producer)`, then `apply_async`, where our header and the task id are added last.
"""

import copy
import os
import socket
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import celery.beat
from celery.utils.log import get_logger

from jobguard.celery.alone import Alone
from jobguard.celery.changes import Changes
from jobguard.celery.definitions import Definitions
from jobguard.celery.entries import Job, jobs, stored_entry
from jobguard.celery.lead import LeadLost, Stale, apart
from jobguard.celery.leader import Leader, Sent
from jobguard.celery.leadership import Leadership
from jobguard.celery.lookout import Lookout
from jobguard.celery.upkeep import History, Upkeep
from jobguard.celery.workers import Fleet
from jobguard.client import Client
from jobguard.errors import ConfigurationError, OutcomeUnknown, Unavailable
from jobguard.ops import get_op
from jobguard.pulse import Pulse
from jobguard.records import HEADER, Keys, Open, header, task_id
from jobguard.settings import Settings

logger = get_logger("jobguard.beat")

_FOLLOW_S = 0.2
_UPKEEP_S = 0.5
_TROUBLE_S = 0.5
_AWAY_S = 1.0
_CONFIRM_S = 3.0
"""RabbitMQ confirms within so long, or takes nothing now: one without memory would hold a leader for ever."""
_EXIT_S = 3.0
"""Within so long, one that was closed has ended."""


@dataclass
class _Term:
    """What this process does while it leads. Kept through trouble: only it knows what it sent."""

    leader: Leader
    upkeep: Upkeep
    changes: Changes | None = None
    begun: bool = False
    upkeep_at: float = 0.0

    def end(self) -> None:
        if self.changes is not None:
            self.changes.close()


@dataclass
class _Dispatch:
    """The message that is being published."""

    record: Open
    sent: Sent = Sent.MAYBE


class Scheduler(celery.beat.Scheduler):  # type: ignore[misc]
    """Celery's scheduler with another idea of what is due, and of who may say so."""

    max_interval = 1.0

    def __init__(self, app: Any, *args: Any, **kwargs: Any) -> None:
        self._settings = Settings.from_app(app)
        self._keys = Keys(self._settings.namespace)
        self._jobs: dict[str, Job] = {}
        self._leadership: Leadership | None = None
        self._lookout: Lookout | None = None
        self._client: Client | None = None
        self._term: _Term | None = None
        self._alone: Alone | None = None
        self._sent_alone: dict[str, set[datetime]] = {}
        self._dispatch: _Dispatch | None = None
        self._closing = False
        self._closed_at = 0.0
        self._trouble = ""
        self._pulse = Pulse(self._settings.namespace)
        super().__init__(app, *args, **kwargs)

    def setup_schedule(self) -> None:
        """Celery's entries, its own included. Raises ConfigurationError for one that cannot be planned."""
        self.merge_inplace(self.app.conf.beat_schedule)
        self.install_default_entries(self.schedule)
        self._understand_entries()

    def _understand_entries(self) -> None:
        self.old_schedulers = copy.copy(self.schedule)
        self._jobs = jobs(self.app, self.schedule, self._settings)
        self._registered = _now()

    @property
    def info(self) -> str:
        where = ", ".join(self._settings.endpoints)
        return f"    . store -> {where} (namespace {self._settings.namespace})"

    # --- the clockwork ---

    def tick(self, *args: Any, **kwargs: Any) -> float:
        """One turn; gives the seconds until the next one. Never raises, but to end what was told to end.

        Beat's signal handler closes us and raises SystemExit in whatever the process is doing. If that is a
        finalizer, Python swallows it: such a beat would tick on, without standing for election, until killed.
        """
        if self._closing and time.monotonic() - self._closed_at > _EXIT_S:
            raise SystemExit
        pause = self._turn_apart()
        trouble = self._trouble or (self._leadership.trouble if self._leadership else "")
        self._pulse.tick("leader" if self._term is not None else "follower", trouble)
        return pause

    def _turn_apart(self) -> float:
        try:
            return min(self._turn(), self.max_interval)
        except (Unavailable, OutcomeUnknown) as error:
            self._say(f"jobguard: nothing is planned while the store does not answer: {error}")
            self._go_on_alone()
        except Exception:
            # An exception out of tick ends beat, and with it the schedule of the whole team. A bug in one
            # turn must not: the next turn starts from what the store holds.
            logger.exception("jobguard: this turn of the scheduler failed; the next one starts afresh")
        if self._term is not None:
            self._term.begun = False
        return _TROUBLE_S

    def _turn(self) -> float:
        if self._closing:
            return self.max_interval
        term = self._current_term()
        if term is None:
            if self._alone is not None:
                self._follow_or_go_on_alone()
            return _FOLLOW_S
        try:
            pause = self._lead(term)
            self._campaign().worked()
            return pause
        except LeadLost:
            logger.warning("jobguard: this beat does not lead any more")
            self._campaign().deposed()
            self._end_term()
        except Stale as error:
            logger.warning("jobguard: somebody else wrote %s; reading the store again", error)
            term.begun = False
        return _FOLLOW_S

    def _current_term(self) -> _Term | None:
        """The term of our present lead; a new one starts from what the store holds."""
        fence = self._campaign().fence()
        if self.schedule != self.old_schedulers:  # not schedules_equal: that compares entries with themselves
            self._take_over_changes()
        if fence is None:
            if self._term is not None:
                logger.warning("jobguard: this beat does not lead any more")
            self._end_term()
        elif self._term is None or self._term.leader.fence != fence:
            self._end_term()
            client = self._store()
            definitions = Definitions(
                client,
                self._keys,
                fence,
                self._jobs,
                version=self._settings.schedule_version,
                registered=self._registered,
                host=f"{socket.gethostname()} pid {os.getpid()}",
            )
            leader = Leader(definitions, self._publish, _now, self._sent_alone)
            kept = self._settings
            history = History(kept.history_count, timedelta(days=kept.history_days), kept.audit_count)
            self._term = _Term(leader, Upkeep(leader, Fleet(self.app, client, self._keys), history))
        return self._term

    def _follow_or_go_on_alone(self) -> None:
        if self._store_is_away():
            self._go_on_alone()
        else:
            self._alone = None  # another may lead by now

    def _go_on_alone(self) -> None:
        """Send what runs unguarded, from where our own term stood when the store went away."""
        if self._alone is None and self._term is not None and self._term.begun:
            self._alone = Alone(self._term.leader, self._sent_alone)
        if self._alone is not None:
            with apart("what runs unguarded"):
                self._alone.turn()

    def _store_is_away(self) -> bool:
        try:
            self._store().txn(success=[get_op(self._keys.deploy())], timeout=_AWAY_S)
        except (Unavailable, OutcomeUnknown):
            return True
        return False

    def _end_term(self) -> None:
        if self._term is not None:
            self._term.end()
        self._term = None

    def _take_over_changes(self) -> None:
        """Entries were added or changed while we run: all of them, or none if one cannot be planned."""
        try:
            self._understand_entries()
        except ConfigurationError as error:
            logger.error("jobguard: the schedule was changed, and the one before stays in force: %s", error)
        else:
            self._end_term()

    def _lead(self, term: _Term) -> float:
        self._hear_of_changes(term)
        if not term.begun:
            self._begin(term)
        upcoming = term.leader.plan_due()
        if time.monotonic() >= term.upkeep_at:
            term.upkeep.round()
            term.upkeep_at = time.monotonic() + _UPKEEP_S
        self._say("")
        pause = term.upkeep_at - time.monotonic()
        if upcoming is not None:
            pause = min(pause, (upcoming - _now()).total_seconds())
        return max(pause, 0.0)

    def _begin(self, term: _Term) -> None:
        term.end()
        term.leader.begin()
        term.changes = Changes(self._store())
        watched = {self._keys.prefix("schedules"): True, self._keys.deploy(): False}
        term.changes.start(watched, term.leader.definitions.revision)
        term.begun, self._alone = True, None
        logger.info("jobguard: this beat leads and plans %d jobs", len(term.leader.jobs))

    def _hear_of_changes(self, term: _Term) -> None:
        """Made at run time, or rolled back: by the time the next occurrence is due, and within a second."""
        if not term.begun or term.changes is None:
            return
        new = [kv for kv in term.changes.take() if not term.leader.definitions.knows(kv)]
        if term.changes.missed_some() or any(kv.key == self._keys.deploy() for kv in new):
            term.begun = False
            return
        for name in dict.fromkeys(self._keys.parts(kv.key)[1] for kv in new):
            term.leader.look_again(name)

    def _campaign(self) -> Leadership:
        if self._leadership is None:
            self._leadership = Leadership(self._settings)
            self._lookout = Lookout(self._settings, lambda: self._term is not None)
            self._lookout.start()
        return self._leadership

    def _store(self) -> Client:
        if self._client is None:
            self._client = Client.from_settings(self._settings)
        return self._client

    def close(self) -> None:
        """Resign, so that another beat goes on at once. Beat calls it twice, the first time inside its signal
        handler, while the interrupted turn may be anywhere: nothing here waits for that turn."""
        if not self._closing:
            self._closing, self._closed_at = True, time.monotonic()
        if self._leadership is not None:
            self._leadership.close()
        if self._lookout is not None:
            self._lookout.close()
        self._pulse.close()
        super().close()

    # --- publishing ---

    def _publish(self, record: Open, job: Job) -> Sent:
        """One message for (n, r), the way stock beat sends it."""
        entry = self._entry(job)
        try:
            producer = self.producer
        except Exception as error:  # noqa: BLE001 - each transport has errors of its own
            logger.error(
                "jobguard: no connection to the broker; %s is published later: %s", record.job, error
            )
            return Sent.NO
        dispatched = copy.copy(entry)
        dispatched.options = _own(entry.options)
        self._dispatch = _Dispatch(record)
        try:
            self.apply_entry(dispatched, producer=producer)
            sent = self._dispatch.sent
        finally:
            self._dispatch = None
        if sent is Sent.YES and job.stored is None:
            self.reserve(entry)
        return sent

    def _entry(self, job: Job) -> Any:
        if job.stored is None:
            return self.schedule[job.name]
        return self.Entry(**stored_entry(job.stored), app=self.app)

    def apply_async(self, entry: Any, producer: Any = None, advance: bool = True, **kwargs: Any) -> Any:
        """Celery's, with our header and task id on top of what hooks have put into the entry's options."""
        dispatch = self._dispatch
        if dispatch is not None:
            entry = copy.copy(entry)
            entry.options = self._options(dispatch.record, entry.options)
            advance = False
        try:
            result = super().apply_async(entry, producer=producer, advance=advance, **kwargs)
        except Exception as error:
            if dispatch is not None and _timed_out(error):
                dispatch.sent = Sent.UNANSWERED
            raise
        if dispatch is not None:
            dispatch.sent = Sent.YES
        return result

    def _options(self, record: Open, options: dict[str, Any]) -> dict[str, Any]:
        ours = header(self._settings.namespace, record.occurrence, record.n, record.overlap)
        changed = {
            **options,
            "headers": {**(options.get("headers") or {}), HEADER: ours},
            "task_id": task_id(self._settings.namespace, record.occurrence, record.n),
        }
        if record.r:
            changed["retries"] = record.r
        changed.setdefault("confirm_timeout", _CONFIRM_S)
        if record.deadline and not record.claimed:
            changed.setdefault("expires", record.deadline)
        return changed

    def _ensure_connected(self) -> Any:
        """Try the broker once. Stock beat waits here for as long as the broker is away, and nobody leads."""
        return self.connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0.2)

    def _say(self, trouble: str) -> None:
        """Each trouble once, and its end."""
        if trouble and not self._trouble:
            logger.error("%s", trouble)
        elif self._trouble and not trouble:
            logger.info("jobguard: the store answers again")
        self._trouble = trouble


def _own(options: dict[str, Any]) -> dict[str, Any]:
    """Options that a hook may change, headers too: the entry's are the job's definition."""
    headers = options.get("headers")
    return {**options, "headers": {**headers}} if headers else {**options}


def _timed_out(error: BaseException | None) -> bool:
    """Celery and kombu each wrap what the transport raised."""
    while error is not None and not isinstance(error, TimeoutError):
        error = error.__cause__ or error.__context__
    return error is not None


def _now() -> datetime:
    return datetime.now(UTC)
