"""Hypothesis looks for requests about which two stores disagree; how many it has tried is counted.

Place in the house   test_generated, test_concurrent, test_streams -> check -> their own comparison
Gives                a failure with the shortest sequence that shows the difference
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

# To look further: another seed, and so many times the usual number of sequences.
SEED = int(os.environ.get("JOBGUARD_TEST_SEED", "20261124"))
FACTOR = int(os.environ.get("JOBGUARD_TEST_FACTOR", "1"))

S = TypeVar("S")


@dataclass
class Tally:
    requests: int = 0
    seconds: float = 0


TALLY = Tally()
"""What this run has sent to both stores and found answered alike."""


def check(
    agree: Callable[[S], int], sequences: st.SearchStrategy[S], *, examples: int, requests: int = 0
) -> None:
    """Let Hypothesis look for a sequence on which they do not `agree`, which says how long each was."""
    sent = 0

    def agreed(sequence: S) -> None:
        nonlocal sent
        sent += agree(sequence)

    configured = settings(
        max_examples=examples * FACTOR,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    started = time.monotonic()
    seed(SEED)(configured(given(sequences)(agreed)))()
    TALLY.requests += sent if requests else 0
    TALLY.seconds += time.monotonic() - started
    assert sent >= requests * FACTOR, f"only {sent} requests"
