"""jobguard schedules: what is planned and when; pause, resume, start now."""

import getpass
from datetime import UTC, datetime

import click

from jobguard import observe, operate
from jobguard import schedules as by_hand
from jobguard.cli.face import Face, command, draw, more, when
from jobguard.preview import Fire


@click.group()
def schedules() -> None:
    """What is planned; pause, resume, start now."""


@command(schedules, name="list", epilog="Example: jobguard schedules list -o json")
@click.option("--limit", type=click.IntRange(1, 500), default=100, show_default=True)
@click.option("--cursor", help="Where the list before ended.")
def list_schedules(face: Face, limit: int, cursor: str | None) -> None:
    """Jobs with their times, when they are due next, and who paused them."""
    page = observe.schedules(face.client, limit=limit, cursor=cursor, stale=face.stale)
    face.give(page, lambda: draw_schedules(page))


@command(schedules, epilog="Example: jobguard schedules preview digest -n 10")
@click.argument("job")
@click.option("-n", "count", type=click.IntRange(1, 1000), default=5, show_default=True)
def preview(face: Face, job: str, count: int) -> None:
    """The next times of a job, and what the clocks do to them."""
    fires = observe.upcoming_fires(face.client, job, count, stale=face.stale)
    face.give(fires, lambda: draw_fires(fires))


@command(
    schedules,
    reads=False,
    epilog="Example: jobguard schedules pause digest --reason 'mail server moves' --until 2026-12-01T06:00Z",
)
@click.argument("job")
@click.option("--reason", required=True, help="Why; shown with every occurrence that is skipped for it.")
@click.option("--until", help="When it ends by itself: 2026-12-01T06:00Z, or with another offset.")
def pause(face: Face, job: str, reason: str, until: str | None) -> None:
    """Start no further occurrence of a job. None of them is caught up later; a deploy does not end it."""
    end = moment(until) if until else None
    control = by_hand.pause(face.client, job, actor=actor(reason), until=end)
    ends = f"until {when(end)}" if end else "until it is resumed"
    face.give(control, lambda: click.echo(f"{job} is paused {ends}."))


@command(schedules, reads=False, epilog="Example: jobguard schedules resume digest")
@click.argument("job")
@click.option("--reason", default="", help="Why; kept in the audit log.")
def resume(face: Face, job: str, reason: str) -> None:
    """Plan a paused job again."""
    control = by_hand.resume(face.client, job, actor=actor(reason))
    face.give(control, lambda: click.echo(f"{job} is planned again."))


@command(schedules, reads=False, epilog="Example: jobguard schedules trigger digest --reason 'was edited'")
@click.argument("job")
@click.option("--reason", default="", help="Why; kept in the audit log.")
def trigger(face: Face, job: str, reason: str) -> None:
    """Start a job now, as an occurrence of its own, paused or not."""
    occurrence = by_hand.trigger(face.client, job, actor=actor(reason))
    face.give(
        {"job": job, "nominal_time": occurrence.nominal},
        lambda: click.echo(f"{job} starts as the run of {occurrence.stamp}."),
    )


def moment(text: str) -> datetime:
    """A time with its offset. One without is refused: it would mean another moment on each host."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise click.UsageError(f"--until: {error}") from None
    if found.tzinfo is None:
        raise click.UsageError(f"--until {text} needs an offset: {text}Z for UTC")
    return found.astimezone(UTC)


def actor(reason: str) -> operate.Actor:
    return operate.Actor(by=getpass.getuser(), via="cli", reason=reason)


def draw_schedules(page: observe.Page[observe.Schedule]) -> None:
    rows = [(each.job, when(each.due_next), each.text, each.task, pausing(each)) for each in page.items]
    draw(("JOB", "DUE NEXT", "TIMES", "TASK", "PAUSED"), rows, "Nothing is planned.")
    more(page.next_cursor)


def pausing(schedule: observe.Schedule) -> str:
    if not schedule.paused:
        return ""
    until = f" until {when(schedule.paused_until)}" if schedule.paused_until else ""
    return f"by {schedule.paused_by}{until}: {schedule.paused_why}"


def draw_fires(fires: list[Fire]) -> None:
    rows = [(when(fire.nominal), fire.local.isoformat(), fire.note) for fire in fires]
    draw(("UTC", "ON THE WALL", "NOTE"), rows, "It is never due again.")
