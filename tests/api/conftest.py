"""A node in this process, so that a test sees both ends: what a client gets, and what the node holds."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
import uvloop

from jobguard_store.api.server import Server, bind, serve
from jobguard_store.config import NodeConfig
from jobguard_store.node import Node
from tests.gateway import PATIENCE_S, Gateway
from tests.ports import free_ports
from tests.stores import eventually

T = TypeVar("T")


class Inside:
    """A node and its server on a loop in a thread of their own."""

    def __init__(self, directory: Path) -> None:
        client, peer = free_ports(2)
        self.url = f"http://127.0.0.1:{client}"
        self.config = NodeConfig.from_flags(
            data_dir=directory,
            listen_client_urls=self.url,
            listen_peer_urls=f"http://127.0.0.1:{peer}",
            heartbeat_interval=40,
            election_timeout=400,
        )
        self.loop = uvloop.new_event_loop()
        self.surprises: list[Any] = []
        self.loop.set_exception_handler(lambda _, context: self.surprises.append(context))
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()
        self.node = self.run(Node.start(self.config))
        self.server: Server = self.run(serve(self.node, self.config, bind(self.config)))
        eventually(lambda: self.see(lambda: self.node.has_leader), what="a leader")

    def run(self, work: Coroutine[Any, Any, T], within: float = PATIENCE_S) -> T:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(within)

    def see(self, look: Callable[[], T]) -> T:
        """What `look` returns on the node's own loop."""

        async def looking() -> T:
            return look()

        return self.run(looking())

    def watchers(self) -> int:
        """How many subscriptions the node holds."""
        return self.see(lambda: len(self.node._replica.watchers._all))

    def stop(self) -> None:
        try:
            self.run(self.server.stop())
            self.run(self.node.stop())
        finally:
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join(PATIENCE_S)
            self.loop.close()
        assert self.surprises == []


@pytest.fixture(scope="module")
def inside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inside]:
    node = Inside(tmp_path_factory.mktemp("node"))
    yield node
    node.stop()


@pytest.fixture
def gateway(inside: Inside) -> Iterator[Gateway]:
    """A connection to the node, whose keyspace and leases are empty."""
    with Gateway(inside.url) as gateway:
        gateway.ok("/v3/kv/deleterange", {"key": "AA==", "range_end": "AA=="})
        for lease in gateway.ok("/v3/lease/leases").get("leases", ()):
            gateway.ok("/v3/lease/revoke", lease)
        yield gateway
