"""Certificates in files that somebody renews: a TLS context made from what they hold now.

Place in the house   transport (the client's), the store's ports and peers  ->  tls  ->  ssl
Takes                paths of PEM files
Gives                Certificates.context(), for the next connection
Never                touches a connection there is, or gives up what works for what does not

Whoever renews certificates writes files and tells nobody. So they are looked at before each connection, which
costs a stat each, and read when one of them is another. A certificate and its key are two files, and between
the two writes they do not belong together: then what was in use stays, with one line in the log.

A process is not forked in the middle of a handshake: of another thread's the child would inherit OpenSSL's
locks, held by nobody, and hang in its own first one. One in two thousand did, of a parent that dialled on.
"""

import logging
import os
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

log = logging.getLogger("jobguard.tls")

Path = str | os.PathLike[str]


FORK_PATIENCE_S = 0.5
"""A fork waits no longer: what takes so long waits for the network, and holds no lock of OpenSSL's."""

_under_way = 0
_changed = threading.Condition()


@contextmanager
def handshake() -> Iterator[None]:
    """Around a handshake, or the reading of what it needs."""
    global _under_way
    with _changed:
        _under_way += 1
    try:
        yield
    finally:
        with _changed:
            _under_way = max(_under_way - 1, 0)
            _changed.notify_all()


def _before_fork() -> None:
    _changed.acquire()  # and none begins before the fork is over
    _changed.wait_for(lambda: _under_way == 0, FORK_PATIENCE_S)


def _in_child() -> None:
    global _under_way, _changed
    _under_way, _changed = 0, threading.Condition()


os.register_at_fork(before=_before_fork, after_in_parent=lambda: _changed.release(), after_in_child=_in_child)


class Unusable(ValueError):
    """A file that cannot be used: the text names it and says why."""


class Certificates:
    """Who we are (`cert`, `key`), and who may be at the other end (`cacert`; else the system's authorities).

    As a `server`, with contexts of that kind, we ask for a certificate at the other end if there is a
    `cacert`, and only then. Raises Unusable, when it is made; later it only warns.
    """

    def __init__(
        self,
        *,
        server: type[ssl.SSLContext] | None = None,
        cert: Path | None = None,
        key: Path | None = None,
        cacert: Path | None = None,
    ) -> None:
        if (cert is None) != (key is None):
            raise Unusable("a certificate and its key are needed together")
        self.cert = cert
        self._key = key
        self._cacert = cacert
        self._server = server
        self._in_use = self._look(), self._load()  # replaced as one: threads may read at the same time

    def context(self) -> ssl.SSLContext:
        """From what the files hold now, or held when they were last of use."""
        seen, context = self._in_use
        if (found := self._look()) != seen:
            try:
                with handshake():
                    context = self._load()
            except Unusable as error:
                log.warning("%s: what was read before stays in use", error)
            else:
                log.info("read anew: %s", ", ".join(map(str, self._files())))
            self._in_use = found, context
        return context

    def _files(self) -> list[Path]:
        return [path for path in (self.cert, self._key, self._cacert) if path is not None]

    def _look(self) -> list[tuple[int, ...]]:
        """What differs when a file was replaced, written, or made readable; empty for one that is gone."""
        return [_identity(path) for path in self._files()]

    def _load(self) -> ssl.SSLContext:
        for path in self._files():
            try:
                with open(path, "rb"):
                    pass
            except OSError as error:
                raise Unusable(f"{path} cannot be read: {error.strerror}") from None
        if self._server is None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        else:
            context = self._server(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.hostname_checks_common_name = (
            False  # names stand in subjectAltName, as Go and browsers have it
        )
        if self.cert is not None and self._key is not None:
            _load_chain(context, self.cert, self._key)
        if self._cacert is not None:
            try:
                context.load_verify_locations(self._cacert)
            except ssl.SSLError:
                raise Unusable(f"{self._cacert} holds no certificates in PEM form") from None
            context.verify_mode = ssl.CERT_REQUIRED
        elif self._server is None:
            context.load_default_certs()
        return context


def _identity(path: Path) -> tuple[int, ...]:
    try:
        found = os.stat(path)
    except OSError:
        return ()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


# The last of a key of another kind, for which there is no certificate then.
_NOT_ITS_KEY = frozenset({"KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED"})


def _load_chain(context: ssl.SSLContext, cert: Path, key: Path) -> None:
    def encrypted() -> NoReturn:  # else OpenSSL would ask whoever sits at the terminal
        raise Unusable(f"{key} is encrypted: it has to be stored without a passphrase")

    try:
        context.load_cert_chain(cert, key, password=encrypted)
    except ssl.SSLError as error:
        if error.reason in _NOT_ITS_KEY:
            raise Unusable(f"{key} is not the key of the certificate in {cert}") from None
        with open(cert, "rb") as file:
            there = b"-----BEGIN CERTIFICATE-----" in file.read()
        wrong = f"{key} holds no private key" if there else f"{cert} holds no certificate"
        raise Unusable(f"{wrong} in PEM form") from None


# --- what goes wrong with a connection, in words ---------------------------------------------------------

# OpenSSL's numbers: a certificate out of date; a chain that ends with nobody we know.
_EXPIRED = 10
_NO_TLS = frozenset({"HTTP_REQUEST", "WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE"})
_UNKNOWN_AUTHORITY = frozenset({2, 18, 19, 20, 21})


def explained(error: ssl.SSLError, whom: str = "it", trust: str = "") -> str:
    """Why there is no TLS with `whom`; `trust` names the setting that says who is believed."""
    if refusal := refused_us(error):
        return f"{whom} refused our certificate: {refusal}"
    certificate = "its certificate" if whom == "it" else f"the certificate of {whom}"
    if isinstance(error, ssl.SSLCertVerificationError):
        if error.verify_code in _UNKNOWN_AUTHORITY:
            hint = f"; set {trust}" if trust else ""
            return f"{certificate} is not trusted: {error.verify_message}{hint}"
        if error.verify_code == _EXPIRED:
            return f"{certificate} has expired"
        return f"{certificate} is refused: {error.verify_message.rstrip('.')}"
    if error.reason in _NO_TLS:
        return f"{whom} does not speak TLS"
    if error.reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE":
        return f"{whom} shows no certificate"
    return f"TLS with {whom} failed: {_words(error)}"


def refused_us(error: ssl.SSLError) -> str:
    """What the other end has against our certificate; empty if it is not about that.

    In TLS 1.3 it looks at it when we think that the handshake is over, and says so in place of an answer:
    of what we sent nothing was read.
    """
    reason = error.reason or ""
    about = "CERTIFICATE" in reason or "UNKNOWN_CA" in reason or "ACCESS_DENIED" in reason
    return _words(error) if about and "ALERT" in reason else ""


def _words(error: ssl.SSLError) -> str:
    if error.reason is None:
        return str(error)
    return error.reason.lower().rpartition("alert_")[2].replace("_", " ")
