"""What is in a store before it is measured: keys and leases, numbered as requests.lua draws them."""

import asyncio
import json
import re
from collections.abc import Iterable, Iterator
from urllib.parse import urlsplit

import uvloop

from tests.gateway import Gateway, b64

CONNECTIONS = 8
PUTS_PER_TXN = 100  # etcd takes at most 128
LEASE_ID_MIN = 1_000_000
LEASE_TTL_S = 3600
VALUE = b64("fifteen--bytes!")
LENGTH = re.compile(rb"\r\ncontent-length: (\d+)", re.IGNORECASE)


def keys(url: str, numbers: range) -> None:
    post(url, "/v3/kv/txn", (puts(part) for part in batches(numbers)))


def leases(url: str, numbers: range) -> None:
    """Those that are not there yet."""
    with Gateway(url) as gateway:
        there = {int(lease["ID"]) for lease in gateway.ok("/v3/lease/leases").get("leases", ())}
    missing = (LEASE_ID_MIN + number for number in numbers if LEASE_ID_MIN + number not in there)
    post(url, "/v3/lease/grant", ({"ID": id, "TTL": LEASE_TTL_S} for id in missing))


def batches(numbers: range) -> Iterator[range]:
    for first in range(0, len(numbers), PUTS_PER_TXN):
        yield numbers[first : first + PUTS_PER_TXN]


def puts(numbers: range) -> object:
    return {
        "success": [{"requestPut": {"key": b64(f"key{number:06}"), "value": VALUE}} for number in numbers]
    }


def post(url: str, path: str, messages: Iterable[object]) -> None:
    """All of them, over a few connections; a refusal fails the benchmark."""
    waiting = iter(messages)
    address = urlsplit(url)
    head = f"POST {path} HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Length: ".encode()

    async def connection() -> None:
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        for message in waiting:
            body = json.dumps(message).encode()
            writer.write(b"%s%d\r\n\r\n%s" % (head, len(body), body))
            answer = await reader.readuntil(b"\r\n\r\n")
            if not answer.startswith(b"HTTP/1.1 200 "):
                raise SystemExit(f"{path} was refused: {answer!r}")
            if length := LENGTH.search(answer):
                await reader.readexactly(int(length[1]))
            else:  # in chunks, as etcd sends what is long
                await reader.readuntil(b"\r\n0\r\n\r\n")
        writer.transport.abort()

    async def all_connections() -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(CONNECTIONS):
                group.create_task(connection())

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(all_connections())
