"""jobguard cluster: is the store well."""

import sys

import click

from jobguard import observe
from jobguard.cli.face import Face, command, draw


@click.group()
def cluster() -> None:
    """Is the store well: its members and their leader."""


@command(cluster, reads=False, epilog="Example: jobguard cluster status || alert")
def status(face: Face) -> None:
    """Members, leader and what may still fail. Exits with 6 when the store has no leader."""
    seen = observe.cluster(face.client)
    face.give(seen, lambda: draw_cluster(seen))
    if seen.health == "down":
        sys.exit(6)


def draw_cluster(seen: observe.Cluster) -> None:
    click.echo(f"{seen.health}: {seen.summary}")
    rows = [
        (
            member.name or member.id,
            member.state,
            ",".join(member.client_urls),
            member.version,
            member.term,
            member.applied_index,
            member.trouble,
        )
        for member in seen.members
    ]
    draw(("MEMBER", "STATE", "ADDRESS", "VERSION", "TERM", "APPLIED", "TROUBLE"), rows, "No members.")
