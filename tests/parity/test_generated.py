"""The same generated requests to ours and to real etcd: same answers, statuses, texts and events.

The allow-list of what may differ stands at the head of requests.py.
"""

from collections.abc import Iterator

import pytest

from tests.gateway import Gateway
from tests.messages import RANGE, TIME_TO_LIVE
from tests.parity.agreement import check
from tests.parity.replay import WHOLE_STORE, At, Call, Step, Watch, replay, replay_on_both, revisions
from tests.parity.requests import LEASES, UNKNOWN_LEASE, long_sequence, sequence
from tests.stores import CALM, leader_of, nodes

pytestmark = pytest.mark.timeout(1800)  # so many requests, however long they take


def test_one_node_answers_as_etcd_does(oracle: Gateway, ours: Gateway) -> None:
    check(lambda steps: replay_on_both(ours, oracle, steps), long_sequence, examples=520, requests=16_800)


@pytest.fixture(scope="module")
def follower() -> Iterator[Gateway]:
    with nodes(3, CALM) as stores:
        leader = leader_of(stores)
        with next(store for store in stores if store is not leader).gateway() as gateway:
            yield gateway


def test_a_follower_of_three_answers_as_etcd_does(oracle: Gateway, follower: Gateway) -> None:
    sequences = long_sequence.map(without_members)
    check(lambda steps: replay_on_both(follower, oracle, steps), sequences, examples=60, requests=1_500)


def without_members(steps: list[Step]) -> list[Step]:
    """Without what three members answer otherwise than one does."""
    of_members = ("/cluster/", "/maintenance/")
    return [
        step for step in steps if isinstance(step, Watch) or not any(each in step.path for each in of_members)
    ]


def test_after_kill_9_everything_is_answered_as_before(oracle: Gateway) -> None:
    """What was in memory comes from the file now: every revision, every event, every lease."""
    with nodes() as [store]:
        with store.gateway() as gateway:
            gateway.put("so that the first revisions compacted are none of the first sequence")

        def agree(steps: list[Step]) -> int:
            with store.gateway() as gateway:
                replay_on_both(gateway, oracle, steps)
            store.kill()
            store.start()
            store.wait_until_ready()
            with store.gateway() as gateway:
                assert replay(gateway, everything(gateway), fresh=False) == replay(
                    oracle, everything(oracle), fresh=False
                )
            return len(steps)

        check(agree, sequence, examples=4)


def everything(gateway: Gateway) -> list[Step]:
    """Requests that show all a store knows since its compaction."""
    first, last = revisions(gateway)
    return [
        *(Call(RANGE, {**WHOLE_STORE, "revision": At(number)}) for number in range(first - last - 1, 2)),
        *(Call(TIME_TO_LIVE, {"ID": lease, "keys": True}) for lease in (*LEASES, UNKNOWN_LEASE)),
        Watch({**WHOLE_STORE, "start_revision": At(first - last), "prev_kv": True}),
        Watch({**WHOLE_STORE, "start_revision": At(first - last - 1), "prev_kv": True}),
    ]
