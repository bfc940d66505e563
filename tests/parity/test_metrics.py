"""Dashboards made for etcd find its names here, with the kinds they have there, and numbers that are true."""

import re

from tests.gateway import Gateway
from tests.messages import WATCH, create
from tests.stores import eventually


def read(gateway: Gateway) -> tuple[dict[str, str], dict[str, float]]:
    """Kinds by name, and values by name and labels."""
    answer = gateway.get("/metrics")
    assert (answer.status, answer.headers["content-type"]) == (
        200,
        "text/plain; version=0.0.4; charset=utf-8",
    )
    text = answer.body.decode()
    kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
    return kinds, {
        name: float(value) for name, value in re.findall(r"^([^# ]\S*) (\S+)$", text, re.MULTILINE)
    }


def test_every_name_is_one_of_etcds(oracle: Gateway, ours: Gateway) -> None:
    assert read(ours)[0].items() <= read(oracle)[0].items()


def test_the_numbers_move_with_what_they_count(ours: Gateway) -> None:
    before = read(ours)[1]
    ours.put("a key of its own")
    with ours.stream(WATCH, create("k")) as stream:
        stream.result()
        after = read(ours)[1]
    grown = {name for name in after if after[name] == before.get(name, 0) + 1}
    assert grown >= {
        "etcd_server_proposals_committed_total",
        "etcd_server_proposals_applied_total",
        "etcd_debugging_mvcc_keys_total",
        "etcd_debugging_mvcc_watcher_total",
        "etcd_debugging_mvcc_current_revision",
    }
    assert (after["etcd_server_has_leader"], after["etcd_server_is_leader"]) == (1, 1)
    assert after["etcd_server_leader_changes_seen_total"] == 1
    member = int(ours.ok("/v3/maintenance/status")["header"]["member_id"])
    assert after[f'etcd_server_id{{server_id="{member:x}"}}'] == 1
    eventually(lambda: read(ours)[1]["etcd_debugging_mvcc_watcher_total"] == 0, what="the watcher's end")
