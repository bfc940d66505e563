"""What an operator may say to a node, under etcd's flag names, checked before anything is opened.

Place in the house   __main__ -> config -> node, api.server
Takes                strings, as the command line and the environment give them
Gives                one frozen NodeConfig, or a StartupError of one sentence
Never                reads the environment or opens anything
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from jobguard_store.errors import StartupError
from jobguard_store.machine.commands import LEVEL
from jobguard_store.security import NO_TLS, TlsFiles, tls_files

DEFAULT_NAME = "default"
DEFAULT_CLIENT_URL = "http://127.0.0.1:2379"
DEFAULT_PEER_URL = "http://127.0.0.1:2380"
DEFAULT_TOKEN = "etcd-cluster"
NEW, EXISTING = "new", "existing"  # what --initial-cluster-state says of the cluster of an empty node
HEARTBEAT_INTERVAL_MS = 100
ELECTION_TIMEOUT_MS = 1000
ELECTION_TIMEOUT_MS_MAX = 50_000
# History that stays for who reads or watches the past; whichever limit comes first.
AUTO_COMPACTION_RETENTION = "1h"
AUTO_COMPACTION_REVISIONS = 1_000_000
QUOTA_BACKEND_BYTES = 2 << 30
# Half of them stay, as many as etcd keeps for a member that lags.
SNAPSHOT_COUNT = 10_000
# Below five heartbeats a single late packet would depose a healthy leader (etcd draws the same line).
HEARTBEATS_PER_ELECTION_MIN = 5
_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?")


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen or dial, and how: what a URL says."""

    host: str
    port: int
    tls: bool = False


