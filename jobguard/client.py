"""The store from a user's program: keys, transactions, leases; and the doors to locks, elections and watches.

Place in the house   session, lock, election, watch, config, the plugin  ->  client  ->  endpoints, wire
Takes                keys and values as str or bytes
Gives                the store's answers as `wire` messages
Never                keeps a connection over a fork, starts a thread, or repeats what must not happen twice

One Client serves all threads of a process and may be made at import: it connects at the first call, and
a forked child drops what it inherited and connects for itself. Each call takes at most `timeout` seconds,
over all endpoints. What is sent again after a lost answer, and why that is harmless:

    reads, members, status     they change nothing
    keepalive                  twice renewed is renewed
    grant                      we choose the id, so a second one finds the first: "already exists" is a yes
    revoke                     a lease ends once; "not found" at a repetition is a yes
    put, delete, txn           never by themselves: OutcomeUnknown. `txn_until_known` sends an identical
                               transaction again, which its compares must make harmless
"""

import os
import secrets
import time
from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from copy import copy
from email.utils import parsedate_to_datetime
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple, Self, TypeVar

import msgspec

from jobguard import ops, wire
from jobguard.endpoints import Endpoints, Node, read_refusal, refusal
from jobguard.errors import (
    Compacted,
    ConfigurationError,
    LeaseExists,
    LeaseNotFound,
    OutcomeUnknown,
    ServerError,
    Unavailable,
    WrongCluster,
)
from jobguard.login import Login
from jobguard.ops import (
    compare_absent,
    compare_created,
    compare_mod,
    compare_present,
    compare_value,
    delete_op,
    get_op,
    prefix_end,
    put_op,
    to_bytes,
)
from jobguard.settings import Settings
from jobguard.tls import Certificates, Path, Unusable
from jobguard.transport import AnswerLost, Endpoint, NotConnected
from jobguard.wire import Compare, KeyValue, RequestOp, int64

if TYPE_CHECKING:
    from jobguard.election import Election
    from jobguard.lock import Lock
    from jobguard.session import Session
    from jobguard.watch import Watch

__all__ = [
    "Client",
    "Grant",
    "Known",
    "compare_absent",
    "compare_created",
    "compare_mod",
    "compare_present",
    "compare_value",
    "delete_op",
    "get_op",
    "put_op",
    "shared",
]

R = TypeVar("R", bound=wire.Response)

PAGE = 1000
"""Keys per request when a whole prefix is read."""

STATUS = "/v3/maintenance/status"

_DATE_S = 1.1
"""How far a Date may be behind its clock: it has whole seconds, and our store writes ten in each."""


class Grant(NamedTuple):
    """A lease, with the TTL in seconds that the store gave it: it raises what is too short."""

    id: int
    ttl: int


class Known(NamedTuple):
    """A definite answer. `repeated`: an earlier sending got none, and may be what the failure branch sees."""

    response: wire.TxnResponse
    repeated: bool


