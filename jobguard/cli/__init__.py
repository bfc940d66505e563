"""The command `jobguard`: what the web UI shows and does, for a terminal and for scripts.

Place in the house   a shell  ->  cli  ->  observe, operate  ->  client
Never                loads a command before it is called: `jobguard store` must not wait for the others,
                     nor a worker's host need the store's packages for `jobguard locks`
"""

from importlib import import_module
from importlib.metadata import entry_points, version

import click

# name: (module of ours, or None for one that an extra brings; what it is for)
COMMANDS = {
    "cluster": ("jobguard.cli.cluster", "Is the store well: its members and their leader."),
    "config": ("jobguard.cli.config", "Read, set and watch the live configuration."),
    "demo": (None, "See it work: a store, beats, workers and the web UI, and what dies under them."),
    "doctor": ("jobguard.cli.doctor", "What is wrong, or will be, and what to do about it."),
    "health": ("jobguard.cli.health", "Is this host's beat well: leader, follower, no quorum; for probes."),
    "leaders": ("jobguard.cli.leaders", "Who leads, since when, and who stands by."),
    "locks": ("jobguard.cli.locks", "Who holds what; release a stuck lock."),
    "runs": ("jobguard.cli.runs", "What runs, how the others ended, and why."),
    "schedules": ("jobguard.cli.schedules", "What is planned; pause, resume, start now."),
    "store": (None, "Run a node of the store."),
}


class Commands(click.Group):
    """Commands by name, loaded when one is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _ = COMMANDS[cmd_name]
        command = getattr(import_module(module), cmd_name) if module else from_extra(cmd_name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in sorted(COMMANDS.items())])


def from_extra(name: str) -> object:
    """A command that comes with an extra, by its entry point; a clear sentence when the extra is missing."""
    try:
        (found,) = entry_points(group="jobguard.commands", name=name)
        return found.load()
    except ModuleNotFoundError as missing:
        if (missing.name or "").startswith("jobguard"):
            raise
        raise click.ClickException(f'jobguard {name} needs: pip install "jobguard[{name}]"') from None


@click.command(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Which store: --endpoints on each command, or JOBGUARD_ENDPOINTS (comma-separated).",
)
@click.version_option(version("jobguard"), message="jobguard %(version)s")
def main() -> None:
    """Celery jobs that start once: see who leads, who runs what and why, and release what is stuck."""
