"""A backup, fetched from a node that serves: `jobguard store backup`.

Place in the house   commands -> download -> jobguard.wire
Takes                endpoints, the first that answers is asked; a path
Gives                a file of which every byte has arrived and is durable; or a StartupError of one sentence
Never                leaves half of one under the name that was asked for
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from hashlib import sha256
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from pathlib import Path
from typing import BinaryIO, NamedTuple

import msgspec

from jobguard import wire
from jobguard.tls import Certificates, explained
from jobguard_store.config import address
from jobguard_store.errors import AuthNotEnabled, StartupError
from jobguard_store.security import NO_TLS, TlsFiles
from jobguard_store.storage.file import SQLITE, sync_folder

CONNECT_S = 5.0
SILENT_S = 60.0  # the state is cut first, in one go

Progress = Callable[[int, int], None]
"""Called with the bytes that came, and those that will."""


class _Line(msgspec.Struct):
    """A line of the stream: a part, or what ended it."""

    result: wire.SnapshotResponse | None = None
    error: wire.StreamError | None = None


class User(NamedTuple):
    """Who asks, where authentication is on: a backup is root's."""

    name: str
    password: str


def download(
    endpoints: list[str],
    target: Path,
    progress: Progress,
    files: TlsFiles = NO_TLS,
    user: User | None = None,
) -> int:
    """Its size in bytes."""
    certificates = files.dialling()
    part = target.with_name(f"{target.name}.{os.getpid()}.part")
    with _writing(target):
        if target.exists():
            raise StartupError(f"{target} exists already: choose another name, or move it away.")
        file = open(part, "wb", opener=_private)  # noqa: SIM115 — what comes to pass from here on removes it
    try:
        with _writing(target), file:
            _fetch(endpoints, certificates, user, file, target, progress)
            size = file.tell()
            file.flush()
            os.fsync(file.fileno())
            os.rename(part, target)
            sync_folder(target)
    finally:
        part.unlink(missing_ok=True)
    return size


@contextmanager
def _writing(target: Path) -> Iterator[None]:
    """What goes wrong in here is no endpoint's fault."""
    try:
        yield
    except OSError as error:
        raise StartupError(f"{target} cannot be written: {error.strerror}.") from error


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, mode=0o600)  # all keys are in it


def _fetch(
    endpoints: list[str],
    certificates: Certificates,
    user: User | None,
    file: BinaryIO,
    target: Path,
    progress: Progress,
) -> None:
    troubles = []
    for endpoint in endpoints:
        try:
            with closing(_asked(endpoint, certificates.context(), user)) as answer:
                for blob in _whole(answer, progress):
                    with _writing(target):
                        file.write(blob)
                return
        except ssl.SSLError as error:
            troubles.append(explained(error, endpoint, "--cacert"))
        except (OSError, HTTPException, _Broken) as error:
            troubles.append(f"{endpoint}: {error or type(error).__name__}")
        file.seek(0)
        file.truncate()
    raise StartupError(f"no backup could be had ({'; '.join(troubles)}).")


class _Broken(Exception):
    """The stream did not come to its end."""


def _asked(endpoint: str, context: ssl.SSLContext, user: User | None) -> HTTPResponse:
    headers = {}
    if user is not None and (token := _token(endpoint, context, user)):
        headers["authorization"] = token
    answer = _post(endpoint, context, "/v3/maintenance/snapshot", b"{}", headers)
    if answer.status != 200:
        raise _Broken(_reason(answer.read()))
    return answer


def _token(endpoint: str, context: ssl.SSLContext, user: User) -> str:
    """None is needed, and so none is given, where authentication is off."""
    request = wire.encode(wire.AuthenticateRequest(name=user.name, password=user.password))
    with closing(_post(endpoint, context, "/v3/auth/authenticate", request, {})) as answer:
        body = answer.read()
        if answer.status == 200:
            return wire.decode(body, wire.AuthenticateResponse).token
        if (reason := _reason(body)) != AuthNotEnabled.text:
            raise _Broken(reason)
        return ""


def _post(
    endpoint: str, context: ssl.SSLContext, path: str, body: bytes, headers: dict[str, str]
) -> HTTPResponse:
    where = address(endpoint)
    connection = (
        HTTPSConnection(where.host, where.port, timeout=CONNECT_S, context=context)
        if where.tls
        else HTTPConnection(where.host, where.port, timeout=CONNECT_S)
    )
    connection.connect()
    connection.sock.settimeout(SILENT_S)
    try:
        connection.request("POST", path, body, {"connection": "close", **headers})
    except OSError:
        if where.tls:
            connection.sock.recv(1)  # what it has against our certificate came before it closed
        raise
    return connection.getresponse()


def _reason(body: bytes) -> str:
    try:
        return wire.decode(body, wire.ErrorBody).message
    except msgspec.DecodeError:
        return "it does not answer as a store does"


def _whole(answer: HTTPResponse, progress: Progress) -> Iterator[bytes]:
    digest, before = sha256(), b""
    for blob, remaining in _parts(answer):
        if not before and not blob.startswith(SQLITE):
            raise _Broken("what it sends is no backup that restore could read")
        digest.update(before)
        yield blob
        before = blob
        progress(len(blob), remaining)
    if before != digest.digest():
        raise _Broken("it ended before its time")


def _parts(answer: HTTPResponse) -> Iterator[tuple[bytes, int]]:
    for line in answer:
        try:
            message = wire.decode(line, _Line)
        except msgspec.DecodeError:
            raise _Broken("what came is not a snapshot's part") from None
        if message.error is not None:
            raise _Broken(message.error.message)
        if message.result is not None:
            yield message.result.blob, int(message.result.remaining_bytes)
