"""Ports where only TLS gets in: a protocol hears of a connection once its handshake is over.

Place in the house   api.server, transport -> doors -> jobguard.tls
Takes                an address to listen on, Certificates, the protocol behind it
Gives                Door, in place of asyncio's Server: it closes
Never                lets one who does not finish a handshake hold up another, or stay

asyncio's own server keeps the context it was given. Here each handshake gets the newest: so a certificate or
an authority that was replaced counts from the next connection on, and no session of before is resumed.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable
from functools import partial

from jobguard.tls import Certificates, explained
from jobguard_store.config import Address
from jobguard_store.telling import told_at

log = logging.getLogger("jobguard_store.doors")

HANDSHAKE_S = 5.0
# Of who dials next the one that has taken longest is sent away: those who stay silent make room themselves.
HANDSHAKES_MAX = 1024
ACCEPT_AGAIN_S = 1.0


def bound(where: Address) -> socket.socket:
    """A socket on its first address; nobody is heard yet. Raises OSError."""
    family, kind, protocol, _, location = socket.getaddrinfo(
        where.host, where.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(location)
    except OSError:
        listener.close()
        raise
    return listener


class Door:
    """Listens from the start; raises OSError if it cannot."""

    def __init__(
        self,
        listener: socket.socket,
        certificates: Certificates,
        protocol: Callable[[], asyncio.BaseProtocol],
        *,
        backlog: int = 100,
        handshakes_max: int = HANDSHAKES_MAX,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._listener = listener
        self._certificates = certificates
        self._protocol = protocol
        self._handshakes_max = handshakes_max
        self._handshakes: dict[asyncio.Task[None], None] = {}  # in the order in which they began
        self._closed = False
        listener.setblocking(False)
        listener.listen(backlog)
        self._listen()

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._loop.remove_reader(self._listener)
            self._listener.close()
        for handshake in self._handshakes:
            handshake.cancel()

    async def wait_closed(self) -> None:
        """Nothing is left to wait for, as whoever stops an asyncio.Server does."""

    def _listen(self) -> None:
        if not self._closed:
            self._loop.add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        try:
            connection, remote = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError as error:  # no file is left to open; until one is, this would be called all the time
            log.warning("cannot accept a connection: %s", error.strerror)
            self._loop.remove_reader(self._listener)
            self._loop.call_later(ACCEPT_AGAIN_S, self._listen)
            return
        connection.setblocking(False)
        if len(self._handshakes) >= self._handshakes_max:
            next(iter(self._handshakes)).cancel()
        handshake = self._loop.create_task(self._shake_hands(connection, f"{remote[0]}:{remote[1]}"))
        self._handshakes[handshake] = None
        handshake.add_done_callback(partial(self._over, connection))

    def _over(self, connection: socket.socket, handshake: asyncio.Task[None]) -> None:
        del self._handshakes[handshake]
        if handshake.cancelled():  # perhaps before it began
            connection.close()

    async def _shake_hands(self, connection: socket.socket, remote: str) -> None:
        told_at.set(connection)
        try:
            await self._loop.connect_accepted_socket(
                self._protocol,
                connection,
                ssl=self._certificates.context(),
                ssl_handshake_timeout=HANDSHAKE_S,
            )
        except ssl.SSLError as error:
            log.warning("refused a connection from %s: %s", remote, explained(error))
            connection.close()
        except OSError as error:  # it took too long, or went away: a probe of a load balancer does
            log.info("a connection from %s ended before its handshake: %s", remote, error)
            connection.close()
