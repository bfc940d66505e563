"""The same generated requests to ours and to real etcd: same answers, statuses, texts and events.

The allow-list of what may differ stands at the head of requests.py.
"""

from hypothesis import HealthCheck, given, seed, settings

from tests.gateway import Gateway
from tests.parity.conftest import SEED
from tests.parity.replay import Step, replay
from tests.parity.requests import sequence


def test_ours_answers_as_etcd_does(oracle: Gateway, ours: Gateway) -> None:
    @seed(SEED)
    @settings(max_examples=80, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(sequence)
    def agree(steps: list[Step]) -> None:
        assert replay(ours, steps) == replay(oracle, steps)

    agree()
