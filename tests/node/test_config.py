"""What an operator may say, and the one sentence each mistake gets."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from jobguard_store.__main__ import store
from jobguard_store.cluster import identity_from
from jobguard_store.config import Address, NodeConfig, Voter, address
from jobguard_store.errors import StartupError
from tests.certificates import Authority
from tests.ports import free_ports

HTTPS = {"listen_client_urls": "https://h:1", "cert_file": "c", "key_file": "k"}
PEERS = {"listen_peer_urls": "https://h:1", "peer_cert_file": "c", "peer_key_file": "k"}
THREE = "s1=http://127.0.0.1:1,s2=http://127.0.0.1:2,s3=http://127.0.0.1:3"


@pytest.fixture(autouse=True)
def the_process_stays_that_of_the_tests() -> Iterator[None]:
    """A node takes what it wants of its own: the mask of new files, the interval of threads, and the signals,
    which uvloop does not give back. Of the tests' process nobody could end the rest by one."""
    interval, mask = sys.getswitchinterval(), os.umask(0)
    os.umask(mask)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    sys.setswitchinterval(interval)
    os.umask(mask)
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_without_flags_it_is_one_node_on_2379_with_its_data_beside_it() -> None:
    config = NodeConfig.from_flags()
    assert config == NodeConfig()
    assert config.listen_client_urls == config.advertise_client_urls == ("http://127.0.0.1:2379",)
    assert config.database_path == Path("default.jobguard/node.sqlite")
    assert config.initial_cluster == (Voter("default", ("http://127.0.0.1:2380",)),)


def test_what_is_left_out_follows_from_what_is_not() -> None:
    config = NodeConfig.from_flags(
        name="s2", listen_client_urls="http://0.0.0.0:79, http://[::1]:80/", initial_cluster=THREE
    )
    assert config.data_dir == Path("s2.jobguard")
    assert config.advertise_client_urls == ("http://0.0.0.0:79", "http://[::1]:80")
    assert config.initial_advertise_peer_urls == ("http://127.0.0.1:2",)
    assert address("http://[::1]:80") == Address("::1", 80)


@pytest.mark.parametrize(
    ("text", "seconds"), [("0", 0), ("2", 7200), ("90s", 90), ("10m", 600), ("1h30m", 5400), ("0.5h", 1800)]
)
def test_how_long_history_stays(text: str, seconds: float) -> None:
    assert NodeConfig.from_flags(auto_compaction_retention=text).auto_compaction_retention_s == seconds


