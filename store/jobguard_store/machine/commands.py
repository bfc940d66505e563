"""The commands of the log: what a node proposes, and every node applies.

Place in the house   api -> node.propose -> encode -> log on every disk -> decode -> machine.apply
Takes                the fields of a request, already validated
Gives                bytes for a log entry, and the command back from them
Never                changes the meaning of what an older build wrote

These bytes are a format for ever: logs written today are replayed by every later build. So a struct may gain
fields at its end, with a default that means what the old bytes meant, and a union may gain members with new
tags; nothing is ever reordered, removed or given another meaning. A build that meets a tag or a field it does
not know must stop (`UnknownCommand`): skipping it would leave this node in another state than its peers.
So what is added has a level of its own, and is proposed only once all members have said that they know it.
"""

from enum import IntEnum
from typing import Annotated, ClassVar, NamedTuple

import msgspec

VERSION = 1

LEVEL = 2
"""What this build can read: all commands and fields up to this level. One more whenever any are added."""

# Of more bits there is no column of a row.
Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


class UnknownCommand(Exception):
    """The bytes are not a command this build knows: damaged, or written by a newer build."""


class Caller(NamedTuple):
    """Who asks: a user, by a token that was good while `auth_revision` was the newest change of the users."""

    user: str
    auth_revision: int


ANONYMOUS = Caller("", 0)
"""No user asks: a client without a token, or a member in its own affairs."""


class Origin(NamedTuple):
    """Whose request this was: the member that answers it, in which of its lives, and which of its waiters;
    and who asked that member."""

    member: int
    boot: int
    sequence: int
    caller: Caller = ANONYMOUS


