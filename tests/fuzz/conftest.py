"""A node that is fed garbage, and whether it is still as well as before."""

import logging
import socket
from collections.abc import Iterator
from contextlib import closing
from urllib.parse import urlsplit

import pytest

from tests.api.conftest import Inside
from tests.gateway import Gateway
from tests.messages import RANGE, range_

# Of silence, after which nothing more is expected: what we ask takes the node a few milliseconds.
SILENCE_S = 0.02
# .. where an answer, or the end, must come, however long the host keeps us from it.
ANSWER_S = 20.0


class Ugly(logging.Handler):
    """What no client may make a node say: an error, or a traceback."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.ERROR or record.exc_info:
            self.records.append(record)


class Victim:
    def __init__(self, inside: Inside, ugly: Ugly) -> None:
        self.inside = inside
        self._ugly = ugly
        self.bystander = Gateway(inside.url)  # one connection, opened before any garbage came
        self.bystander.put("bystander", "is served")

    def is_well(self) -> None:
        assert self._ugly.records == []
        assert self.inside.surprises == []
        assert self.bystander.ok(RANGE, range_("bystander"))["count"] == "1"

    def hear(self, *pieces: bytes, silence_s: float = SILENCE_S) -> tuple[bytes, bool]:
        """All it says to this, on a connection of its own, and whether it closed that."""
        parts = urlsplit(self.inside.url)
        said = b""
        with closing(socket.create_connection((parts.hostname, parts.port), timeout=ANSWER_S)) as link:
            link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                for piece in pieces:
                    link.sendall(piece)
                link.settimeout(silence_s)
                while data := link.recv(1 << 16):
                    said += data
            except TimeoutError:
                return said, False
            except ConnectionError:
                pass
            return said, True


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Victim]:
    ugly = Ugly()
    logging.getLogger().addHandler(ugly)
    inside = Inside(tmp_path_factory.mktemp("node"))
    # It would close the half of a request, too, and then garbage would seem to have been refused.
    inside.see(inside.server._hurrying.cancel)
    victim = Victim(inside, ugly)
    try:
        yield victim
    finally:
        logging.getLogger().removeHandler(ugly)
        victim.bystander.close()
        inside.stop()
