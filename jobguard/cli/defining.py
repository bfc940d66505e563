"""A schedule's definition as options of a command: `--cron`, `--every`, `--at` and what else is to be said.

Place in the house   cli.schedules -> defining -> definition
"""

import functools
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import click
import msgspec

from jobguard.cli.face import Face, command
from jobguard.definition import Definition

JSON = "JSON"
WHEN = ("cron", "every_seconds", "at")


def made(group: click.Group, epilog: str) -> Callable[[Callable[..., None]], click.Command]:
    """A command whose options are the parts of a Definition; it gets a function that puts them into one."""

    def make(function: Callable[..., None]) -> click.Command:
        @functools.wraps(function)
        def run(face: Face, job: str, reason: str, **given: Any) -> None:
            chosen = {name: value for name, value in given.items() if value is not None}
            if sum(name in chosen for name in WHEN) > 1:
                raise click.UsageError("choose one of --cron, --every and --at")

            def define(before: Definition) -> Definition:
                unsaid = dict.fromkeys(WHEN[1:]) | {"cron": ""} if chosen.keys() & set(WHEN) else {}
                return msgspec.structs.replace(before, **{**unsaid, **chosen})

            function(face, job, define, reason)

        for option in reversed(DEFINITION):
            run = option(run)
        return command(group, reads=False, epilog=epilog)(run)

    return make


def read_json(kind: type) -> Callable[[click.Context, click.Parameter, str | None], Any]:
    def read(ctx: click.Context, parameter: click.Parameter, text: str | None) -> Any:
        try:
            return None if text is None else msgspec.json.decode(text, type=kind)
        except msgspec.DecodeError as error:
            raise click.BadParameter(f"JSON is needed: {error}") from None

    return read


def read_moment(ctx: click.Context, parameter: click.Parameter, text: str | None) -> datetime | None:
    return moment(text, parameter.opts[0]) if text else None


DEFINITION = (
    click.argument("job"),
    click.option("--task", help="The name of the task."),
    click.option(
        "--cron", help="Five fields: minute, hour, day of month, month, day of week; all must match."
    ),
    click.option("--every", "every_seconds", type=float, metavar="SECONDS", help="Counted from 1970 on."),
    click.option("--at", callback=read_moment, help="Once: 2026-12-01T06:00Z, or with another offset."),
    click.option("--zone", help="Of --cron. [default: UTC]"),
    click.option(
        "--dst",
        type=click.Choice(["skip", "once", "both"]),
        help="Of --cron, where the clocks change. [default: once]",
    ),
    click.option("--args", callback=read_json(list), metavar=JSON, help='["a", 1]'),
    click.option("--kwargs", callback=read_json(dict), metavar=JSON, help='{"name": "value"}'),
    click.option("--options", callback=read_json(dict), metavar=JSON, help='As {"queue": "mail"}'),
    click.option("--policy", callback=read_json(dict), metavar=JSON, help='{"overlap": "allow"}'),
    click.option("--reason", default="", help="Why; kept in the audit log."),
)


def moment(text: str, option: str = "--until") -> datetime:
    """A time with its offset. One without is refused: it would mean another moment on each host."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise click.UsageError(f"{option} {text} is no moment, such as 2026-12-01T06:00Z") from None
    if len(text) == len("2026-12-01"):
        raise click.UsageError(f"{option} {text} needs a time and an offset: {text}T00:00Z in UTC")
    if found.tzinfo is None:
        raise click.UsageError(f"{option} {text} needs an offset: {text}Z for UTC")
    return found.astimezone(UTC)
