"""jobguard config: the live configuration."""

import getpass

import click

from jobguard import observe, operate
from jobguard.cli.face import Face, command, draw
from jobguard.config import read_value
from jobguard.observe import ConfigEntry, to_json
from jobguard.observe.configuration import config_entry, config_key
from jobguard.records import Keys
from jobguard.wire import Event


@click.group()
def config() -> None:
    """Read, set and watch the live configuration: every host sees a change at once."""


@command(config, epilog="Example: jobguard config get digest/sender")
@click.argument("key", required=False)
def get(face: Face, key: str | None) -> None:
    """The value of KEY, or all keys with their values."""
    if key is None:
        page = observe.config(face.client, stale=face.stale)
        face.give(page, lambda: draw_entries(page.items))
    else:
        entry = observe.config_value(face.client, key, stale=face.stale)
        face.give(entry, lambda: click.echo(entry.text))


def draw_entries(entries: list[ConfigEntry]) -> None:
    rows = [(entry.key, entry.revision, entry.text) for entry in entries]
    draw(("KEY", "REVISION", "VALUE"), rows, "Nothing is set.")


@command(config, reads=False, epilog="Example: jobguard config put digest/sender news@example.org")
@click.argument("key")
@click.argument("value")
@click.option("--reason", default="", help="Why; kept in the audit log.")
def put(face: Face, key: str, value: str, reason: str) -> None:
    """Set KEY to VALUE: JSON, or else plain text. Written with its audit entry in one transaction."""
    actor = operate.Actor(by=getpass.getuser(), via="cli", reason=reason)
    audit = operate.put_config(face.client, key, read_value(value.encode()), actor=actor)
    face.give({"audit": audit}, lambda: click.echo(f"{key} = {audit.after}"))


@command(config, reads=False, epilog="Example: jobguard config watch digest")
@click.argument("prefix", required=False, default="")
def watch(face: Face, prefix: str) -> None:
    """Show changes below PREFIX as they happen, until Ctrl-C. One line each; with -o json one object."""
    keys = Keys(face.client.namespace)
    root = config_key(keys, prefix) if prefix else keys.prefix("config")
    with face.client.watch(root) as changes:
        click.echo("Watching; Ctrl-C ends it.", err=True)
        try:
            for event in changes:
                show_change(face, keys, event)
        except KeyboardInterrupt:
            return


def show_change(face: Face, keys: Keys, event: Event) -> None:
    assert event.kv is not None, "an event is about a key"
    entry = config_entry(keys, event.kv)
    deleted = event.type == "DELETE"
    if face.output == "json":
        click.echo(
            to_json(
                {
                    "key": entry.key,
                    "value": None if deleted else entry.value,
                    "deleted": deleted,
                    "revision": entry.revision,
                }
            )
        )
    else:
        click.echo(f"{entry.key} is no longer set" if deleted else f"{entry.key} = {entry.text}")
