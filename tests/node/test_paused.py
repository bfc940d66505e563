"""A leader that is stopped in its tracks and woken again believes for a moment that it still leads."""

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.gateway import b64, unb64
from tests.stores import Node, eventually, leader_of, nodes

TTL = 3  # of which a host that stands still may take its part between two renewals


@pytest.fixture
def three() -> Iterator[list[Node]]:
    with nodes(3) as stores:
        yield stores


def test_a_woken_leader_serves_no_stale_read_and_ends_no_lease_that_lives_on(three: list[Node]) -> None:
    old = leader_of(three)
    others = [store for store in three if store is not old]
    with old.gateway() as at_old, others[0].gateway() as at_new:
        at_old.put("a", "old")
        at_old.ok("/v3/lease/grant", {"TTL": TTL, "ID": 7})
        at_old.put("mine", "x", lease=7)
        old.pause()
        try:
            asked: list[Any] = []
            reader = threading.Thread(
                target=lambda: asked.append(at_old.post("/v3/kv/range", {"key": b64("a")}))
            )
            reader.start()  # its request waits in the socket until the leader wakes
            put(at_new, "a", "new")
            over = time.monotonic() + TTL + 0.5
            while time.monotonic() < over:  # the old leader's count of the TTL
                assert renewed(at_new)
                pause_between_renewals()
        finally:
            old.resume()
        reader.join(60)
        answer = asked[0]
        if answer.status == 200:
            assert unb64(json.loads(answer.body)["kvs"][0]["value"]) == b"new"
        else:
            assert answer.status == 503
        eventually(lambda: renewed(at_new) and old.healthy(), 30, what="the old leader among the followers")
        assert at_old.ok("/v3/kv/range", {"key": b64("mine")}).get("count") == "1"
        assert renewed(at_old)


def renewed(gateway: Any) -> bool:
    return bool(gateway.ok("/v3/lease/keepalive", {"ID": 7})["result"].get("TTL") == str(TTL))


def put(gateway: Any, key: str, value: str) -> None:
    """Until it is acknowledged: the first may have been in the paused leader's hands."""
    eventually(
        lambda: gateway.post("/v3/kv/put", {"key": b64(key), "value": b64(value)}).status == 200,
        what="a put with the new leader",
    )


def pause_between_renewals() -> None:
    """A quarter of a second of the lease's time, which is what this test is about."""
    threading.Event().wait(0.25)
