"""What the commands share: how they connect, how they answer, and how they fail.

Place in the house   cli's nouns -> face -> client, settings, problems
Takes                --endpoints, --namespace, --cacert and so on; else the settings of the app in
                     `celery -A app jobguard`; else JOBGUARD_ENDPOINTS and so on
Gives                data on stdout, talk on stderr, an exit code that says what went wrong
"""

import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, NoReturn

import click
import msgspec

from jobguard.client import Client
from jobguard.errors import JobguardError
from jobguard.observe import to_json
from jobguard.problems import body, current, kind_of
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
        def run(output: str, stale: bool = False, **given: Any) -> None:
            said = {name: given.pop(name) for name in list(given) if name.startswith(SETTING)}
            try:
                with connect(said) as client:
                    function(Face(client, output, stale), **given)
            except JobguardError as error:
                fail(error, output)

        own = vars(run).pop("__click_params__", [])  # the last comes first there
        for option in reversed([*([STALE] if reads else []), *CONNECTION]):
            run = option(run)
        vars(run)["__click_params__"] += own
        return (group.command if group else click.command)(**how)(run)

    return make


SETTING = "setting_"


def setting(name: str, metavar: str, help: str) -> Callable[[Any], Any]:
    """One that the command line may say too, whatever the command's own arguments are called."""
    env = f"[env: JOBGUARD_{name.upper()}]"
    return click.option(
        f"--{name.replace('_', '-')}", f"{SETTING}{name}", metavar=metavar, help=f"{help} {env}"
    )


CONNECTION = (
    click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True),
    setting("endpoints", "URLS", "The store's nodes."),
    setting("namespace", "NAME", "Whose keys."),
    setting("cacert", "FILE", "Whom to trust with https."),
    setting("cert", "FILE", "Our own certificate."),
    setting("key", "FILE", "Its key."),
    setting("username", "NAME", "A user of the store; his password: JOBGUARD_PASSWORD, or a file."),
    setting("password_file", "FILE", "Holds his password."),
)
STALE = click.option("--stale", is_flag=True, help="Take what one node remembers: works without a leader.")


def connect(given: Mapping[str, str | None]) -> Client:
    """As the settings say, where the command line says nothing else."""
    said: dict[str, Any] = {name.removeprefix(SETTING): value for name, value in given.items() if value}
    if endpoints := said.get("endpoints"):
        said["endpoints"] = tuple(endpoints.split(","))
    if "password_file" in said:
        said["password"] = None
    return Client.from_settings(replace(Settings.current(), **said))


def fail(error: JobguardError, output: str) -> NoReturn:
    """One sentence, or problem+json for a program, on stderr."""
    kind = kind_of(error)
    if output == "json":
        click.echo(to_json(body(kind, str(error), current=current(error))), err=True)
    else:
        text = str(error).rstrip(".")
        ended = text if text.endswith("?") else f"{text}."
        click.echo(f"Error: {ended} {kind.next_step}".rstrip(), err=True)
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
