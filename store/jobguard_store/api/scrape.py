"""A port of its own for those who watch: the pages of operators and probes, and no call of the API.

Place in the house   __main__ -> scrape -> health, metrics -> node
Takes                --listen-metrics-urls, with http; a request per connection
Gives                the same pages as where clients are served, also to who may not go there
Never                lets a client's connections keep it from answering
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from jobguard_store.api.exchange import TEXT
from jobguard_store.api.health import Page
from jobguard_store.api.server import PAGES
from jobguard_store.config import address
from jobguard_store.errors import StartupError

if TYPE_CHECKING:
    from jobguard_store.node import Node

REQUEST_S = 15.0


class Scraped:
    """All ports. `stop()` closes them, and harms nobody twice."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._servers: list[asyncio.Server] = []

    async def listen(self, urls: tuple[str, ...]) -> None:
        """Raises StartupError, having left nothing open."""
        for url in urls:
            where = address(url)
            try:
                self._servers.append(await asyncio.start_server(self._answer, where.host, where.port))
            except OSError as error:
                self.stop()
                raise StartupError(f"--listen-metrics-urls {url}: {error.strerror or error}.") from None

    def stop(self) -> None:
        for server in self._servers:
            server.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(REQUEST_S):
                head = await reader.readuntil(b"\r\n\r\n")
                method, target, *_ = head.split(maxsplit=2)
                code, kind, body = await self._page(method, urlsplit(target))
                writer.write(
                    b"HTTP/1.1 %d %b\r\n%b: %b\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b"
                    % (code, HTTPStatus(code).phrase.encode(), *kind, len(body), body)
                )
                await writer.drain()
        except (OSError, EOFError, TimeoutError, ValueError, asyncio.LimitOverrunError):
            pass  # it left, or is none of ours
        finally:
            writer.close()

    async def _page(self, method: bytes, target: tuple[bytes, bytes, bytes, bytes, bytes]) -> Page:
        page = PAGES.get(target[2].decode("latin-1"))
        if page is None:
            return HTTPStatus.NOT_FOUND, TEXT, b"404 page not found\n"
        if method != b"GET":
            return HTTPStatus.METHOD_NOT_ALLOWED, TEXT, b"Method Not Allowed\n"
        return await page(self._node, target[3])
