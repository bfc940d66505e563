"""The wires between the nodes of a cluster: each direction of each pair is a link that can be cut or held up.

Place in the house   chaos -> links -> the nodes' peer ports
Takes                where each node listens for its peers
Gives                where its peers are to dial instead; cut, hold and heal
Never                alters a stream or drops a part of it: held up, it arrives later or its connection breaks

What a node writes is on its link to the other, whichever of them dialled. The first frame on a connection
says who did.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Coroutine, Iterable, Mapping
from math import inf
from typing import Any, TypeVar

import msgspec

from jobguard_store.config import Address
from jobguard_store.transport import FRAME

T = TypeVar("T")
Link = tuple[str, str]  # from, to
CHUNK_BYTES = 1 << 16
PATIENCE_S = 60.0


class Wire:
    """One link, with whatever connections it has."""

    def __init__(self) -> None:
        self.passable = True
        self.left = inf  # bytes until it is held
        self.moving = asyncio.Event()
        self.moving.set()
        self.ends: set[asyncio.StreamWriter] = set()

    def let(self, left: float) -> None:
        self.left = left
        if left > 0:
            self.moving.set()
        else:
            self.moving.clear()

    def break_connections(self) -> None:
        for end in self.ends:
            end.transport.abort()


class Links:
    """All of them, on a loop in a thread of its own."""

    def __init__(self, nodes: Mapping[str, Address]) -> None:
        self._nodes = nodes
        self._wires: dict[Link, Wire] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._servers: list[asyncio.Server] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="links")
        self._thread.start()
        self.urls = {name: self._run(self._listen(name)) for name in nodes}

    def another(self, name: str) -> str:
        """One more place to dial this node; where it was dialled before it still is."""
        self.urls[name] = self._run(self._listen(name))
        return self.urls[name]

    def cut(self, links: Iterable[Link]) -> None:
        """Break the connections, and every new one."""
        self._run(self._change(links, passable=False, left=inf))

    def hold(self, links: Iterable[Link], after: float = 0) -> None:
        """Nothing arrives any more, but for so many bytes and the rest of a chunk; no connection breaks."""
        self._run(self._change(links, passable=True, left=after))

    def heal(self) -> None:
        self._run(self._change(list(self._wires), passable=True, left=inf))

    def close(self) -> None:
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE_S)
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE_S)

    # --- on the loop ------------------------------------------------------------------------------

    async def _listen(self, name: str) -> str:
        def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = self._loop.create_task(self._carry(name, reader, writer))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        server = await asyncio.start_server(accepted, "127.0.0.1", 0)
        self._servers.append(server)
        return f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    async def _change(self, links: Iterable[Link], *, passable: bool, left: float) -> None:
        for link in links:
            wire = self._wire(link)
            wire.passable = passable
            wire.let(left)
            if not passable:
                wire.break_connections()

    def _wire(self, link: Link) -> Wire:
        return self._wires.setdefault(link, Wire())

    async def _carry(self, to: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection's whole life."""
        ends = [writer]
        with contextlib.suppress(OSError, EOFError):
            said, who = await self._introduction(reader)
            wire = self._wire((who, to))
            if wire.passable:
                node = self._nodes[to]
                there, back = await asyncio.open_connection(node.host, node.port)
                ends.append(back)
                wire.ends.update(ends)
                back.write(said)
                ways = [self._pump(reader, back, wire), self._pump(there, writer, self._wire((to, who)))]
                running = [self._loop.create_task(way) for way in ways]
                await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for way in running:
                    way.cancel()
                await asyncio.wait(running)
                wire.ends.difference_update(ends)
        for end in ends:
            end.transport.abort()

    async def _introduction(self, reader: asyncio.StreamReader) -> tuple[bytes, str]:
        """The first that is said on a connection, and who says it."""
        head = await reader.readexactly(FRAME.size)
        body = await reader.readexactly(FRAME.unpack(head)[0] - 1)
        said = msgspec.msgpack.decode(body)
        hello = said.get("hello", said)  # of a Delivery, or the Hello itself
        return head + body, hello.get("name", "")  # who is to join asks before it has a name

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, wire: Wire) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK_BYTES):
                await wire.moving.wait()
                wire.let(wire.left - len(data))
                writer.write(data)
                await writer.drain()

    async def _close(self) -> None:
        for server in self._servers:
            server.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
