"""Times, durations and sizes as people read them. UTC throughout.

Place in the house   templates -> words
"""

from datetime import UTC, datetime

from flask import Flask

from jobguard.masking import MASK, is_secret
from jobguard.observe import ConfigEntry


def install(app: Flask) -> None:
    for word in (iso, clock, since, lasting, duration, size, unless_secret):
        app.add_template_filter(word)
    app.jinja_env.globals["now"] = now


def now() -> datetime:
    return datetime.now(UTC)


def iso(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def clock(moment: datetime | None) -> str:
    """The time of day, with the date unless it is today's."""
    if moment is None:
        return ""
    utc = moment.astimezone(UTC)
    fraction = f"{utc:.%f}".rstrip("0").rstrip(".") if utc.microsecond and utc == moment else ""
    form = "%H:%M:%S" if utc.date() == now().date() else "%Y-%m-%d %H:%M:%S"
    return utc.strftime(form) + (fraction if len(fraction) <= 4 else "")


def since(moment: datetime) -> str:
    """How long ago. Clocks of hosts differ a little, so the future reads as now."""
    seconds = (now() - moment).total_seconds()
    return "just now" if seconds < 1 else f"{elapsed(seconds)} ago"


def lasting(moment: datetime) -> str:
    """For how long, since then."""
    return elapsed(max((now() - moment).total_seconds(), 0))


def elapsed(seconds: float) -> str:
    """In whole seconds: a page that refreshes itself should not flicker."""
    return f"{int(seconds)} s" if seconds < 10 else duration(seconds)


def duration(seconds: float | None) -> str:
    """Two units at most: 0.4 s, 12 s, 3 min 4 s, 2 h 5 min, 3 d 4 h."""
    if seconds is None:
        return ""
    if seconds < 10:
        return f"{max(seconds, 0):.1f} s"
    whole = int(seconds)
    for unit, name, smaller, smaller_name in (
        (86400, "d", 3600, "h"),
        (3600, "h", 60, "min"),
        (60, "min", 1, "s"),
    ):
        if whole >= unit:
            rest = whole % unit // smaller
            return f"{whole // unit} {name}" + (f" {rest} {smaller_name}" if rest else "")
    return f"{whole} s"


def size(count: int | None) -> str:
    if count is None:
        return ""
    if count < 1024:
        return f"{count} B"
    return f"{count / 1024:.0f} KiB" if count < 1024**2 else f"{count / 1024**2:.1f} MiB"


def unless_secret(entry: ConfigEntry) -> str:
    """The value, for a screen that others may see too."""
    return f"{MASK} (hidden)" if is_secret(entry.key) else entry.text
