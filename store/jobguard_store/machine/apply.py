"""The state machine: one committed command in, its answer, events and rows out.

Place in the house   node -> machine.apply -> txn -> keyspace, leases
Takes                commands in log order, each with the term of its entry; reads of the newest state
Gives                Applied: the answer, what watchers must see, the rows to write
Never                reads a clock, draws randomness, opens anything, awaits

Every node runs the same commands in the same order and must end in the same state, so the answer to any
decodable command is fixed here, refusals included: `apply` never raises a StoreError, it returns it.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from typing import assert_never

import msgspec

from jobguard_store.errors import (
    Compacted,
    CorruptCluster,
    FutureRevision,
    LeaseExists,
    LeaseNotFound,
    LeaseTTLTooLarge,
    NoSpace,
    StoreError,
)
from jobguard_store.machine import txn as txns
from jobguard_store.machine.auth import Auth, AuthChange
from jobguard_store.machine.commands import (
    ANONYMOUS,
    AlarmKind,
    AuthCommand,
    Authenticate,
    Caller,
    Command,
    Compact,
    DeleteRange,
    EnableAuth,
    ExpireLease,
    GrantLease,
    LowerAlarm,
    Put,
    RaiseAlarm,
    Range,
    RevokeLease,
    Txn,
)
from jobguard_store.machine.keyspace import Keyspace
from jobguard_store.machine.leases import LeaseTable
from jobguard_store.machine.results import (
    Alarm,
    AlarmResult,
    Applied,
    Authenticated,
    AuthResult,
    CompactResult,
    ExpireResult,
    GrantResult,
    HistoricRange,
    RangeResult,
    Record,
    Result,
    RevokeResult,
    Rows,
    TxnResult,
)

TTL_MAX_S = 9_000_000_000  # etcd's; keeps a deadline in nanoseconds within an int64


class Machine:
    """The newest state of the store, in memory: keys, leases, revisions, alarms, users and roles.

    A fresh store stands at revision 1; nothing compacted yet is compact_revision -1. `alarms` says of each
    that is on whether it was raised by hand.
    """

    __slots__ = ("alarms", "auth", "compact_revision", "keys", "leases", "revision")

    def __init__(self) -> None:
        self.revision = 1
        self.compact_revision = -1
        self.keys = Keyspace()
        self.leases = LeaseTable()
        self.alarms: dict[Alarm, bool] = {}
        self.auth = Auth()

    @classmethod
    def restore(
        cls,
        *,
        revision: int,
        compact_revision: int,
        records: Iterable[Record],
        leases: Mapping[int, int],
        alarms: Mapping[Alarm, bool],
        auth: Auth,
    ) -> "Machine":
        """The machine as it stood; `leases` as id -> ttl. Attached keys follow from the records.

        Raises KeyError for a record on a lease that does not exist.
        """
        machine = cls()
        machine.revision = revision
        machine.compact_revision = compact_revision
        machine.keys = Keyspace(records)
        machine.leases = LeaseTable(leases, machine.keys)
        machine.alarms = dict(alarms)
        machine.auth = auth
        return machine

    def become(self, other: "Machine") -> None:
        """Hold what `other` holds: whoever has this machine sees it at once."""
        for name in self.__slots__:
            setattr(self, name, getattr(other, name))

    @property
    def level(self) -> int:
        """At least of this level were the commands that led here: whoever applied them can read it."""
        return EnableAuth.level if self.auth.revision > 1 else Put.level

    # --- commands -----------------------------------------------------------------------------------

    def apply(self, command: Command, entry_term: int, caller: Caller = ANONYMOUS) -> Applied:
        """Run one committed command; `entry_term` is the term of its log entry.

        What `caller` may do is asked here, in the log's order: whatever he was permitted on the way in, a
        command before this one may have taken from him.
        """
        try:
            if self.auth.enabled:
                self.auth.check(caller, command, self.leases)
            if self.alarms:
                self._refuse_under_alarm(command)
            match command:
                case Put():
                    return self._put(command)
                case Txn():
                    return self._txn(command)
                case DeleteRange():
                    writer = self._writer()
                    return self._written(writer.delete(command), writer)
                case Range():
                    return self._unchanged(self.range(command))
                case GrantLease():
                    return self._grant(command)
                case RevokeLease():
                    return self._drop_lease(command.id, RevokeResult)
                case ExpireLease():
                    return self._expire(command, entry_term)
                case Compact():
                    return self._compact(command)
                case RaiseAlarm():
                    return self._raise_alarm(command)
                case LowerAlarm():
                    return self._lower_alarm(command)
                case _ if isinstance(command, AuthCommand):
                    return self._change_auth(command)
                case never:
                    assert_never(never)
        except StoreError as refusal:
            refusal.__traceback__ = None  # an answer, not an accident: it must not keep our frames alive
            return Applied(refusal, self.revision, Rows(self.revision))

    def _put(self, command: Put) -> Applied:
        # Alone, a put is told of a missing lease first; within a txn, of a missing key. etcd's order.
        if command.lease and command.lease not in self.leases:
            raise LeaseNotFound
        txns.check_put(command, self.keys, self.leases)
        writer = self._writer()
        return self._written(writer.put(command), writer)

    def _txn(self, command: Txn) -> Applied:
        path = txns.Path(command, self.keys)
        txns.check(path, self.keys, self.leases, self.revision, self.compact_revision)
        writer = self._writer()
        return self._written(txns.run(path, writer, self.keys), writer)

    def _grant(self, command: GrantLease) -> Applied:
        if command.id == 0:
            raise LeaseNotFound  # 0 means "no lease" everywhere, so it cannot be one
        if command.ttl > TTL_MAX_S:
            raise LeaseTTLTooLarge
        if command.id in self.leases:
            raise LeaseExists
        self.leases.grant(command.id, command.ttl)
        rows = Rows(self.revision, leases=((command.id, command.ttl),))
        return Applied(GrantResult(self.revision, command.id, command.ttl), self.revision, rows)

    def _drop_lease(self, lease: int, answer: Callable[[int], Result]) -> Applied:
        if lease not in self.leases:
            raise LeaseNotFound
        writer = self._writer()
        for key in self.leases.keys(lease):
            writer.delete(DeleteRange(key))
        self.leases.drop(lease)
        return self._written(answer(writer.revision), writer, leases=((lease, 0),))

    def _expire(self, command: ExpireLease, entry_term: int) -> Applied:
        if command.term != entry_term:
            return self._unchanged(ExpireResult(self.revision, expired=False))
        return self._drop_lease(command.id, ExpireResult)

    def _compact(self, command: Compact) -> Applied:
        if command.revision <= self.compact_revision:
            raise Compacted(self.compact_revision)
        if command.revision > self.revision:
            raise FutureRevision
        self.compact_revision = command.revision
        rows = Rows(self.revision, compact_revision=command.revision)
        return Applied(CompactResult(self.revision), self.revision, rows)

    def _raise_alarm(self, command: RaiseAlarm) -> Applied:
        alarm = Alarm(command.member, command.kind)
        self.alarms = {**self.alarms, alarm: command.by_hand or self.alarms.get(alarm, False)}
        return self._alarmed(alarm)

    def _lower_alarm(self, command: LowerAlarm) -> Applied:
        alarm = Alarm(command.member, command.kind)
        by_hand = self.alarms.get(alarm)
        if by_hand is None or (by_hand and not command.by_hand):
            return self._unchanged(AlarmResult(self.revision, None))
        self.alarms = {other: self.alarms[other] for other in self.alarms if other != alarm}
        return self._alarmed(alarm)

    def _alarmed(self, alarm: Alarm) -> Applied:
        rows = Rows(self.revision, alarms=self.alarms)
        return Applied(AlarmResult(self.revision, alarm), self.revision, rows)

    def _change_auth(self, command: AuthCommand) -> Applied:
        """Also said of one that changes nothing: who keeps tokens wants to hear of all."""
        change = self.auth.change(command)
        if change != AuthChange(self.auth.enabled, self.auth.revision):
            self.auth = self.auth.after(change)
        result: Result = AuthResult(self.revision)
        if isinstance(command, Authenticate):
            result = Authenticated(self.revision, command.user, command.token)
        return Applied(result, self.revision, Rows(self.revision, auth=change))

    def _refuse_under_alarm(self, command: Command) -> None:
        """By what the log says, never by what this member's own disk does: all must decide alike."""
        if isinstance(command, RaiseAlarm | LowerAlarm | AuthCommand):
            return
        if self.is_on(AlarmKind.CORRUPT):
            raise CorruptCluster
        if self.is_on(AlarmKind.NOSPACE) and txns.may_grow(command):
            raise NoSpace

    def is_on(self, kind: AlarmKind) -> bool:
        """Whether any member has such an alarm."""
        return any(alarm.kind is kind for alarm in self.alarms)

    def _writer(self) -> txns.Writer:
        return txns.Writer(self.keys, self.leases, self.revision)

    def _written(
        self, result: Result, writer: txns.Writer, leases: tuple[tuple[int, int], ...] = ()
    ) -> Applied:
        self.revision = writer.revision
        return Applied(result, self.revision, Rows(self.revision, writer.events, leases))

    def _unchanged(self, result: Result) -> Applied:
        return Applied(result, self.revision, Rows(self.revision))

    # --- reads --------------------------------------------------------------------------------------

    def range(self, request: Range) -> RangeResult | HistoricRange:
        """Read at the newest revision, or say which older one history must be asked for.

        Raises FutureRevision, Compacted.
        """
        if request.revision > 0:
            txns.check_revision(request.revision, self.revision, self.compact_revision)
        return txns.read(request, self.keys, self.revision)

    def read_txn(self, txn: Txn) -> TxnResult:
        """A txn without writes, as one consistent read. Historic ranges in it come back as HistoricRange.

        Raises FutureRevision, Compacted.
        """
        assert not txns.writes(txn), "a txn with writes goes through the log"
        path = txns.Path(txn, self.keys)
        txns.check(path, self.keys, self.leases, self.revision, self.compact_revision)
        return txns.run(path, self._writer(), self.keys)

    def lease_ttl(self, lease: int) -> int | None:
        """The granted TTL in seconds, None for a lease that does not exist."""
        return self.leases.ttl(lease)

    def lease_keys(self, lease: int) -> list[bytes]:
        """The keys attached, sorted; empty for a lease that does not exist."""
        return self.leases.keys(lease)

    def lease_ids(self) -> list[int]:
        return self.leases.ids()

    def fingerprint(self) -> bytes:
        """A digest of the logical state: equal on all nodes that have applied the same commands."""
        digest = hashlib.sha256()
        leases = [(lease, self.leases.ttl(lease)) for lease in sorted(self.leases.ids())]
        alarms = sorted(self.alarms.items())
        digest.update(_encoder.encode((self.revision, self.compact_revision, leases, alarms)))
        digest.update(_encoder.encode(self.auth.state))
        for record in self.keys:
            digest.update(_encoder.encode(msgspec.structs.astuple(record)))
        return digest.digest()


_encoder = msgspec.msgpack.Encoder()