@dataclass(frozen=True, slots=True)
class Voter:
    """One member of the initial cluster: its name and where its peers reach it."""

    name: str
    peer_urls: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    """Everything a node is told; the rest it knows from its file."""

    name: str = DEFAULT_NAME
    data_dir: Path = Path(f"{DEFAULT_NAME}.jobguard")
    listen_client_urls: tuple[str, ...] = (DEFAULT_CLIENT_URL,)
    advertise_client_urls: tuple[str, ...] = (DEFAULT_CLIENT_URL,)
    listen_peer_urls: tuple[str, ...] = (DEFAULT_PEER_URL,)
    initial_advertise_peer_urls: tuple[str, ...] = (DEFAULT_PEER_URL,)
    initial_cluster: tuple[Voter, ...] = (Voter(DEFAULT_NAME, (DEFAULT_PEER_URL,)),)
    initial_cluster_state: str = NEW
    initial_cluster_token: str = DEFAULT_TOKEN
    heartbeat_interval_ms: int = HEARTBEAT_INTERVAL_MS
    election_timeout_ms: int = ELECTION_TIMEOUT_MS
    snapshot_count: int = SNAPSHOT_COUNT
    auto_compaction_retention_s: float = 3600.0
    auto_compaction_revisions: int = AUTO_COMPACTION_REVISIONS
    quota_backend_bytes: int = QUOTA_BACKEND_BYTES
    listen_metrics_urls: tuple[str, ...] = ()
    client_tls: TlsFiles = NO_TLS
    peer_tls: TlsFiles = NO_TLS
    level: int = LEVEL  # of commands that this build can read; tests have older builds, operators no choice

    @property
    def database_path(self) -> Path:
        return self.data_dir / "node.sqlite"

    @property
    def heartbeat_s(self) -> float:
        return self.heartbeat_interval_ms / 1000

    @property
    def election_s(self) -> float:
        return self.election_timeout_ms / 1000

    @property
    def election_ticks(self) -> int:
        return self.election_timeout_ms // self.heartbeat_interval_ms

    @classmethod
    def from_flags(
        cls,
        *,
        name: str = DEFAULT_NAME,
        data_dir: str | Path | None = None,
        listen_client_urls: str = DEFAULT_CLIENT_URL,
        advertise_client_urls: str | None = None,
        listen_peer_urls: str = DEFAULT_PEER_URL,
        initial_advertise_peer_urls: str | None = None,
        initial_cluster: str | None = None,
        initial_cluster_state: str = NEW,
        initial_cluster_token: str = DEFAULT_TOKEN,
        heartbeat_interval: int = HEARTBEAT_INTERVAL_MS,
        election_timeout: int = ELECTION_TIMEOUT_MS,
        snapshot_count: int = SNAPSHOT_COUNT,
        auto_compaction_retention: str = AUTO_COMPACTION_RETENTION,
        auto_compaction_revisions: int = AUTO_COMPACTION_REVISIONS,
        quota_backend_bytes: int = QUOTA_BACKEND_BYTES,
        listen_metrics_urls: str | None = None,
        cert_file: str = "",
        key_file: str = "",
        client_cert_auth: bool = False,
        trusted_ca_file: str = "",
        peer_cert_file: str = "",
        peer_key_file: str = "",
        peer_client_cert_auth: bool = False,
        peer_trusted_ca_file: str = "",
        peer_cert_allowed_cn: str = "",
    ) -> NodeConfig:
        """The flags as given; what is left out follows from what is not, as in etcd."""
        if not name or any(mark in name for mark in "=,/"):
            raise StartupError(f"--name {name!r} must not be empty or contain '=', ',' or '/'.")
        listen_peers = parse_urls("--listen-peer-urls", listen_peer_urls)
        listen_clients = parse_urls("--listen-client-urls", listen_client_urls)
        peers = parse_urls("--initial-advertise-peer-urls", initial_advertise_peer_urls or listen_peer_urls)
        voters = (Voter(name, peers),) if initial_cluster is None else parse_cluster(initial_cluster)
        _check_own_voter(name, peers, voters, advertised=initial_advertise_peer_urls is not None)
        if initial_cluster_state not in (NEW, EXISTING):
            raise StartupError(
                f"--initial-cluster-state {initial_cluster_state!r} is not {NEW} or {EXISTING}."
            )
        _check_timing(heartbeat_interval, election_timeout)
        if snapshot_count <= 0:
            raise StartupError(f"--snapshot-count {snapshot_count} must be at least 1.")
        if auto_compaction_revisions < 0:
            raise StartupError(
                f"--auto-compaction-revisions {auto_compaction_revisions} must be positive, or 0: no limit."
            )
        if quota_backend_bytes < 0:
            raise StartupError(
                f"--quota-backend-bytes {quota_backend_bytes} must be at least 1, or 0 for no quota."
            )
        own = next(voter for voter in voters if voter.name == name)
        return cls(
            name=name,
            data_dir=Path(data_dir) if data_dir is not None else Path(f"{name}.jobguard"),
            listen_client_urls=listen_clients,
            advertise_client_urls=(
                parse_urls("--advertise-client-urls", advertise_client_urls)
                if advertise_client_urls is not None
                else listen_clients
            ),
            listen_peer_urls=listen_peers,
            initial_advertise_peer_urls=own.peer_urls,
            initial_cluster=voters,
            initial_cluster_state=initial_cluster_state,
            initial_cluster_token=initial_cluster_token,
            heartbeat_interval_ms=heartbeat_interval,
            election_timeout_ms=election_timeout,
            snapshot_count=snapshot_count,
            auto_compaction_retention_s=_seconds("--auto-compaction-retention", auto_compaction_retention),
            auto_compaction_revisions=auto_compaction_revisions,
            quota_backend_bytes=quota_backend_bytes,
            listen_metrics_urls=_metrics_urls(listen_metrics_urls),
            client_tls=tls_files(
                listen_clients,
                of="",
                cert=cert_file,
                key=key_file,
                cacert=trusted_ca_file,
                client_auth=client_cert_auth,
            ),
            peer_tls=tls_files(
                listen_peers,
                of="peer-",
                cert=peer_cert_file,
                key=peer_key_file,
                cacert=peer_trusted_ca_file,
                client_auth=peer_client_cert_auth,
                allowed_cn=peer_cert_allowed_cn,
            ),
        )

    def check_schemes(self) -> None:
        """That whoever comes where we say we are is heard. Raises StartupError.

        Clients may come by way of a proxy that takes the TLS off; nothing puts it on, and nothing is
        between peers.
        """
        plain = [url for url in self.advertise_client_urls if not address(url).tls]
        if plain and all(address(url).tls for url in self.listen_client_urls):
            raise StartupError(
                f"--advertise-client-urls {plain[0]} is not https, but --listen-client-urls is nothing else."
            )
        heard = {address(url).tls for url in self.listen_peer_urls}
        for url in self.initial_advertise_peer_urls:
            if address(url).tls not in heard:
                raise StartupError(
                    f"--initial-advertise-peer-urls {url} is {urlsplit(url).scheme}, "
                    f"but --listen-peer-urls {','.join(self.listen_peer_urls)} is not."
                )
        peers = [url for voter in self.initial_cluster for url in voter.peer_urls]
        if self.initial_cluster_state == NEW and len({address(url).tls for url in peers}) > 1:
            raise StartupError(f"--initial-cluster has both http and https peer URLs: {', '.join(peers)}.")


