"""The etcd v3 JSON messages, as the gateway spells them: the one place the store and the client share.

Place in the house   client -> wire <- store's api
Takes                bytes from a socket, or values to send
Gives                frozen Structs; bytes ready for a socket
Never                opens a socket, knows a revision's meaning, or imports anything else of ours

The proto3 JSON mapping in four rules, all of which live here and nowhere else:

* a 64-bit integer is written as a decimal string, and read from a string or a number (`Int64`);
* bytes are padded standard base64 (msgspec's own mapping);
* a zero value is left out, and a missing or null field reads as zero;
* a request may spell a field `range_end` or `rangeEnd`.
"""

import json
import re
from collections.abc import Sequence
from typing import Any, Literal, TypeVar

import msgspec

M = TypeVar("M")


class Int64(int):
    """A 64-bit integer: a decimal string in JSON, an ordinary int everywhere else."""

    __slots__ = ()


ZERO = Int64(0)


def int64(number: int) -> Int64:
    """`number` for a message. Zero is always the same object, which is how the encoder leaves it out."""
    return Int64(number) if number else ZERO


class Message(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A message of the API; unknown fields are ignored, zero fields are not written."""


# --- common -------------------------------------------------------------------------------------


class ResponseHeader(Message, frozen=True):
    cluster_id: Int64 = ZERO
    member_id: Int64 = ZERO
    revision: Int64 = ZERO
    raft_term: Int64 = ZERO


NO_HEADER = ResponseHeader()


class Response(Message, frozen=True):
    header: ResponseHeader | msgspec.UnsetType = msgspec.UNSET

    @property
    def revision(self) -> int:
        """The store's revision when it answered; 0 where the API leaves it out."""
        return self.header.revision if isinstance(self.header, ResponseHeader) else 0

    @property
    def term(self) -> int:
        """The term of the node that answered; 0 where the API leaves it out."""
        return self.header.raft_term if isinstance(self.header, ResponseHeader) else 0


class KeyValue(Message, frozen=True):
    key: bytes = b""
    create_revision: Int64 = ZERO
    mod_revision: Int64 = ZERO
    version: Int64 = ZERO
    value: bytes = b""
    lease: Int64 = ZERO


class ErrorBody(Message, frozen=True):
    """The body of every answer that is not a 200."""

    error: str = ""
    code: int = 0
    message: str = ""


# --- kv -----------------------------------------------------------------------------------------

# Any number, since etcd has an error of its own for those that name no order.
SortOrder = Literal["NONE", "ASCEND", "DESCEND"] | int
SortTarget = Literal["KEY", "VERSION", "CREATE", "MOD", "VALUE"] | int
CompareResult = Literal["EQUAL", "GREATER", "LESS", "NOT_EQUAL", 0, 1, 2, 3]
CompareTarget = Literal["VERSION", "CREATE", "MOD", "VALUE", "LEASE", 0, 1, 2, 3, 4]


class RangeRequest(Message, frozen=True):
    """POST /v3/kv/range."""

    key: bytes = b""
    range_end: bytes = b""
    limit: Int64 = ZERO
    revision: Int64 = ZERO
    sort_order: SortOrder = "NONE"
    sort_target: SortTarget = "KEY"
    serializable: bool = False
    keys_only: bool = False
    count_only: bool = False
    min_mod_revision: Int64 = ZERO
    max_mod_revision: Int64 = ZERO
    min_create_revision: Int64 = ZERO
    max_create_revision: Int64 = ZERO


class RangeResponse(Response, frozen=True):
    kvs: tuple[KeyValue, ...] = ()
    more: bool = False
    count: Int64 = ZERO


class PutRequest(Message, frozen=True):
    """POST /v3/kv/put."""

    key: bytes = b""
    value: bytes = b""
    lease: Int64 = ZERO
    prev_kv: bool = False
    ignore_value: bool = False
    ignore_lease: bool = False


class PutResponse(Response, frozen=True):
    prev_kv: KeyValue | None = None


class DeleteRangeRequest(Message, frozen=True):
    """POST /v3/kv/deleterange."""

    key: bytes = b""
    range_end: bytes = b""
    prev_kv: bool = False


class DeleteRangeResponse(Response, frozen=True):
    deleted: Int64 = ZERO
    prev_kvs: tuple[KeyValue, ...] = ()


class Compare(Message, frozen=True):
    """One condition of a txn. The operand's field is the one `target` names; missing means zero."""

    result: CompareResult = "EQUAL"
    target: CompareTarget = "VERSION"
    key: bytes = b""
    version: Int64 = ZERO
    create_revision: Int64 = ZERO
    mod_revision: Int64 = ZERO
    value: bytes = b""
    lease: Int64 = ZERO
    range_end: bytes = b""


class RequestOp(Message, frozen=True):
    """Exactly one field is set; none set is refused by the server."""

    request_range: RangeRequest | None = None
    request_put: PutRequest | None = None
    request_delete_range: DeleteRangeRequest | None = None
    request_txn: "TxnRequest | None" = None


class TxnRequest(Message, frozen=True):
    """POST /v3/kv/txn."""

    compare: tuple[Compare, ...] = ()
    success: tuple[RequestOp, ...] = ()
    failure: tuple[RequestOp, ...] = ()


class ResponseOp(Message, frozen=True):
    response_range: RangeResponse | None = None
    response_put: PutResponse | None = None
    response_delete_range: DeleteRangeResponse | None = None
    response_txn: "TxnResponse | None" = None


class TxnResponse(Response, frozen=True):
    succeeded: bool = False
    responses: tuple[ResponseOp, ...] = ()


class CompactionRequest(Message, frozen=True):
    """POST /v3/kv/compaction."""

    revision: Int64 = ZERO
    physical: bool = False


class CompactionResponse(Response, frozen=True):
    pass


# --- watch --------------------------------------------------------------------------------------

FilterType = Literal["NOPUT", "NODELETE", 0, 1]


class WatchCreateRequest(Message, frozen=True):
    key: bytes = b""
    range_end: bytes = b""
    start_revision: Int64 = ZERO
    progress_notify: bool = False
    filters: tuple[FilterType, ...] = ()
    prev_kv: bool = False
    watch_id: Int64 = ZERO
    fragment: bool = False


class WatchCancelRequest(Message, frozen=True):
    watch_id: Int64 = ZERO


class WatchProgressRequest(Message, frozen=True):
    pass


class WatchRequest(Message, frozen=True):
    """POST /v3/watch: the body is a stream of these."""

    create_request: WatchCreateRequest | None = None
    cancel_request: WatchCancelRequest | None = None
    progress_request: WatchProgressRequest | None = None


class Event(Message, frozen=True):
    """A change of one key; a DELETE carries only the key and the revision of its removal."""

    type: Literal["PUT", "DELETE"] = "PUT"
    kv: KeyValue | None = None
    prev_kv: KeyValue | None = None


class WatchResponse(Response, frozen=True):
    watch_id: Int64 = ZERO
    created: bool = False
    canceled: bool = False
    compact_revision: Int64 = ZERO
    cancel_reason: str = ""
    fragment: bool = False
    events: tuple[Event, ...] = ()


class StreamError(Message, frozen=True):
    grpc_code: int = 0
    http_code: int = 0
    message: str = ""
    http_status: str = ""
    code: int = 0


# --- lease --------------------------------------------------------------------------------------


class LeaseGrantRequest(Message, frozen=True):
    """POST /v3/lease/grant. TTL in seconds; ID 0 lets the server choose."""

    TTL: Int64 = ZERO
    ID: Int64 = ZERO


class LeaseGrantResponse(Response, frozen=True):
    ID: Int64 = ZERO
    TTL: Int64 = ZERO
    error: str = ""


class LeaseRevokeRequest(Message, frozen=True):
    ID: Int64 = ZERO


class LeaseRevokeResponse(Response, frozen=True):
    pass


class LeaseKeepAliveRequest(Message, frozen=True):
    ID: Int64 = ZERO


class LeaseKeepAliveResponse(Response, frozen=True):
    """TTL in seconds; 0 means the lease is gone."""

    ID: Int64 = ZERO
    TTL: Int64 = ZERO


class LeaseTimeToLiveRequest(Message, frozen=True):
    ID: Int64 = ZERO
    keys: bool = False


class LeaseTimeToLiveResponse(Response, frozen=True):
    """TTL in whole seconds left; -1 for a lease that does not exist."""

    ID: Int64 = ZERO
    TTL: Int64 = ZERO
    grantedTTL: Int64 = ZERO
    keys: tuple[bytes, ...] = ()


class LeaseLeasesRequest(Message, frozen=True):
    pass


class LeaseStatus(Message, frozen=True):
    ID: Int64 = ZERO


class LeaseLeasesResponse(Response, frozen=True):
    leases: tuple[LeaseStatus, ...] = ()


class WatchLine(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a watch's answer: exactly one of the two."""

    result: WatchResponse | None = None
    error: StreamError | None = None


class LeaseKeepAliveLine(msgspec.Struct, frozen=True, kw_only=True):
    """The one line of a keepalive's answer: exactly one of the two."""

    result: LeaseKeepAliveResponse | None = None
    error: StreamError | None = None


# --- cluster and maintenance --------------------------------------------------------------------


class Member(Message, frozen=True):
    ID: Int64 = ZERO
    name: str = ""
    peerURLs: tuple[str, ...] = ()
    clientURLs: tuple[str, ...] = ()
    isLearner: bool = False


class MemberListRequest(Message, frozen=True):
    linearizable: bool = False


class MemberListResponse(Response, frozen=True):
    members: tuple[Member, ...] = ()


class MemberAddRequest(Message, frozen=True):
    peerURLs: tuple[str, ...] = ()
    isLearner: bool = False


class MemberAddResponse(Response, frozen=True):
    member: Member | None = None
    members: tuple[Member, ...] = ()


class MemberRemoveRequest(Message, frozen=True):
    ID: Int64 = ZERO


class MemberPromoteRequest(Message, frozen=True):
    ID: Int64 = ZERO


class MemberUpdateRequest(Message, frozen=True):
    ID: Int64 = ZERO
    peerURLs: tuple[str, ...] = ()


class MemberChangeResponse(Response, frozen=True):
    """Of remove, promote and update: who is in the cluster now."""

    members: tuple[Member, ...] = ()


class MoveLeaderRequest(Message, frozen=True):
    """POST /v3/maintenance/transfer-leadership."""

    targetID: Int64 = ZERO


class MoveLeaderResponse(Response, frozen=True):
    pass


AlarmAction = Literal["GET", "ACTIVATE", "DEACTIVATE", 0, 1, 2]
AlarmType = Literal["NONE", "NOSPACE", "CORRUPT", 0, 1, 2]


class AlarmRequest(Message, frozen=True):
    """POST /v3/maintenance/alarm."""

    action: AlarmAction = "GET"
    memberID: Int64 = ZERO
    alarm: AlarmType = "NONE"


class AlarmMember(Message, frozen=True):
    memberID: Int64 = ZERO
    alarm: str = "NONE"


class AlarmResponse(Response, frozen=True):
    alarms: tuple[AlarmMember, ...] = ()


class DefragmentRequest(Message, frozen=True):
    pass


class DefragmentResponse(Response, frozen=True):
    pass


class SnapshotRequest(Message, frozen=True):
    pass


class SnapshotResponse(Response, frozen=True):
    """A part of POST /v3/maintenance/snapshot."""

    remaining_bytes: Int64 = ZERO
    blob: bytes = b""


class HashKVRequest(Message, frozen=True):
    revision: Int64 = ZERO


class HashKVResponse(Response, frozen=True):
    hash: int = 0
    compact_revision: Int64 = ZERO
    hash_revision: Int64 = ZERO


class StatusRequest(Message, frozen=True):
    pass


class StatusResponse(Response, frozen=True):
    version: str = ""
    dbSize: Int64 = ZERO
    leader: Int64 = ZERO
    raftIndex: Int64 = ZERO
    raftTerm: Int64 = ZERO
    raftAppliedIndex: Int64 = ZERO
    errors: tuple[str, ...] = ()
    dbSizeInUse: Int64 = ZERO
    isLearner: bool = False

    @property
    def leads(self) -> bool:
        """Whether the node that answers is the leader, as far as it knows."""
        return isinstance(self.header, ResponseHeader) and 0 < self.leader == self.header.member_id


class HashRequest(Message, frozen=True):
    pass


class HashResponse(Response, frozen=True):
    hash: int = 0


class DowngradeRequest(Message, frozen=True):
    """POST /v3/maintenance/downgrade."""

    action: Literal["VALIDATE", "ENABLE", "CANCEL", 0, 1, 2] = "VALIDATE"
    version: str = ""


class AuthStatusRequest(Message, frozen=True):
    pass


class AuthStatusResponse(Response, frozen=True):
    enabled: bool = False
    authRevision: Int64 = ZERO


class AuthRequest(Message, frozen=True):
    """POST /v3/auth/enable, and disable; also user/list and role/list."""


class AuthResponse(Response, frozen=True):
    """Of all that changes users or roles."""


class AuthenticateRequest(Message, frozen=True):
    name: str = ""
    password: str = ""


class AuthenticateResponse(Response, frozen=True):
    token: str = ""


class UserAddOptions(Message, frozen=True):
    no_password: bool = False


class UserAddRequest(Message, frozen=True):
    """POST /v3/auth/user/add."""

    name: str = ""
    password: str = ""
    options: UserAddOptions = UserAddOptions()


class UserRequest(Message, frozen=True):
    """POST /v3/auth/user/get, and delete."""

    name: str = ""


class UserGetResponse(Response, frozen=True):
    roles: tuple[str, ...] = ()


class UserListResponse(Response, frozen=True):
    users: tuple[str, ...] = ()


class UserChangePasswordRequest(Message, frozen=True):
    name: str = ""
    password: str = ""


class UserGrantRoleRequest(Message, frozen=True):
    """The field is `user` here, and `name` in its opposite."""

    user: str = ""
    role: str = ""


class UserRevokeRoleRequest(Message, frozen=True):
    name: str = ""
    role: str = ""


class RoleAddRequest(Message, frozen=True):
    name: str = ""


class RoleRequest(Message, frozen=True):
    """POST /v3/auth/role/get, and delete."""

    role: str = ""


PermissionType = Literal["READ", "WRITE", "READWRITE", 0, 1, 2]


class Permission(Message, frozen=True):
    permType: PermissionType = "READ"
    key: bytes = b""
    range_end: bytes = b""


class RoleGetResponse(Response, frozen=True):
    perm: tuple[Permission, ...] = ()


class RoleListResponse(Response, frozen=True):
    roles: tuple[str, ...] = ()


class RoleGrantPermissionRequest(Message, frozen=True):
    name: str = ""
    perm: Permission | None = None


class RoleRevokePermissionRequest(Message, frozen=True):
    role: str = ""
    key: bytes = b""
    range_end: bytes = b""


# --- lock and election ----------------------------------------------------------------------------


class LockRequest(Message, frozen=True):
    """POST /v3/lock/lock. With lease 0 the server grants one."""

    name: bytes = b""
    lease: Int64 = ZERO


class LockResponse(Response, frozen=True):
    key: bytes = b""


class UnlockRequest(Message, frozen=True):
    key: bytes = b""


class UnlockResponse(Response, frozen=True):
    pass


class LeaderKey(Message, frozen=True):
    """Who leads: the one whose `key` was created at `rev`."""

    name: bytes = b""
    key: bytes = b""
    rev: Int64 = ZERO
    lease: Int64 = ZERO


class CampaignRequest(Message, frozen=True):
    name: bytes = b""
    lease: Int64 = ZERO
    value: bytes = b""


class CampaignResponse(Response, frozen=True):
    leader: LeaderKey | None = None


class ProclaimRequest(Message, frozen=True):
    leader: LeaderKey | None = None
    value: bytes = b""


class ProclaimResponse(Response, frozen=True):
    pass


class ResignRequest(Message, frozen=True):
    leader: LeaderKey | None = None


class ResignResponse(Response, frozen=True):
    pass


class LeaderRequest(Message, frozen=True):
    """POST /v3/election/leader, and /v3/election/observe."""

    name: bytes = b""


class LeaderResponse(Response, frozen=True):
    kv: KeyValue | None = None


# --- plain HTTP -----------------------------------------------------------------------------------


class VersionResponse(msgspec.Struct, frozen=True, kw_only=True):
    """GET /version. Clients parse both as three integers separated by dots."""

    etcdserver: str
    etcdcluster: str


class HealthResponse(msgspec.Struct, frozen=True, kw_only=True):
    """GET /health. `health` is a string, as etcd has it."""

    health: Literal["true", "false"]
    reason: str = ""


# --- bytes --------------------------------------------------------------------------------------


def _encode_hook(value: object) -> str:
    if isinstance(value, Int64):
        return str(int(value))
    raise NotImplementedError(f"{type(value).__name__} has no JSON form")


def _decode_hook(kind: type, value: object) -> object:
    if kind is not Int64:
        raise NotImplementedError(f"{kind.__name__} has no JSON form")
    if isinstance(value, str):
        return int64(int(value))
    if isinstance(value, int) and not isinstance(value, bool):
        return int64(value)
    raise ValueError(f"expected a 64-bit integer, got {value!r}")


def _request_hook(kind: type, value: object) -> object:
    """As strict as a server has to be: every number of a request we serve is a signed one."""
    if isinstance(value, str) and not _DIGITS.fullmatch(value):
        raise ValueError(f"expected a 64-bit integer, got {value!r}")
    number = _decode_hook(kind, value)
    assert isinstance(number, int)
    if not -(2**63) <= number < 2**63:
        raise ValueError(f"{number} does not fit into 64 bits")
    return number


_DIGITS = re.compile(r" *-?(0|[1-9][0-9]{0,18}) *")
_encoder = msgspec.json.Encoder(enc_hook=_encode_hook)
_decoders: dict[type, msgspec.json.Decoder[Any]] = {}
_request_decoders: dict[type, msgspec.json.Decoder[Any]] = {}


def encode(message: msgspec.Struct) -> bytes:
    """The JSON of `message`, without a newline."""
    return _encoder.encode(message)


def encode_items(messages: Sequence[msgspec.Struct]) -> bytes:
    """The JSON of `messages` as it stands between the brackets of a list."""
    return _encoder.encode(messages)[1:-1]


def stream_line(message: msgspec.Struct) -> bytes:
    """One message of a stream: `{"result": …}` and a newline, to be sent as one HTTP chunk."""
    return result_line(_encoder.encode(message))


def result_line(body: bytes) -> bytes:
    """The same for a message that is bytes already."""
    return b'{"result":' + body + b"}\n"


def error_line(error: StreamError) -> bytes:
    """What ends a stream in place of a message."""
    return b'{"error":' + _encoder.encode(error) + b"}\n"


def decode(body: bytes, kind: type[M]) -> M:
    """Read an answer of the server.

    Raises msgspec.ValidationError for JSON of another shape, msgspec.DecodeError for what is not JSON.
    """
    decoder = _decoders.get(kind)
    if decoder is None:
        decoder = _decoders[kind] = msgspec.json.Decoder(kind, dec_hook=_decode_hook)
    try:
        return decoder.decode(body)  # type: ignore[no-any-return]
    except (RecursionError, UnicodeDecodeError) as error:
        raise msgspec.DecodeError(str(error)) from None


_CAMEL_FIELD = re.compile(rb'"[a-z]+[A-Z]\w*"\s*:')


def decode_request(body: bytes, kind: type[M]) -> M:
    """Read a request as leniently as etcd's gateway does: rangeEnd for range_end, null for zero,
    an empty body for an empty message, whatever follows the first object ignored.

    Raises msgspec.DecodeError (of which msgspec.ValidationError is one) with the reason.
    """
    if not _CAMEL_FIELD.search(body):
        decoder = _request_decoders.get(kind)
        if decoder is None:
            decoder = _request_decoders[kind] = msgspec.json.Decoder(kind, dec_hook=_request_hook)
        try:
            return decoder.decode(body or b"{}")  # type: ignore[no-any-return]
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            pass  # null fields and trailing bytes are rare: the lenient reading below decides
    return convert_request(_first_object(body), kind)


def convert_request(document: Any, kind: type[M]) -> M:
    """The lenient reading of one parsed JSON document. Raises msgspec.ValidationError."""
    try:
        document = _proto_names(document)
        try:
            return msgspec.convert(document, kind, dec_hook=_request_hook)
        except msgspec.ValidationError:  # it may be base64 as mail has it, in lines
            return msgspec.convert(_in_one_line(document), kind, dec_hook=_request_hook)
    except (RecursionError, UnicodeEncodeError) as error:  # the latter: half of a surrogate pair
        raise msgspec.DecodeError(str(error)) from None


def _first_object(body: bytes) -> Any:
    try:
        document, _ = json.JSONDecoder().raw_decode(body.decode(errors="replace").lstrip() or "{}")
    except (ValueError, RecursionError) as error:
        raise msgspec.DecodeError(str(error)) from None
    return {} if document is None else document


def _proto_names(document: Any) -> Any:
    match document:
        case dict():
            return {
                _PROTO_NAME.get(name, name): _proto_names(value)
                for name, value in document.items()
                if value is not None
            }
        case list():
            return [{} if item is None else _proto_names(item) for item in document]
        case _:
            return document


def _in_one_line(document: Any) -> Any:
    match document:
        case dict():
            return {name: _in_one_line(value) for name, value in document.items()}
        case list():
            return list(map(_in_one_line, document))
        case str():
            return document.replace("\n", "").replace("\r", "")
        case _:
            return document


def _camel(name: str) -> str:
    head, *tail = name.split("_")
    return head + "".join(part.capitalize() for part in tail)


def _kinds(kind: type[Message]) -> list[type[Message]]:
    return [kind, *(found for child in kind.__subclasses__() for found in _kinds(child))]


_PROTO_NAME = {
    _camel(name): name for message in _kinds(Message) for name in message.__struct_fields__ if "_" in name
}
