"""Certificates in files: read when they change, kept when they break, and refused in a sentence."""

import logging
import os
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme

from jobguard.client import Client
from jobguard.errors import ConfigurationError
from jobguard.tls import Certificates, Unusable, handshake
from tests.certificates import Authority, Pair
from tests.client.test_fork import in_child


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def shown(context: ssl.SSLContext, authority: Authority) -> int:
    """The serial number of the certificate that a server with this context shows."""
    ours, theirs = socket.socketpair()
    trusting = ssl.create_default_context(cafile=str(authority.cacert))

    def serve() -> None:
        with context.wrap_socket(theirs, server_side=True) as server:
            server.recv(1)

    thread = threading.Thread(target=serve)
    thread.start()
    with trusting.wrap_socket(ours, server_hostname="localhost") as client:
        certificate = client.getpeercert()
        client.send(b".")
    thread.join()
    assert certificate is not None
    return int(str(certificate["serialNumber"]), 16)


def serving(pair: Pair) -> Certificates:
    return Certificates(server=ssl.SSLContext, cert=pair.cert, key=pair.key)


def test_what_was_replaced_is_read_anew_and_nothing_else_is(authority: Authority) -> None:
    pair = authority.issue("node")
    certificates = serving(pair)
    context = certificates.context()
    before = shown(context, authority)
    assert certificates.context() is context
    pair.replace_by(authority.issue("renewed"))
    assert shown(certificates.context(), authority) != before
    assert shown(context, authority) == before, "what has begun goes on as it began"


def test_between_the_two_files_of_a_renewal_the_old_pair_is_in_use(
    authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "jobguard.tls")
    pair, renewed = authority.issue("node"), authority.issue("renewed")
    certificates = serving(pair)
    before = shown(certificates.context(), authority)
    os.replace(renewed.cert, pair.cert)
    for _ in range(3):
        assert shown(certificates.context(), authority) == before
    assert levels(caplog) == ["WARNING"], "once per change"
    assert f"{pair.key} is not the key of the certificate in {pair.cert}: what was" in caplog.text
    os.replace(renewed.key, pair.key)
    assert shown(certificates.context(), authority) != before
    assert levels(caplog) == ["WARNING", "INFO"]


def levels(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Of what was said here: a session of the test before may not have ended yet."""
    return [record.levelname for record in caplog.records if record.name == "jobguard.tls"]


def test_a_thread_that_reads_slowly_brings_nothing_back(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it has read was replaced once more, and another thread had seen that before it was done."""
    pair = authority.issue("node")
    certificates = serving(pair)
    real = Certificates._load

    def slowly(self: Certificates) -> ssl.SSLContext:
        made = real(self)
        monkeypatch.setattr(Certificates, "_load", real)
        pair.replace_by(authority.issue("newest"))
        self.context()
        return made

    pair.replace_by(authority.issue("renewed"))
    monkeypatch.setattr(Certificates, "_load", slowly)
    outdated = shown(certificates.context(), authority)
    assert shown(certificates.context(), authority) == shown(real(certificates), authority) != outdated


def test_a_fork_waits_for_the_handshakes_that_other_threads_are_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """One child in two thousand hung for ever on a lock of OpenSSL's that nobody held any more."""
    monkeypatch.setattr("jobguard.tls.FORK_PATIENCE_S", 30.0)
    begun, ended = threading.Event(), threading.Event()

    def shake_hands() -> None:
        with handshake():
            begun.set()
            time.sleep(0.1)
            ended.set()

    thread = threading.Thread(target=shake_hands)
    thread.start()
    assert begun.wait(30)

    def work() -> None:
        assert ended.is_set()
        with handshake():
            pass

    in_child(work)
    thread.join()


def test_a_fork_waits_for_no_handshake_that_takes_long() -> None:
    """It waits for the network then, and holds nothing."""
    begun, over = threading.Event(), threading.Event()

    def shake_hands() -> None:
        with handshake():
            begun.set()
            over.wait(60)

    thread = threading.Thread(target=shake_hands)
    thread.start()
    assert begun.wait(30)

    def work() -> None:
        assert not over.is_set()
        with handshake():
            pass

    in_child(work)
    over.set()
    thread.join()
    in_child(lambda: None)


def test_files_that_are_gone_for_a_moment_change_nothing(
    authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    pair = authority.issue("node")
    certificates = serving(pair)
    context = certificates.context()
    elsewhere = pair.key.with_suffix(".away")
    os.replace(pair.key, elsewhere)
    assert certificates.context() is context
    assert f"{pair.key} cannot be read: No such file or directory" in caplog.text
    os.replace(elsewhere, pair.key)
    assert certificates.context() is not context


def test_links_that_are_turned_as_kubernetes_does_are_followed(authority: Authority, tmp_path: Path) -> None:
    pairs = [authority.issue(name) for name in ("one", "two")]
    for number, pair in enumerate(pairs):
        folder = tmp_path / f"..data{number}"
        folder.mkdir()
        os.replace(pair.cert, folder / "tls.crt")
        os.replace(pair.key, folder / "tls.key")
    (tmp_path / "..data").symlink_to(tmp_path / "..data0")
    certificates = serving(Pair(tmp_path / "..data" / "tls.crt", tmp_path / "..data" / "tls.key"))
    before = shown(certificates.context(), authority)
    (tmp_path / "..new").symlink_to(tmp_path / "..data1")
    os.replace(tmp_path / "..new", tmp_path / "..data")
    assert shown(certificates.context(), authority) != before


def encrypted(pair: Pair) -> None:
    command = ["openssl", "pkey", "-in", str(pair.key), "-aes128", "-passout", "pass:p", "-out"]
    subprocess.run([*command, f"{pair.key}.new"], check=True, timeout=30, capture_output=True)
    os.replace(f"{pair.key}.new", pair.key)


def of_another_kind(pair: Pair) -> None:
    rsa = trustme.CA().issue_cert("localhost", key_type=trustme.KeyType.RSA)
    rsa.private_key_pem.write_to_path(str(pair.key))


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda pair: pair.cert.unlink(), "node.pem cannot be read: No such file or directory"),
        (lambda pair: pair.key.unlink(), "node-key.pem cannot be read: No such file or directory"),
        (lambda pair: pair.cert.write_text("nonsense"), "node.pem holds no certificate in PEM form"),
        (lambda pair: pair.key.write_text("nonsense"), "node-key.pem holds no private key in PEM form"),
        (lambda pair: pair.cert.write_bytes(b""), "node.pem holds no certificate in PEM form"),
        (of_another_kind, "node-key.pem is not the key of the certificate in"),
        (encrypted, "node-key.pem is encrypted: it has to be stored without a passphrase"),
    ],
)
def test_what_cannot_be_used_is_said_in_a_sentence(
    authority: Authority, damage: Callable[[Pair], None], sentence: str
) -> None:
    pair = authority.issue("node")
    damage(pair)
    with pytest.raises(Unusable, match=sentence):
        serving(pair)
    with pytest.raises(ConfigurationError, match=sentence):
        Client("https://localhost", cert=pair.cert, key=pair.key)


def test_an_authority_that_is_none_and_half_a_pair_are_refused(authority: Authority) -> None:
    pair = authority.issue("node")
    authority.cacert.write_text("nonsense")
    with pytest.raises(ConfigurationError, match=r"ca\.pem holds no certificates in PEM form"):
        Client("https://localhost", cacert=authority.cacert)
    for half in ({"cert": pair.cert}, {"key": pair.key}):
        with pytest.raises(ConfigurationError, match="a certificate and its key are needed together"):
            Client("https://localhost", **half)  # type: ignore[arg-type]
