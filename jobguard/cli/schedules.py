"""jobguard schedules: what is planned and when; make, change, remove; pause, resume, start now."""

import getpass
from collections.abc import Callable
from datetime import datetime

import click

from jobguard import observe, operate
from jobguard import schedules as by_hand
from jobguard.cli.defining import made, moment, read_moment
from jobguard.cli.face import Face, command, draw, more, when
from jobguard.definition import Definition, shown
from jobguard.preview import Fire
from jobguard.settings import Settings


@click.group()
def schedules() -> None:
    """What is planned; make, change, remove, pause, resume, start now."""


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


@command(schedules, epilog="Example: jobguard schedules late")
def late(face: Face) -> None:
    """What should have been planned, published or started by now, and was not."""
    page = observe.late(face.client, stale=face.stale)
    face.give(page, lambda: draw_late(page))


@command(schedules, epilog="Example: jobguard schedules changes digest")
@click.argument("job", required=False)
@click.option("--limit", type=click.IntRange(1, 500), default=50, show_default=True)
@click.option("--cursor", help="Where the list before ended.")
def changes(face: Face, job: str | None, limit: int, cursor: str | None) -> None:
    """What deploys and operators changed, of one job or of all; the latest first."""
    page = observe.schedule_changes(face.client, job=job, limit=limit, cursor=cursor, stale=face.stale)
    face.give(page, lambda: draw_changes(page))


@made(schedules, epilog="Example: jobguard schedules add digest --task app.digest --cron '30 2 * * *'")
def add(face: Face, job: str, definition: Callable[[Definition], Definition], reason: str) -> None:
    """Make a schedule; the leading beat plans it within a second, and no deploy removes it."""
    schedule = by_hand.add(face.client, job, definition(Definition(task="")), actor=actor(reason))
    face.give(
        schedule, lambda: click.echo(f"{job} is planned {schedule.text}, next {when(schedule.due_next)}.")
    )


@made(schedules, epilog="Example: jobguard schedules change digest --cron '0 3 * * *' --zone Europe/Berlin")
def change(face: Face, job: str, definition: Callable[[Definition], Definition], reason: str) -> None:
    """Change what is given here of a schedule that was made at run time; the rest of it stays."""
    schedule = by_hand.change(face.client, job, definition, actor=actor(reason))
    face.give(
        schedule, lambda: click.echo(f"{job} is planned {schedule.text}, next {when(schedule.due_next)}.")
    )


@command(schedules, reads=False, epilog="Example: jobguard schedules remove digest --reason 'not read'")
@click.argument("job")
@click.option("--reason", default="", help="Why; kept in the audit log.")
def remove(face: Face, job: str, reason: str) -> None:
    """Remove a schedule that was made at run time. What is planned already still runs."""
    removed = by_hand.remove(face.client, job, actor=actor(reason))
    face.give(shown(removed), lambda: click.echo(f"{job} is no longer planned."))


@command(
    schedules,
    reads=False,
    epilog="Example: celery -A proj jobguard schedules install --force --reason 'the deploy was bad'",
)
@click.option("--version", type=click.IntRange(0), help="[default: jobguard_schedule_version]")
@click.option("--force", is_flag=True, help="Also over a newer version: roll back.")
@click.option("--reason", default="", help="Why; kept in the audit log.")
def install(face: Face, version: int | None, force: bool, reason: str) -> None:
    """Let this version of the code be the one whose schedule is in force.

    The beats do so by themselves, but never over a newer version.
    """
    wanted = Settings.current().schedule_version if version is None else version
    deploy = by_hand.install(face.client, wanted, actor=actor(reason), force=force)
    over = f"; versions up to {deploy.over} stay out" if deploy else ""
    face.give(
        {"version": wanted, "deploy": deploy},
        lambda: click.echo(f"The next beat of version {wanted} that leads installs its schedule{over}."),
    )


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


@command(
    schedules,
    reads=False,
    epilog="Example: jobguard schedules backfill digest --from 2026-11-01T00:00Z --to 2026-11-08T00:00Z",
)
@click.argument("job")
@click.option("--from", "start", required=True, callback=read_moment, help="The first moment of the window.")
@click.option("--to", "end", required=True, callback=read_moment, help="The first moment after it.")
@click.option("--confirm", type=click.IntRange(1), metavar="COUNT", help="Do it: the count that was shown.")
@click.option("--reason", default="", help="Why; kept in the audit log.")
def backfill(face: Face, job: str, start: datetime, end: datetime, confirm: int | None, reason: str) -> None:
    """Run the occurrences of a past window once more. Without --confirm it only counts them.

    Each is an occurrence of its own; where the job must not overlap they run one after the other.
    """
    if confirm is None:
        window = by_hand.preview_backfill(face.client, job, start, end)
        face.give(window, lambda: draw_window(window))
        return
    planned = by_hand.backfill(face.client, job, start, end, count=confirm, actor=actor(reason))
    face.give(
        {"job": job, "planned": [each.nominal for each in planned]},
        lambda: click.echo(f"{len(planned)} runs of {job} are planned."),
    )


def draw_window(window: by_hand.Window) -> None:
    if not window.count:
        click.echo(f"{window.job} has no time in this window.")
        return
    how = "side by side" if window.overlap == "allow" else "one after the other"
    click.echo(f"{window.count} runs of {window.job}, {when(window.first)} to {when(window.last)}, {how}.")
    click.echo(f"Nothing is planned yet: add --confirm {window.count}", err=True)


def actor(reason: str) -> operate.Actor:
    return operate.Actor(by=getpass.getuser(), via="cli", reason=reason)


def draw_schedules(page: observe.Page[observe.Schedule]) -> None:
    rows = [
        (each.job, when(each.due_next), each.text, each.task, origin(each), pausing(each))
        for each in page.items
    ]
    draw(("JOB", "DUE NEXT", "TIMES", "TASK", "FROM", "PAUSED"), rows, "Nothing is planned.")
    more(page.next_cursor)


def origin(schedule: observe.Schedule) -> str:
    return f"{schedule.source}, {schedule.by}" if schedule.by else schedule.source


def draw_late(page: observe.Page[observe.Late]) -> None:
    rows = [
        (each.job, when(each.nominal_time), each.state, f"{each.seconds} s", each.why) for each in page.items
    ]
    draw(("JOB", "DUE", "STATE", "BEHIND", "WHY"), rows, "Nothing is behind.")


def draw_changes(page: observe.Page[observe.Change]) -> None:
    rows = [(when(each.at), each.job, each.action, each.by, each.reason, each.what) for each in page.items]
    draw(("AT", "JOB", "ACTION", "BY", "WHY", "WHAT"), rows, "Nothing was changed.")
    more(page.next_cursor)


def pausing(schedule: observe.Schedule) -> str:
    if not schedule.paused:
        return ""
    until = f" until {when(schedule.paused_until)}" if schedule.paused_until else ""
    return f"by {schedule.paused_by}{until}: {schedule.paused_why}"


def draw_fires(fires: list[Fire]) -> None:
    rows = [(when(fire.nominal), fire.local.isoformat(), fire.note) for fire in fires]
    draw(("UTC", "ON THE WALL", "NOTE"), rows, "It is never due again.")
