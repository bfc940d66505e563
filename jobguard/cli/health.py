"""jobguard health: this host's beat, for probes."""

import sys

import click

from jobguard.cli.face import Face, command
from jobguard.health import health as examine


@command(reads=False, epilog="Example, as a liveness probe: jobguard health || [ $? = 6 ]")
def health(face: Face) -> None:
    """Whether this host's beat leads or follows, and when it last finished a turn.

    Exits with 0 when it is well, with 1 when it hangs or is not there, with 6 when the store has no quorum:
    a restart of beat helps against the second only.
    """
    seen = examine(face.client)
    face.give(seen, lambda: click.echo(seen.summary))
    sys.exit(seen.exit_code)
