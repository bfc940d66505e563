"""What changes under a prefix, from a revision on, without a gap.

Place in the house   lock, election, mirror, the plugin, the web UI  ->  watch  ->  client, transport
Takes                a prefix or key, a revision to start from
Gives                events in revision order, each once, over reconnects and failovers; or Compacted
Never                starts a thread, buffers without bound, loses an event without a word

A watch goes on from the last *event's* revision + 1: the header of a message may be ahead of events that are
still to come. Once that revision is compacted, what happened since cannot be told, and the watch says so.

A connection that died in silence looks like a quiet prefix. So after `IDLE` seconds without a message the
same node must answer a linearizable read: one that hangs, or has lost its quorum, is left for the next.
"""

import logging
import time
from collections import deque
from collections.abc import Iterator
from threading import Event
from typing import NamedTuple, Self

import msgspec

from jobguard import wire
from jobguard.client import Client
from jobguard.endpoints import Node, Verdict, read_refusal, refusal
from jobguard.errors import Compacted, ServerError
from jobguard.login import DENIED, would_mend
from jobguard.ops import prefix_end, to_bytes
from jobguard.transport import AnswerLost, Connection, NotConnected
from jobguard.wire import int64

log = logging.getLogger("jobguard.watch")

IDLE = 10.0
PATIENCE = 2.0
"""Seconds a node has to open a watch, or to answer when it has been silent."""


class Batch(NamedTuple):
    """Changes that came together. All changes of one revision are in one batch; `revision` is the last."""

    revision: int
    events: tuple[wire.Event, ...]


class _Open(NamedTuple):
    """A watch as one node serves it."""

    node: Node
    connection: Connection
    lines: deque[bytes]
    rest: list[bytes]  # the start of a line whose end has not come yet
    token: str  # it was asked with