def address(url: str) -> Address:
    """Host and port of a URL that has been checked already."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    return Address(parts.hostname, parts.port, parts.scheme == "https")


def parse_urls(flag: str, text: str) -> tuple[str, ...]:
    """Comma-separated URLs, http or https, with a port; the flag is named in the refusal."""
    urls = tuple(part.strip() for part in text.split(",") if part.strip())
    if not urls:
        raise StartupError(f"{flag} needs at least one URL such as {DEFAULT_CLIENT_URL}.")
    for url in urls:
        _check_url(flag, url)
    return tuple(url.rstrip("/") for url in urls)


def parse_cluster(text: str) -> tuple[Voter, ...]:
    """`name=url,name=url`; a name given twice has two URLs."""
    urls: dict[str, list[str]] = {}
    for part in (part.strip() for part in text.split(",")):
        name, equals, url = part.partition("=")
        if not equals or not name:
            raise StartupError(f"--initial-cluster {part!r} is not of the form name=http://host:port.")
        _check_url("--initial-cluster", url)
        urls.setdefault(name, []).append(url.rstrip("/"))
    taken = [url for each in urls.values() for url in each]
    twice = next((url for url in taken if taken.count(url) > 1), None)
    if twice is not None:
        raise StartupError(
            f"--initial-cluster names {twice} twice; every member needs a peer URL of its own."
        )
    return tuple(Voter(name, tuple(sorted(each))) for name, each in sorted(urls.items()))


def _metrics_urls(text: str | None) -> tuple[str, ...]:
    """Not https: who may not speak to the store at all, for want of a certificate, is to see how it is."""
    urls = parse_urls("--listen-metrics-urls", text) if text else ()
    secured = next((url for url in urls if not url.startswith("http://")), None)
    if secured is not None:
        raise StartupError(f"--listen-metrics-urls {secured!r} is not a URL of the form http://host:port.")
    return urls


def _check_url(flag: str, url: str) -> None:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise StartupError(f"{flag} {url!r} is not a URL of the form http://host:port.") from None
    known = parts.scheme in ("http", "https")
    if not known or not parts.hostname or port is None or parts.path not in ("", "/"):
        raise StartupError(f"{flag} {url!r} is not a URL of the form http://host:port.")


def _check_own_voter(
    name: str, peer_urls: tuple[str, ...], voters: tuple[Voter, ...], *, advertised: bool
) -> None:
    own = next((voter for voter in voters if voter.name == name), None)
    if own is None:
        known = ", ".join(voter.name for voter in voters)
        raise StartupError(f"--name {name!r} is not in --initial-cluster, which names {known}.")
    if advertised and own.peer_urls != tuple(sorted(peer_urls)):
        raise StartupError(
            f"--initial-advertise-peer-urls {','.join(peer_urls)} differs from what --initial-cluster "
            f"says of {name!r}: {','.join(own.peer_urls)}."
        )


def _seconds(flag: str, text: str) -> float:
    """A duration such as 90s, 10m or 1h30m; a bare number counts hours, as etcd has it."""
    if text.isdecimal():
        return 3600.0 * int(text)
    parts = _DURATION.fullmatch(text)
    if not text or parts is None:
        raise StartupError(f"{flag} {text!r} is not a duration such as 90s, 10m or 1h30m.")
    hours, minutes, seconds = (float(part or 0) for part in parts.groups())
    return 3600 * hours + 60 * minutes + seconds


def _check_timing(heartbeat_ms: int, election_ms: int) -> None:
    if heartbeat_ms <= 0:
        raise StartupError(f"--heartbeat-interval {heartbeat_ms} must be at least 1 millisecond.")
    if election_ms < HEARTBEATS_PER_ELECTION_MIN * heartbeat_ms:
        raise StartupError(
            f"--election-timeout {election_ms} must be at least {HEARTBEATS_PER_ELECTION_MIN} times "
            f"--heartbeat-interval {heartbeat_ms}."
        )
    if election_ms > ELECTION_TIMEOUT_MS_MAX:
        raise StartupError(f"--election-timeout {election_ms} must be at most {ELECTION_TIMEOUT_MS_MAX}.")
