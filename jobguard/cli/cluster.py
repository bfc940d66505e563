"""jobguard cluster: is the store well, who is in it, who leads."""

import sys

import click

from jobguard import membership, observe
from jobguard.cli.face import Face, command, draw
from jobguard.cli.members import member as members


@click.group()
def cluster() -> None:
    """Is the store well: its members and their leader."""


cluster.add_command(members)


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
            member.lag,
            size(member.db_size_bytes),
            member.trouble,
        )
        for member in seen.members
    ]
    heads = ("MEMBER", "STATE", "ADDRESS", "VERSION", "TERM", "APPLIED", "LAG", "FILE", "TROUBLE")
    draw(heads, rows, "No members.")


def size(count: int | None) -> str:
    return "" if count is None else f"{count / (1 << 20):.1f} MiB"


@command(
    cluster,
    name="transfer-leadership",
    reads=False,
    epilog="Example: jobguard cluster transfer-leadership s2",
)
@click.argument("which", metavar="MEMBER")
def transfer_leadership(face: Face, which: str) -> None:
    """Have MEMBER, a name or an id, lead; returns once it does."""
    heir = membership.find(face.client, which)
    membership.transfer_leadership(face.client, heir)
    face.give({"leader": f"{int(heir.ID):x}"}, lambda: click.echo(f"{heir.name} leads."))