class Watch:
    """Iterate over it, or `poll`. One thread reads; any thread may close it.

    Without `start_revision` it begins now: the revision is read here, and every later change is told.
    """

    def __init__(
        self, client: Client, key: str | bytes, *, prefix: bool = True, start_revision: int = 0
    ) -> None:
        self._client = client
        self._key = to_bytes(key) or b"\0"
        self._range_end = prefix_end(to_bytes(key)) if prefix else b""
        self.next_revision = start_revision or self._now() + 1
        self._open: _Open | None = None
        self._heard = 0.0
        self._closed = Event()
        self._reading = False
        self._logged_in = False  # because of the last refusal

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[wire.Event]:
        """Events until it is closed. Raises Compacted when some can no longer be told."""
        while not self._closed.is_set():
            batch = self.poll(60.0)
            yield from batch.events if batch else ()

    def poll(self, timeout: float) -> Batch | None:
        """The next changes; None when there were none for `timeout` seconds, or once it is closed.

        Raises Compacted, or a ServerError if the store refuses the watch for good; it is closed then.
        """
        deadline = time.monotonic() + timeout
        # Set before `_closed` is read, and read by close() after it set that: one of us sees the other.
        self._reading = True
        try:
            while not self._closed.is_set():
                message = self._message(deadline)
                if message is None or (batch := self._take(message)) is not None:
                    return None if message is None else batch
        except ServerError:
            self._closed.set()
            raise
        finally:
            self._reading = False
            if self._closed.is_set():
                self._disconnect()
        return None

    def close(self) -> None:
        """End it; a thread that is waiting in it returns at once."""
        self._closed.set()
        if (served := self._open) is not None:
            served.connection.interrupt()
        if not self._reading:
            self._disconnect()

    # --- messages ---

    def _take(self, message: wire.WatchResponse) -> Batch | None:
        """What a message means for us, and where we would go on after it."""
        if message.canceled:
            if message.compact_revision or "compacted" in message.cancel_reason:
                raise Compacted(message.compact_revision)
            if message.created:
                self._refused(message.cancel_reason)
                return None
            if self._open is not None:
                self._leave(self._open, message.cancel_reason or "the node ended the watch")
            return None
        if message.events:
            last = message.events[-1].kv
            assert last is not None
            self.next_revision = last.mod_revision + 1
            return Batch(last.mod_revision, message.events)
        if message.created:
            self._logged_in = False
        else:  # a progress notice: there is nothing older to come
            self.next_revision = max(self.next_revision, message.revision + 1)
        return None

    def _message(self, deadline: float) -> wire.WatchResponse | None:
        """The next message of whichever node serves us; None at the deadline or once closed."""
        while not self._closed.is_set():
            served = self._open or self._connect(deadline)
            if served is None:
                if time.monotonic() >= deadline:
                    return None
                continue
            if self._closed.is_set():  # close() found nothing to interrupt: we were connecting
                break
            try:
                if not served.lines and not self._read(served, min(deadline, self._heard + IDLE)):
                    self._leave(served, "the node ended the stream")
                elif served.lines:
                    return self._parse(served.lines.popleft())
            except TimeoutError:
                if time.monotonic() >= self._heard + IDLE:
                    self._probe(served)
                elif time.monotonic() >= deadline:
                    return None
            except AnswerLost as error:
                self._leave(served, str(error))
        return None

    def _read(self, served: _Open, deadline: float) -> bool:
        """Wait for a chunk and cut it into lines; False at the end of the stream."""
        chunk = served.connection.chunk(deadline)
        if chunk is None:
            return False
        self._heard = time.monotonic()
        first, *more = chunk.split(b"\n")
        served.rest.append(first)
        for line in more:
            served.lines.append(b"".join(served.rest))
            served.rest[:] = [line]
        return True

    def _parse(self, line: bytes) -> wire.WatchResponse:
        try:
            message = wire.decode(line, wire.WatchLine)
        except msgspec.DecodeError as error:
            raise AnswerLost(f"a message that cannot be read: {error}") from error
        if message.result is not None:
            return message.result
        failure = message.error or wire.StreamError(message="an empty message")
        verdict, reason = refusal(failure.grpc_code or failure.code, failure.message)
        if verdict is Verdict.FINAL:
            raise reason
        raise AnswerLost(str(reason))

    def _refused(self, reason: str) -> None:
        """Returns if it may be asked again. Some stores tell of a token that ended as of a permission that is
        missing, so there is one try with another."""
        served = self._open
        denied = DENIED in reason
        if (
            served is None
            or served.node.login is None
            or self._logged_in
            or not (denied or would_mend(reason))
        ):
            raise ServerError(7, DENIED) if denied else ServerError(3, reason)
        self._logged_in = True
        try:
            refusal = served.node.log_in(served.token, time.monotonic() + PATIENCE)
        except NotConnected as error:
            self._logged_in = False
            self._leave(served, str(error))
            return
        if refusal is not None:
            raise read_refusal(refusal).error
        self._disconnect()

    # --- nodes ---

    def _connect(self, deadline: float) -> _Open | None:
        """Ask the next node to serve us; None if it did not, or if it is too early to ask any."""
        node, pause = self._client.endpoints.next()
        if pause > 0:
            self._closed.wait(min(pause, max(deadline - time.monotonic(), 0.0)))
            return None
        limit = time.monotonic() + PATIENCE
        connection = None
        try:
            connection = node.dial(limit)
            token = node.login.token if node.login else ""
            request = node.endpoint.request("/v3/watch", self._request(), token)
            answer = connection.open_stream(request, limit)
        except (NotConnected, AnswerLost) as error:
            log.debug("watch: %s", error)
            node.failed()
            if connection is not None:
                connection.close()
            return None
        if answer is not None:
            connection.close()
            node.failed()
            verdict, reason = read_refusal(answer)
            if verdict is Verdict.FINAL:
                raise reason
            return None
        node.worked()
        self._heard = time.monotonic()
        self._open = _Open(node, connection, deque(), [], token)
        return self._open

    def _request(self) -> bytes:
        return wire.encode(
            wire.WatchRequest(
                create_request=wire.WatchCreateRequest(
                    key=self._key,
                    range_end=self._range_end,
                    start_revision=int64(self.next_revision),
                    progress_notify=True,
                )
            )
        )

    def _probe(self, served: _Open) -> None:
        """Silence: is it the prefix or the node? A node that cannot read with a quorum is left."""
        try:
            answer = served.node.exchange("/v3/kv/range", self._look(), time.monotonic() + PATIENCE)
        except (NotConnected, AnswerLost) as error:
            self._leave(served, str(error))
            return
        if answer.status != 200:
            self._leave(served, f"status {answer.status}")
        self._heard = time.monotonic()

    def _look(self) -> bytes:
        return wire.encode(wire.RangeRequest(key=self._key, count_only=True))

    def _now(self) -> int:
        return self._client.range(self._key, count_only=True).revision

    def _leave(self, served: _Open, why: str) -> None:
        if not self._closed.is_set():
            log.info("watch: %s: %s; going on elsewhere", served.node.endpoint.url, why)
            served.node.failed()
        self._disconnect()

    def _disconnect(self) -> None:
        served, self._open = self._open, None
        if served is not None:
            served.connection.close()
