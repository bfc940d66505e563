"""A store that speaks nothing but TLS: the client at work, what is refused, and files that are renewed."""

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from urllib3.util.wait import wait_for_read

from jobguard import membership, wire
from jobguard.cli import main
from jobguard.client import Client, shared
from jobguard.endpoints import Node
from jobguard.errors import JobguardError
from jobguard.tls import Certificates
from jobguard.transport import Connection, Endpoint, NotConnected
from tests.certificates import Authority, Tls
from tests.client.test_fork import (  # noqa: F401 - these run here once more, over TLS
    in_child,
    test_a_child_closes_its_copies_of_the_parents_sockets,
    test_a_watch_goes_on_in_the_child_by_itself,
    test_parent_and_children_never_read_each_others_answers,
)
from tests.client.test_keys_and_transactions import (  # noqa: F401
    test_a_key_may_hold_any_bytes,
    test_a_lease_is_granted_renewed_and_revoked_with_its_keys,
    test_a_prefix_is_read_page_by_page_as_of_one_revision,
    test_a_transaction_does_one_branch_or_the_other,
    test_what_the_store_refuses_says_why,
)
from tests.client.test_lock import (  # noqa: F401
    test_one_at_a_time,
    test_those_who_wait_come_in_the_order_they_came,
)
from tests.client.test_watch import (  # noqa: F401
    test_a_mirror_follows_its_prefix,
    test_closing_from_another_thread_ends_it_at_once,
    test_it_begins_at_a_revision_of_the_past,
)
from tests.stores import KINDS, Cluster, Kind, running


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    return Tls.make(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def store(kind: Kind, tls: Tls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running(kind, tmp_path_factory.mktemp(f"{kind}-tls"), tls=tls) as cluster:
        yield cluster


@pytest.fixture
def client(store: Cluster, namespace: str, tls: Tls) -> Iterator[Client]:
    with Client(store.endpoints, namespace=namespace, **tls.settings, timeout=30) as client:
        yield client


@pytest.fixture
def other(store: Cluster, namespace: str, tls: Tls) -> Iterator[Client]:
    with Client(store.endpoints, namespace=namespace, **tls.settings, timeout=30) as client:
        yield client


def test_every_member_is_asked_where_it_says_it_is(client: Client) -> None:
    (member,) = client.members()
    (url,) = member.clientURLs
    assert url.startswith("https://")
    assert client.status(url).leader == member.ID
    with client.at([url]) as elsewhere:
        elsewhere.put(client.key("k"), "v")
    assert client.get(client.key("k")) is not None


def test_a_member_to_be_added_is_told_to_serve_as_the_others_do(client: Client) -> None:
    added = wire.Member(peerURLs=("https://10.0.0.4:2380",))
    command = membership.start_command(client.members(), added, "s4")
    assert command[command.index("--advertise-client-urls") + 1] == "https://10.0.0.4:2379"


def test_the_command_line_takes_files_and_the_environment(store: Cluster, tls: Tls) -> None:
    arguments = [word for name, value in tls.settings.items() for word in (f"--{name}", value)]
    endpoints = ",".join(store.endpoints)
    asked = ["cluster", "member", "list", "--endpoints", endpoints]
    patient = {"JOBGUARD_TIMEOUT": "30"}
    assert CliRunner(env=patient).invoke(main, [*asked, *arguments]).exit_code == 0
    assert CliRunner(env=tls.environment | patient).invoke(main, asked).exit_code == 0
    bare = endpoints.removeprefix("https://")  # who shows a certificate does not mean plain text
    assert CliRunner(env=tls.environment | patient).invoke(main, [*asked[:-1], bare]).exit_code == 0
    refused = CliRunner(env={"JOBGUARD_TIMEOUT": "2"}).invoke(main, asked)
    assert refused.exit_code == 6
    assert re.search("is not trusted: .*; set jobguard_cacert", refused.stderr)


def test_the_process_own_client_has_them_too(
    store: Cluster, tls: Tls, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (tls.environment | {"JOBGUARD_ENDPOINTS": store.endpoints[0]}).items():
        monkeypatch.setenv(name, value)
    assert shared().status().leader
    shared().close()


@pytest.fixture(scope="module")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("strangers"), "strangers")


def refusal(url: str, **files: Path | str) -> str:
    """Of a write that was certainly not done: it may go to the next node."""
    return refused(url, Certificates(**files))


def refused(url: str, certificates: Certificates | None) -> str:
    node = Node(Endpoint.parse(url), certificates)
    with pytest.raises(NotConnected) as refused:
        node.exchange("/v3/kv/put", b'{"key":"aw=="}', time.monotonic() + 30)
    return str(refused.value)


def test_a_node_that_nobody_we_know_vouches_for(store: Cluster, tls: Tls, strangers: Authority) -> None:
    for trusted in ({}, {"cacert": strangers.cacert}):
        assert "the certificate of https://127.0.0.1:" in refusal(store.endpoints[0], **trusted)
        assert "is not trusted" in refusal(store.endpoints[0], **trusted)


def test_a_node_of_another_name(store: Cluster, tls: Tls) -> None:
    url = store.endpoints[0].replace("127.0.0.1", "localhost")
    assert f"the certificate of {url} is refused: Hostname mismatch" in refusal(url, **tls.settings)


def test_a_client_without_a_certificate(store: Cluster, tls: Tls) -> None:
    said = refusal(store.endpoints[0], cacert=tls.authority.cacert)
    assert "asks for a certificate: set jobguard_cert and jobguard_key" in said


def test_a_client_that_nobody_the_node_knows_vouches_for(
    store: Cluster, tls: Tls, strangers: Authority
) -> None:
    pair = strangers.issue("stranger")
    said = refusal(store.endpoints[0], cacert=tls.authority.cacert, cert=pair.cert, key=pair.key)
    assert "refused our certificate: " in said


def test_a_client_whose_certificate_has_expired(store: Cluster, tls: Tls) -> None:
    pair = tls.authority.issue("expired", expired=True)
    said = refusal(store.endpoints[0], cacert=tls.authority.cacert, cert=pair.cert, key=pair.key)
    assert "refused our certificate: " in said


def test_plain_text_gets_nowhere(store: Cluster) -> None:
    url = store.endpoints[0].replace("https", "http")
    with Client(url) as client, pytest.raises(JobguardError, match="was closed before"):
        client.put("plain", "text")


def test_a_renewed_certificate_is_used_from_the_next_connection_on(
    store: Cluster, tls: Tls, strangers: Authority, tmp_path: Path
) -> None:
    mine = Authority(tmp_path).issue("unused")
    mine.replace_by(tls.authority.issue("first"))
    with Client(
        store.endpoints, timeout=5, cacert=tls.authority.cacert, cert=mine.cert, key=mine.key
    ) as client:
        client.put("k", "1")
        mine.replace_by(strangers.issue("second"))
        client.put("k", "2")
        client.close()  # a connection that has begun goes on; this was the only one
        in_use = client.endpoints.certificates
        assert "refused our certificate" in refused(store.endpoints[0], in_use)
        renewed = tls.authority.issue("third")
        os.replace(renewed.cert, mine.cert)
        assert "refused our certificate" in refused(store.endpoints[0], in_use)
        os.replace(renewed.key, mine.key)
        found = client.get("k")
        assert found is not None
        assert found.value == b"2"

        def work() -> None:
            client.put("k", "3")

        in_child(work)
        client.put("k", "4")


def test_a_refusal_is_read_even_if_it_came_before_the_request(store: Cluster, tls: Tls) -> None:
    """Else a write that no node has read would be one of unknown outcome, whenever the node is quick."""
    endpoint = Endpoint.parse(store.endpoints[0])

    def ask() -> None:
        connection = Connection(endpoint, 30, Certificates(cacert=tls.authority.cacert))
        assert wait_for_read(connection._socket, 30)
        connection.exchange(endpoint.request("/v3/kv/put", b"{}"), time.monotonic() + 30)

    with pytest.raises(NotConnected, match="asks for a certificate"):  # etcd's comes in the handshake
        ask()
