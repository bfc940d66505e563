"""The process of one node: `jobguard store`, or `python -m jobguard_store`.

Place in the house   the operator -> __main__ -> config, node, api.server
Takes                flags under etcd's names, each also from the environment as JOBGUARD_STORE_<FLAG>
Gives                a serving node until SIGTERM or SIGINT; one sentence and exit code 1 if it cannot serve
Never                goes on after an error nobody expected: the durable log is what a restart trusts
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import click
import uvloop

from jobguard_store import config as defaults
from jobguard_store.api.scrape import Scraped
from jobguard_store.api.server import bind, serve
from jobguard_store.commands import backup, recover, restore
from jobguard_store.config import NodeConfig
from jobguard_store.errors import Removed, StartupError
from jobguard_store.node import Node

log = logging.getLogger("jobguard_store")

INTRODUCTION_S = 5.0

PRIVATE = 0o077  # keys, values and hashes of passwords are in all files that we make

F = TypeVar("F", bound=Callable[..., Any])

# The writer thread asks for the interpreter after each statement; with the default of 5 ms beside a busy
# loop every commit would pay that several times over.
SWITCH_INTERVAL_S = 0.0005
COLLECTOR_THRESHOLDS = 10_000, 20, 20  # by default a busy loop spends a twentieth of its time collecting


def flag(name: str, help: str, default: str | int | None = None) -> Callable[[F], F]:
    """An option that the environment may set as well."""
    return click.option(
        f"--{name}",
        envvar=_variable(name),
        default=default,
        show_default=default is not None,
        show_envvar=True,
        help=help,
    )


def switch(name: str, help: str) -> Callable[[F], F]:
    """On by itself, or with a word, as etcd takes it: --client-cert-auth=true."""
    return click.option(
        f"--{name}",
        envvar=_variable(name),
        type=bool,
        default=False,
        is_flag=False,
        flag_value="true",
        metavar="",
        show_envvar=True,
        help=help,
    )


def _variable(name: str) -> str:
    return f"JOBGUARD_STORE_{name.upper().replace('-', '_')}"


@click.group(invoke_without_command=True)
@flag("name", "This member's name.", defaults.DEFAULT_NAME)
@flag("data-dir", "Where this member's file lives.  [default: <name>.jobguard]")
@flag("listen-client-urls", "Where clients are served, comma-separated.", defaults.DEFAULT_CLIENT_URL)
@flag("advertise-client-urls", "Where clients should go.  [default: --listen-client-urls]")
@flag("listen-peer-urls", "Where the other members are heard.", defaults.DEFAULT_PEER_URL)
@flag("initial-advertise-peer-urls", "Where the others reach us.  [default: as in --initial-cluster]")
@flag("initial-cluster", "All members, as name=url,name=url.  [default: this one alone]")
@flag("initial-cluster-state", "new, or existing: this member was added to it.", defaults.NEW)
@flag("initial-cluster-token", "Keeps clusters on one network apart.", defaults.DEFAULT_TOKEN)
@flag("heartbeat-interval", "In milliseconds.", defaults.HEARTBEAT_INTERVAL_MS)
@flag("election-timeout", "In milliseconds.", defaults.ELECTION_TIMEOUT_MS)
@flag("snapshot-count", "Applied log entries held before the older half is trimmed.", defaults.SNAPSHOT_COUNT)
@flag(
    "auto-compaction-retention",
    "How long history stays: 90s, 10m, 1h30m; 0: for ever.",
    defaults.AUTO_COMPACTION_RETENTION,
)
@flag(
    "auto-compaction-revisions",
    "How many revisions of it stay; 0: no limit.",
    defaults.AUTO_COMPACTION_REVISIONS,
)
@flag(
    "quota-backend-bytes",
    "In use by this member, before writes are refused; 0: no quota.",
    defaults.QUOTA_BACKEND_BYTES,
)
@flag("listen-metrics-urls", "Where /metrics and /health are served besides, comma-separated.")
@flag("cert-file", "The certificate that https clients are shown, PEM.")
@flag("key-file", "Its key.")
@flag("trusted-ca-file", "Whose certificates clients have to show.")
@switch("client-cert-auth", "Clients have to show one.")
@flag("peer-cert-file", "The certificate that https peers are shown.")
@flag("peer-key-file", "Its key.")
@flag("peer-trusted-ca-file", "Whose certificates peers have to show.")
@switch("peer-client-cert-auth", "Peers have to show one.")
@flag("peer-cert-allowed-cn", "The common name it has to have.")
@click.pass_context
def store(context: click.Context, /, **flags: Any) -> None:
    """Run one node of the store, until SIGTERM; or, with a command, look after its data."""
    os.umask(PRIVATE)
    if context.invoked_subcommand is not None:
        return
    if not __debug__:
        raise click.UsageError("asserts are part of the store: start it without -O and PYTHONOPTIMIZE.")
    try:
        config = NodeConfig.from_flags(**{name: value for name, value in flags.items() if value is not None})
        config.check_schemes()
    except StartupError as error:
        raise click.UsageError(str(error)) from None
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    log.setLevel(logging.INFO)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    _, files_max = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files_max, files_max))  # a watcher is a connection is a file
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(run(config))
    except StartupError as error:
        raise click.ClickException(str(error)) from None


for command in (backup, recover, restore):
    store.add_command(command)


async def run(config: NodeConfig) -> None:
    """Serve until a signal. Raises StartupError; any other failure ends the process here."""
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    ports = bind(config)  # a port that is taken should not cost the others an election
    try:
        node = await Node.start(config)
    except BaseException:
        ports.close()
        raise
    loop.set_exception_handler(lambda _, context: unexpected(node, context))
    waits = {asyncio.ensure_future(stopped.wait()), asyncio.ensure_future(node.failed())}
    scraped = Scraped(node)
    try:
        await scraped.listen(config.listen_metrics_urls)
        await until_introduced(node, waits)
        server = await serve(node, config, ports)
    except BaseException:
        scraped.stop()
        await node.stop()
        raise
    # What was loaded stays. The collector need not walk it again and again, which takes 0.1 s per million.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECTOR_THRESHOLDS)
    urls = ", ".join(config.advertise_client_urls)
    log.info("ready: member %s serves clients at %s", config.name, urls)
    done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    removed = None
    for failure in (task.result() for task in done):
        if isinstance(failure, Removed):
            removed = failure
        elif isinstance(failure, BaseException):
            end(failure)
    log.info("stopping")
    await node.hand_over()
    await server.stop()
    scraped.stop()
    await node.stop()
    if removed is not None:
        raise removed


async def until_introduced(node: Node, waits: Iterable[asyncio.Future[Any]]) -> None:
    """Before we serve clients the cluster knows where: it tells them. Without a quorum it cannot know."""
    known = asyncio.ensure_future(node.introduced())
    await asyncio.wait({known, *waits}, timeout=INTRODUCTION_S, return_when=asyncio.FIRST_COMPLETED)
    if not known.done():
        known.cancel()
        log.warning("serving clients at addresses that the cluster could not be told yet")


def unexpected(node: Node, context: dict[str, Any]) -> None:
    """An error in a callback of the loop: somebody's connection broke, or it is a bug and the end."""
    error = context.get("exception")
    if isinstance(error, OSError) or _came_too_late(error):
        log.debug("%s", context["message"], exc_info=error)
    else:
        node.fail(error or RuntimeError(context["message"]))


def _came_too_late(error: BaseException | None) -> bool:
    """uvloop's word for a write to a connection that has just ended; it reaches us from inside its TLS."""
    return isinstance(error, RuntimeError) and "the handler is closed" in str(error)


def end(error: BaseException) -> None:
    """At once, and without writing or answering anything more."""
    if isinstance(error, StartupError):
        log.critical("%s", error)
    else:
        log.critical("this must not happen; the process ends", exc_info=error)
    logging.shutdown()
    os._exit(1)


if __name__ == "__main__":
    store()
