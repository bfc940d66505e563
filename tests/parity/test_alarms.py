"""Alarms, compaction and defragmentation, requested and answered alike by etcd and by us."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.gateway import Gateway
from tests.messages import COMPACTION, DELETE, GRANT, PUT, RANGE, TXN, delete, put, put_op, range_, txn
from tests.stores import Node, etcd, nodes

ALARM = "/v3/maintenance/alarm"
DEFRAGMENT = "/v3/maintenance/defragment"
STATUS = "/v3/maintenance/status"


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
            document.pop("header", None)
            answers.append((path, message, answer.status, document))

        conversation(ask)
        answers += health(gateway)
    return answers


def conversation(ask: Any) -> None:
    ask(ALARM, {})
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
