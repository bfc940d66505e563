"""Requests about the members, answered alike: shapes, statuses and texts, with ids and addresses named.

What differs by right, so that it is not here: one that is to vote is called a learner until it has caught up,
where etcd's cluster waits for it (one of one member stands still); to remove the last member is 400 and code
9 as documented, where etcd 3.5.1 answers 500 and code 2; and an update leaves a learner a learner, and takes
no address that cannot be one.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.gateway import Gateway
from tests.stores import Node, etcd, eventually, nodes

Ask = Callable[..., Any]
URL = "http://127.0.0.1:1"
OTHER_URL = "http://127.0.0.1:2"


@pytest.fixture(scope="module")
def stores() -> Iterator[tuple[Node, Node]]:
    with etcd() as [oracle], nodes() as [ours]:
        yield oracle, ours


def told(store: Node) -> Any:
    """What `store`, a cluster of one, says to each request in turn."""
    answers: list[Any] = []
    names: dict[Any, str] = {}

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            named = {key: plain(item) for key, item in value.items() if key != "raft_term"}
            if "members" in named:
                named["members"].sort(key=str)  # by id, which is drawn
            return named
        if isinstance(value, list):
            return list(map(plain, value))
        return names.get(value, value)

    with store.gateway() as gateway:

        def ask(path: str, **message: Any) -> Any:
            answer = gateway.post(path, message)
            answers.append((path, answer.status, answer.json))
            return answer.json

        for name, value in known(gateway).items():
            names[value] = name
        conversation(ask, names)
    return plain([list(answer) for answer in answers])


def known(gateway: Gateway) -> dict[str, str]:
    def introduced() -> Any:
        listed = gateway.ok("/v3/cluster/member/list")
        return listed if "clientURLs" in listed["members"][0] else None

    listed = eventually(introduced, what="the member's own word")
    (me,) = listed["members"]
    cluster = listed["header"]["cluster_id"]
    return {"me": me["ID"], "cluster": cluster, "peer": me["peerURLs"][0], "client": me["clientURLs"][0]}


def conversation(ask: Ask, names: dict[Any, str]) -> None:
    me = next(value for value, name in names.items() if name == "me")
    mine = next(value for value, name in names.items() if name == "peer")
    member = "/v3/cluster/member/"
    ask(member + "list")
    ask(member + "list", linearizable=True)
    for unknown in ({}, {"ID": "123"}):
        ask(member + "remove", **unknown)
        ask(member + "promote", **unknown)
        ask(member + "update", **unknown, peerURLs=[URL])
    ask(member + "promote", ID=me)
    for urls in ([], ["http://127.0.0.1"], ["http://127.0.0.1:1/path"], ["ftp://127.0.0.1:1"], ["nonsense"]):
        ask(member + "add", peerURLs=urls)
    ask(member + "add", peerURLs=[mine])
    ask(member + "add", peerURLs=[mine], isLearner=True)
    added = ask(member + "add", peerURLs=[URL, OTHER_URL], isLearner=True)["member"]["ID"]
    names[added] = "added"
    ask(member + "add", peerURLs=["http://127.0.0.1:3"], isLearner=True)
    ask(member + "list", linearizable=True)
    ask(member + "promote", ID=added)
    ask(member + "update", ID=added, peerURLs=[mine])
    ask(member + "update", ID=me, peerURLs=[mine])
    ask("/v3/maintenance/transfer-leadership", targetID=added)
    ask("/v3/maintenance/transfer-leadership", targetID="5")
    ask("/v3/maintenance/transfer-leadership")
    ask("/v3/maintenance/transfer-leadership", targetID=me)
    ask(member + "remove", ID=added)
    ask(member + "remove", ID=added)


def test_members_are_asked_for_added_promoted_moved_and_removed_alike(stores: tuple[Node, Node]) -> None:
    oracle, ours = map(told, stores)
    for theirs, own in zip(oracle, ours, strict=True):
        assert own == theirs
