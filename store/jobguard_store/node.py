"""One member of the cluster, as the api sees it: proposals, reads, leases, watches, facts.

Place in the house   api -> node -> replica (the loop), reads, questions, watchers, history
Takes                commands and reads, already validated
Gives                answers, each from this node's own apply; StoreError for a definite "did not happen"
Never                blocks the loop; gives a definite error for something that may still commit
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import Self

from jobguard_store.answers import Answer, Header, LeaseStatus, Load, NodeStatus
from jobguard_store.backups import Part
from jobguard_store.cluster import new_member_id
from jobguard_store.config import NodeConfig
from jobguard_store.counts import Traffic
from jobguard_store.cutting import Overtaken
from jobguard_store.errors import (
    AuthFailed,
    AuthNotEnabled,
    AuthRevisionOld,
    BadTransferee,
    Compacted,
    NoLeader,
    NoPasswordUser,
    NoSpace,
    NotTheLeader,
    RequestTimedOut,
    StoreError,
    TooManyRequests,
)
from jobguard_store.history import is_historic
from jobguard_store.machine.auth import Auth, Role, User
from jobguard_store.machine.commands import ANONYMOUS, AlarmKind, Authenticate, Caller, Command, Range, Txn
from jobguard_store.machine.results import Alarm, HistoricRange, TxnResult
from jobguard_store.machine.txn import check_revision
from jobguard_store.members import MemberInfo
from jobguard_store.passwords import NOBODYS
from jobguard_store.peer_messages import Question, Step
from jobguard_store.raft import NotLeader, TransferRefused
from jobguard_store.replica import Replica
from jobguard_store.storage.damage import DiskFull
from jobguard_store.storage.hashkv import Hash
from jobguard_store.tokens import digest, new_token
from jobguard_store.watchers import Interest, Subscription, WatchBatch

__all__ = [
    "Answer",
    "Header",
    "LeaseStatus",
    "MemberInfo",
    "Node",
    "NodeStatus",
    "Subscription",
    "WatchBatch",
]


GIVE_WAY_S = 0.002  # in which a write is done, or nearly


class Node:
    """One member of the cluster. All methods belong to the loop it was started on.

    Reads and proposals raise StoreError for a definite "did not happen", OutcomeUnknown (RequestTimedOut)
    when it may have. NoLeader comes after three election timeouts without one; the whole time-out is
    5 s + 2 election timeouts.
    """

    def __init__(self, config: NodeConfig, replica: Replica) -> None:
        self.config = config
        self.counts = replica.counts
        self._replica = replica

    @classmethod
    async def start(cls, config: NodeConfig) -> Self:
        """Open the file, join the peers and begin to tick. Raises StartupError. Waits for no leader."""
        return cls(config, await Replica.start(config))

    async def stop(self) -> None:
        """End watches and waiters (ServerStopped), flush what is applied, close. Idempotent."""
        await self._replica.stop()

    async def transfer_leadership(self, heir: int) -> None:
        """Returns once `heir` leads.

        Raises NotTheLeader, BadTransferee, and RequestTimedOut if it does not come to lead.
        """
        replica = self._replica
        try:
            async with asyncio.timeout(replica.timeout_s):
                await replica.hand_over(heir)
        except NotLeader:
            raise NotTheLeader from None
        except TransferRefused:
            raise BadTransferee from None
        except TimeoutError:
            pass
        if replica.raft.leader != heir:
            raise RequestTimedOut("etcdserver: request timed out, leader transfer took too long")

    async def hand_over(self) -> None:
        """If we lead, let another, or give up after an election time-out. A stop then costs nobody one."""
        with contextlib.suppress(NotLeader, TransferRefused, StoreError, TimeoutError):
            async with asyncio.timeout(self.config.election_s):
                await self._replica.hand_over()

    async def introduced(self) -> None:
        """Wait until the members' list says of us what our flags say."""
        await self._replica.introduced.wait()

    async def failed(self) -> BaseException:
        """Wait for the error after which this process must end; the loop and the writer report here."""
        return await self._replica.failure

    def fail(self, error: BaseException) -> None:
        """Whoever meets an error that nobody expected reports it here; nothing more leaves this node."""
        self._replica.fail(error)

    # --- facts ------------------------------------------------------------------------------------

    def header(self) -> Header:
        replica = self._replica
        identity = replica.identity
        return Header(identity.cluster_id, identity.member_id, replica.machine.revision, replica.durable_term)

    @property
    def has_leader(self) -> bool:
        return self._replica.raft.leader is not None

    @property
    def lease_ttl_min(self) -> int:
        """The shortest TTL a lease may have: 1.5 election timeouts, rounded up to a second."""
        return -(-3 * self.config.election_timeout_ms // 2000)

    def members(self) -> list[MemberInfo]:
        """The local view; call read_barrier() first for a linearizable one."""
        return self._replica.members.list()

    @property
    def is_learner(self) -> bool:
        member = self._replica.members.configuration.member(self._replica.identity.member_id)
        return member is not None and not member.voter

    def status(self) -> NodeStatus:
        replica, raft = self._replica, self._replica.raft
        errors = [] if self.has_leader else [NoLeader.text]
        errors += [f"memberID:{alarm.member} alarm:{alarm.kind.name} " for alarm in self.alarms()]
        errors += [f"{name} runs an older jobguard" for name in replica.levels.older()]
        return NodeStatus(
            db_size=replica.sizes.total,
            db_size_in_use=replica.sizes.in_use,
            leader=raft.leader,
            raft_index=raft.commit_index,
            raft_term=replica.durable_term,
            applied_index=replica.applied_index,
            errors=tuple(errors),
            is_learner=self.is_learner,
        )

    def load(self) -> Load:
        return self._replica.load()

    def traffic(self) -> dict[int, Traffic]:
        """With each of the other members."""
        others = [member.id for member in self.members() if member.id != self.header().member_id]
        return {member: self._replica.traffic[member] for member in others}

    def alarms(self) -> list[Alarm]:
        """All that are on, as known here; and that our disk is full, which the log may be unable to say."""
        replica = self._replica
        ours = Alarm(replica.identity.member_id, AlarmKind.NOSPACE)
        return sorted({*replica.machine.alarms, *([ours] if replica.disk_full else ())})

    async def give_space_back(self) -> None:
        """Remove what compaction made unreadable, and free pages from the file. In the background it
        happens anyway.
        """
        self._replica.check_running()
        await self._replica.give_space_back()

    async def backup(self) -> AsyncGenerator[Part]:
        """The state, no older than what was acknowledged before this call. Raises NoSpace."""
        await self.read_barrier()
        await self._replica.flushed()
        try:
            async with contextlib.aclosing(self._replica.backups.parts()) as parts:
                async for part in parts:
                    yield part
        except DiskFull:
            raise NoSpace from None
        except Overtaken:
            raise TooManyRequests from None

    # --- members ----------------------------------------------------------------------------------

    async def add_member(self, peer_urls: tuple[str, ...], *, is_learner: bool) -> int:
        """Its id. One that is to vote begins as a learner, and is promoted once it has caught up.

        All four raise ReconfigurationRefused or MemberNotFound, and return once it is so, and known here.
        """
        member = new_member_id()
        step = Step.ADD_LEARNER if is_learner else Step.ADD
        await self._replica.reconfigure(step, member, peer_urls=peer_urls)
        return member

    async def promote_member(self, member: int) -> None:
        await self._replica.reconfigure(Step.PROMOTE, member)

    async def remove_member(self, member: int) -> None:
        await self._replica.reconfigure(Step.REMOVE, member)

    async def move_member(self, member: int, peer_urls: tuple[str, ...]) -> None:
        await self._replica.reconfigure(Step.MOVE, member, peer_urls=peer_urls)

    # --- writes -----------------------------------------------------------------------------------

    async def propose(self, command: Command) -> Answer:
        """Have `command` committed and applied here, and give its answer (historic ranges filled in)."""
        return await self._propose(command, ANONYMOUS)

    async def _propose(self, command: Command, caller: Caller) -> Answer:
        replica = self._replica
        if replica.disk_full:
            raise NoSpace
        applied = await replica.propose(command, caller)
        result = applied.result
        if isinstance(result, TxnResult) and is_historic(result):
            try:
                result = await replica.history.fill(result)
            except Compacted:  # its writes are done, only this part of its answer is gone
                raise RequestTimedOut from None
        return Answer(result, applied.revision)

    async def give_way(self) -> None:
        """For long work, after each part: let others have a turn.

        While writes are under way that is not enough. Each of them takes several turns of the loop, and its
        commit asks for the interpreter after each statement: behind a slice of work every time, it would take
        several times as long.
        """
        await asyncio.sleep(GIVE_WAY_S if self._replica.writing else 0)

    # --- reads ------------------------------------------------------------------------------------

    async def read_barrier(self) -> None:
        """A linearizable read point: everything acknowledged before this call is applied here after it."""
        await self._replica.read_point()

    async def range(self, request: Range, *, serializable: bool) -> Answer:
        """RangeResult at request.revision (0: newest). Raises Compacted, FutureRevision."""
        if not serializable:
            await self.read_barrier()
        replica = self._replica
        replica.check_running()
        result, revision = replica.machine.range(request), replica.machine.revision
        self.counts.ranges += 1
        if isinstance(result, HistoricRange):
            return Answer(await replica.history.range(result), revision)
        return Answer(result, revision)

    async def read_txn(self, txn: Txn, *, serializable: bool) -> Answer:
        """TxnResult of a txn that writes nothing; one consistent read, not replicated."""
        if not serializable:
            await self.read_barrier()
        replica = self._replica
        replica.check_running()
        result, revision = replica.machine.read_txn(txn), replica.machine.revision
        self.counts.txn(result)
        return Answer(await replica.history.fill(result), revision)

    async def hash_kv(self, revision: int) -> Hash:
        """Of this member's keys as they were at `revision` (0: now). Raises Compacted, FutureRevision."""
        replica = self._replica
        replica.check_running()
        if replica.disk_full:
            raise NoSpace
        machine = replica.machine
        if revision > 0:
            check_revision(revision, machine.revision, machine.compact_revision)
        at = revision if revision > 0 else machine.revision
        await replica.flushed()
        return await replica.history.hash_kv(at)

    def watch(
        self,
        key: bytes,
        range_end: bytes = b"",
        start_revision: int = 0,
        *,
        prev_kv: bool = False,
        no_put: bool = False,
        no_delete: bool = False,
    ) -> Subscription:
        """Events from `start_revision` on, or after header().revision of this very moment when it is 0.

        Returns at once; Compacted comes from the iterator. With `prev_kv` every event has its `previous`;
        without, it may have it all the same.
        """
        self._replica.check_running()
        interest = Interest(key, range_end, prev_kv, no_put, no_delete)
        return self._watch(interest, start_revision)

    def _watch(self, interest: Interest, start_revision: int) -> Subscription:
        return self._replica.watchers.watch(interest, start_revision)

    # --- leases -----------------------------------------------------------------------------------

    async def keepalive(self, lease_id: int) -> int:
        """Renew; the granted TTL, or 0 when the lease is gone or its expiry is already decided."""
        told = await self._replica.ask(Question.RENEW, lease_id)
        return told.granted if told.remaining > 0 else 0

    async def time_to_live(self, lease_id: int, *, keys: bool) -> LeaseStatus:
        """With its `keys`, if they are asked for."""
        replica = self._replica
        told = await replica.ask(Question.REMAINING, lease_id)
        await replica.caught_up(told.index)
        replica.check_running()
        attached = replica.machine.lease_keys(lease_id) if keys else ()
        return LeaseStatus(told.remaining, told.granted, tuple(attached))

    async def leases(self) -> list[int]:
        """The ids of all leases, after a read barrier."""
        await self.read_barrier()
        self._replica.check_running()
        return self._replica.machine.lease_ids()

    # --- users ------------------------------------------------------------------------------------

    def require_root(self) -> None:
        """Whoever has the node itself may do everything; callers from outside have a Guarded one."""

    async def auth(self) -> Auth:
        """Users and roles, after a read barrier."""
        await self.read_barrier()
        self._replica.check_running()
        return self._replica.machine.auth

    async def user(self, name: str) -> User:
        """Raises UserNotFound."""
        return (await self.auth()).user(name)

    async def role(self, name: str) -> Role:
        """Raises RoleNotFound."""
        return (await self.auth()).role(name)

    async def hash_password(self, password: str) -> bytes:
        """For a command: a log never holds a password."""
        return await self._replica.passwords.hash(password)

    async def authenticate(self, name: str, password: str) -> str:
        """A new token, which all members know once they have applied what was acknowledged by then.

        Raises AuthNotEnabled, AuthFailed, NoPasswordUser.
        """
        await self.read_barrier()
        replica = self._replica
        fitting = None
        while True:
            replica.check_running()
            auth = replica.machine.auth
            if not auth.enabled:
                raise AuthNotEnabled
            hashed = _hash_of(auth, name)
            if hashed != fitting and not await replica.passwords.fits(password, hashed):
                raise AuthFailed
            fitting = hashed
            token = new_token()
            try:
                await self._propose(Authenticate(name, digest(token), auth.revision), ANONYMOUS)
            except AuthRevisionOld:
                continue  # something about users changed meanwhile, perhaps this very password
            return token


def _hash_of(auth: Auth, name: str) -> bytes:
    """Of a user's password; of none, if there is no such user. Raises NoPasswordUser."""
    if name not in auth.users:
        return NOBODYS
    password = auth.users[name].password
    if password is None:
        raise NoPasswordUser
    return password
