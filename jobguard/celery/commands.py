"""`celery -A proj jobguard …`: the `jobguard` command with the settings of that project's app.

Place in the house   celery's command line, by the entry point celery.commands -> here -> cli
Takes                the app that celery has loaded
Gives                the same commands; a doctor that looks at the app as well
Never                loads anything before a command is called: every `celery` run imports this page
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from jobguard.cli import Commands

if TYPE_CHECKING:
    from jobguard.client import Client
    from jobguard.doctor import Finding


class OfApp(Commands):
    """Commands by name; the doctor's is ours."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return _doctor(ctx) if cmd_name == "doctor" else super().get_command(ctx, cmd_name)


def _doctor(ctx: click.Context) -> click.Command:
    from jobguard.cli.doctor import command

    def examine(client: "Client") -> Iterable["Finding"]:
        from jobguard.celery.doctor import of_app

        return of_app(ctx.obj.app, client)

    return command(examine)


@click.command(cls=OfApp, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.pass_context
def jobguard(ctx: click.Context) -> None:
    """Look at, and look after, what jobguard guards for this app: doctor, health, locks, runs, schedules."""
    ctx.obj.app.set_current()
