"""Watches: many watchers on one stream, each with its own place in history.

Place in the house   server -> watch -> node.watch
Takes                a stream of create, cancel and progress requests
Gives                a stream of lines: one message, one line, one HTTP chunk
Never                queues events for a slow client (the node's subscription does), or outlives it

Order on the wire, per watcher: created, then every event once, by revision, then perhaps one canceled. Each
watcher has a task that takes from its subscription and waits for the client to take the line before it takes
more; so a slow client slows only itself.
"""

import asyncio
import random
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from jobguard import wire
from jobguard.wire import int64
from jobguard_store.api import shapes
from jobguard_store.api.exchange import Exchange
from jobguard_store.api.shapes import header
from jobguard_store.errors import Compacted, InvalidAuthToken, PermissionDenied, UserEmpty
from jobguard_store.machine.results import ChangeEvent

if TYPE_CHECKING:
    from jobguard_store.node import Node, Subscription

NO_WATCHER = -1  # the id in messages that are about no watcher, or about one that was never made
DUPLICATE_ID = "mvcc: duplicate watch ID provided on the WatchStream"
EMPTY_RANGE = "mvcc: watcher range is empty"
NOT_PERMITTED = f"rpc error: code = PermissionDenied desc = {PermissionDenied.text}"
MESSAGE_BYTES = 1536 * 1024
PROGRESS_INTERVAL_S = 600.0
PROGRESS_POLL_S = 0.05


async def watch(node: "Node", exchange: Exchange) -> None:
    await WatchStream(node, exchange).run()


class Watcher:
    __slots__ = ("busy", "idle_since", "request", "subscription", "tasks", "watch_id")

    def __init__(self, watch_id: int, request: wire.WatchCreateRequest, subscription: "Subscription") -> None:
        self.watch_id = watch_id
        self.request = request
        self.subscription = subscription
        self.tasks: list[asyncio.Task[None]] = []
        self.busy = False  # between taking events and having sent them
        self.idle_since = asyncio.get_running_loop().time()

    def progress(self) -> int | None:
        """Everything up to here has been sent; None while something is on its way."""
        return None if self.busy else self.subscription.progress()


