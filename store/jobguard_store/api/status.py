"""What a refusal looks like outside: the one table from errors to codes.

Place in the house   server, exchange -> status -> errors
Gives                gRPC code, HTTP status and text of an error; the body that carries them

Every client we know of finds its spelling: some read `error`, some `message`, some `code`.
"""

from enum import IntEnum
from http import HTTPStatus

from jobguard import wire
from jobguard_store.errors import (
    AuthRefused,
    BadTransferee,
    Compacted,
    CorruptCluster,
    DeadlineExceeded,
    FutureRevision,
    InvalidAuthToken,
    InvalidRequest,
    LeaderChanged,
    LeaseExists,
    LeaseNotFound,
    LeaseTTLTooLarge,
    MemberNotFound,
    MessageTooLarge,
    NoDowngrade,
    NoLeader,
    NoPasswordUser,
    NoSpace,
    NotAllKnow,
    NotTheLeader,
    OutcomeUnknown,
    PermissionDenied,
    RecipeRefused,
    ReconfigurationRefused,
    ServerStopped,
    StoreError,
    TooManyRequests,
    UnhealthyCluster,
)


class GrpcCode(IntEnum):
    """The codes we answer with; their numbers are gRPC's."""

    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    OUT_OF_RANGE = 11
    UNAVAILABLE = 14
    UNAUTHENTICATED = 16
    DATA_LOSS = 15


_CODE: dict[type[Exception], GrpcCode] = {
    RecipeRefused: GrpcCode.UNKNOWN,
    InvalidRequest: GrpcCode.INVALID_ARGUMENT,
    LeaseNotFound: GrpcCode.NOT_FOUND,
    MemberNotFound: GrpcCode.NOT_FOUND,
    LeaseExists: GrpcCode.FAILED_PRECONDITION,
    ReconfigurationRefused: GrpcCode.FAILED_PRECONDITION,
    NotTheLeader: GrpcCode.FAILED_PRECONDITION,
    BadTransferee: GrpcCode.FAILED_PRECONDITION,
    NoDowngrade: GrpcCode.FAILED_PRECONDITION,
    AuthRefused: GrpcCode.FAILED_PRECONDITION,
    NotAllKnow: GrpcCode.FAILED_PRECONDITION,
    PermissionDenied: GrpcCode.PERMISSION_DENIED,
    NoPasswordUser: GrpcCode.UNKNOWN,
    InvalidAuthToken: GrpcCode.UNAUTHENTICATED,
    LeaseTTLTooLarge: GrpcCode.OUT_OF_RANGE,
    Compacted: GrpcCode.OUT_OF_RANGE,
    FutureRevision: GrpcCode.OUT_OF_RANGE,
    NoSpace: GrpcCode.RESOURCE_EXHAUSTED,
    TooManyRequests: GrpcCode.RESOURCE_EXHAUSTED,
    MessageTooLarge: GrpcCode.RESOURCE_EXHAUSTED,
    UnhealthyCluster: GrpcCode.UNAVAILABLE,
    NoLeader: GrpcCode.UNAVAILABLE,
    LeaderChanged: GrpcCode.UNAVAILABLE,
    ServerStopped: GrpcCode.UNAVAILABLE,
    # May have happened. Clients treat Unavailable after a write as just that, so no definite code will do.
    OutcomeUnknown: GrpcCode.UNAVAILABLE,
    CorruptCluster: GrpcCode.DATA_LOSS,
    DeadlineExceeded: GrpcCode.DEADLINE_EXCEEDED,
}

_HTTP: dict[GrpcCode, HTTPStatus] = {
    GrpcCode.UNKNOWN: HTTPStatus.INTERNAL_SERVER_ERROR,
    GrpcCode.INVALID_ARGUMENT: HTTPStatus.BAD_REQUEST,
    GrpcCode.DEADLINE_EXCEEDED: HTTPStatus.GATEWAY_TIMEOUT,
    GrpcCode.NOT_FOUND: HTTPStatus.NOT_FOUND,
    GrpcCode.PERMISSION_DENIED: HTTPStatus.FORBIDDEN,
    GrpcCode.RESOURCE_EXHAUSTED: HTTPStatus.TOO_MANY_REQUESTS,
    GrpcCode.FAILED_PRECONDITION: HTTPStatus.BAD_REQUEST,
    GrpcCode.OUT_OF_RANGE: HTTPStatus.BAD_REQUEST,
    GrpcCode.UNAUTHENTICATED: HTTPStatus.UNAUTHORIZED,
    GrpcCode.UNAVAILABLE: HTTPStatus.SERVICE_UNAVAILABLE,
    GrpcCode.DATA_LOSS: HTTPStatus.INTERNAL_SERVER_ERROR,
}

Refusal = StoreError | OutcomeUnknown


def code_of(error: Refusal) -> GrpcCode:
    """By the nearest class in the table. A StoreError that is in none is a bug: KeyError."""
    return next(_CODE[kind] for kind in type(error).__mro__ if kind in _CODE)


def http_status(error: Refusal) -> HTTPStatus:
    return _HTTP[code_of(error)]


def error_body(error: Refusal) -> bytes:
    text = str(error)
    return wire.encode(wire.ErrorBody(error=text, code=code_of(error), message=text))


def error_line(error: Refusal) -> bytes:
    """What ends a stream that has begun, in place of a status."""
    status = http_status(error)
    return wire.error_line(
        wire.StreamError(
            grpc_code=code_of(error),
            http_code=status,
            message=str(error),
            http_status=status.phrase,
            code=code_of(error),
        )
    )
