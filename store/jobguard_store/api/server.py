"""The door of a node: HTTP requests to calls, errors to statuses.

Place in the house   __main__ -> server -> kv, lease, watch, cluster, health -> node
Takes                a running node, the URLs to listen on
Gives                an ASGI callable served by uvicorn on the node's own loop; stop() ends it
Never                touches signals, logs accesses, answers what the node did not say

A connection is kept for hours: clients renew their leases over it, and a server that closes an idle one races
each renewal.
"""

import asyncio
import contextlib
import re
import resource
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import uvicorn

from jobguard.tls import Certificates
from jobguard_store.api import auth, cluster, election, health, kv, lease, lock, maintenance, metrics, watch
from jobguard_store.api.exchange import GRPC, JSON, TEXT, Disconnected, Exchange, Receive, Scope, Send
from jobguard_store.api.lane import Lane
from jobguard_store.api.rpcs import CANCELED, OK, RPCS
from jobguard_store.api.shapes import Body
from jobguard_store.api.status import GrpcCode, code_of
from jobguard_store.config import NodeConfig, address
from jobguard_store.counts import Calls, Counts
from jobguard_store.doors import Door, bound
from jobguard_store.errors import (
    DeadlineExceeded,
    InvalidRequest,
    NoLeader,
    OutcomeUnknown,
    RequestTimedOut,
    ServerStopped,
    StartupError,
    StoreError,
)
from jobguard_store.guarded import Guarded

if TYPE_CHECKING:
    from jobguard_store.node import Node

Unary = Callable[["Node", bytes], Awaitable[Body]]
Streaming = Callable[["Node", Exchange], Awaitable[None]]
Page = Callable[["Node", bytes], Awaitable[health.Page]]

KEEP_ALIVE_S = 24 * 3600
STOP_GRACE_S = 2
BACKLOG = 4096
# Of the files this process may have open: for its database, its peers, and whoever comes meanwhile.
FILES_RESERVED = 64
HURRY_S = 15.0  # a request has between one and two of these to arrive
LEADER_MISSED_MAX = 3  # election timeouts without a leader, before a stream that wants one is ended

_API = ("/v3", "/v3beta")
_UNARY: dict[str, Unary] = {
    "/kv/range": kv.range_,
    "/kv/put": kv.put,
    "/kv/deleterange": kv.delete_range,
    "/kv/txn": kv.txn,
    "/kv/compaction": kv.compact,
    "/lease/grant": lease.grant,
    "/lease/revoke": lease.revoke,
    "/kv/lease/revoke": lease.revoke,
    "/lease/timetolive": lease.time_to_live,
    "/kv/lease/timetolive": lease.time_to_live,
    "/lease/leases": lease.leases,
    "/kv/lease/leases": lease.leases,
    "/cluster/member/list": cluster.member_list,
    "/cluster/member/add": cluster.member_add,
    "/cluster/member/remove": cluster.member_remove,
    "/cluster/member/promote": cluster.member_promote,
    "/cluster/member/update": cluster.member_update,
    "/maintenance/alarm": maintenance.alarm,
    "/maintenance/defragment": maintenance.defragment,
    "/maintenance/hashkv": cluster.hash_kv,
    "/maintenance/status": cluster.status,
    "/maintenance/transfer-leadership": cluster.transfer_leadership,
    "/maintenance/hash": maintenance.hash_,
    "/maintenance/downgrade": maintenance.downgrade,
    "/auth/status": auth.status,
    "/auth/enable": auth.enable,
    "/auth/disable": auth.disable,
    "/auth/authenticate": auth.authenticate,
    "/auth/user/add": auth.user_add,
    "/auth/user/get": auth.user_get,
    "/auth/user/list": auth.user_list,
    "/auth/user/delete": auth.user_delete,
    "/auth/user/changepw": auth.user_change_password,
    "/auth/user/grant": auth.user_grant,
    "/auth/user/revoke": auth.user_revoke,
    "/auth/role/add": auth.role_add,
    "/auth/role/get": auth.role_get,
    "/auth/role/list": auth.role_list,
    "/auth/role/delete": auth.role_delete,
    "/auth/role/grant": auth.role_grant,
    "/auth/role/revoke": auth.role_revoke,
    "/lock/unlock": lock.unlock,
    "/election/proclaim": election.proclaim,
    "/election/leader": election.leader,
    "/election/resign": election.resign,
}
_STREAMING: dict[str, Streaming] = {
    "/watch": watch.watch,
    "/lease/keepalive": lease.keepalive,
    "/election/observe": election.observe,
    # One answer each, but it may be long in coming: they end as streams do, with their client or the server.
    "/lock/lock": lock.lock,
    "/election/campaign": election.campaign,
    "/maintenance/snapshot": maintenance.snapshot,
}
UNARY = {prefix + path: call for prefix in _API for path, call in _UNARY.items()}
STREAMING = {prefix + path: call for prefix in _API for path, call in _STREAMING.items()}
# Whose requests go on while they are answered: nobody can say that they take too long.
OPEN_ENDED = [prefix + path for prefix in _API for path in ("/watch", "/lease/keepalive")]
PAGES: dict[str, Page] = {
    "/version": health.version,
    "/health": health.health,
    "/livez": health.livez,
    "/readyz": health.readyz,
    "/metrics": metrics.metrics,
}