class WatchStream:
    def __init__(self, node: "Node", exchange: Exchange) -> None:
        self._node = node
        self._exchange = exchange
        self._watchers: dict[int, Watcher] = {}
        self._next_id = 0
        self._group = asyncio.TaskGroup()

    async def run(self) -> None:
        """Raises what ends the whole stream: Disconnected, a refusal, the node's stop."""
        try:
            async with self._group:
                async for request in self._exchange.messages(wire.WatchRequest):
                    await self._take(request)
                await self._exchange.disconnected()
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None
        finally:
            for watcher in self._watchers.values():
                await _forget(watcher)

    async def _take(self, request: wire.WatchRequest) -> None:
        if request.create_request is not None:
            await self._create(request.create_request)
        elif request.cancel_request is not None:
            await self._cancel(request.cancel_request.watch_id)
        elif request.progress_request is not None:
            self._group.create_task(self._answer_progress())

    # --- create and cancel ------------------------------------------------------------------------

    async def _create(self, request: wire.WatchCreateRequest) -> None:
        key = request.key or b"\0"
        if request.range_end not in (b"", b"\0") and key >= request.range_end:
            await self._refuse(EMPTY_RANGE)
        elif request.watch_id in self._watchers and request.watch_id != 0:
            await self._refuse(DUPLICATE_ID)
        else:
            try:
                watcher = self._open(self._free_id(request.watch_id), key, request)
            except (InvalidAuthToken, PermissionDenied, UserEmpty):
                await self._refuse(NOT_PERMITTED, request.watch_id)
                return
            await self._send_about(watcher.watch_id, created=True)
            watcher.tasks.append(self._group.create_task(self._pump(watcher)))
            if request.progress_notify:
                watcher.tasks.append(self._group.create_task(self._notify(watcher)))

    def _open(self, watch_id: int, key: bytes, request: wire.WatchCreateRequest) -> Watcher:
        """Without an await until `created` is on its way: events begin right after the revision it names."""
        subscription = self._node.watch(
            key,
            request.range_end,
            int(request.start_revision),
            prev_kv=request.prev_kv,
            no_put="NOPUT" in request.filters or 0 in request.filters,
            no_delete="NODELETE" in request.filters or 1 in request.filters,
        )
        watcher = self._watchers[watch_id] = Watcher(watch_id, request, subscription)
        return watcher

    def _free_id(self, wanted: int) -> int:
        if wanted != 0:
            return wanted
        while self._next_id in self._watchers:
            self._next_id += 1
        self._next_id += 1
        return self._next_id - 1

    async def _refuse(self, reason: str, watch_id: int = NO_WATCHER) -> None:
        await self._send_about(watch_id, created=True, canceled=True, cancel_reason=reason)

    async def _cancel(self, watch_id: int) -> None:
        watcher = self._watchers.pop(watch_id, None)
        if watcher is not None:
            await _forget(watcher)
            await self._send_about(watch_id, canceled=True)

    # --- events -----------------------------------------------------------------------------------

    async def _pump(self, watcher: Watcher) -> None:
        try:
            async for batch in watcher.subscription:
                watcher.busy = True
                await self._send_events(watcher, batch.revision, batch.events)
                watcher.busy = False
                watcher.idle_since = asyncio.get_running_loop().time()
        except Compacted as error:
            await self._exchange.line(
                wire.stream_line(
                    wire.WatchResponse(
                        header=header(self._node, revision=0),
                        watch_id=int64(watcher.watch_id),
                        canceled=True,
                        compact_revision=int64(error.compact_revision),
                    )
                )
            )
            await self._end(watcher)
        except (InvalidAuthToken, PermissionDenied, UserEmpty):
            await self._send_about(watcher.watch_id, canceled=True, cancel_reason=NOT_PERMITTED)
            await self._end(watcher)

    async def _end(self, watcher: Watcher) -> None:
        """From within its own task."""
        self._watchers.pop(watcher.watch_id, None)
        watcher.tasks.pop(0)
        await _forget(watcher)

    async def _send_events(self, watcher: Watcher, revision: int, events: Sequence[ChangeEvent]) -> None:
        """One message, or several of a bearable size when there is much to catch up with."""
        prev_kv = watcher.request.prev_kv
        for part, fragment in cut(events, prev_kv, watcher.request.fragment):
            response = wire.WatchResponse(
                header=header(self._node, revision),
                watch_id=int64(watcher.watch_id),
                fragment=fragment,
            )
            body = await shapes.watch_body(response, part, prev_kv, self._node.give_way)
            await self._exchange.line(wire.result_line(body))

    # --- progress ---------------------------------------------------------------------------------

    async def _answer_progress(self) -> None:
        """To say that all watchers have seen everything up to a revision, wait until that is so."""
        while True:
            revision = self._progress()
            if revision is not None:
                break
            await asyncio.sleep(PROGRESS_POLL_S)
        await self._send_about(NO_WATCHER, revision)

    def _progress(self) -> int | None:
        seen = [watcher.progress() for watcher in self._watchers.values()]
        reached = [revision for revision in seen if revision is not None]
        if len(reached) < len(seen):
            return None
        return min(reached, default=self._node.header().revision)

    async def _notify(self, watcher: Watcher) -> None:
        """A sign of life from an idle watcher, so that its client may resume from a later revision."""
        loop = asyncio.get_running_loop()
        interval = PROGRESS_INTERVAL_S * random.uniform(1.0, 1.1)  # or a restart's watchers all speak at once
        while True:
            await asyncio.sleep(max(0.0, watcher.idle_since + interval - loop.time()))
            revision = watcher.progress()
            if revision is not None and loop.time() >= watcher.idle_since + interval:
                await self._send_about(watcher.watch_id, revision)
                watcher.idle_since = loop.time()
            else:
                await asyncio.sleep(PROGRESS_POLL_S)

    async def _send_about(
        self,
        watch_id: int,
        revision: int | None = None,
        *,
        created: bool = False,
        canceled: bool = False,
        cancel_reason: str = "",
    ) -> None:
        """A message without events. `revision` None: that of this moment."""
        await self._exchange.line(
            wire.stream_line(
                wire.WatchResponse(
                    header=header(self._node, self._node.header().revision if revision is None else revision),
                    watch_id=int64(watch_id),
                    created=created,
                    canceled=canceled,
                    cancel_reason=cancel_reason,
                )
            )
        )


def cut(
    events: Sequence[ChangeEvent], prev_kv: bool, fragment: bool
) -> Iterator[tuple[Sequence[ChangeEvent], bool]]:
    """`events` in messages of about the size a request may have, and whether each is only part of a revision.

    A revision's events stay together, whatever their size, unless the client allows fragments.
    """
    start = size = 0
    for index, change in enumerate(events):
        weight = shapes.event_weight(change, prev_kv)
        if index > start and size + weight > MESSAGE_BYTES:
            inside = change.revision == events[index - 1].revision
            if fragment or not inside:
                yield events[start:index], inside
                start, size = index, 0
        size += weight
    yield events[start:], False


async def _forget(watcher: Watcher) -> None:
    for task in watcher.tasks:
        task.cancel()
    await watcher.subscription.aclose()