class Client:
    """A cluster, by the URLs of any of its nodes. The first is preferred until it fails."""

    def __init__(
        self,
        endpoints: Sequence[str] | str = "http://127.0.0.1:2379",
        *,
        namespace: str = "default",
        timeout: float = 5.0,
        cacert: Path | None = None,
        cert: Path | None = None,
        key: Path | None = None,
        username: str | None = None,
        password: str | None = None,
        password_file: Path | None = None,
    ) -> None:
        """`cacert` says whose word on an https node is taken, by default the system's authorities'; `cert`
        and `key` say who we are. They are PEM files, and may be replaced at any time.

        `username` is a user of the store; his password is given here or stands in a file, which may be
        replaced, too. A token for it is had when the store asks for one.
        """
        urls = endpoints.split(",") if isinstance(endpoints, str) else endpoints
        secured = cacert is not None or cert is not None or key is not None
        scheme = "https" if secured else "http"
        parsed = tuple(Endpoint.parse(url.strip(), scheme) for url in urls if url.strip())
        if not parsed:
            raise ConfigurationError("at least one endpoint is needed, such as http://127.0.0.1:2379")
        self.namespace = namespace
        self.timeout = timeout
        certificates = None
        if secured or any(each.tls for each in parsed):
            try:
                certificates = Certificates(cacert=cacert, cert=cert, key=key)
            except Unusable as error:
                raise ConfigurationError(str(error)) from None
        if username is None and (password is not None or password_file is not None):
            raise ConfigurationError("a password is of no use without a username")
        login = None if username is None else Login(username, password, password_file)
        self._endpoints = Endpoints(parsed, certificates, login)
        self.spare_sessions: defaultdict[float, deque[Session]] = defaultdict(deque)  # by TTL; see session.py
        self._cluster_id = 0
        self._clock = (b"", 0.0, 0.0)

    @classmethod
    def from_settings(cls, settings: Settings, *, timeout: float | None = None) -> Self:
        return cls(
            settings.endpoints,
            namespace=settings.namespace,
            timeout=settings.timeout if timeout is None else timeout,
            cacert=settings.cacert,
            cert=settings.cert,
            key=settings.key,
            username=settings.username,
            password=settings.password,
            password_file=settings.password_file,
        )

    def __repr__(self) -> str:
        return f"Client({', '.join(self.urls)}; namespace {self.namespace!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close idle connections and end the leases kept for the next lock. Usable again afterwards."""
        from jobguard.session import close_spare

        close_spare(self)
        self.endpoints.close()

    def at(self, urls: Sequence[str], *, timeout: float | None = None) -> "Client":
        """A client like this one, of these nodes alone."""
        other = copy(self)
        other.timeout = self.timeout if timeout is None else timeout
        ours = self.endpoints
        other._endpoints = Endpoints(tuple(map(Endpoint.parse, urls)), ours.certificates, ours.login)
        other.spare_sessions = defaultdict(deque)
        return other

    @property
    def urls(self) -> tuple[str, ...]:
        return tuple(node.endpoint.url for node in self._endpoints.nodes)

    @property
    def endpoints(self) -> Endpoints:
        """The nodes as this process sees them; a forked child starts with connections of its own."""
        if self._endpoints.pid != os.getpid():
            self._endpoints = self._endpoints.after_fork()
        return self._endpoints

    def key(self, *parts: str) -> str:
        """A key of our namespace. Each part is percent-encoded: a name may hold anything, slashes too."""
        return ops.key(self.namespace, *parts)

    # --- keys ---

    def get(self, key: str | bytes, *, serializable: bool = False) -> KeyValue | None:
        """The key as it is now; `serializable` takes what any node has, maybe stale, without a quorum."""
        found = self.range(key, serializable=serializable).kvs
        return found[0] if found else None

    def range(
        self,
        key: str | bytes,
        range_end: str | bytes = b"",
        *,
        limit: int = 0,
        revision: int = 0,
        serializable: bool = False,
        keys_only: bool = False,
        count_only: bool = False,
        sort_target: wire.SortTarget = "KEY",
        sort_order: wire.SortOrder = "NONE",
    ) -> wire.RangeResponse:
        """One range as the API has it. Raises Compacted for a revision that is gone."""
        return self.range_request(
            wire.RangeRequest(
                key=to_bytes(key),
                range_end=to_bytes(range_end),
                limit=int64(limit),
                revision=int64(revision),
                serializable=serializable,
                keys_only=keys_only,
                count_only=count_only,
                sort_target=sort_target,
                sort_order=sort_order,
            )
        )

    def range_request(self, request: wire.RangeRequest) -> wire.RangeResponse:
        return self._call("/v3/kv/range", request, wire.RangeResponse, harmless=True)

    def prefix(self, prefix: str | bytes, *, keys_only: bool = False) -> wire.RangeResponse:
        """All keys that begin with `prefix`, as of one revision (the answer's), read page by page."""
        while True:
            try:
                return self._pages(to_bytes(prefix), keys_only)
            except Compacted:
                continue  # the revision went away between two pages; a fresh one is there

    def _pages(self, prefix: bytes, keys_only: bool) -> wire.RangeResponse:
        end = prefix_end(prefix)
        page = first = self.range(prefix or b"\0", end, limit=PAGE, keys_only=keys_only)
        found = list(first.kvs)
        while page.more:
            page = self.range(
                found[-1].key + b"\0", end, limit=PAGE, keys_only=keys_only, revision=first.revision
            )
            found += page.kvs
        return msgspec.structs.replace(first, kvs=tuple(found), more=False)

    def put(self, key: str | bytes, value: str | bytes, lease: int = 0) -> wire.PutResponse:
        """Write a key, whatever it was. Raises OutcomeUnknown when no answer came: never sent twice."""
        request = wire.PutRequest(key=to_bytes(key), value=to_bytes(value), lease=int64(lease))
        return self._call("/v3/kv/put", request, wire.PutResponse, harmless=False)

    def delete(self, key: str | bytes, range_end: str | bytes = b"") -> wire.DeleteRangeResponse:
        """Delete a key or a range. Raises OutcomeUnknown when no answer came: never sent twice."""
        request = wire.DeleteRangeRequest(key=to_bytes(key), range_end=to_bytes(range_end))
        return self._call("/v3/kv/deleterange", request, wire.DeleteRangeResponse, harmless=False)

    def txn(
        self,
        compare: Iterable[Compare] = (),
        success: Iterable[RequestOp] = (),
        failure: Iterable[RequestOp] = (),
        *,
        timeout: float | None = None,
    ) -> wire.TxnResponse:
        """One transaction, sent once if it writes anything. Raises OutcomeUnknown when no answer came."""
        request = wire.TxnRequest(compare=tuple(compare), success=tuple(success), failure=tuple(failure))
        return self._call(
            "/v3/kv/txn", request, wire.TxnResponse, harmless=not _writes(request), timeout=timeout
        )

    def txn_until_known(
        self,
        compare: Iterable[Compare] = (),
        success: Iterable[RequestOp] = (),
        failure: Iterable[RequestOp] = (),
        *,
        timeout: float | None = None,
    ) -> wire.TxnResponse:
        """Send the identical transaction until the answer is definite, for at most `timeout` seconds.

        Only for transactions whose success makes their own compares fail. The failure branch should read
        what is there: a nonce of ours in it says that an earlier sending had succeeded. OutcomeUnknown at
        the end means a sending may still land; to give up, first invalidate one of its compares.
        """
        return self.txn_known(compare, success, failure, timeout=timeout).response

    def txn_known(
        self,
        compare: Iterable[Compare] = (),
        success: Iterable[RequestOp] = (),
        failure: Iterable[RequestOp] = (),
        *,
        timeout: float | None = None,
    ) -> Known:
        """`txn_until_known`, telling too whether it had to be sent more than once."""
        request = wire.TxnRequest(compare=tuple(compare), success=tuple(success), failure=tuple(failure))
        deadline = time.monotonic() + (self.timeout if timeout is None else timeout)
        unknown: OutcomeUnknown | None = None
        while True:
            left = deadline - time.monotonic()
            attempt = max(min(left, self.timeout / 3), 0.001)
            try:
                response = self._call(
                    "/v3/kv/txn", request, wire.TxnResponse, harmless=False, timeout=attempt
                )
                return Known(response, unknown is not None)
            except OutcomeUnknown as error:
                unknown = error
            except Unavailable:
                if left <= attempt and unknown is None:
                    raise
            except ServerError as error:
                # This sending was refused as a whole; one before it may have been done all the same.
                if unknown is None:
                    raise
                raise OutcomeUnknown(f"{unknown}; sent again: {error}") from error
            if unknown is not None and time.monotonic() >= deadline:
                raise unknown
            self.endpoints.rest(deadline)

    # --- leases ---

    def grant(self, ttl: float, id: int = 0, *, timeout: float | None = None) -> Grant:
        """A new lease of at least `ttl` seconds. Raises LeaseExists if `id` is given and taken.

        One that was granted and has ended before its answer was had is no lease: then there is another.
        """
        chosen = id or secrets.randbits(62) + 1
        request = wire.LeaseGrantRequest(TTL=int64(-int(-ttl // 1)), ID=int64(chosen))
        try:
            answer = self._call(
                "/v3/lease/grant", request, wire.LeaseGrantResponse, harmless=True, timeout=timeout
            )
        except LeaseExists:
            if id:
                raise
            left = self.keepalive(chosen, timeout=timeout)  # ours: an answer had been lost
            return Grant(chosen, left) if left else self.grant(ttl, timeout=timeout)
        return Grant(answer.ID, answer.TTL)

    def revoke(self, id: int, *, timeout: float | None = None) -> None:
        """End a lease and delete its keys. No error if it has ended."""
        request = wire.LeaseRevokeRequest(ID=int64(id))
        try:
            self._call("/v3/lease/revoke", request, wire.LeaseRevokeResponse, harmless=True, timeout=timeout)
        except LeaseNotFound:
            return

    def keepalive(self, id: int, *, timeout: float | None = None) -> int:
        """Renew a lease; its TTL in seconds, 0 if it has ended."""
        request = wire.LeaseKeepAliveRequest(ID=int64(id))
        line = self._post("/v3/lease/keepalive", request, wire.LeaseKeepAliveLine, True, timeout)
        if line.result is None:
            failure = line.error or wire.StreamError(message="an empty answer")
            raise Unavailable(
                f"keepalive: {refusal(failure.grpc_code or failure.code, failure.message).error}"
            )
        self._note(line.result)
        return line.result.TTL

    def time_to_live(self, id: int, keys: bool = False) -> wire.LeaseTimeToLiveResponse:
        """TTL left (-1: no such lease) and granted; with `keys` also what hangs on it."""
        request = wire.LeaseTimeToLiveRequest(ID=int64(id), keys=keys)
        return self._call("/v3/lease/timetolive", request, wire.LeaseTimeToLiveResponse, harmless=True)

    # --- the cluster ---

    def members(self, *, linearizable: bool = True) -> tuple[wire.Member, ...]:
        """The cluster's members, confirmed by a quorum; or else as any one node knows them."""
        request = wire.MemberListRequest(linearizable=linearizable)
        return self._call("/v3/cluster/member/list", request, wire.MemberListResponse, harmless=True).members

    def status(self, endpoint: str | None = None) -> wire.StatusResponse:
        """What one node says of itself, without a quorum; with `endpoint` that very node, once."""
        if endpoint is None:
            return self._call(STATUS, wire.StatusRequest(), wire.StatusResponse, harmless=True)
        node = Node(Endpoint.parse(endpoint), self.endpoints.certificates, self.endpoints.login)
        try:
            return _status(node, self.timeout)
        finally:
            node.close()

    def prefer_leader(self, timeout: float) -> None:
        """Ask the leader first from now on, until it fails: the others hand each write on to it.

        Waits for each node `timeout` seconds at most. Nobody leads, or does not say so: nothing changes.
        """
        for node in self.endpoints.nodes:
            try:
                status = _status(node, timeout)
            except Unavailable:
                continue
            if status.leads:
                self.endpoints.prefer(node)
            else:
                node.close()  # a worker has many children

    def cluster_id(self) -> int:
        """The cluster's id, from any answer there was; a fencing token means nothing outside of it."""
        if not self._cluster_id:
            self.status()
        return self._cluster_id

    def clock_offset(self) -> float | None:
        """Seconds the store's clock is ahead of ours, to half a second; None before the first answer.

        All that is known is an interval: the last answer's Date was read at some moment from the question to
        the answer, and has whole seconds. While our clock may agree it is 0: a pause of ours widens the
        interval, and is no offset. Else it is the end of it that is nearer, and what the Date leaves open
        beyond that. The monotonic clock tells the time since: so a clock of ours that is set shows at once.
        """
        date, asked, answered = self._clock
        if not date:
            return None
        read = parsedate_to_datetime(date.decode()).timestamp()
        before, ours, after = time.monotonic(), time.time(), time.monotonic()
        least = read - (ours - (before - answered))
        most = read + _DATE_S - (ours - (after - asked))
        if least > 0:
            return least + _DATE_S / 2
        if most < 0:
            return most - _DATE_S / 2
        return 0.0

    # --- what is built on it ---

    def watch(self, key: str | bytes, *, prefix: bool = True, start_revision: int = 0) -> "Watch":
        """Changes of a prefix, or of one key, from `start_revision` on (0: from now on)."""
        from jobguard.watch import Watch

        return Watch(self, key, prefix=prefix, start_revision=start_revision)

    def session(self, ttl: float = 15.0) -> "Session":
        """A lease of our own, kept alive by a thread. Raises Unavailable."""
        from jobguard.session import Session

        return Session(self, ttl)

    def lock(self, name: str, ttl: float = 15.0, *, timeout: float | None = None) -> "Lock":
        """The fair lock `name`, on a lease of its own; `timeout` is how long to wait for it by default."""
        from jobguard.lock import Lock

        return Lock(self, name, ttl, timeout=timeout)

    def election(self, name: str, ttl: float = 15.0) -> "Election":
        from jobguard.election import Election

        return Election(self, name, ttl)

    # --- sending ---

    def _call(
        self,
        path: str,
        request: wire.Message,
        kind: type[R],
        *,
        harmless: bool,
        timeout: float | None = None,
    ) -> R:
        response = self._post(path, request, kind, harmless, timeout)
        self._note(response)
        return response

    def _post(
        self, path: str, request: wire.Message, kind: type[wire.M], harmless: bool, timeout: float | None
    ) -> wire.M:
        timeout = self.timeout if timeout is None else timeout
        asked = time.monotonic()
        answer = self.endpoints.ask(
            path,
            wire.encode(request),
            harmless=harmless,
            deadline=asked + timeout,
            patience=timeout / 3,
        )
        self._clock = (answer.date, asked, time.monotonic())
        try:
            return wire.decode(answer.body, kind)
        except msgspec.DecodeError as error:
            message = f"{path}: the answer cannot be read: {error}"
            raise (Unavailable if harmless else OutcomeUnknown)(message) from error

    def _note(self, response: wire.Response) -> None:
        header = response.header
        if isinstance(header, wire.ResponseHeader) and header.cluster_id != self._cluster_id:
            if self._cluster_id:
                raise WrongCluster(
                    f"cluster {header.cluster_id:x} answered, and {self._cluster_id:x} before: "
                    f"do {', '.join(self.urls)} belong together?"
                )
            self._cluster_id = header.cluster_id


def _status(node: Node, timeout: float) -> wire.StatusResponse:
    """What this very node says of itself. Raises Unavailable."""
    try:
        answer = node.exchange(STATUS, b"{}", time.monotonic() + timeout)
    except (NotConnected, AnswerLost) as error:
        raise Unavailable(str(error)) from error
    if answer.status != 200:
        raise Unavailable(str(read_refusal(answer).error))
    try:
        return wire.decode(answer.body, wire.StatusResponse)
    except msgspec.DecodeError as error:
        raise Unavailable(f"{STATUS}: the answer cannot be read: {error}") from error


def _writes(request: wire.TxnRequest) -> bool:
    return any(op.request_range is None for op in (*request.success, *request.failure))


# --- the process's own client -------------------------------------------------------------------


def shared() -> Client:
    """The client that the current Celery app, or else the environment, configures; one per process."""
    return _shared(Settings.current())


@cache
def _shared(settings: Settings) -> Client:
    return Client.from_settings(settings)


class _CallableModule(ModuleType):
    """`jobguard.client` names both this module and the function that gives the process's client."""

    def __call__(self) -> Client:
        return shared()


def _make_callable() -> None:
    import sys

    sys.modules[__name__].__class__ = _CallableModule


_make_callable()
