"""Which tokens this member takes, and for whom.

Place in the house   applier, guarded -> tokens -> machine.auth
Takes                applied authentications, in the log's order, so all members know the same tokens; time
Gives                the user whom a token stands for
Never                holds a token, only its digest; outlives the process

A token is good for five minutes after it was used at this member, and only while its user's password is the
one he came by. So who is deleted, or changes it, has none any more. Members that adopt a state in place of
entries know none, neither what was made in those nor what ended: their callers authenticate again.
"""

from __future__ import annotations

import secrets
import string
from collections import OrderedDict
from dataclasses import dataclass
from hashlib import sha256

from jobguard_store.errors import StoreError
from jobguard_store.machine.apply import Machine
from jobguard_store.machine.results import Authenticated, Result

LIFETIME_S = 300.0

_LETTERS = 32


def new_token() -> str:
    return "".join(secrets.choice(string.ascii_letters) for _ in range(_LETTERS))


def digest(token: str) -> bytes:
    return sha256(token.encode()).digest()


@dataclass(slots=True)
class _Held:
    user: str
    password: bytes | None
    used: float


class Tokens:
    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._held: OrderedDict[bytes, _Held] = OrderedDict()  # the one that was used last, last

    def applied(self, result: Result | StoreError, now: float) -> None:
        """A command on users was applied. With authentication, all tokens end."""
        auth = self._machine.auth
        if not auth.enabled:
            self._held.clear()
        elif isinstance(result, Authenticated):
            self._forget_the_old(now)
            self._held[result.token] = _Held(result.user, auth.password(result.user), now)

    def skipped(self) -> None:
        """A state took the place of entries, which may have ended all tokens."""
        self._held.clear()

    def user(self, token: str, now: float) -> str | None:
        """Whose it is, and five minutes more for it; None if it is not good, or not yet known."""
        self._forget_the_old(now)
        held = self._held.get(digest(token))
        if held is None:
            return None
        if held.password is None or self._machine.auth.password(held.user) != held.password:
            return None
        held.used = now
        self._held.move_to_end(digest(token))
        return held.user

    def _forget_the_old(self, now: float) -> None:
        while self._held and next(iter(self._held.values())).used + LIFETIME_S <= now:
            self._held.popitem(last=False)