_CORS = [
    ("access-control-allow-origin", "*"),
    ("access-control-allow-methods", "POST, GET, OPTIONS, PUT, DELETE"),
    ("access-control-allow-headers", "accept, content-type, authorization"),
]
_PLAIN = (TEXT, (b"x-content-type-options", b"nosniff"))
_TIMEOUT = re.compile(rb"([+-]?[0-9]{1,8})([HMSmun])")
_AUTHORIZATION = frozenset((b"authorization", b"grpc-metadata-authorization"))
_UNIT_S = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}


class Api:
    """The ASGI callable."""

    # Calls whose answer waits for nothing but their body. A keepalive is a stream, but that of one request.
    plain = frozenset(path.encode() for path in (*UNARY, *(f"{prefix}/lease/keepalive" for prefix in _API)))
    open_ended = frozenset(path.encode() for path in OPEN_ENDED)

    def __init__(self, node: "Node", election_s: float) -> None:
        self.connections_max = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - FILES_RESERVED
        self._node = node  # for what the member does in its own affairs
        self._public = Guarded(node)  # for all who bring no token
        self._election_s = election_s
        self._counts = node.counts
        self._uncounted = Counts()  # of what is no call
        self._calls = _counted(node.counts)
        self._streams: set[asyncio.Task[Any]] = set()
        self._stopping = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        if scope["method"] == "POST":
            if call := UNARY.get(path):
                await self._unary(call, scope, Exchange(scope, receive, send, self._counts))
                return
            if stream := STREAMING.get(path):
                await self._streaming(stream, scope, Exchange(scope, receive, send, self._counts))
                return
        await self._other(scope, Exchange(scope, receive, send, self._uncounted))

    async def _unary(self, call: Unary, scope: Scope, exchange: Exchange) -> None:
        calls = self._calls[scope["path"]]
        calls.started += 1
        code = CANCELED
        try:
            wishes = _wishes(scope)
            body = await exchange.body()
            if wishes is None:
                answer = await call(self._public, body)
            else:
                answer = await self._wished(call, body, wishes)
        except (StoreError, OutcomeUnknown) as error:
            code = code_of(error)
            await exchange.refuse(error)
        except Disconnected:
            pass
        except asyncio.CancelledError:
            if not self._stopping:
                raise
            code = GrpcCode.UNAVAILABLE
            await exchange.refuse(RequestTimedOut())  # it may still happen: no definite word about it
        else:
            code = OK
            await exchange.answer(200, (JSON, GRPC), answer, self._node.give_way)
        finally:
            calls.handled[code] += 1

    async def _wished(self, call: Unary, body: bytes, wishes: "Wishes") -> Body:
        if wishes.leader and not self._node.has_leader:
            raise NoLeader
        if wishes.timeout_s is not None and wishes.timeout_s < 0:
            raise DeadlineExceeded  # before anything is proposed
        try:
            async with asyncio.timeout(wishes.timeout_s):
                return await call(await self._guarded(wishes), body)
        except TimeoutError:
            raise DeadlineExceeded from None

    async def _guarded(self, wishes: "Wishes") -> Guarded:
        """The node as its caller may use it."""
        if wishes.token is None:
            return self._public
        guarded = Guarded(self._node, wishes.token)
        await guarded.arrive()
        return guarded

    async def _streaming(self, call: Streaming, scope: Scope, exchange: Exchange) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._streams.add(task)
        calls = self._calls[scope["path"]]
        calls.started += 1
        code = CANCELED
        try:
            if self._stopping:
                raise ServerStopped
            wishes = _wishes(scope)
            if wishes is None:
                await call(self._public, exchange)
            else:
                async with asyncio.timeout(wishes.timeout_s):
                    node = await self._guarded(wishes)
                    if wishes.leader:
                        await self._while_led(call(node, exchange))
                    else:
                        await call(node, exchange)
            code = OK
        except TimeoutError:
            code = GrpcCode.DEADLINE_EXCEEDED
            await exchange.refuse(DeadlineExceeded())
        except (StoreError, OutcomeUnknown) as error:
            code = code_of(error)
            await exchange.refuse(error)
        except Disconnected:
            pass
        except asyncio.CancelledError:
            if not self._stopping:
                raise
            task.uncancel()
            code = GrpcCode.UNAVAILABLE
            with contextlib.suppress(asyncio.CancelledError):  # of a client that reads nothing, after a while
                await exchange.refuse(ServerStopped())
        finally:
            self._streams.discard(task)
            calls.handled[code] += 1

    async def _while_led(self, stream: Awaitable[None]) -> None:
        """Run `stream` for a client that would rather go elsewhere than wait on a member without a leader."""
        if not self._node.has_leader:
            raise NoLeader
        running = asyncio.ensure_future(stream)
        missed = 0
        try:
            while not running.done():
                await asyncio.wait([running], timeout=self._election_s)
                missed = 0 if self._node.has_leader else missed + 1
                if missed > LEADER_MISSED_MAX:
                    raise NoLeader
            await running
        finally:
            running.cancel()
            await asyncio.wait([running])
            if not running.cancelled():
                running.exception()  # looked at, or the loop would take it for one that nobody expected

    async def _other(self, scope: Scope, exchange: Exchange) -> None:
        """Everything that is not a call of the API."""
        method, path = scope["method"], scope["path"]
        if method == "OPTIONS":
            await exchange.answer(200, (), b"")
        elif page := PAGES.get(path):
            if method == "GET":
                code, kind, body = await page(self._node, scope["query_string"])
                await exchange.answer(code, (kind,), body)
            else:
                await exchange.answer(405, (*_PLAIN, (b"allow", b"GET")), b"Method Not Allowed\n")
        elif path in UNARY or path in STREAMING:
            await exchange.answer(405, _PLAIN, b"Method Not Allowed\n")
        elif path.startswith(tuple(prefix + "/" for prefix in _API)):
            await exchange.answer(404, _PLAIN, b"Not Found\n")
        else:
            await exchange.answer(404, _PLAIN, b"404 page not found\n")

    async def end_streams(self) -> None:
        """Watches never end by themselves: tell their clients, who then go to another node."""
        self._stopping = True
        streams = list(self._streams)
        for task in streams:
            task.cancel()
        if streams:
            await asyncio.wait(streams, timeout=STOP_GRACE_S)


