"""Who changes the members of a cluster in trouble, as one does by hand: asks until it is known to be so.

Place in the house   chaos -> operator -> gateway, stores
Takes                the nodes that are members, and where their peers are to dial each
Gives                changes in a thread of their own, so that they meet the faults; surprises for the record
Never                asks for a second loss of data before all who are left count
"""

from __future__ import annotations

import functools
import random
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any

from tests.gateway import Gateway
from tests.processes.links import Links
from tests.stores import Cluster, Node, eventually

PATIENCE_S = 60.0
ANSWER_S = 8.0  # longer than a node's own time-out: what it says then is worth more than a closed connection
PAUSE_S = 0.1
LIST, ADD = "/v3/cluster/member/list", "/v3/cluster/member/add"
REMOVE, UPDATE = "/v3/cluster/member/remove", "/v3/cluster/member/update"
# The second from one that was removed before it had asked who it is.
NOT_LET_IN = ("was removed from the cluster", "the cluster has no member with the peer URLs")
NOWHERE = "http://127.0.0.1:9"

Member = dict[str, Any]


class Operator:
    def __init__(self, cluster: Cluster, links: Links, surprises: list[str], seed: int) -> None:
        self._cluster = cluster
        self._links = links
        self._surprises = surprises
        self._random = random.Random(f"{seed} operator")
        self._thread = ThreadPoolExecutor(1, "operator")

    def close(self) -> None:
        self._thread.shutdown(cancel_futures=True)

    # --- what may be done -------------------------------------------------------------------------

    def replace(self, node: Node) -> Callable[[], None]:
        """Its disk is gone for good: it makes room for a new member of the same name and address."""
        self.wait_until_all_count()
        old = self._id(node)
        node.kill()
        shutil.rmtree(data_dir(node))
        gone = self._ask(lambda: (self._remove(old), self._add(self._links.urls[node.name])))
        return lambda: (gone.result(), self._start(node))[1]

    def grow(self, spare: Node) -> Callable[[], None]:
        """One more, which begins with nothing."""
        added = self._ask(lambda: self._add(self._links.urls[spare.name]))

        def start() -> None:
            added.result()
            self._start(spare)
            self._cluster.nodes.append(spare)

        return start

    def shrink(self, spare: Node) -> Callable[[], None]:
        """It is removed as it is; and ends by itself, whether it hears that as a member or is turned away."""
        gone = self._ask(lambda: self._remove(self._id(spare)))

        def bury() -> None:
            gone.result()
            assert spare.process is not None
            spare.process.wait(PATIENCE_S)
            spare.process = None
            if not any(sentence in spare.tail() for sentence in NOT_LET_IN):
                self._surprises.append(f"{spare.name} was removed and did not say so:\n{spare.tail()}")
            self._cluster.nodes.remove(spare)
            shutil.rmtree(data_dir(spare))

        return bury

    def move(self, node: Node) -> Callable[[], None]:
        """Its peers dial it elsewhere from now on."""
        return self._ask(lambda: self._update(self._id(node), self._links.another(node.name))).result

    def ghost(self, _: Node) -> Callable[[], None]:
        """A member that never starts comes and goes."""
        return self._ask(lambda: self._remove(self._add(NOWHERE, learner=True))).result

    # --- how it stands ------------------------------------------------------------------------------

    def wait_until_all_count(self) -> None:
        def vote(members: list[Member]) -> bool:
            """All who run, and nobody else."""
            return (
                sorted(str(member.get("name")) for member in members if not member.get("isLearner")) == names
            )

        names = sorted(node.name for node in self._cluster.nodes)
        eventually(lambda: vote(self._listed()), PATIENCE_S, f"the votes of {', '.join(names)} and no other")

    def different_members(self) -> list[str]:
        told = {
            node.name: eventually(
                functools.partial(self.members, node), PATIENCE_S, f"the members as {node.name} lists them"
            )
            for node in self._cluster.nodes
        }
        same = all(members == told[self._cluster.nodes[0].name] for members in told.values())
        return [] if same else [f"members differ: {told}"]

    def members(self, node: Node) -> list[Member] | None:
        """As this node lists them, having asked the leader; None without an answer."""
        with suppress(OSError, HTTPException), Gateway(node.url, ANSWER_S) as gateway:
            answer = gateway.post(LIST, {"linearizable": True})
            if answer.status == 200:
                return list(answer.json["members"])
        return None

    # --- how ----------------------------------------------------------------------------------------

    def _ask(self, change: Callable[[], object]) -> Future[None]:
        def work() -> None:
            change()

        return self._thread.submit(work)

    def _start(self, node: Node) -> None:
        """Under the flags of one that joins; who is a member already goes by its file."""
        urls = {each.name: self._links.urls[each.name] for each in (*self._cluster.nodes, node)}
        flag(node, "--initial-cluster", ",".join(f"{name}={url}" for name, url in urls.items()))
        flag(node, "--initial-advertise-peer-urls", self._links.urls[node.name])
        flag(node, "--initial-cluster-state", "existing")
        node.start()

    def _id(self, node: Node) -> str:
        """By its address: one that has not started yet has no name."""
        return next(m["ID"] for m in self._listed() if m["peerURLs"] == [self._links.urls[node.name]])

    def _add(self, url: str, *, learner: bool = False) -> str:
        def there() -> str | None:
            return next((member["ID"] for member in self._listed() if url in member["peerURLs"]), None)

        for ask in self._tries("add", there):
            if (found := there()) is not None:
                return str(found)
            ask(ADD, {"peerURLs": [url], "isLearner": learner})
        raise AssertionError

    def _remove(self, member: str) -> None:
        def there() -> bool:
            return any(each["ID"] == member for each in self._listed())

        for ask in self._tries("remove", lambda: not there()):
            if not there():
                return
            ask(REMOVE, {"ID": member})

    def _update(self, member: str, url: str) -> None:
        def there() -> bool:
            return any(each["ID"] == member and each["peerURLs"] == [url] for each in self._listed())

        for ask in self._tries("update", there):
            if there():
                return
            ask(UPDATE, {"ID": member, "peerURLs": [url]})

    def _tries(self, what: str, done: Callable[[], object]) -> Iterator[Callable[[str, Any], None]]:
        """Each gives a way to ask once; told that it is so, whoever is asked next must know of it."""

        def ask(path: str, message: Any) -> None:
            answer = None
            with suppress(OSError, HTTPException), Gateway(self._someone().url, ANSWER_S) as gateway:
                answer = gateway.post(path, message)
            if answer is not None and answer.status == 200 and not done():
                self._surprises.append(f"{what} {message} was answered, and is not so: {self._listed()}")

        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            yield ask
            time.sleep(PAUSE_S)
        raise AssertionError(f"{what} was not done within {PATIENCE_S} s")

    def _listed(self) -> list[Member]:
        deadline = time.monotonic() + PATIENCE_S
        while (members := self.members(self._someone())) is None:
            assert time.monotonic() < deadline, "nobody listed the members"
            time.sleep(PAUSE_S)
        return members

    def _someone(self) -> Node:
        return self._random.choice([node for node in self._cluster.nodes if node.process is not None])


def data_dir(node: Node) -> Path:
    return Path(flag(node, "--data-dir"))


def flag(node: Node, name: str, value: str | None = None) -> str:
    at = node.command.index(name) + 1
    if value is not None:
        node.command[at] = value
    return node.command[at]
