"""Nominal times of a schedule that says nothing in advance, and can only be asked whether it is due.

Place in the house   schedule  ->  asked
Takes                a way to ask, moments
Gives                nominal times, found by asking at simulated moments
Never                reads a clock, knows Celery, or remembers anything
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from urllib.parse import quote

_SECOND = timedelta(seconds=1)
_LOOKS = 5000  # more simulated ones than that between two fires, and only the present is asked about
_LOOK_AT_MOST = timedelta(minutes=1)

Ask = Callable[[datetime, datetime], tuple[bool, float]]
"""Is it due at the second moment, if it was last at the first? And in how many seconds to ask again."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A schedule that can only be asked, as Celery's solar and a user's own class.

    Its nominal times are those whole seconds at which a beat that never sleeps too long would see it due:
    from each time on it is asked again when it said that it wants to be. So two beats agree on them.
    """

    text: str
    identity: str  # what distinguishes it from others of its kind
    ask: Ask = field(compare=False)

    @property
    def fingerprint(self) -> str:
        """Equal fingerprints give equal nominal times; `times_of` cannot read it, for it needs the code."""
        return f"asked {quote(self.identity)}"

    def after(self, moment: datetime) -> Iterator[datetime]:
        """Nominal times later than `moment`; ends where too many questions bring none."""
        last = at = moment
        for _ in range(_LOOKS):
            due, wait = self.ask(last, at)
            if due and at > last:
                yield at
                last = at
            at = _whole(at + max(timedelta(seconds=wait), _SECOND))

    def until(self, moment: datetime, now: datetime) -> list[datetime]:
        """The nominal times in (moment, now]."""
        last = at = moment
        found: list[datetime] = []
        for _ in range(_LOOKS):
            due, wait = self.ask(last, at)
            if due and at > last:
                found.append(at)
                last = at
            at = _whole(at + max(timedelta(seconds=wait), _SECOND))
            if at > now:
                return found
        present = now.replace(microsecond=0)
        return [*found, present] if present > last and self.ask(last, present)[0] else found

    def look(self, last: datetime, now: datetime) -> datetime:
        """When to ask again. It may depend on more than the time, so after a minute in any case."""
        due, wait = self.ask(last, now)
        pause = _SECOND if due else max(timedelta(seconds=wait), _SECOND)
        return _whole(now + min(pause, _LOOK_AT_MOST))


def _whole(moment: datetime) -> datetime:
    """The whole second at or after a moment: finer than that, hosts compute the sun differently."""
    return (moment + (_SECOND - timedelta(microseconds=1))).replace(microsecond=0)