def _counted(counts: Counts) -> dict[str, Calls]:
    """By path. Some methods have two, and all of them are there under each prefix."""
    return {
        prefix + path: counts.calls.setdefault(RPCS[path], Calls())
        for path in (*_UNARY, *_STREAMING)
        for prefix in _API
    }


class Wishes:
    """What a request's metadata asks for: an end after `timeout_s`, to be refused without a leader, and to
    be known by its `token`."""

    __slots__ = ("leader", "timeout_s", "token")

    def __init__(self, timeout_s: float | None, leader: bool, token: str | None) -> None:
        self.timeout_s = timeout_s
        self.leader = leader
        self.token = token


def _wishes(scope: Scope) -> Wishes | None:
    """None for nearly all requests while authentication is off. Raises InvalidRequest.

    Of several tokens the first counts, and one in a header of its own before any authorization, as in etcd.
    """
    timeout_s: float | None = None
    token: bytes | None = None
    authorization: bytes | None = None
    leader = False
    for name, value in scope["headers"]:
        if name == b"grpc-timeout" and value:
            match = _TIMEOUT.fullmatch(value)
            if match is None:
                raise InvalidRequest(f"invalid grpc-timeout: {value.decode(errors='replace')}")
            timeout_s = int(match[1]) * _UNIT_S[match[2]] or None
        elif name == b"grpc-metadata-hasleader":
            leader = value == b"true"
        elif name in _AUTHORIZATION:
            authorization = value if authorization is None else authorization
        elif name == b"grpc-metadata-token":
            token = value if token is None else token
    token = authorization if token is None else token
    if timeout_s is None and not leader and token is None:
        return None
    return Wishes(timeout_s, leader, None if token is None else _token(token))


