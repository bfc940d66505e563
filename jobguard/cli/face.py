"""What the commands share: how they connect, how they answer, and how they fail.

Place in the house   cli's nouns -> face -> client, settings, problems
Takes                --endpoints, --namespace, --stale, -o; else the settings of the app in `celery -A app
                     jobguard`; else JOBGUARD_ENDPOINTS and so on
Gives                data on stdout, talk on stderr, an exit code that says what went wrong
"""

import functools
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NoReturn

import click
import msgspec

from jobguard.client import Client
from jobguard.errors import JobguardError
from jobguard.observe import to_json
from jobguard.problems import body, details, kind_of
from jobguard.settings import Settings


@dataclass(frozen=True, slots=True)
class Face:
    """A connection, and the way the caller wants to be answered."""

    client: Client
    output: str
    stale: bool = False

    def give(self, value: object, table: Callable[[], None]) -> None:
        """The value as the API's JSON, or drawn for people."""
        if self.output == "json":
            write_json(value)
        else:
            table()


def command(
    group: click.Group | None = None, *, reads: bool = True, **how: Any
) -> Callable[..., click.Command]:
    """A command that gets a Face, and whose failures become a sentence and an exit code."""

    def make(function: Callable[..., None]) -> click.Command:
        @functools.wraps(function)
        def run(
            endpoints: str | None, namespace: str | None, output: str, stale: bool = False, **given: Any
        ) -> None:
            try:
                with connect(endpoints, namespace) as client:
                    function(Face(client, output, stale), **given)
            except JobguardError as error:
                fail(error, output)

        options = [*CONNECTION, *([STALE] if reads else [])]
        for option in reversed(options):
            run = option(run)
        return (group.command if group else click.command)(**how)(run)

    return make


CONNECTION = (
    click.option("--endpoints", metavar="URLS", help="The store's nodes. [env: JOBGUARD_ENDPOINTS]"),
    click.option("--namespace", metavar="NAME", help="Whose keys. [env: JOBGUARD_NAMESPACE]"),
    click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True),
)
STALE = click.option("--stale", is_flag=True, help="Take what one node remembers: works without a leader.")


def connect(endpoints: str | None, namespace: str | None) -> Client:
    settings = Settings.current()
    return Client(
        endpoints or settings.endpoints, namespace=namespace or settings.namespace, timeout=settings.timeout
    )


def fail(error: JobguardError, output: str) -> NoReturn:
    """One sentence, or problem+json for a program, on stderr."""
    kind = kind_of(error)
    if output == "json":
        click.echo(to_json(body(kind, str(error), details(error))), err=True)
    else:
        hint = f". {kind.next_step}" if kind.next_step else ""
        click.echo(f"Error: {str(error).rstrip('.')}{hint or '.'}", err=True)
    sys.exit(kind.exit_code)


def somebody_is_there() -> bool:
    return sys.stdin.isatty()


def write_json(value: object) -> None:
    click.echo(msgspec.json.format(to_json(value)))


def draw(heads: Sequence[str], rows: Sequence[Sequence[object]], nothing: str) -> None:
    """Columns as wide as their widest cell; the last one takes what is left."""
    if not rows:
        click.echo(nothing, err=True)
        return
    cells = [[*heads], *([("" if cell is None else str(cell)) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(heads) - 1)]
    for row in cells:
        padded = [cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=True)]
        click.echo("  ".join((*padded, row[-1])).rstrip())


def more(cursor: str | None) -> None:
    if cursor:
        click.echo(f"There are more: --cursor {cursor}", err=True)


def when(moment: datetime | None) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}" if moment else ""


def left(seconds: int | None) -> str:
    if seconds is None:
        return "unknown"
    return f"{seconds}s" if seconds >= 0 else "ended"
