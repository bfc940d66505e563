"""Several clients at once, on ours and on real etcd: the revisions in the answers say in which order it was.

Put into that order and sent one after another to the other store, the same calls have to get the same
answers: then every one of them is explained, and by what the other store does. And the order has to be one
that the clients could have seen: nothing that ended before something else began comes after it.
"""

import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import combinations, cycle, pairwise
from typing import Any

import pytest

from tests.gateway import Answer, Gateway
from tests.parity.agreement import check
from tests.parity.replay import Call, empty, replay, send, spoken
from tests.parity.requests import BEFORE_THE_CROWD, crowd
from tests.stores import CALM, etcd, nodes

pytestmark = pytest.mark.timeout(1800)  # so many requests, however long they take

MEMBERS_MAX = 5


@dataclass(frozen=True, slots=True)
class Heard:
    call: Call
    answer: Answer
    line: str
    began: float
    ended: float

    @property
    def place(self) -> tuple[int, bool]:
        """Its revision; what it read there, it read when the write of that revision was done."""
        document = json.loads(self.answer.body)
        return int(document["header"]["revision"]), not wrote(self.call.path, document)


def wrote(path: str, document: dict[str, Any]) -> bool:
    if path.endswith("txn"):
        return any(
            wrote(kind.removeprefix("response_"), answer)
            for op in document.get("responses", ())
            for kind, answer in op.items()
        )
    return path.endswith("put") or "deleted" in document


def heard(gateways: Sequence[Gateway], clients: list[list[Call]]) -> list[Heard]:
    """What `clients` hear, each on a connection of its own and all at the same time."""
    base = empty(gateways[0])
    for call in BEFORE_THE_CROWD:
        assert isinstance(call, Call)
        send(gateways[0], call, base)

    def run(gateway: Gateway, calls: list[Call]) -> list[Heard]:
        found = []
        for call in calls:
            began = time.monotonic()
            answer = send(gateway, call, base)
            ended = time.monotonic()
            found.append(Heard(call, answer, spoken(call, answer, base), began, ended))
        return found

    with ThreadPoolExecutor(len(clients)) as pool:
        return [one for found in pool.map(run, gateways, clients) for one in found]


def in_order(history: list[Heard]) -> list[Heard]:
    """By their revisions; refusals, which have none and are the same whenever they come, last."""
    done = sorted((one for one in history if one.answer.status == 200), key=lambda one: one.place)
    writes = [revision for revision, only_read in (one.place for one in done) if not only_read]
    assert all(later == earlier + 1 for earlier, later in pairwise(writes)), "a revision each"
    for earlier, later in combinations(done, 2):
        assert later.ended > earlier.began or later.place == earlier.place, (earlier, later)
    return done + [one for one in history if one.answer.status != 200]


def explained(history: list[Heard], other: Gateway) -> None:
    ordered = in_order(history)
    lines = replay(other, [*BEFORE_THE_CROWD, *(one.call for one in ordered)])
    for one, line in zip(ordered, lines[len(BEFORE_THE_CROWD) :], strict=True):
        assert one.line == line, one.call


@pytest.fixture(scope="module")
def oracles() -> Iterator[list[Gateway]]:
    with etcd() as [store], ExitStack() as stack:
        yield [stack.enter_context(store.gateway()) for _ in range(MEMBERS_MAX)]


@pytest.fixture(scope="module", params=[1, 3])
def ours(request: pytest.FixtureRequest) -> Iterator[list[Gateway]]:
    """As many connections, to one node or spread over three."""
    with nodes(request.param, CALM) as stores, ExitStack() as stack:
        around = cycle(stores)
        yield [stack.enter_context(next(around).gateway()) for _ in range(MEMBERS_MAX)]


def test_every_answer_is_explained_by_the_order_of_revisions(
    ours: list[Gateway], oracles: list[Gateway]
) -> None:
    def agree(clients: list[list[Call]]) -> int:
        with ThreadPoolExecutor(2) as both:
            own, theirs = both.map(heard, (ours, oracles), (clients, clients))
            list(both.map(explained, (own, theirs), (oracles[0], ours[0])))
        return sum(map(len, clients))

    check(agree, crowd, examples=60, requests=700)
