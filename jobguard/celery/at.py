"""A beat entry that is due once: `"schedule": jobguard.at(datetime(2026, 12, 1, 6, tzinfo=UTC))`.

Place in the house   users' beat_schedule -> here; entries turns it into nominal times
Never                needs jobguard's scheduler: under stock beat it is an ordinary schedule
"""

from datetime import UTC, datetime, timedelta
from typing import Any

from celery.schedules import BaseSchedule, schedstate

_LOOK_AGAIN_S = timedelta(days=1).total_seconds()


class at(BaseSchedule):  # type: ignore[misc]
    """Due at `moment`, which has an offset, and never again."""

    def __init__(self, moment: datetime, **options: Any) -> None:
        if moment.tzinfo is None:
            raise ValueError(
                f"{moment.isoformat()} needs a time zone: it would be another moment on each host"
            )
        self.moment = moment.astimezone(UTC)
        super().__init__(**options)

    def remaining_estimate(self, last_run_at: datetime) -> timedelta:
        remaining: timedelta = self.moment - self.now()
        return remaining

    def is_due(self, last_run_at: datetime) -> Any:
        """Stock beat asks; it takes an entry it has never seen as run when it first saw it."""
        left = self.remaining_estimate(last_run_at).total_seconds()
        if self.maybe_make_aware(last_run_at) >= self.moment:
            return schedstate(is_due=False, next=_LOOK_AGAIN_S)
        return schedstate(is_due=left <= 0, next=left if left > 0 else _LOOK_AGAIN_S)

    def __repr__(self) -> str:
        return f"<at: {self.moment.isoformat()}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, at) and other.moment == self.moment

    def __hash__(self) -> int:
        return hash(self.moment)

    def __reduce__(self) -> tuple[type, tuple[datetime]]:
        return type(self), (self.moment,)
