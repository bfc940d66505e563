"""What is planned: the definitions in force, who paused which, and when they are due next.

Place in the house   observe -> schedules -> reading, preview
"""

from datetime import UTC, datetime, timedelta
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import msgspec

from jobguard.errors import ConfigurationError
from jobguard.masking import masked
from jobguard.observe.reading import NotFound, Page, cut, opaque, read, transparent, under
from jobguard.preview import Fire, preview
from jobguard.records import Control, Keys, decode
from jobguard.records import Schedule as Definition
from jobguard.schedule import times_of
from jobguard.wire import KeyValue, RangeRequest

if TYPE_CHECKING:
    from jobguard.client import Client

_JUST_BEFORE = timedelta(microseconds=1)  # what is due at the end of a pause is not paused


class Schedule(msgspec.Struct, frozen=True, kw_only=True):
    """A job as the leading beat plans it.

    `due_next` is null where only the beat can tell, when nothing is to come any more, and while the job is
    paused without an end. `source` is "code" or "run time"; `by` whoever made or changed it last.
    Secrets in `args`, `kwargs` and `options` are masked.
    """

    id: str
    job: str
    source: str
    by: str
    task: str
    text: str
    zone: str
    version: int
    since: datetime
    policy: dict[str, Any]
    due_next: datetime | None
    paused: bool
    paused_by: str = ""
    paused_why: str = ""
    paused_until: datetime | None = None
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    options: dict[str, Any] = {}
    revision: int


def schedule(client: "Client", job: str, *, stale: bool = False) -> Schedule:
    """Raises NotFound."""
    keys = Keys(client.namespace)
    asked = [RangeRequest(key=keys.schedule(job)), RangeRequest(key=keys.control(job))]
    found, said = read(client, asked, stale=stale).ranges
    if not found:
        raise no_such_job(client, job, stale=stale)
    return _schedule(found[0], said[0] if said else None)


def no_such_job(client: "Client", job: str, *, stale: bool = False) -> NotFound:
    """To be raised for a name that nobody plans; it says which comes nearest."""
    keys = Keys(client.namespace)
    asked = msgspec.structs.replace(under(keys.prefix("schedules")), keys_only=True)
    planned = [keys.parts(kv.key)[1] for kv in read(client, [asked], stale=stale).ranges[0]]
    close = get_close_matches(job, planned, n=1)
    return NotFound(f"no job {job!r} is planned" + (f"; did you mean {close[0]!r}?" if close else ""))


def job_of(id: str) -> str:
    """Whose id this is. Raises NotFound for one that was not given out by us."""
    try:
        return transparent(id)
    except ValueError:
        raise NotFound("no schedule has this id") from None


def schedules(
    client: "Client", *, limit: int = 100, cursor: str | None = None, stale: bool = False
) -> Page[Schedule]:
    """By name."""
    keys = Keys(client.namespace)
    snapshot = read(client, [under(keys.prefix("schedules")), under(keys.prefix("controls"))], stale=stale)
    found, controls = snapshot.ranges
    said = {keys.parts(kv.key)[1]: kv for kv in controls}
    named = {keys.parts(kv.key)[1]: kv for kv in found}
    names, following = cut(sorted(named), sorted(named), limit, cursor)
    items = [_schedule(named[name], said.get(name)) for name in names]
    return Page(items=items, next_cursor=following, revision=snapshot.revision, stale=stale)


def upcoming_fires(client: "Client", job: str, count: int, *, stale: bool = False) -> list[Fire]:
    """The next `count` nominal times of a job.

    Raises NotFound, and ConfigurationError if this code cannot compute them.
    """
    keys = Keys(client.namespace)
    (found,) = read(client, [RangeRequest(key=keys.schedule(job))], stale=stale).ranges
    if not found:
        raise no_such_job(client, job, stale=stale)
    definition = decode(found[0].value, Definition)
    try:
        times = times_of(definition.fingerprint)
    except ValueError as error:
        raise ConfigurationError(f"{job} cannot be previewed: {error}") from None
    return preview(times, datetime.now(UTC), count)


def _schedule(kv: KeyValue, said: KeyValue | None) -> Schedule:
    definition = decode(kv.value, Definition)
    control = decode(said.value, Control) if said else Control()
    now = datetime.now(UTC)
    paused = control.pauses(now)
    return Schedule(
        id=opaque(definition.job),
        job=definition.job,
        source=definition.source,
        by=definition.by,
        task=definition.task,
        text=definition.text,
        zone=definition.zone,
        version=definition.version,
        since=definition.since,
        policy=definition.policy,
        due_next=_due_next(definition, control.until and control.until - _JUST_BEFORE if paused else now),
        paused=paused,
        paused_by=control.by if paused else "",
        paused_why=control.why if paused else "",
        paused_until=control.until if paused else None,
        args=masked(definition.args),
        kwargs=masked(definition.kwargs),
        options=masked(definition.options),
        revision=int(kv.mod_revision),
    )


def _due_next(definition: Definition, since: datetime | None) -> datetime | None:
    if since is None:
        return None
    try:
        fires = preview(times_of(definition.fingerprint), since, 1)
    except (ValueError, OverflowError):  # paused until the last of all days, say
        return None
    return fires[0].nominal if fires else None
