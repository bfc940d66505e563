"""TLS handshakes that fail, and tell the other side why.

Place in the house   security, doors -> telling -> ssl
Takes                the connection, in `told_at`, of the handshake that begins in this context
Gives                Telling, a context whose failed handshakes send their alert

asyncio and uvloop close a connection whose handshake fails without sending what OpenSSL has written for it:
the alert. Then a client whose certificate is refused cannot tell that from a node that died, and does not
know that what it sent was not read: in TLS 1.3 a request is sent before we have looked at its certificate.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from contextvars import ContextVar

told_at: ContextVar[socket.socket] = ContextVar("told_at")


class _Handshake(ssl.SSLObject):
    connection: socket.socket
    outgoing: ssl.MemoryBIO

    def do_handshake(self) -> None:
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError:
            with contextlib.suppress(OSError):  # it is gone, or reads nothing: it need not be told
                self.connection.send(self.outgoing.read())
            raise


class Telling(ssl.SSLContext):
    sslobject_class = _Handshake

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        handshake = super().wrap_bio(incoming, outgoing, server_side, server_hostname, session)
        assert isinstance(handshake, _Handshake)
        handshake.connection, handshake.outgoing = told_at.get(), outgoing
        return handshake
