"""What an operator does to a store beside running it: `jobguard store backup | restore | recover`.

Place in the house   __main__ -> commands -> download, anew
Takes                flags; for a member of a new cluster those of its later start
Gives                what was done, in a line or two; one sentence and exit code 1 when it was not
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click

from jobguard_store import config as defaults
from jobguard_store.anew import REVISIONS_SKIPPED, REVISIONS_SKIPPED_MAX, Begun, Survivor, examine
from jobguard_store.anew import recover as begin_with
from jobguard_store.anew import restore as begin_from
from jobguard_store.config import NodeConfig, parse_urls
from jobguard_store.download import User, download
from jobguard_store.errors import StartupError
from jobguard_store.security import TlsFiles

Function = Callable[..., None]


def explained(function: Function) -> Function:
    """What cannot be done is one sentence."""

    @wraps(function)
    def run(**given: Any) -> None:
        try:
            function(**given)
        except StartupError as error:
            raise click.ClickException(str(error)) from None

    return run


def skip_revisions_option(help: str) -> Callable[[Function], Function]:
    return click.option(
        "--skip-revisions",
        type=click.IntRange(1, REVISIONS_SKIPPED_MAX),
        default=REVISIONS_SKIPPED,
        show_default=True,
        help=help,
    )


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--endpoints",
    envvar="JOBGUARD_ENDPOINTS",
    show_envvar=True,
    default=defaults.DEFAULT_CLIENT_URL,
    show_default=True,
    help="The first that answers is asked.",
)
@click.option("--cacert", envvar="JOBGUARD_CACERT", show_envvar=True, help="Whom to trust with https.")
@click.option("--cert", envvar="JOBGUARD_CERT", show_envvar=True, help="Our own certificate.")
@click.option("--key", envvar="JOBGUARD_KEY", show_envvar=True, help="Its key.")
@click.option(
    "--username", envvar="JOBGUARD_USERNAME", show_envvar=True, help="Root, where authentication is on."
)
@click.option(
    "--password-file",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar="JOBGUARD_PASSWORD_FILE",
    show_envvar=True,
    help="Holds his password, unless JOBGUARD_PASSWORD does.",
)
@explained
def backup(
    file: Path, endpoints: str, username: str | None, password_file: Path | None, **files: str | None
) -> None:
    """Keep all keys and leases of a running store in FILE.

    The store goes on meanwhile. FILE appears once it is whole: it ends with the SHA-256 of what precedes.
    """
    # As all of jobguard reads that variable: a bare host:port means http, but https with a certificate.
    given = {name: path for name, path in files.items() if path}
    scheme = "https" if given else "http"
    bare = [each for each in endpoints.replace(" ", "").split(",") if each]
    spelled = [each if "://" in each else f"{scheme}://{each}" for each in bare]
    urls = list(parse_urls("--endpoints", ",".join(spelled)))
    with click.progressbar(length=1, label=f"{file}", file=sys.stderr) as bar:

        def progress(came: int, remaining: int) -> None:
            bar.length = bar.pos + came + remaining
            bar.update(came)

        user = None if username is None else User(username, _password(password_file))
        size = download(urls, file, progress, TlsFiles(**given), user)
    click.echo(f"{file}: {size} bytes, whole and durable.")


def _password(file: Path | None) -> str:
    if file is None:
        return os.environ.get("JOBGUARD_PASSWORD", "")
    try:
        return file.read_text().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise StartupError(f"the password file {file} cannot be read: {error}.") from None


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.option(
    "--data-dir", required=True, help="Where the new member's file will live: empty, or not there yet."
)
@click.option("--name", default=defaults.DEFAULT_NAME, show_default=True, help="The new member's name.")
@click.option("--initial-cluster", help="All new members, as name=url,name=url.  [default: this one alone]")
@click.option(
    "--initial-advertise-peer-urls", help="Where the others reach it.  [default: as in --initial-cluster]"
)
@click.option(
    "--initial-cluster-token", default=defaults.DEFAULT_TOKEN, show_default=True, help="As at the start."
)
@skip_revisions_option("More than the old store can have made since the backup.")
@explained
def restore(file: Path, skip_revisions: int, **flags: Any) -> None:
    """Make one member of a new cluster out of the backup FILE.

    Call it once for every member, each with its own --name and --data-dir and all with the same
    --initial-cluster; then start them. Stop what is left of the old cluster first: it is another one.
    """
    if flags["initial_advertise_peer_urls"] is None:
        del flags["initial_advertise_peer_urls"]
    made = begin_from(file, NodeConfig.from_flags(**flags), skip_revisions)
    click.echo(f"{flags['data_dir']} holds a member of {described(made)}")


@click.command()
@click.option(
    "--data-dir", required=True, type=click.Path(path_type=Path), help="Of the member that is left."
)
@click.option(
    "--force-new-cluster", is_flag=True, help="Do it: make this member the only one of a new cluster."
)
@click.option("--dry-run", is_flag=True, help="Say what there is and what may be lost; the default.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@skip_revisions_option("More than the others can have been ahead.")
@explained
def recover(data_dir: Path, force_new_cluster: bool, dry_run: bool, yes: bool, skip_revisions: int) -> None:
    """Begin anew with one member, when the quorum is lost for good.

    The node must be stopped. Its data becomes that of a new cluster with this one member; add others to it
    with `jobguard cluster member add`, on empty data directories.
    """
    show(examine(data_dir))
    if dry_run or not force_new_cluster:
        click.echo("Nothing was changed: --force-new-cluster does it.")
        return
    if not yes:
        click.confirm(
            "Are the other members stopped for good, and is this the most advanced one?", abort=True
        )
    made = begin_with(data_dir, skip_revisions)
    click.echo(f"{data_dir} holds the only member of {described(made)}")


def described(made: Begun) -> str:
    return (
        f"the new cluster {made.cluster_id:x}, at revision {made.revision}: "
        f"{made.keys} keys, {made.leases} leases."
    )


def show(survivor: Survivor) -> None:
    others = ", ".join(survivor.others) or "none"
    click.echo(f"member       {survivor.name} ({survivor.member_id:x}) of cluster {survivor.cluster_id:x}")
    click.echo(f"others       {others}")
    click.echo(
        f"last entry   term {survivor.last.term}, index {survivor.last.index}; term voted in: {survivor.term}"
    )
    click.echo(f"applied      up to {survivor.applied}; the rest of the log is taken for committed")
    click.echo(f"state        revision {survivor.revision}, {survivor.keys} keys, {survivor.leases} leases")
    if survivor.turned_away:
        click.echo(f"turned away  {survivor.turned_away}")
    if survivor.others:
        click.echo(
            f"Lost is whatever a majority among {others} acknowledged after that entry. If the data of "
            "several members is left, compare them like this and take the one with the highest last entry: "
            "by its term first, then by its index."
        )
