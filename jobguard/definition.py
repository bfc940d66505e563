"""A schedule as a person writes it at run time: in Python, on a command line, as the body of a PUT.

Place in the house   schedules, the CLI, the REST API  ->  definition  ->  schedule, policy, records
Takes                a task, its times, its arguments, its policies
Gives                the record the store keeps, and back again
Never                reads a clock, or lets pass what the leading beat could not plan
"""

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from jobguard.errors import ConfigurationError
from jobguard.masking import MASK, is_masked, masked, restored
from jobguard.policy import Policy, chosen
from jobguard.records import RUN_TIME, Open, Schedule
from jobguard.schedule import DAY, At, Cron, Every, Times, cron, times_of

POLICIES = ("on_lost", "overlap", "catch_up", "start_deadline")
"""What can be chosen per schedule here; the workers read the others from their own configuration."""


MESSAGE = ("args", "kwargs", "options")
"""What the message of a run carries; secrets among it."""


class Definition(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What to run, and when: exactly one of `cron`, `every_seconds`, `at`."""

    task: str
    cron: str = ""
    every_seconds: float | None = None
    at: datetime | None = None
    zone: str = "UTC"  # of `cron`
    dst: str = ""  # of `cron`: skip, once, both; unsaid it is once, and the doctor asks whether that is meant
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    options: dict[str, Any] = {}  # of apply_async: queue, priority …
    policy: dict[str, Any] = {}

    def times(self) -> Times:
        """Raises ConfigurationError."""
        named = [bool(self.cron), self.every_seconds is not None, self.at is not None]
        if sum(named) != 1:
            raise ConfigurationError("say when: exactly one of cron, every_seconds and at")
        try:
            if self.cron:
                said = {"dst": self.dst} if self.dst else {}
                return cron(self.cron, self.zone, chosen(said, Policy(), "a schedule").dst)
            if self.every_seconds is not None:
                return Every(timedelta(seconds=self.every_seconds))
            if self.at is not None and self.at.tzinfo is not None:
                return At(self.at.astimezone(UTC))
        except (ValueError, TypeError, OverflowError) as error:
            raise ConfigurationError(f"the times cannot be used: {error}") from None
        assert self.at is not None
        raise ConfigurationError(f"at {self.at.isoformat()} needs an offset: Z for UTC")

    def record(self, job: str, *, by: str, since: datetime) -> Schedule:
        """What the store keeps of it. Raises ConfigurationError."""
        if not job.strip() or not self.task.strip():
            raise ConfigurationError("a schedule needs a name, and the name of a task")
        if foreign := self.policy.keys() - set(POLICIES) & Policy.__dataclass_fields__.keys():
            raise ConfigurationError(
                f"{', '.join(sorted(foreign))}: cannot be chosen at run time; {', '.join(POLICIES)} can"
            )
        if is_masked([self.args, self.kwargs, self.options]):
            raise ConfigurationError(f"{MASK} stands for a secret that is not kept under this name: say it")
        times, policy = self.times(), chosen(self.policy, Policy(), "policy")
        said = {"dst": self.dst} if self.dst and isinstance(times, Cron) else {}
        record = Schedule(
            job=job,
            task=self.task,
            text=times.text,
            fingerprint=times.fingerprint,
            zone=self.zone if isinstance(times, Cron) else "UTC",
            since=since,
            policy=policy.planned(policy.on_lost or 0) | said,
            source=RUN_TIME,
            by=by,
            args=self.args,
            kwargs=self.kwargs,
            options=self.options,
            portable=True,
        )
        try:
            msgspec.json.encode(record)
        except (TypeError, ValueError) as error:
            raise ConfigurationError(f"args, kwargs and options must be plain JSON: {error}") from None
        return record


def definition_of(record: Schedule) -> Definition:
    """What it was made from. Raises ValueError for times that this code cannot read."""
    times = times_of(record.fingerprint)
    unsaid = times.dst if isinstance(times, Cron) and times.dst != "once" else ""
    return Definition(
        task=record.task,
        cron=" ".join(record.text.split()[:5]) if isinstance(times, Cron) else "",
        every_seconds=times.period.total_seconds() if isinstance(times, Every) else None,
        at=times.moment if isinstance(times, At) else None,
        zone=record.zone,
        dst=record.policy.get("dst", unsaid),
        args=record.args,
        kwargs=record.kwargs,
        options=record.options,
        policy={key: value for key, value in record.policy.items() if key in POLICIES and value is not None},
    )


def shown(definition: Definition) -> Definition:
    """For other eyes than those that may use it."""
    return msgspec.structs.replace(
        definition, **{part: masked(getattr(definition, part)) for part in MESSAGE}
    )


def unmasked(definition: Definition, before: Definition) -> Definition:
    """One that was shown, changed and sent back: its masks stand for what was there `before`."""
    return msgspec.structs.replace(
        definition, **{part: restored(getattr(definition, part), getattr(before, part)) for part in MESSAGE}
    )


def by_hand(schedule: Schedule, nominal: datetime, now: datetime) -> Open:
    """Signed by no planner: whoever leads knows that it was never sent, and publishes it."""
    policy = schedule.policy
    overlap, on_lost, seconds = policy.get("overlap"), policy.get("on_lost"), policy.get("start_deadline")
    return Open(
        n=1,
        r=0,
        job=schedule.job,
        nominal=nominal,
        task=schedule.task,
        trigger="manual",
        overlap={"queue-one": "wait", "allow": "allow"}.get(str(overlap), "skip"),
        reruns=on_lost["rerun"] if isinstance(on_lost, dict) else 0,
        deadline=now + (timedelta(seconds=seconds) if seconds else DAY),
    )


def changed(before: Schedule, after: Schedule) -> str:
    """What differs between two definitions, for people; what a message carries is not repeated here."""
    old, new = (
        {"times": each.text, "task": each.task, "version": each.version, **each.policy}
        for each in (before, after)
    )
    facts = [
        f"{fact} from {old.get(fact)} to {value}" for fact, value in new.items() if old.get(fact) != value
    ]
    said = [part for part in MESSAGE if getattr(before, part) != getattr(after, part)]
    return ", ".join([*facts, *(f"other {part}" for part in said)])