def test_a_name_given_twice_has_two_urls() -> None:
    config = NodeConfig.from_flags(name="a", initial_cluster="a=http://h:2,b=http://h:3,a=http://h:1")
    assert config.initial_cluster == (Voter("a", ("http://h:1", "http://h:2")), Voter("b", ("http://h:3",)))


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ({"name": ""}, "--name '' must not be empty"),
        ({"name": "a=b"}, "--name 'a=b' must not"),
        (
            {"auto_compaction_retention": "soon"},
            "--auto-compaction-retention 'soon' is not a duration such as",
        ),
        ({"auto_compaction_retention": ""}, "--auto-compaction-retention '' is not a duration such as"),
        ({"auto_compaction_revisions": -1}, "--auto-compaction-revisions -1 must be positive, or 0"),
        ({"quota_backend_bytes": -1}, "--quota-backend-bytes -1 must be at least 1, or 0 for no quota"),
        ({"listen_client_urls": "127.0.0.1:2379"}, "--listen-client-urls '127.0.0.1:2379' is not a URL"),
        ({"listen_client_urls": "http://h"}, "is not a URL of the form http://host:port"),
        ({"listen_client_urls": "http://h:99999"}, "is not a URL"),
        ({"listen_client_urls": "http://h:1/path"}, "is not a URL"),
        ({"listen_client_urls": ","}, "--listen-client-urls needs at least one URL"),
        ({"listen_metrics_urls": "https://h:1"}, "--listen-metrics-urls 'https://h:1'"),
        ({"listen_peer_urls": "https://h:1"}, "--listen-peer-urls https://h:1 needs a --peer-cert-file"),
        ({"initial_cluster": "http://h:1"}, "--initial-cluster 'http://h:1' is not of the form name="),
        ({"initial_cluster": "s1=h:1"}, "--initial-cluster 'h:1' is not a URL"),
        ({"initial_cluster": THREE}, "--name 'default' is not in --initial-cluster, which names s1, s2, s3"),
        (
            {"initial_cluster": "default=http://h:1,b=http://h:1"},
            "--initial-cluster names http://h:1 twice",
        ),
        (
            {"name": "s1", "initial_cluster": THREE, "initial_advertise_peer_urls": "http://h:9"},
            "--initial-advertise-peer-urls http://h:9 differs from what --initial-cluster says of 's1'",
        ),
        ({**HTTPS, "cert_file": ""}, "--listen-client-urls https://h:1 needs a --cert-file"),
        ({**HTTPS, "key_file": ""}, "--listen-client-urls https://h:1 needs a --key-file"),
        (
            {**HTTPS, "listen_client_urls": "http://h:1"},
            "--cert-file is given, but --listen-client-urls http://h:1 is not https",
        ),
        (
            {"trusted_ca_file": "ca"},
            "--trusted-ca-file is given, but --listen-client-urls http://127.0.0.1:2379 is not https",
        ),
        ({**HTTPS, "client_cert_auth": True}, "--client-cert-auth needs a --trusted-ca-file"),
        ({**PEERS, "peer_key_file": ""}, "--listen-peer-urls https://h:1 needs a --peer-key-file"),
        ({**PEERS, "peer_client_cert_auth": True}, "--peer-client-cert-auth needs a --peer-trusted-ca-file"),
        ({**PEERS, "peer_cert_allowed_cn": "p"}, "--peer-cert-allowed-cn needs a --peer-trusted-ca-file"),
        (
            {**PEERS, "peer_trusted_ca_file": "ca", "listen_peer_urls": "https://h:1,http://h:2"},
            "--listen-peer-urls http://h:2 is not https: peers would get in there without a certificate",
        ),
        ({"heartbeat_interval": 0}, "--heartbeat-interval 0 must be at least 1"),
        (
            {"election_timeout": 499},
            "--election-timeout 499 must be at least 5 times --heartbeat-interval 100",
        ),
        ({"election_timeout": 60_000}, "--election-timeout 60000 must be at most 50000"),
    ],
)
def test_a_mistake_is_refused_in_one_sentence(flags: dict[str, str | int], sentence: str) -> None:
    with pytest.raises(StartupError) as refusal:
        NodeConfig.from_flags(**flags)  # type: ignore[arg-type]
    assert sentence in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert str(refusal.value).endswith(".")


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (
            {**HTTPS, "advertise_client_urls": "http://h:1"},
            "--advertise-client-urls http://h:1 is not https, but --listen-client-urls is nothing else",
        ),
        (
            {**PEERS, "initial_cluster": "default=http://h:1"},
            "--initial-advertise-peer-urls http://h:1 is http, but --listen-peer-urls https://h:1 is not",
        ),
        (
            {"initial_cluster": "default=https://h:1"},
            "--initial-advertise-peer-urls https://h:1 is https, but --listen-peer-urls http://127.0.0.1:2380",
        ),
        (
            {**PEERS, "initial_cluster": "default=https://h:1,b=http://h:2"},
            "--initial-cluster has both http and https peer URLs: http://h:2, https://h:1",
        ),
    ],
)
def test_urls_that_nobody_could_be_reached_at_are_refused(flags: dict[str, str], sentence: str) -> None:
    config = NodeConfig.from_flags(**flags)  # type: ignore[arg-type]
    with pytest.raises(StartupError, match=sentence):
        config.check_schemes()


