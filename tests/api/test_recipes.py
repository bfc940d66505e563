"""The lock and election services where somebody waits: whose turn it is, and what is left of who leaves."""

import asyncio
import json
import threading
from typing import Any

import pytest

from tests.api.conftest import Inside
from tests.api.test_misbehaving import lanes
from tests.gateway import PATIENCE_S, Gateway, Stream, b64
from tests.messages import RANGE, REVOKE, range_
from tests.stores import eventually

LOCK, UNLOCK = "/v3/lock/lock", "/v3/lock/unlock"
CAMPAIGN, PROCLAIM, RESIGN = "/v3/election/campaign", "/v3/election/proclaim", "/v3/election/resign"
LEADER, OBSERVE = "/v3/election/leader", "/v3/election/observe"
HOLDER, WAITER, THIRD = 10, 11, 12


@pytest.fixture(autouse=True)
def leases(gateway: Gateway) -> None:
    for lease in (HOLDER, WAITER, THIRD):
        gateway.ok("/v3/lease/grant", {"ID": lease, "TTL": 600})


def name(lease: int) -> dict[str, Any]:
    return {"name": b64("n"), "lease": lease}


def keys(gateway: Gateway) -> list[str]:
    return [pair["key"] for pair in gateway.ok(RANGE, range_("n/", "n0")).get("kvs", ())]


def answer(stream: Stream) -> Any:
    """Of a call that may wait before it gives its one."""
    return json.loads(stream.chunk())


def waiting(inside: Inside, count: int) -> None:
    eventually(lambda: inside.watchers() == count, what=f"{count} who wait")


def test_a_lock_goes_to_who_has_waited_longest(gateway: Gateway, inside: Inside) -> None:
    held = gateway.ok(LOCK, name(HOLDER))
    assert gateway.ok(LOCK, name(HOLDER)) == held, "who holds it holds it"
    with gateway.stream(LOCK, name(WAITER)) as second:
        waiting(inside, 1)
        with gateway.stream(LOCK, name(THIRD)) as third:
            waiting(inside, 2)
            gateway.ok(UNLOCK, {"key": held["key"]})
            second_key = answer(second)["key"]
            waiting(inside, 1)
            gateway.ok(UNLOCK, {"key": second_key})
            assert answer(third)["key"] == b64("n/c")
    assert keys(gateway) == [b64("n/c")]


def test_who_gives_up_in_the_middle_lets_nobody_in(gateway: Gateway, inside: Inside) -> None:
    held = gateway.ok(LOCK, name(HOLDER))
    with gateway.stream(LOCK, name(WAITER)) as second:
        waiting(inside, 1)
        with gateway.stream(LOCK, name(THIRD)) as third:
            waiting(inside, 2)
            second.close()
            eventually(lambda: len(keys(gateway)) == 2, what="the end of one that waited")
            waiting(inside, 1)
            gateway.ok(UNLOCK, {"key": held["key"]})
            assert answer(third)["key"] == b64("n/c")


@pytest.mark.parametrize(
    ("path", "text"), [(LOCK, "mutex: session is expired"), (CAMPAIGN, "election: not leader")]
)
def test_a_lease_that_ended_meanwhile_holds_nothing(
    path: str, text: str, gateway: Gateway, inside: Inside
) -> None:
    """Its key went with it, and everybody behind it may have been let in since."""
    gateway.ok(path, name(HOLDER))
    with gateway.stream(path, name(WAITER)) as waiter:
        waiting(inside, 1)
        gateway.ok(REVOKE, {"ID": WAITER})
        gateway.ok(REVOKE, {"ID": HOLDER})
        assert answer(waiter) == {"error": text, "code": 2, "message": text}
        assert waiter.status == 500


@pytest.mark.parametrize("path", [LOCK, CAMPAIGN])
def test_who_waits_no_longer_leaves_no_key(path: str, gateway: Gateway, inside: Inside) -> None:
    gateway.ok(path, name(HOLDER))
    with gateway.stream(path, name(WAITER)):
        waiting(inside, 1)
    eventually(lambda: keys(gateway) == [b64("n/a")], what="the end of its key")
    late = gateway.post(path, name(WAITER), {"Grpc-Timeout": "100m"})
    assert late.error == (504, 4, "context deadline exceeded")
    assert keys(gateway) == [b64("n/a")]
    waiting(inside, 0)


@pytest.mark.parametrize("path", [LOCK, CAMPAIGN])
def test_who_leaves_while_his_key_is_on_its_way_leaves_none(
    path: str, gateway: Gateway, inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or all behind it would wait for nobody, for as long as its lease is renewed."""
    propose = inside.node._replica.propose
    go_on = threading.Event()

    async def told_late(command: Any, caller: Any) -> Any:
        proposed = asyncio.ensure_future(propose(command, caller))
        await asyncio.to_thread(go_on.wait, PATIENCE_S)
        return await proposed

    gateway.ok(path, name(HOLDER))
    with monkeypatch.context() as patched:
        patched.setattr(inside.node._replica, "propose", told_late)
        with gateway.stream(path, name(WAITER)):
            eventually(lambda: len(keys(gateway)) == 2, what="his key")
        eventually(lambda: len(lanes(inside)) == 1, what="the end of his connection")
        go_on.set()
        eventually(lambda: keys(gateway) == [b64("n/a")], what="the end of his key")


def test_observers_see_each_value_and_each_leader(gateway: Gateway, inside: Inside) -> None:
    with gateway.stream(OBSERVE, {"name": b64("n")}) as stream:
        waiting(inside, 1)
        leader = gateway.ok(CAMPAIGN, {**name(HOLDER), "value": b64("first")})["leader"]
        assert stream.result()["kv"]["value"] == b64("first")
        waiting(inside, 1)
        gateway.ok(PROCLAIM, {"leader": leader, "value": b64("second")})
        assert stream.result()["kv"]["value"] == b64("second")
        with gateway.stream(CAMPAIGN, {**name(WAITER), "value": b64("third")}) as waiter:
            waiting(inside, 2)
            gateway.ok(RESIGN, {"leader": leader})
            assert answer(waiter)["leader"]["key"] == b64("n/b")
        assert stream.result()["kv"] == gateway.ok(LEADER, {"name": b64("n")})["kv"]
    waiting(inside, 0)
