"""jobguard doctor: what is wrong, or will be, and what to do about it."""

import sys
from collections.abc import Callable, Iterable, Mapping

import click

from jobguard.cli.face import CONNECTION, connect, write_json
from jobguard.client import Client
from jobguard.doctor import Diagnosis, Finding, diagnosis, failed, of_store, warned
from jobguard.errors import ConfigurationError

Examine = Callable[[Client], Iterable[Finding]]

EPILOG = "Example: celery -A proj jobguard doctor -o json"


def command(examine: Examine) -> click.Command:
    """The command, with what there is to look at."""

    @click.command(name="doctor", epilog=EPILOG)
    def doctor(output: str, **given: str | None) -> None:
        """Look at the store, the beats, the workers and the settings that once-only depends on.

        Called as `celery -A proj jobguard doctor` it looks at that project, too. Each finding is a pass, a
        warning or a failure, with what to do. Exits with 1 if anything fails.
        """
        seen = diagnosis(_findings(given, examine))
        if output == "json":
            write_json(seen)
        else:
            _draw(seen)
        sys.exit(1 if seen.worst == "fail" else 0)

    for option in CONNECTION:
        doctor = option(doctor)
    return doctor


def _findings(given: Mapping[str, str | None], examine: Examine) -> Iterable[Finding]:
    try:
        client = connect(given)
    except ConfigurationError as error:
        return [failed("settings", str(error), "correct the setting")]
    with client:
        return list(examine(client))


def _draw(seen: Diagnosis) -> None:
    width = max(len(each.check) for each in seen.findings)
    for each in seen.findings:
        click.echo(f"{each.status}  {each.check.ljust(width)}  {each.text}")
        if each.fix:
            click.echo(f"{'':6}{'':{width}}  fix: {each.fix}")
    counts = {status: sum(each.status == status for each in seen.findings) for status in ("fail", "warn")}
    click.echo(f"{counts['fail']} failed, {counts['warn']} warned, {len(seen.findings)} looked at.", err=True)


def _without_an_app(client: Client) -> Iterable[Finding]:
    yield from of_store(client)
    yield warned(
        "app",
        "no Celery app was named, so its settings, tasks and workers were not looked at",
        "celery -A proj jobguard doctor",
    )


doctor = command(_without_an_app)
