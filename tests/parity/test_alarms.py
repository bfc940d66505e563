"""Alarms, compaction and defragmentation, requested and answered alike by etcd and by us."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.gateway import Gateway
from tests.messages import (
    COMPACTION,
    DELETE,
    GRANT,
    KEEPALIVE,
    LEASES,
    PUT,
    RANGE,
    REVOKE,
    TXN,
    delete,
    put,
    put_op,
    range_,
    txn,
)
from tests.stores import Node, etcd, nodes

ALARM = "/v3/maintenance/alarm"
DEFRAGMENT = "/v3/maintenance/defragment"
STATUS = "/v3/maintenance/status"
LOCK, UNLOCK = "/v3/lock/lock", "/v3/lock/unlock"


@pytest.fixture(scope="module")
def stores() -> Iterator[tuple[Node, Node]]:
    with etcd() as [oracle], nodes() as [ours]:
        yield oracle, ours


def told(store: Node) -> list[Any]:
    answers: list[Any] = []
    with store.gateway() as gateway:

        def ask(path: str, message: Any) -> None:
            answer = gateway.post(path, message)
            document = answer.json
            document.get("result", document).pop("header", None)
            answers.append((path, message, answer.status, document))

        conversation(ask)
        answers += health(gateway)
    return answers


def conversation(ask: Any) -> None:
    ask(ALARM, {})
    ask(GRANT, {"TTL": 60, "ID": 6})
    ask(PUT, put("k"))
    ask(PUT, put("k", "2"))
    for alarm in ("NONE", "NOSPACE", 1, "NOSPACE"):
        ask(ALARM, {"action": "ACTIVATE", "memberID": "42", "alarm": alarm})
    ask(ALARM, {"action": "GET"})
    ask(ALARM, {"action": "GET", "alarm": "NOSPACE"})
    ask(ALARM, {"action": "GET", "alarm": "CORRUPT"})
    ask(PUT, put("k"))
    ask(GRANT, {"TTL": 60, "ID": 7})
    ask(TXN, txn(put_op("k")))
    ask("/v3/election/campaign", {"name": "ZQ==", "lease": 6})
    ask(RANGE, range_("k"))
    ask(DELETE, delete("k"))
    ask(COMPACTION, {"revision": 3, "physical": True})
    ask(COMPACTION, {"revision": 3})
    ask(COMPACTION, {"revision": 300})
    ask(RANGE, {**range_("k"), "revision": 2})
    ask(DEFRAGMENT, {})
    ask(ALARM, {"action": "DEACTIVATE", "memberID": "41", "alarm": "NOSPACE"})
    ask(ALARM, {"action": "DEACTIVATE", "memberID": "42", "alarm": "NOSPACE"})
    ask(ALARM, {"action": "DEACTIVATE", "memberID": "42", "alarm": "NOSPACE"})
    ask(PUT, put("k"))
    ask(ALARM, {"action": "ACTIVATE", "memberID": "42", "alarm": "CORRUPT"})
    for path, message in (
        (PUT, put("k")),
        (RANGE, range_("k")),
        (RANGE, {**range_("k"), "serializable": True}),
        (DELETE, delete("k")),
        (TXN, txn(put_op("k"))),
        (GRANT, {"TTL": 60, "ID": 8}),
        (COMPACTION, {"revision": 4}),
        (REVOKE, {"ID": 6}),
        (KEEPALIVE, {"ID": 6}),
        (LEASES, {}),
        (LOCK, {"name": "ZQ==", "lease": 6}),
        (UNLOCK, {"key": "ZS82"}),
        ("/v3/election/leader", {"name": "ZQ=="}),
        ("/v3/election/resign", {"leader": {"key": "ZS82"}}),
        ("/v3/election/proclaim", {"leader": {"key": "ZS82", "lease": 6}}),
        ("/v3/cluster/member/remove", {"ID": 5}),
        (ALARM, {}),
    ):
        ask(path, message)
    ask(ALARM, {"action": "DEACTIVATE", "memberID": "42", "alarm": "CORRUPT"})
    ask(RANGE, range_("k"))


def health(gateway: Gateway) -> list[Any]:
    """What probes and dashboards see of an alarm."""
    seen: list[Any] = []
    for action in ("ACTIVATE", "DEACTIVATE"):
        gateway.ok(ALARM, {"action": action, "memberID": "42", "alarm": "NOSPACE"})
        for page in ("/health", "/health?exclude=NOSPACE"):
            answer = gateway.get(page)
            seen.append((action, page, answer.status, answer.body))
        seen.append(gateway.ok(STATUS, {}).get("errors"))
    return seen


def test_alarms_and_compaction_are_spoken_of_alike(stores: tuple[Node, Node]) -> None:
    oracle, ours = map(told, stores)
    for theirs, own in zip(oracle, ours, strict=True):
        assert own == theirs
