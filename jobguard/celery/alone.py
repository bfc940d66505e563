"""While no quorum of the store answers: the beat that led last goes on sending what says `run-unguarded`.

Place in the house   beat -> here -> schedule; the leader whose cursors and jobs these are
Takes                a term that the store has left, a way to publish
Gives                messages like those of planned occurrences, and the memory of what was sent
Never                plans, sends for a beat that did not lead last, or sends what was paused when it led

If only this beat is cut off, another leads and sends the same occurrences under the same ids: a worker that
reaches the store claims each once. One that does not runs what it is sent.
"""

from collections.abc import Callable
from datetime import datetime

from celery.utils.log import get_logger

from jobguard.celery.entries import Job, occurrence_text
from jobguard.celery.leader import Leader, Sent
from jobguard.records import Open
from jobguard.schedule import due

logger = get_logger("jobguard.beat")


class Alone:
    """One per time that the store was away. `sent` outlives it: what went out is not planned again."""

    def __init__(self, leader: Leader, sent: dict[str, set[datetime]]) -> None:
        self._publish: Callable[[Open, Job], Sent] = leader.publish
        self._clock, self._nonce, self._sent = leader.clock, leader.nonce, sent
        known, said = leader.definitions.cursors, leader.definitions.controls
        self._jobs = {
            name: job
            for name, job in leader.jobs.items()
            if job.policy.no_quorum == "run-unguarded" and name in known
        }
        self._after = {name: known[name].record.nominal for name in self._jobs}
        self._said = {name: control.record for name in self._jobs if (control := said.get(name))}

    def turn(self) -> None:
        """Send what is due by now, once."""
        now = self._clock()
        for name, job in self._jobs.items():
            found = due(job.times, self._after[name], now, catch_up=job.policy.catch_up)
            for nominal in found.starts:
                control = self._said.get(name)
                if control is None or not control.pauses(nominal):
                    self._send(job, job.opened(nominal, now, several=False, planner=self._nonce))
            if found.upto is not None:
                self._after[name] = found.upto

    def _send(self, job: Job, record: Open) -> None:
        logger.warning(
            "jobguard: %s is sent without the store, unguarded", occurrence_text(record.occurrence)
        )
        if self._publish(record, job) is not Sent.NO:
            self._sent.setdefault(job.name, set()).add(record.nominal)
