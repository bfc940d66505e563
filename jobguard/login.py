"""A user's way into a store with authentication on: a token, had for a password when one is asked for.

Place in the house   client  ->  endpoints, watch  ->  login  ->  transport, wire
Takes                a name and a password, or a file that holds it; the refusals that a new token would mend
Gives                the token to send along
Never                logs a password, keeps one that stands in a file, or asks for a token twice at a time

A token is lazily had and lazily lost: it lasts some minutes after its last use, not over a restart of the
node that made it known, nor over a change of the password; and a store with authentication off refuses any.
Each of these is a refusal of what was asked, which was not done and may be asked again. Only one thread then
asks for a token: the store takes a twentieth of a second to compare a password.
"""

import os
from collections.abc import Callable
from pathlib import Path
from threading import Lock

import msgspec

from jobguard import wire
from jobguard.errors import ConfigurationError
from jobguard.transport import Answer, NotConnected

AUTHENTICATE = "/v3/auth/authenticate"

_FAILED = "etcdserver: authentication failed, invalid user ID or password"
_OFF = "etcdserver: authentication is not enabled"
_MENDED = frozenset(
    {
        "etcdserver: invalid auth token",
        "etcdserver: user name is empty",
        "etcdserver: revision of auth store is old",
    }
)

DENIED = "etcdserver: permission denied"

PasswordFile = str | os.PathLike[str]


class Login:
    """One user of one cluster, whose token all nodes know. Serves all threads of one process."""

    def __init__(
        self, username: str, password: str | None = None, password_file: PasswordFile | None = None
    ) -> None:
        """Raises ConfigurationError."""
        if (password is None) == (password_file is None):
            needs = "a password, or a file that holds it" + (", not both" if password is not None else "")
            raise ConfigurationError(f"user {username!r} needs {needs}")
        self._username = username
        self._password = password
        self._file = password_file
        self._renewing = Lock()
        self.token = ""
        self._secret()

    def after_fork(self) -> "Login":
        """The same for a child: the parent's lock may be held for ever here."""
        other = Login(self._username, self._password, self._file)
        other.token = self.token
        return other

    def renew(self, refused: str, ask: Callable[[str, bytes], Answer], timeout: float) -> Answer | None:
        """Have another token than the one that was `refused`, unless somebody had it meanwhile.

        An answer is the store's last word: the password is wrong. Raises NotConnected when there is none.
        """
        if not self._renewing.acquire(timeout=max(timeout, 0.0)):
            raise NotConnected("no time was left to log in")
        try:
            return self._renew(ask) if self.token == refused else None
        finally:
            self._renewing.release()

    def _renew(self, ask: Callable[[str, bytes], Answer]) -> Answer | None:
        request = wire.AuthenticateRequest(name=self._username, password=self._secret())
        answer = ask(AUTHENTICATE, wire.encode(request))
        if answer.status == 200:
            self.token = _decoded(answer, wire.AuthenticateResponse).token
            return None
        text = _decoded(answer, wire.ErrorBody).message
        if text == _FAILED:
            return answer
        if text != _OFF:
            raise NotConnected(f"cannot log in: {text}")
        self.token = ""
        return None

    def _secret(self) -> str:
        if self._password is not None:
            return self._password
        assert self._file is not None
        try:
            return Path(self._file).read_text().rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"the password file {self._file} cannot be read: {error}") from None


def is_asked_for(answer: Answer, token: str) -> bool:
    """Whether another token than that is what this refusal asks for. Nothing was done.

    Without a token a permission may be missing for that alone: a real etcd that asks for certificates takes
    whoever sends none for a user without a name, if its own certificate has none.
    """
    if answer.status not in (400, 401, 403):
        return False
    try:
        text = wire.decode(answer.body, wire.ErrorBody).message
    except msgspec.DecodeError:
        return False
    return would_mend(text) or (not token and DENIED in text)


def would_mend(refusal: str) -> bool:
    """The same for a text, perhaps one that gRPC has wrapped."""
    return any(each in refusal for each in _MENDED)


def _decoded(answer: Answer, kind: type[wire.M]) -> wire.M:
    try:
        return wire.decode(answer.body, kind)
    except msgspec.DecodeError:
        raise NotConnected(f"cannot log in: HTTP {answer.status}") from None
