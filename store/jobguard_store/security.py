"""TLS as the flags say it, for clients or for peers: which files, and who has to show what.

Place in the house   config -> security -> jobguard.tls
Takes                values of flags, and the URLs that are listened on
Gives                TlsFiles; the Certificates in them; or a StartupError of one sentence
Never                takes plain text for TLS, or TLS for plain text, because a flag was forgotten
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from dataclasses import dataclass

from jobguard.tls import Certificates, Unusable
from jobguard_store.errors import StartupError
from jobguard_store.telling import Telling


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """Whoever dials has to show a certificate if there is a `cacert`; one of this name if one is allowed."""

    cert: str = ""
    key: str = ""
    cacert: str = ""
    allowed_cn: str = ""

    def serving(self) -> Certificates:
        """For the port that is listened on. Raises StartupError."""
        return self._certificates(Telling)

    def dialling(self) -> Certificates:
        """For the peers. Raises StartupError."""
        return self._certificates(None)

    def _certificates(self, server: type[ssl.SSLContext] | None) -> Certificates:
        try:
            return Certificates(
                server=server, cert=self.cert or None, key=self.key or None, cacert=self.cacert or None
            )
        except Unusable as error:
            raise StartupError(f"{error}.") from None


NO_TLS = TlsFiles()


class PeerTls:
    """How peers come in, and how we go to them; loaded before anything is opened. Raises StartupError."""

    def __init__(self, files: TlsFiles = NO_TLS) -> None:
        self.serving = files.serving()
        self.allowed_cn = files.allowed_cn
        self._dialling = files.dialling()

    def context(self, *, tls: bool) -> ssl.SSLContext | None:
        """For a peer whose URL is https, or is not."""
        return self._dialling.context() if tls else None

    def objection(self, stream: asyncio.BaseTransport) -> str:
        """To one who dialled and whose certificate is good; empty if there is none."""
        if not self.allowed_cn:
            return ""
        shown = stream.get_extra_info("peercert") or {}
        names = [value for part in shown.get("subject", ()) for kind, value in part if kind == "commonName"]
        return (
            "" if self.allowed_cn in names else f"its certificate is that of {', '.join(names) or 'nobody'}"
        )


def tls_files(
    urls: Sequence[str],
    *,
    of: str,
    cert: str,
    key: str,
    cacert: str,
    client_auth: bool,
    allowed_cn: str = "",
) -> TlsFiles:
    """What the flags say of the port at `urls`. `of` is "" for clients and "peer-" for peers.

    As with etcd, whoever has a --trusted-ca-file asks for certificates, with --client-cert-auth or without.
    """
    listen = f"--listen-{'peer' if of else 'client'}-urls"
    given = {
        f"--{of}cert-file": cert,
        f"--{of}key-file": key,
        f"--{of}trusted-ca-file": cacert,
        f"--{of}client-cert-auth": client_auth,
        f"--{of}cert-allowed-cn": allowed_cn,
    }
    first = next((flag for flag, value in given.items() if value), None)
    if secured := next((url for url in urls if url.startswith("https:")), None):
        for flag in (f"--{of}cert-file", f"--{of}key-file"):
            if not given[flag]:
                raise StartupError(f"{listen} {secured} needs a {flag}.")
    elif first is not None:
        raise StartupError(f"{first} is given, but {listen} {','.join(urls)} is not https.")
    if not cacert and (client_auth or allowed_cn):
        flag = f"--{of}client-cert-auth" if client_auth else f"--{of}cert-allowed-cn"
        raise StartupError(f"{flag} needs a --{of}trusted-ca-file: whose certificates are good.")
    if of and cacert and (plain := next((url for url in urls if not url.startswith("https:")), None)):
        raise StartupError(f"{listen} {plain} is not https: peers would get in there without a certificate.")
    return TlsFiles(cert=cert, key=key, cacert=cacert, allowed_cn=allowed_cn)
