"""A call's way through the line before its task's key: enter, wait, and be admitted, skipped or dropped.

Place in the house   turn -> here -> child, turns, watch
Takes                a delivery, what its task asks for
Gives                the key, on the worker's lease; the recorded completion of this very call; or Skipped
Never                runs a body, waits without a bound, or leaves a place behind that nobody takes away

A place that cannot be given up here, because the store does not answer or a signal struck, is left to the
parent. Should even that get lost, the parent finds a place that no process of its worker speaks of.
"""

import math
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from celery.app.task import Context
from celery.exceptions import Ignore
from celery.utils.log import get_logger

from jobguard import turns
from jobguard.celery import results
from jobguard.celery.child import HOST, Child
from jobguard.celery.deadline import Deadline, Running
from jobguard.celery.optin import OptIn
from jobguard.errors import Compacted, LeaseNotFound, OutcomeUnknown, ServerError, Skipped, Unavailable
from jobguard.records import Completed, Turn, stamp
from jobguard.session import boottime
from jobguard.steps import Seen
from jobguard.turns import Line, Stood
from jobguard.watch import Watch

logger = get_logger(__name__)

_PAUSE_FIRST_S = 0.005
_PAUSE_MAX_S = 0.25
_LOOK_S = 1.0
_LEAVE_S = 1.0


@dataclass(frozen=True, slots=True)
class Taken:
    """The key is ours."""

    key: bytes
    token: int
    under: Deadline


