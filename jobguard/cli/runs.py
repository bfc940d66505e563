"""jobguard runs: what is on its way, how the others ended, and why."""

import click

from jobguard import observe
from jobguard.cli.face import Face, command, draw, more, when


@click.group()
def runs() -> None:
    """What runs, how the others ended, and why."""


@command(
    runs,
    name="list",
    epilog="Example: jobguard runs list --job digest --verdict skipped",
)
@click.option("--job", help="Only runs of this job.")
@click.option(
    "--verdict", type=click.Choice(observe.VERDICTS), help="Only runs that ended, or stand, like this."
)
@click.option("--limit", type=click.IntRange(1, 500), default=50, show_default=True)
@click.option("--cursor", help="Where the list before ended.")
def list_runs(face: Face, job: str | None, verdict: str | None, limit: int, cursor: str | None) -> None:
    """Runs on their way, then the latest verdicts."""
    page = observe.runs(face.client, job=job, verdict=verdict, limit=limit, cursor=cursor, stale=face.stale)
    face.give(page, lambda: draw_runs(page))


@command(runs, epilog="Example: jobguard runs refusals --job digest")
@click.option("--job", help="Only of this job.")
@click.option("--run", help="Only of the run with this id, as -o json shows it.")
@click.option("--limit", type=click.IntRange(1, 500), default=50, show_default=True)
@click.option("--cursor", help="Where the list before ended.")
def refusals(face: Face, job: str | None, run: str | None, limit: int, cursor: str | None) -> None:
    """Deliveries that were told no: the last few of each living worker, the latest first."""
    page = observe.refusals(face.client, job=job, run=run, limit=limit, cursor=cursor, stale=face.stale)
    face.give(page, lambda: draw_refusals(page))


def draw_runs(page: observe.Page[observe.Run]) -> None:
    rows = [
        (run.job, when(run.nominal_time), run.verdict, run.attempts, run.where, run.fencing_token, run.why)
        for run in page.items
    ]
    draw(("JOB", "DUE", "VERDICT", "ATTEMPTS", "ON", "TOKEN", "WHY"), rows, "No runs.")
    more(page.next_cursor)


def draw_refusals(page: observe.Page[observe.Refusal]) -> None:
    rows = [(each.job, when(each.nominal_time), when(each.refused_at), each.why) for each in page.items]
    draw(("JOB", "DUE", "TOLD NO AT", "WHY"), rows, "Nobody was told no lately.")
    more(page.next_cursor)
