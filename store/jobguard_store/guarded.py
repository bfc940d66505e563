"""A node as one caller may use it: asked by whom, before it does anything, while authentication is on.

Place in the house   api -> guarded -> node, machine.auth, tokens
Takes                a node, a caller's token; then whatever a node takes
Gives                what the node gives; InvalidAuthToken, UserEmpty or PermissionDenied in its place
Never                lets a write into the log as anybody else's than the caller's

A write is permitted at its turn in the log, by the users as they are there: all members decide alike, and no
change of a permission is overtaken. A read is permitted at its read point, by what this member has applied;
and so is what is root's, whose entries do not all say who asked.
So a change that was acknowledged before a request came counts for it, whichever member it came to.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Coroutine, Iterable
from typing import Any

from jobguard_store.answers import Answer, LeaseStatus
from jobguard_store.backups import Part
from jobguard_store.errors import (
    AuthRevisionOld,
    InvalidAuthToken,
    OutcomeUnknown,
    StoreError,
    UserEmpty,
)
from jobguard_store.machine.auth import Auth, Role, User, is_roots
from jobguard_store.machine.commands import ANONYMOUS, Access, Caller, Command, Range, Txn
from jobguard_store.machine.permissions import Need, lease_needs, needs
from jobguard_store.node import Node
from jobguard_store.storage.hashkv import Hash
from jobguard_store.watchers import Interest, Subscription

_TRIES = 5  # of a write, while changes of users overtake it
_TOKEN_AWAITED_S = 2.0


class Guarded(Node):
    """While authentication is off, a node like any other: each request pays for one look at that.

    Only who brings a token, which then can be none of ours, is told so, as etcd does.
    """

    def __init__(self, node: Node, token: str | None = None) -> None:
        super().__init__(node.config, node._replica)
        self._token = token

    async def arrive(self) -> None:
        """The token may have been made by an entry that this member is still to apply."""
        if self._token is None or self._user() is not None:
            return
        with contextlib.suppress(StoreError, OutcomeUnknown, TimeoutError):
            async with asyncio.timeout(_TOKEN_AWAITED_S):
                await self.read_barrier()

    # --- who asks ---------------------------------------------------------------------------------

    @property
    def _auth(self) -> Auth:
        return self._replica.machine.auth

    @property
    def _asked(self) -> bool:
        """Whether anything is asked of the caller."""
        return self._auth.enabled or self._token is not None

    def _user(self) -> str | None:
        if self._token is None:
            return None
        return self._replica.tokens.user(self._token, asyncio.get_running_loop().time())

    def _caller(self) -> Caller:
        """As of now; ANONYMOUS without a token. Raises InvalidAuthToken."""
        if self._token is None:
            return ANONYMOUS
        user = self._user()
        if user is None:
            raise InvalidAuthToken
        return Caller(user, self._auth.revision)

    def _require_login(self) -> Caller:
        """Raises UserEmpty, InvalidAuthToken."""
        caller = self._caller()
        if caller is ANONYMOUS:
            raise UserEmpty
        return caller

    def _allow(self, needed: Iterable[Need]) -> None:
        caller = self._caller()
        if self._auth.enabled:
            self._auth.allow(caller, needed)

    def require_root(self) -> None:
        caller = self._caller()
        if self._auth.enabled:
            self._auth.allow_root(caller)

    async def _require_root(self) -> None:
        """By all that was acknowledged until now."""
        await self.read_barrier()
        self.require_root()

    # --- keys -------------------------------------------------------------------------------------

    def propose(self, command: Command) -> Coroutine[Any, Any, Answer]:
        if self._asked or is_roots(command):
            return self._propose_signed(command)
        return self._propose(command, ANONYMOUS)

    async def _propose_signed(self, command: Command) -> Answer:
        if is_roots(command):
            await self._require_root()
        elif self._token is None:
            await self.read_barrier()  # authentication may be off by now, and this member the last to hear so
        for _ in range(_TRIES):
            if not self._auth.enabled:
                return await self._propose(command, self._caller())
            with contextlib.suppress(AuthRevisionOld):  # refused at its turn, so it is another that we make
                return await self._propose(command, self._require_login())
        raise AuthRevisionOld

    async def range(self, request: Range, *, serializable: bool) -> Answer:
        if not serializable:
            await self.read_barrier()
        if self._asked:
            self._allow(needs(request, self._replica.machine.leases))
        return await super().range(request, serializable=True)

    async def read_txn(self, txn: Txn, *, serializable: bool) -> Answer:
        if not serializable:
            await self.read_barrier()
        if self._asked:
            self._allow(needs(txn, self._replica.machine.leases))
        return await super().read_txn(txn, serializable=True)

    def _watch(self, interest: Interest, start_revision: int) -> Subscription:
        """Asked again before anything is handed out, once users or roles have changed."""
        seen: Auth = self._auth
        caller = self._caller()
        password = seen.password(caller.user)
        need = (Access.READ, interest.key, interest.range_end)

        def check() -> None:
            nonlocal seen
            if seen is not self._auth:
                seen = self._auth
                if seen.enabled:
                    if seen.password(caller.user) != password:  # its token ended, were it asked for
                        raise InvalidAuthToken
                    seen.allow(Caller(caller.user, seen.revision), [need])

        if seen.enabled:
            seen.allow(caller, [need])
        return self._replica.watchers.watch(interest, start_revision, check)

    # --- leases -----------------------------------------------------------------------------------

    def keepalive(self, lease_id: int) -> Coroutine[Any, Any, int]:
        self._allow_on_lease(Access.WRITE, lease_id)
        return super().keepalive(lease_id)

    async def time_to_live(self, lease_id: int, *, keys: bool) -> LeaseStatus:
        status = await super().time_to_live(lease_id, keys=keys)
        if self._auth.enabled:
            self._require_login()
            self._allow((Access.READ, key, b"") for key in status.keys)
        return status

    async def leases(self) -> list[int]:
        """To whom all keys on them may be known."""
        leases = await super().leases()
        for lease in leases:
            self._allow_on_lease(Access.READ, lease)
        return leases

    def _allow_on_lease(self, access: Access, lease_id: int) -> None:
        if self._auth.enabled:
            self._require_login()
            self._allow(lease_needs(access, lease_id, self._replica.machine.leases))

    # --- users ------------------------------------------------------------------------------------

    async def auth(self) -> Auth:
        auth = await super().auth()
        self.require_root()
        return auth

    async def user(self, name: str) -> User:
        """One's own may be known."""
        auth = await super().auth()
        if self._caller().user != name:
            self.require_root()
        return auth.user(name)

    async def role(self, name: str) -> Role:
        """A role that one has may be known."""
        auth = await super().auth()
        user = auth.users.get(self._caller().user)
        if user is None or name not in user.roles:
            self.require_root()
        return auth.role(name)

    async def hash_password(self, password: str) -> bytes:
        self.require_root()
        return await super().hash_password(password)

    # --- the cluster ------------------------------------------------------------------------------

    async def transfer_leadership(self, heir: int) -> None:
        self.require_root()
        await super().transfer_leadership(heir)

    async def give_space_back(self) -> None:
        self.require_root()
        await super().give_space_back()

    async def backup(self) -> AsyncGenerator[Part]:
        await self._require_root()
        async with contextlib.aclosing(super().backup()) as parts:
            async for part in parts:
                yield part

    async def hash_kv(self, revision: int) -> Hash:
        self.require_root()
        return await super().hash_kv(revision)

    async def add_member(self, peer_urls: tuple[str, ...], *, is_learner: bool) -> int:
        await self._require_root()
        return await super().add_member(peer_urls, is_learner=is_learner)

    async def promote_member(self, member: int) -> None:
        await self._require_root()
        await super().promote_member(member)

    async def remove_member(self, member: int) -> None:
        await self._require_root()
        await super().remove_member(member)

    async def move_member(self, member: int, peer_urls: tuple[str, ...]) -> None:
        await self._require_root()
        await super().move_member(member, peer_urls)