@dataclass(frozen=True, slots=True)
class Call:
    """One delivery of a task with an option."""

    child: Child
    asked: OptIn
    task: Any
    request: Context
    name: str  # of its key
    nonce: str
    alone: bool  # no occurrence, whose guard has the word to the parent

    def __str__(self) -> str:
        return f"{self.task.name}[{self.request.id}]"

    @property
    def r(self) -> int:
        return int(self.request.retries or 0)

    def take(self) -> Taken | Completed:
        """Raises Skipped; Ignore for a second delivery; Unavailable or OutcomeUnknown when the store does not
        answer within the claim timeout."""
        settings = self.child.settings
        began, pause, used = time.monotonic(), _PAUSE_FIRST_S, 0
        patience = settings.claim_timeout + settings.session_ttl  # one before us may go with its lease
        while True:
            under = self.child.lease_to_claim_on(time.monotonic() + settings.claim_timeout)
            line = self._enter(under, used)
            if line is not None and line.ours is not None:
                line = self._wait(line, line.ours, under, began + self.asked.wait)
            if line is not None and line.ours is not None:
                return Taken(line.ours.key, line.ours.token, under)
            if line is not None:
                if done := self._used_up(line.completed):
                    return done
                over = line.completed.mod_revision if line.completed else 0
                if over != used:  # that alone kept us out
                    used = over
                    continue
                full = len(line.stood) >= self.asked.at_most
                if (full and not self._follows_itself(line, under)) or time.monotonic() >= began + patience:
                    raise Skipped(self._taken_by(line.stood))
            time.sleep(pause)
            pause = min(2 * pause, _PAUSE_MAX_S)

    def _enter(self, under: Deadline, used: int) -> Line | None:
        """Stand in line, unless there is no use in it. None: the lease has ended."""
        asked, child, lease = self.asked, self.child, under.lease
        if self.alone:  # before it is sent: a place of which nobody speaks is taken away
            child.tell(Running.NOTHING, self.nonce, lease)
        if asked.at_most > 1 and not asked.wait:  # in line for nothing, it would be in the way of others
            line = self._look(lease)
            if len(line.stood) >= asked.at_most:
                return line
        step = turns.enter(
            child.keys,
            self._turn(),
            lease=lease,
            only_if_free=asked.at_most == 1 and not asked.wait,
            used=used if asked.window else None,
        )
        try:
            return child.send(step, time.monotonic() + child.settings.claim_timeout)
        except LeaseNotFound:
            return None
        except (Unavailable, ServerError):
            raise
        except BaseException:  # sent, and not known
            self.leave_behind(child.keys.turn(self.name, lease, self.nonce))
            raise

    def _turn(self) -> Turn:
        return Turn(
            name=self.name,
            host=HOST,
            pid=self.child.pid,
            nonce=self.nonce,
            since=datetime.now(UTC),
            worker=self.request.hostname or "",
            task_id=self.request.id,
            r=self.r,
            most=self.asked.at_most,
        )

    def _look(self, lease: int) -> Line:
        own = self.child.keys.turn(self.name, lease, self.nonce)
        step = turns.look(self.child.keys, self.name, own)
        return self.child.send(step, time.monotonic() + self.child.settings.claim_timeout)

    # --- in line ---

    def _wait(self, line: Line, ours: Stood, under: Deadline, until: float) -> Line | None:
        """Until the key is ours: the line as it is then. Without us in it, if that took too long or the key
        is used up; None when our place is gone, or our lease another."""
        try:
            self._follows_itself(line, under)
            in_time = True
            while len(line.before) >= self.asked.at_most or self._is_valid(line.completed):
                if self._is_valid(line.completed) or not in_time:
                    self._step_aside(ours)
                    return line.without_us()
                # Then a look, also when it is over: it may be our turn since we were last run.
                in_time = self._moves(line, ours, under, until)
                line = self._look(under.lease)
                if line.ours is None or line.ours.token != ours.token:
                    return None
                if self.child.deadline().lease != under.lease:  # a body would be stopped at once
                    self._step_aside(ours)
                    return None
        except BaseException as error:
            if isinstance(error, Ignore):
                self.leave(ours.key, ours.token, under)
            else:
                self.leave_behind(ours.key)
            raise
        return line

    def _step_aside(self, ours: Stood) -> None:
        """Leave the line, for sure: we may enter again, under the same key. Raises as `take` does."""
        until = time.monotonic() + self.child.settings.claim_timeout
        self.child.send(turns.leave(ours.key, ours.token), until)

    def _moves(self, line: Line, ours: Stood, under: Deadline, until: float) -> bool:
        """Wait until it is worth a look; False: waited long enough."""
        before = {each.key for each in line.before}
        with Watch(
            self.child.client, self.child.keys.line(self.name), start_revision=line.revision + 1
        ) as watch:
            while len(before) >= self.asked.at_most:
                left = until - time.monotonic()
                if left <= 0:
                    return False
                try:
                    batch = watch.poll(min(left, _LOOK_S))
                except Compacted:
                    return True
                changed = batch.events if batch else ()
                gone = {each.kv.key for each in changed if each.kv and each.type == "DELETE"}
                if ours.key in gone or self.child.deadline().lease != under.lease:
                    return True
                before -= gone
        return True

    def _follows_itself(self, line: Line, under: Deadline) -> bool:
        """Whether this very call is before us, and is letting go: an earlier retry, or one whose worker died.
        Raises Ignore for a second delivery."""
        same = [each for each in line.before if each.turn and each.turn.task_id == self.request.id]
        for each in same:
            lease = int(self.child.keys.parts(each.key)[2], 16)
            if each.turn and each.turn.r >= self.r and (lease == under.lease or self._is_renewed(lease)):
                text = f"second delivery, already running or in line on {each.holder}"
                logger.info("%s not run: %s", self, text)
                raise Ignore(text)
        return bool(same)

    def _is_renewed(self, lease: int) -> bool:
        """Whether the worker of this lease lives. One that died leaves it to end, and its message to us, who
        must not drop it then. Waits for either."""
        ends, term = math.inf, -1  # within a second after it: the TTL is told in whole ones
        while True:
            asked = time.monotonic()
            answer = self.child.client.time_to_live(lease)
            left = int(answer.TTL)
            if left < 0:
                return False
            if answer.term != term:  # a new leader of the store begins every TTL anew
                ends, term = math.inf, answer.term
            # It was read at some moment between `asked` and now. The earliest end that this allows must be
            # later than the latest that was told before: else a pause of ours would pass for a renewal.
            if left and asked + left > ends + 1:
                return True
            ends = min(ends, time.monotonic() + left)
            time.sleep(_PAUSE_MAX_S)

    # --- told no ---

    def _is_valid(self, completed: Seen[Completed] | None) -> bool:
        used = self.asked.window and completed is not None
        return bool(used and completed and completed.record.until > datetime.now(UTC))

    def _used_up(self, completed: Seen[Completed] | None) -> Completed | None:
        """Of this very call: the recorded result, where Celery has not stored it. Of another: Skipped."""
        if completed is None or not self._is_valid(completed):
            return None
        done = completed.record
        if done.task_id == self.request.id:
            if results.is_settled(self.task, self.request):
                logger.info("%s not run: it completed already", self)
                raise Ignore("it completed already")
            if done.result is not None:
                logger.info("%s not run: it completed already; giving the recorded result", self)
                return done
        when, until = done.finished.replace(microsecond=0), done.until.replace(microsecond=0)
        by = f"{done.host} pid {done.pid}"
        raise Skipped(f"{self.name} was completed by {by} at {stamp(when)}, once until {stamp(until)}")

    def _taken_by(self, stood: tuple[Stood, ...]) -> str:
        waited = f", after {self.asked.wait:g} s" if self.asked.wait else ""
        if not stood:
            return f"{self.name} was never free for long enough{waited}"
        first = stood[0]
        since = f" since {stamp(first.turn.since.replace(microsecond=0))}" if first.turn else ""
        others = f" and {len(stood) - 1} more" if len(stood) > 1 else ""
        return f"{self.name} is held by {first.holder}{since}{others}{waited}"

    # --- leaving ---

    def leave(self, key: bytes, token: int, under: Deadline) -> bool:
        """Give the place up; whether it was ours till now. A store that does not answer is no reason to wait:
        while the lease lives nobody else has the key, and the parent takes it away."""
        step, lived = turns.leave(key, token), self.lives(under)
        try:
            known = self.child.client.txn_known(step.compare, step.success, timeout=_LEAVE_S)
        except (Unavailable, OutcomeUnknown, ServerError):
            self.child.leave(self.nonce, step)
            return lived
        # Sent twice and gone: the first sending did it, if it was ours when we began.
        return known.response.succeeded or (known.repeated and lived)

    def leave_behind(self, key: bytes) -> None:
        """The same, by the parent alone."""
        self.child.leave(self.nonce, turns.withdraw(key))

    def lives(self, under: Deadline) -> bool:
        """Whether the lease that the place stands on surely lives."""
        now = self.child.deadline()
        return now.lease == under.lease and boottime() < now.at