class _Logged(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """Positional in MessagePack: [tag, field, field, …]. The order of fields is the format.

    `level`: who can read it. A field that is added to a command makes it a property, by that field's value.
    """

    level: ClassVar[int] = 1


# --- requests on keys -----------------------------------------------------------------------------


class SortOrder(IntEnum):
    NONE = 0
    ASCEND = 1
    DESCEND = 2


class SortTarget(IntEnum):
    KEY = 0
    VERSION = 1
    CREATE = 2
    MOD = 3
    VALUE = 4


class Range(_Logged, frozen=True, tag=1):
    """Read an interval. `range_end`: empty = the one key; a zero byte = all keys from `key` on."""

    key: bytes
    range_end: bytes = b""
    limit: Int64 = 0
    revision: Int64 = 0
    sort_order: SortOrder = SortOrder.NONE
    sort_target: SortTarget = SortTarget.KEY
    keys_only: bool = False
    count_only: bool = False
    min_mod_revision: Int64 = 0
    max_mod_revision: Int64 = 0
    min_create_revision: Int64 = 0
    max_create_revision: Int64 = 0


class Put(_Logged, frozen=True, tag=2):
    key: bytes
    value: bytes = b""
    lease: Int64 = 0
    prev_kv: bool = False
    ignore_value: bool = False
    ignore_lease: bool = False


class DeleteRange(_Logged, frozen=True, tag=3):
    key: bytes
    range_end: bytes = b""
    prev_kv: bool = False


class CompareResult(IntEnum):
    EQUAL = 0
    GREATER = 1
    LESS = 2
    NOT_EQUAL = 3


class CompareTarget(IntEnum):
    VERSION = 0
    CREATE = 1
    MOD = 2
    VALUE = 3
    LEASE = 4


class Compare(_Logged, frozen=True):
    """One condition of a txn: every key's `target` stands in relation `result` to the operand.

    The operand is `value` for the target VALUE and `number` for all others.
    """

    key: bytes
    range_end: bytes = b""
    target: CompareTarget = CompareTarget.VERSION
    result: CompareResult = CompareResult.EQUAL
    number: Int64 = 0
    value: bytes = b""


class Txn(_Logged, frozen=True, tag=4):
    """All compares true: `success` runs, otherwise `failure`; at one revision, all of it or nothing."""

    compare: tuple[Compare, ...] = ()
    success: "tuple[Op, ...]" = ()
    failure: "tuple[Op, ...]" = ()


Op = Range | Put | DeleteRange | Txn


# --- leases and upkeep ----------------------------------------------------------------------------


class GrantLease(_Logged, frozen=True, tag=5):
    """`ttl` in seconds, the floor already applied: apply has no configuration to look it up in."""

    id: Int64
    ttl: Int64


class RevokeLease(_Logged, frozen=True, tag=6):
    """A client gives the lease up; its keys go with it."""

    id: Int64


class ExpireLease(_Logged, frozen=True, tag=7):
    """The leader of `term` saw the lease run out. Counts only in an entry of that very term.

    Otherwise: a leader is paused, a new one renews the lease, the old one wakes up, its expiry is forwarded
    to the new one, and the lease dies under a holder who was told that it lives.
    """

    id: Int64
    term: Int64


class Compact(_Logged, frozen=True, tag=8):
    """Forget all states before `revision`."""

    revision: Int64


class AlarmKind(IntEnum):
    NOSPACE = 1  # a member is short of space: nothing may grow
    CORRUPT = 2  # a member's state is not the others': nothing may change


class RaiseAlarm(_Logged, frozen=True, tag=9):
    """`member` is in trouble. An alarm raised by hand stays until it is lowered by hand."""

    member: int
    kind: AlarmKind
    by_hand: bool = False


class LowerAlarm(_Logged, frozen=True, tag=10):
    member: int
    kind: AlarmKind
    by_hand: bool = False


# --- users and roles ------------------------------------------------------------------------------
# A password is in here as its bcrypt hash, and a token as its digest: whoever reads a log can use neither.


class _OfUsers(_Logged, frozen=True):
    level: ClassVar[int] = 2


class Access(IntEnum):
    READ = 0
    WRITE = 1
    READWRITE = 2


class EnableAuth(_OfUsers, frozen=True, tag=11):
    pass


class DisableAuth(_OfUsers, frozen=True, tag=12):
    pass


class Authenticate(_OfUsers, frozen=True, tag=13):
    """The password was found to be `user`'s, as the users were at `auth_revision`; hence a new token."""

    user: str
    token: bytes
    auth_revision: Int64


class AddUser(_OfUsers, frozen=True, tag=14):
    """`password` None: of one who cannot come by password at all."""

    name: str
    password: bytes | None


class DeleteUser(_OfUsers, frozen=True, tag=15):
    name: str


class ChangePassword(_OfUsers, frozen=True, tag=16):
    name: str
    password: bytes


class GrantRole(_OfUsers, frozen=True, tag=17):
    user: str
    role: str


class RevokeRole(_OfUsers, frozen=True, tag=18):
    user: str
    role: str


class AddRole(_OfUsers, frozen=True, tag=19):
    name: str


class DeleteRole(_OfUsers, frozen=True, tag=20):
    name: str


class GrantPermission(_OfUsers, frozen=True, tag=21):
    role: str
    access: Access
    key: bytes
    range_end: bytes = b""


class RevokePermission(_OfUsers, frozen=True, tag=22):
    role: str
    key: bytes
    range_end: bytes = b""


AuthCommand = (
    EnableAuth
    | DisableAuth
    | Authenticate
    | AddUser
    | DeleteUser
    | ChangePassword
    | GrantRole
    | RevokeRole
    | AddRole
    | DeleteRole
    | GrantPermission
    | RevokePermission
)

Command = (
    Put
    | Txn
    | DeleteRange
    | Range
    | GrantLease
    | RevokeLease
    | ExpireLease
    | Compact
    | RaiseAlarm
    | LowerAlarm
    | AuthCommand
)


# --- bytes ----------------------------------------------------------------------------------------


class _Unsigned(_Logged, frozen=True):
    """What is written where nobody in particular asks: nearly always."""

    member: int
    boot: int
    sequence: int
    command: Command


class _Envelope(_Logged, frozen=True):
    member: int
    boot: int
    sequence: int
    command: Command
    user: str = ""
    auth_revision: Int64 = 0


_HEAD = bytes([VERSION])
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Envelope)


def encode(origin: Origin, command: Command) -> bytes:
    """The bytes of a log entry: one byte of format version, then MessagePack."""
    member, boot, sequence, caller = origin
    if not caller.user:
        return _HEAD + _encoder.encode(_Unsigned(member, boot, sequence, command))
    return _HEAD + _encoder.encode(_Envelope(member, boot, sequence, command, *caller))


def decode(data: bytes) -> tuple[Origin, Command]:
    """Read a log entry back. Raises UnknownCommand."""
    if data[:1] != _HEAD:
        found = data[0] if data else "none"
        raise UnknownCommand(f"command format {found}, this build reads {VERSION}")
    try:
        envelope = _decoder.decode(memoryview(data)[1:])
    except (msgspec.DecodeError, RecursionError) as error:
        raise UnknownCommand(str(error)) from error
    caller = Caller(envelope.user, envelope.auth_revision) if envelope.user else ANONYMOUS
    return Origin(envelope.member, envelope.boot, envelope.sequence, caller), envelope.command
