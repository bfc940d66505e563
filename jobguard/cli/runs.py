"""jobguard runs: what is on its way, how the others ended, and why."""

from datetime import datetime

import click

from jobguard import observe
from jobguard.cli.defining import read_moment
from jobguard.cli.face import Face, command, draw, more, when
from jobguard.observe.reading import run_id
from jobguard.records import Occurrence, stamp


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


@command(runs, epilog="Example: jobguard runs show digest 2026-11-24T02:00:00Z")
@click.argument("job")
@click.argument("due", callback=read_moment)
def show(face: Face, job: str, due: datetime) -> None:
    """One run: each of its attempts, and who was told no."""
    run = observe.run(face.client, run_id(Occurrence(job, due)), stale=face.stale)
    face.give(run, lambda: draw_run(run))


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
        (run.job, stamp(run.nominal_time), run.verdict, run.attempts, run.where, run.fencing_token, run.why)
        for run in page.items
    ]
    draw(("JOB", "DUE", "VERDICT", "ATTEMPTS", "ON", "TOKEN", "WHY"), rows, "No runs.")
    more(page.next_cursor)


def draw_run(run: observe.Run) -> None:
    click.echo(f"{run.job} of {stamp(run.nominal_time)}: {run.verdict}\n{run.why}\n")
    tries = run.history or []
    outcomes = [*("ended" for _ in tries[1:]), run.verdict]
    ends = [*(None for _ in tries[1:]), run.finished_at]
    rows = [
        (
            f"{each.attempt}.{each.retry}" if each.retry else each.attempt,
            each.outcome or otherwise,
            *(each.where, each.fencing_token, each.task_id),
            *(when(each.started_at), when(each.ended_at or end), each.error),
        )
        for each, otherwise, end in zip(tries, outcomes, ends, strict=False)
    ]
    heads = ("ATTEMPT", "OUTCOME", "ON", "TOKEN", "TASK ID", "CLAIMED", "ENDED", "ERROR")
    draw(heads, rows, "No worker has claimed it.")
    for refusal in run.refusals or []:
        click.echo(f"{when(refusal.refused_at)}  {refusal.why}")


def draw_refusals(page: observe.Page[observe.Refusal]) -> None:
    rows = [(each.job, when(each.nominal_time), when(each.refused_at), each.why) for each in page.items]
    draw(("JOB", "DUE", "TOLD NO AT", "WHY"), rows, "Nobody was told no lately.")
    more(page.next_cursor)
