"""jobguard cluster member: who is in the store's cluster, changed while it serves."""

import shlex

import click

from jobguard import membership, observe, wire
from jobguard.cli.face import Face, command, draw, somebody_is_there
from jobguard.errors import JobguardError


@click.group()
def member() -> None:
    """List, add, promote, move and remove the nodes of the store."""


@command(member, name="list", reads=False, epilog="Example: jobguard cluster member list -o json")
def list_members(face: Face) -> None:
    """Members as a majority knows them. One that was added and never started has no name."""
    members = face.client.members()
    face.give({"members": list(map(as_json, members))}, lambda: draw_members(members))


def as_json(each: wire.Member) -> dict[str, object]:
    return {
        "id": f"{int(each.ID):x}",
        "name": each.name,
        "learner": each.isLearner,
        "peer_urls": each.peerURLs,
        "client_urls": each.clientURLs,
    }


def draw_members(members: tuple[wire.Member, ...]) -> None:
    rows = [
        (
            f"{int(each.ID):x}",
            each.name or "(not started)",
            "learner" if each.isLearner else "voter",
            ",".join(each.peerURLs),
            ",".join(each.clientURLs),
        )
        for each in members
    ]
    draw(("ID", "NAME", "VOTE", "PEERS DIAL IT AT", "CLIENTS DIAL IT AT"), rows, "No members.")


PEER_URLS = click.option(
    "--peer-urls", required=True, metavar="URLS", help="Where its peers reach it, such as http://host:2380."
)
WHICH = click.argument("which", metavar="MEMBER")


@command(
    member,
    reads=False,
    epilog="Example: jobguard cluster member add s4 --peer-urls http://10.0.0.4:2380",
)
@click.argument("name")
@PEER_URLS
@click.option(
    "--client-urls", metavar="URLS", help="Where its clients will.  [default: that host, port 2379]"
)
@click.option("--learner", is_flag=True, help="It is not to vote until it is promoted.")
def add(face: Face, name: str, peer_urls: str, client_urls: str | None, learner: bool) -> None:
    """Let a node in that is to be called NAME; prints the command that starts it.

    It is given a copy of everything while the others serve, and votes from when it has caught up.
    """
    answer = membership.add(face.client, split(peer_urls), learner=learner)
    added = answer.member or wire.Member(peerURLs=split(peer_urls))
    words = membership.start_command(answer.members, added, name, split(client_urls or ""))
    face.give({"member": as_json(added), "command": words}, lambda: show_command(added, words))


def show_command(added: wire.Member, words: list[str]) -> None:
    click.echo(f"Member {int(added.ID):x} was added. Start it with an empty --data-dir:", err=True)
    program, flags = words[:2], words[2:]
    pairs = [f"{flag} {shlex.quote(value)}" for flag, value in zip(flags[::2], flags[1::2], strict=True)]
    click.echo(" \\\n  ".join((" ".join(program), *pairs)))


@command(member, reads=False, epilog="Example: jobguard cluster member promote s4")
@WHICH
def promote(face: Face, which: str) -> None:
    """Let a learner vote that has caught up. MEMBER is a name or an id."""
    found = membership.find(face.client, which)
    membership.promote(face.client, found)
    give(face, found, "votes from now on")


@command(member, reads=False, epilog="Example: jobguard cluster member remove s3")
@WHICH
@click.option("--yes", is_flag=True, help="Do not ask.")
def remove(face: Face, which: str, yes: bool) -> None:
    """Take a member out for good: it stops, and comes back under a new id only."""
    found = membership.find(face.client, which)
    warning = cost(face, found)
    if warning:
        click.echo(f"Warning: {warning}.", err=True)
    if not yes:
        confirm(found)
    membership.remove(face.client, found)
    give(face, found, "was removed")


def cost(face: Face, found: wire.Member) -> str:
    try:
        return membership.cost_of_removing(observe.cluster(face.client), int(found.ID))
    except JobguardError as error:
        return f"it is not known who else answers: {error}"


def confirm(found: wire.Member) -> None:
    if not somebody_is_there():
        raise click.UsageError("nobody to ask here: confirm with --yes")
    click.confirm(f"Remove {called(found)} for good?", abort=True, err=True)


@command(
    member, reads=False, epilog="Example: jobguard cluster member update s3 --peer-urls http://10.0.0.9:2380"
)
@WHICH
@PEER_URLS
def update(face: Face, which: str, peer_urls: str) -> None:
    """Tell the others where a member is that moved. It keeps its data and its id."""
    found = membership.find(face.client, which)
    membership.update(face.client, found, split(peer_urls))
    give(face, found, f"is dialled at {peer_urls} from now on")


def give(face: Face, found: wire.Member, done: str) -> None:
    """The members afterwards, for programs; a sentence for people."""
    if face.output == "json":
        face.give({"members": list(map(as_json, face.client.members()))}, lambda: None)
    else:
        click.echo(f"{called(found)} {done}.")


def called(found: wire.Member) -> str:
    return f"{found.name or 'the member that has not started'} ({int(found.ID):x})"


def split(urls: str) -> tuple[str, ...]:
    return tuple(url.strip() for url in urls.split(",") if url.strip())
