"""Certificates made by the test itself: an authority of its own, and whom it vouches for.

Gives                files, as an operator would have them; Tls: all that a cluster and its clients need
Never                leaves anything behind but files below the directory it was given
"""

import os
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path

import trustme


@dataclass(frozen=True)
class Pair:
    """A certificate and its key."""

    cert: Path
    key: Path

    def replace_by(self, other: "Pair") -> None:
        """As a certificate's renewal does: one file, and then the other."""
        os.replace(other.cert, self.cert)
        os.replace(other.key, self.key)


class Authority:
    def __init__(self, directory: Path, name: str = "ca") -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._ca = trustme.CA(organization_name=name)
        self.cacert = directory / f"{name}.pem"
        self._ca.cert_pem.write_to_path(str(self.cacert))

    def issue(self, name: str, *hosts: str, common_name: str | None = None, expired: bool = False) -> Pair:
        """For these hosts, by default for loopback."""
        long_ago = datetime.now(UTC) - timedelta(days=30)
        issued = self._ca.issue_cert(
            *(hosts or ("127.0.0.1", "localhost")),
            common_name=common_name,
            not_before=long_ago,
            not_after=long_ago + timedelta(days=1) if expired else None,
        )
        pair = Pair(self._directory / f"{name}.pem", self._directory / f"{name}-key.pem")
        pair.cert.write_bytes(b"".join(each.bytes() for each in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(str(pair.key))
        return pair


@dataclass(frozen=True)
class Tls:
    """A cluster that speaks nothing but TLS, to peers and clients who show a certificate."""

    authority: Authority
    node: Pair
    client: Pair

    @classmethod
    def make(cls, directory: Path) -> "Tls":
        authority = Authority(directory)
        return cls(authority, authority.issue("node", "127.0.0.1"), authority.issue("client"))

    @property
    def flags(self) -> list[str]:
        """Of the node; etcd's and ours."""
        pair = [str(self.node.cert), str(self.node.key)]
        return [
            *("--cert-file", pair[0], "--key-file", pair[1]),
            *("--client-cert-auth", "--trusted-ca-file", str(self.authority.cacert)),
            *("--peer-cert-file", pair[0], "--peer-key-file", pair[1]),
            *("--peer-client-cert-auth", "--peer-trusted-ca-file", str(self.authority.cacert)),
        ]

    @property
    def settings(self) -> dict[str, str]:
        """Of a client of it."""
        return {
            "cacert": str(self.authority.cacert),
            "cert": str(self.client.cert),
            "key": str(self.client.key),
        }

    @property
    def environment(self) -> dict[str, str]:
        return {f"JOBGUARD_{name.upper()}": value for name, value in self.settings.items()}

    @cached_property
    def context(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.authority.cacert))
        context.load_cert_chain(self.client.cert, self.client.key)
        return context
