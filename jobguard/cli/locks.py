"""jobguard locks: who holds what, and the release by hand."""

import getpass

import click

from jobguard import observe, operate
from jobguard.cli.face import Face, command, draw, left, more, somebody_is_there, when


@click.group()
def locks() -> None:
    """Who holds what; release a stuck lock."""


@command(
    locks,
    name="list",
    epilog="Example: jobguard locks list --name nightly -o json",
)
@click.option("--name", help="Only the lock, or the runs of the job, of this name.")
@click.option("--limit", type=click.IntRange(1, 500), default=100, show_default=True)
@click.option("--cursor", help="Where the list before ended.")
def list_locks(face: Face, name: str | None, limit: int, cursor: str | None) -> None:
    """Locks and running jobs, with holder, fencing token, lease and waiters."""
    page = observe.locks(face.client, name=name, limit=limit, cursor=cursor, stale=face.stale)
    face.give(page, lambda: draw_locks(page))


def draw_locks(page: observe.Page[observe.Lock]) -> None:
    rows = [
        (
            lock.name,
            f"run {when(lock.nominal_time)}" if lock.kind == "run" else "lock",
            lock.where,
            when(lock.since),
            left(lock.seconds_left),
            lock.fencing_token,
            lock.waiters,
            lock.id,
        )
        for lock in page.items
    ]
    draw(("NAME", "KIND", "HOLDER", "SINCE", "LEFT", "TOKEN", "WAITERS", "LOCK ID"), rows, "Nothing is held.")
    more(page.next_cursor)


@command(
    locks,
    reads=False,
    epilog="Example: jobguard locks release --lock-id bG9ja3Mvbmln --revision 4711 --reason 'host is gone'",
)
@click.option("--lock-id", required=True, help="LOCK ID of `jobguard locks list`.")
@click.option("--revision", required=True, type=click.IntRange(1), help="Its TOKEN: the holder you saw.")
@click.option("--reason", help="Why; kept in the audit log. Asked for on a terminal.")
@click.option(
    "--then",
    type=click.Choice([each.value for each in operate.Then]),
    default="end",
    show_default=True,
    help="Of a run: end it as released, or run it again.",
)
@click.option("--yes", is_flag=True, help="Do not ask.")
def release(face: Face, lock_id: str, revision: int, reason: str | None, then: str, yes: bool) -> None:
    """Take a lock from its holder. The holder's process is not stopped.

    Refused if another process holds it by now than the one at --revision.
    """
    lock = observe.lock(face.client, lock_id)
    if lock.revision != revision:
        raise operate.HolderChanged(lock)
    asked = reason or ask_reason()
    if not yes:
        confirm(lock, then)
    actor = operate.Actor(by=getpass.getuser(), via="cli", reason=asked)
    released = operate.release(face.client, lock_id, revision=revision, actor=actor, then=operate.Then(then))
    face.give(
        {"released": released.lock, "audit": released.audit},
        lambda: click.echo(f"{released.lock.name} was taken from {released.lock.where}."),
    )


def ask_reason() -> str:
    if not somebody_is_there():
        raise click.UsageError("--reason is needed")
    return str(click.prompt("Reason", err=True))


def confirm(lock: observe.Lock, then: str) -> None:
    """Show what is at stake. Where nobody can be asked, --yes is needed."""
    if not somebody_is_there():
        raise click.UsageError("nobody to ask here: confirm with --yes")
    follows = f" and {'run it again' if then == 'rerun' else 'end the run'}" if lock.kind == "run" else ""
    click.echo(
        f"{lock.name} is held by {lock.where} since {when(lock.since)}; "
        f"its lease has {left(lock.seconds_left)} left ({lock.liveness}).\n"
        f"The process is not stopped: code that does not check its token may go on.",
        err=True,
    )
    click.confirm(f"Take it from this holder{follows}?", abort=True, err=True)
