"""The same generated requests to ours and to real etcd: same answers, statuses, texts and events.

The allow-list of what may differ stands at the head of requests.py.
"""

from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, given, seed, settings

from tests.gateway import Gateway
from tests.messages import RANGE, TIME_TO_LIVE
from tests.parity.conftest import FACTOR, SEED
from tests.parity.replay import WHOLE_STORE, At, Call, Step, Watch, replay, revisions
from tests.parity.requests import LEASES, UNKNOWN_LEASE, sequence
from tests.stores import nodes

Agreement = Callable[[list[Step]], None]


def check(agreement: Agreement, examples: int) -> None:
    """Let Hypothesis look for a sequence that breaks it; the seed stands in the report's head."""
    configured = settings(
        max_examples=examples * FACTOR,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    seed(SEED)(configured(given(sequence)(agreement)))()


def test_one_node_answers_as_etcd_does(oracle: Gateway, ours: Gateway) -> None:
    def agree(steps: list[Step]) -> None:
        assert replay(ours, steps) == replay(oracle, steps)

    check(agree, examples=60)


@pytest.fixture(scope="module")
def follower() -> Iterator[Gateway]:
    with nodes(3) as stores:
        for store in stores:
            with store.gateway() as gateway:
                status = gateway.ok("/v3/maintenance/status")
                if status["leader"] != status["header"]["member_id"]:
                    yield gateway
                    return


def test_a_follower_of_three_answers_as_etcd_does(oracle: Gateway, follower: Gateway) -> None:
    def agree(steps: list[Step]) -> None:
        assert replay(follower, steps) == replay(oracle, steps)

    check(agree, examples=30)


def test_after_kill_9_everything_is_answered_as_before(oracle: Gateway) -> None:
    """What was in memory comes from the file now: every revision, every event, every lease."""
    with nodes() as [store]:
        with store.gateway() as gateway:
            gateway.put("so that the first revisions compacted are none of the first sequence")

        def agree(steps: list[Step]) -> None:
            with store.gateway() as gateway:
                assert replay(gateway, steps) == replay(oracle, steps)
            store.kill()
            store.start()
            store.wait_until_ready()
            with store.gateway() as gateway:
                assert replay(gateway, everything(gateway), fresh=False) == replay(
                    oracle, everything(oracle), fresh=False
                )

        check(agree, examples=4)


def everything(gateway: Gateway) -> list[Step]:
    """Requests that show all a store knows since its compaction."""
    first, last = revisions(gateway)
    return [
        *(Call(RANGE, {**WHOLE_STORE, "revision": At(number)}) for number in range(first - last - 1, 2)),
        *(Call(TIME_TO_LIVE, {"ID": lease, "keys": True}) for lease in (*LEASES, UNKNOWN_LEASE)),
        Watch({**WHOLE_STORE, "start_revision": At(first - last), "prev_kv": True}),
        Watch({**WHOLE_STORE, "start_revision": At(first - last - 1), "prev_kv": True}),
    ]
