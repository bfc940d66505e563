"""RabbitMQ for tests: Debian's, on ports and files of its own, stopped by its own process group.

Place in the house   tests/plugin -> rabbitmq -> debian
Gives                the URL of a broker that answers, and its rabbitmqctl
Never                leaves a process behind, or shares Erlang's port mapper with anybody
"""

import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any

from amqp.exceptions import NotFound
from kombu import Connection

from tests import debian
from tests.ports import free_ports

_START_S = 100.0
_PUBLISH = b"\x00\x3c\x00\x28"  # the class and the method of basic.publish

# Debian's `erl` looks below /usr. This one looks where it was unpacked.
_ERL = """#!/bin/sh
export ROOTDIR={root} BINDIR={bin} EMU=beam PROGNAME=erl
exec {bin}/erlexec "$@"
"""


@dataclass(frozen=True)
class Broker:
    url: str
    _ctl: Path
    _environment: dict[str, str]

    def control(self, *command: str) -> None:
        subprocess.run(
            [str(self._ctl), *command], env=self._environment, check=True, timeout=120, capture_output=True
        )


@contextmanager
def running(directory: Path) -> Iterator[Broker]:
    """A node with its files below `directory`, answering when you get it."""
    lib = debian.program(*debian.RABBITMQ)
    (erts,) = (lib / "erlang").glob("erts-*")
    (server,) = (lib / "rabbitmq" / "lib").glob("rabbitmq_server-*")
    port, distribution, mapper = free_ports(3)
    erl = directory / "bin" / "erl"
    erl.parent.mkdir(parents=True)
    erl.write_text(_ERL.format(root=lib / "erlang", bin=erts / "bin"))
    erl.chmod(0o700)
    (directory / "plugins").write_text("[].")
    environment = {
        **os.environ,
        "PATH": f"{erl.parent}:{os.environ['PATH']}",
        "HOME": str(directory),
        "LD_LIBRARY_PATH": str(lib / "x86_64-linux-gnu"),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "ERL_EPMD_PORT": str(mapper),
        "RABBITMQ_NODENAME": f"test{port}@localhost",
        "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODE_PORT": str(port),
        "RABBITMQ_DIST_PORT": str(distribution),
        "RABBITMQ_MNESIA_BASE": str(directory / "data"),
        "RABBITMQ_LOG_BASE": str(directory / "logs"),
        "RABBITMQ_LOGS": "-",
        "RABBITMQ_CONF_ENV_FILE": "/dev/null",
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "plugins"),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
            "-start_epmd false -kernel inet_dist_use_interface {127,0,0,1}"
        ),
    }
    commands = (
        [str(erts / "bin" / "epmd"), "-port", str(mapper), "-address", "127.0.0.1"],
        [str(server / "sbin" / "rabbitmq-server")],
    )
    started = []
    try:
        for number, command in enumerate(commands):
            with (directory / f"log-{number}").open("wb") as log:
                process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, process_group=0)
            started.append(process)
        url = f"amqp://guest:guest@127.0.0.1:{port}//"
        _wait_until_it_answers(url, directory / "log-1")
        yield Broker(url, server / "sbin" / "rabbitmqctl", environment)
    finally:
        for process in reversed(started):
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(60)


class ConfirmLost:
    """Between a client and a broker: the first publication reaches the broker, its confirmation nobody."""

    def __init__(self, broker: str) -> None:
        self._broker = Connection(broker)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._lost = False
        self._thread = Thread(target=self._accept, daemon=True)

    def __enter__(self) -> str:
        self._thread.start()
        return f"amqp://guest:guest@127.0.0.1:{self._listener.getsockname()[1]}//"

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                Thread(target=self._relay, args=(client,), daemon=True).start()

    def _relay(self, client: socket.socket) -> None:
        address = (self._broker.hostname, int(self._broker.port or 0))
        published = False
        with client, socket.create_connection(address) as server, suppress(OSError):
            while True:
                for source in select.select([client, server], [], [])[0]:
                    data = source.recv(1 << 16)
                    if not data or (published and source is server):
                        return
                    if source is client and _PUBLISH in data and not self._lost:
                        published = self._lost = True
                    (server if source is client else client).sendall(data)


def delete_queue(url: str, name: str) -> None:
    """With all that is in it, also what a worker that was just killed has not acknowledged."""
    with Connection(url) as connection:
        connection.default_channel.queue_delete(name)


def headers(url: str, queue: str) -> list[dict[str, Any]]:
    """Of the messages that wait there, oldest first; they are back when we have closed."""
    with Connection(url) as connection:
        channel = connection.default_channel
        try:
            waiting = list(iter(lambda: channel.basic_get(queue), None))
        except NotFound:
            return []  # nobody has published yet
        return [message.properties["application_headers"] for message in waiting]


def _wait_until_it_answers(url: str, log: Path) -> None:
    deadline = time.monotonic() + _START_S
    while True:
        try:
            with Connection(url, connect_timeout=10) as connection:
                connection.connect()
        except OSError as error:
            if time.monotonic() > deadline:
                raise AssertionError(
                    f"RabbitMQ does not answer: {error}\n{log.read_text()[-2000:]}"
                ) from error
            time.sleep(0.1)
        else:
            return