@pytest.mark.parametrize(
    "flags",
    [
        {"advertise_client_urls": "https://proxy:443"},  # which takes the TLS off
        {**HTTPS, "listen_client_urls": "https://h:1,http://127.0.0.1:2", "trusted_ca_file": "ca"},
        {**PEERS, "initial_cluster": "default=https://h:1,b=http://h:2", "initial_cluster_state": "existing"},
    ],
)
def test_what_may_be_mixed(flags: dict[str, str]) -> None:
    """A port for this host alone; a cluster on its way from one to the other."""
    NodeConfig.from_flags(**flags).check_schemes()  # type: ignore[arg-type]


def test_files_that_cannot_be_used_are_refused_before_anything_is_opened(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    one, other = authority.issue("one"), authority.issue("other")
    ports = free_ports(2)
    flags = ["--data-dir", str(tmp_path / "data")]
    client = [*flags, "--listen-client-urls", f"https://127.0.0.1:{ports[0]}", "--cert-file", str(one.cert)]
    peer = [*flags, "--listen-client-urls", f"http://127.0.0.1:{ports[0]}", "--peer-cert-file", str(one.cert)]
    peer += ["--listen-peer-urls", f"https://127.0.0.1:{ports[1]}"]
    for arguments, sentence in (
        (
            [*client, "--key-file", str(other.key)],
            f"{other.key} is not the key of the certificate in {one.cert}.",
        ),
        ([*client, "--key-file", "/nowhere"], "/nowhere cannot be read: No such file or directory."),
        ([*peer, "--peer-key-file", str(other.key)], f"{other.key} is not the key of"),
        ([*peer, "--peer-key-file", str(one.cert)], f"{one.cert} holds no private key in PEM form."),
    ):
        result = CliRunner().invoke(store, arguments)
        assert result.exit_code == 1
        assert sentence in result.output
        assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("spelled", [["--client-cert-auth"], ["--client-cert-auth=true"]])
def test_a_switch_is_spelled_as_with_etcd(spelled: list[str]) -> None:
    https = ["--listen-client-urls", "https://h:1", "--cert-file", "c", "--key-file", "k"]
    result = CliRunner().invoke(store, [*spelled, *https])
    assert "--client-cert-auth needs a --trusted-ca-file" in result.output
    off = CliRunner().invoke(store, ["--client-cert-auth=false", *https])
    assert "c cannot be read" in off.output
    env = CliRunner().invoke(store, https, env={"JOBGUARD_STORE_CLIENT_CERT_AUTH": "true"})
    assert "--client-cert-auth needs a --trusted-ca-file" in env.output


def test_the_command_refuses_before_it_opens_anything(tmp_path: Path) -> None:
    result = CliRunner().invoke(store, ["--data-dir", str(tmp_path / "data"), "--election-timeout", "1"])
    assert result.exit_code == 2
    assert "--election-timeout 1 must be at least 5 times" in result.output
    assert not (tmp_path / "data").exists()


def test_every_flag_may_come_from_the_environment() -> None:
    result = CliRunner().invoke(store, [], env={"JOBGUARD_STORE_LISTEN_CLIENT_URLS": "nonsense"})
    assert result.exit_code == 2
    assert "--listen-client-urls 'nonsense' is not a URL" in result.output


def test_members_agree_on_their_ids_before_they_meet() -> None:
    configs = [NodeConfig.from_flags(name=name, initial_cluster=THREE) for name in ("s1", "s2", "s3")]
    identities = [identity_from(config) for config in configs]
    assert len({identity.cluster_id for identity in identities}) == 1
    assert [identity.member_id for identity in identities] == [m.id for m in identities[0].initial_members]
    shuffled = ",".join(reversed(THREE.split(",")))
    assert identity_from(NodeConfig.from_flags(name="s1", initial_cluster=shuffled)) == identities[0]


def test_another_token_makes_another_cluster() -> None:
    one, other = (
        identity_from(NodeConfig.from_flags(initial_cluster_token=token)) for token in ("one", "other")
    )
    assert one.cluster_id != other.cluster_id
    assert one.member_id != other.member_id
    assert 0 < one.member_id < 2**63