def _token(value: bytes) -> str:
    return value.strip(b" \t").decode("latin-1").removeprefix("Bearer ")


class Ports(NamedTuple):
    """Where clients will be served; nobody is heard yet."""

    plain: list[socket.socket]
    secured: list[socket.socket]
    certificates: Certificates

    def close(self) -> None:
        for each in (*self.plain, *self.secured):
            each.close()


class _Uvicorn(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, ports: Ports) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()
        self._ports = ports

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for each in self._ports.secured:
            door: Any = Door(each, self._ports.certificates, self._protocol, backlog=BACKLOG)
            self.servers.append(door)
        self.listening.set()

    def _protocol(self) -> asyncio.Protocol:
        protocol: Any = self.config.http_protocol_class
        connection: asyncio.Protocol = protocol(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return connection

    async def on_tick(self, counter: int) -> bool:
        """Each one writes the Date of the answers, not each tenth: clients compare their clocks with it."""
        return await super().on_tick(0)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are the process's, not the server's."""
        yield


class Server:
    """A node's open door. `stop()` closes it."""

    def __init__(self, api: Api, server: uvicorn.Server, running: asyncio.Task[None]) -> None:
        self._api = api
        self._server = server
        self._running = running
        self._hurrying = asyncio.create_task(_hurry(server))

    async def stop(self) -> None:
        """Accept nothing more, end the streams, give calls under way a moment. Idempotent."""
        self._hurrying.cancel()
        await self._api.end_streams()
        self._server.should_exit = True
        await self._running


async def _hurry(server: uvicorn.Server) -> None:
    while True:
        await asyncio.sleep(HURRY_S)
        for lane in tuple(server.server_state.connections):
            assert isinstance(lane, Lane)
            lane.hurry()


def bind(config: NodeConfig) -> Ports:
    """A socket for each of `config.listen_client_urls`. Raises StartupError."""
    ports = Ports([], [], config.client_tls.serving())
    try:
        for url in config.listen_client_urls:
            where = address(url)
            (ports.secured if where.tls else ports.plain).append(bound(where))
    except OSError as error:
        ports.close()
        raise _not_to_be_had(url, error) from None
    return ports


async def serve(node: "Node", config: NodeConfig, ports: Ports) -> Server:
    """Answer whoever comes to them. Raises StartupError: of two bound to a port one may listen."""
    api = Api(node, config.election_s)
    server = _Uvicorn(
        uvicorn.Config(
            api,
            http=Lane,
            ws="none",
            lifespan="off",
            loop="none",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            headers=_CORS,
            backlog=BACKLOG,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=STOP_GRACE_S,
        ),
        ports,
    )
    running = asyncio.create_task(server.serve(ports.plain))
    listening = asyncio.create_task(server.listening.wait())
    await asyncio.wait([running, listening], return_when=asyncio.FIRST_COMPLETED)
    if running.done():
        listening.cancel()
        try:
            await running
        except OSError as error:
            raise _not_to_be_had(", ".join(config.listen_client_urls), error) from None
    return Server(api, server, running)


def _not_to_be_had(url: str, error: OSError) -> StartupError:
    return StartupError(f"--listen-client-urls {url}: {error.strerror or error}.")
