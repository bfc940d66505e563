"""Lock, election, hash, downgrade, and a store without users: as etcd has them, field by field."""

import json
from typing import Any

from tests.gateway import Gateway, b64, unb64
from tests.parity.replay import empty, relative, settle
from tests.stores import eventually

LOCK, UNLOCK, ELECTION = "/v3/lock/lock", "/v3/lock/unlock", "/v3/election/"
E7 = {"name": b64("e"), "key": b64("e/7"), "lease": 7}
CALLS: list[tuple[str, dict[str, Any]]] = [
    ("/v3/lease/grant", {"ID": 7, "TTL": 60}),
    ("/v3/lease/grant", {"ID": 255, "TTL": 60}),
    (LOCK, {"name": b64("L"), "lease": 99}),
    (LOCK, {"name": b64("L"), "lease": 255}),
    (LOCK, {"name": b64("L"), "lease": 255}),
    ("/v3beta/lock/lock", {"name": b64("L"), "lease": 255}),
    (UNLOCK, {"key": b64("L/ff")}),
    (UNLOCK, {"key": b64("L/ff")}),
    (UNLOCK, {}),
    (LOCK, {"lease": 7}),
    (ELECTION + "proclaim", {}),
    (ELECTION + "resign", {}),
    (ELECTION + "resign", {"leader": {}}),
    (ELECTION + "proclaim", {"leader": {}}),
    (ELECTION + "leader", {"name": b64("e")}),
    (ELECTION + "campaign", {"name": b64("e"), "lease": 7, "value": b64("v")}),
    (ELECTION + "campaign", {"name": b64("e"), "lease": 7, "value": b64("w")}),
    (ELECTION + "campaign", {"name": b64("e"), "lease": 8}),
    (ELECTION + "campaign", {"name": b64("e"), "lease": -5}),
    (ELECTION + "leader", {"name": b64("e")}),
    (ELECTION + "leader", {}),
    (ELECTION + "proclaim", {"leader": {**E7, "rev": 1}, "value": b64("q")}),
    (ELECTION + "proclaim", {"leader": {"key": b64("z"), "lease": 77}}),
    (ELECTION + "proclaim", {"leader": {"key": b64("z"), "lease": 7}}),
    (ELECTION + "resign", {"leader": {**E7, "rev": 1}}),
    ("/v3/maintenance/downgrade", {}),
    ("/v3/maintenance/downgrade", {"version": "x"}),
    ("/v3/maintenance/downgrade", {"action": "ENABLE", "version": "3.5"}),
    ("/v3/maintenance/downgrade", {"action": "ENABLE", "version": "3.3.0"}),
    ("/v3/maintenance/downgrade", {"action": "CANCEL"}),
    ("/v3/auth/status", {}),
    ("/v3/auth/authenticate", {"name": "a", "password": "b"}),
]


def test_each_call_is_answered_as_etcd_does(oracle: Gateway, ours: Gateway) -> None:
    def told(gateway: Gateway) -> list[Any]:
        base = empty(gateway)
        lines = []
        for path, message in CALLS:
            answer = gateway.post(path, message)
            told = relative(settle(path, answer), base)
            lines.append((path, message, answer.status, told))
        return lines

    assert told(ours) == told(oracle)


def test_waiting_and_observing_are_answered_as_etcd_does(oracle: Gateway, ours: Gateway) -> None:
    def told(gateway: Gateway) -> list[Any]:
        base = empty(gateway)
        for lease in (7, 8):
            gateway.ok("/v3/lease/grant", {"ID": lease, "TTL": 60})
        key = gateway.ok(LOCK, {"name": b64("L"), "lease": 7})["key"]
        lines = []
        with (
            gateway.stream(LOCK, {"name": b64("L"), "lease": 8}) as waiter,
            gateway.stream(ELECTION + "observe", {"name": b64("L")}) as observer,
        ):
            lines.append(observer.result()["kv"]["key"])
            prefix = {"key": b64("L/"), "range_end": b64("L0")}
            eventually(lambda: gateway.ok("/v3/kv/range", prefix)["count"] == "2", what="a second contender")
            gateway.ok(UNLOCK, {"key": key})
            lines.append(relative(json.loads(waiter.chunk()), base))
            lines.append(relative(observer.result()["kv"], base))
        return lines

    assert told(ours) == told(oracle)


def test_who_brings_no_lease_is_given_one_for_a_minute(oracle: Gateway, ours: Gateway) -> None:
    def told(gateway: Gateway) -> list[Any]:
        base = empty(gateway)
        lines = []
        for path, part in ((LOCK, "key"), (ELECTION + "campaign", "leader")):
            answer = gateway.ok(path, {"name": b64("L" if part == "key" else "e")})
            key = unb64(answer[part] if part == "key" else answer[part]["key"]).decode()
            lease = gateway.ok("/v3/lease/timetolive", {"ID": str(int(key.split("/")[1], 16)), "keys": True})
            lines.append((key.split("/")[0], lease["grantedTTL"], unb64(lease["keys"][0]).decode() == key))
            lines.append(int(answer["header"]["revision"]) - base)
        return lines

    assert told(ours) == told(oracle)


def test_a_hash_is_a_number(oracle: Gateway, ours: Gateway) -> None:
    for gateway in (oracle, ours):
        empty(gateway)
        gateway.put("k", "v")
        answer = gateway.ok("/v3/maintenance/hash")
        assert (list(answer), answer["hash"] in range(1, 1 << 32)) == (["header", "hash"], True)
