"""Options of the whole suite."""

import signal

import pytest
from hypothesis import HealthCheck, settings

# In the background of a shell without job control SIGINT is ignored, and stays so in all processes we start.
signal.signal(signal.SIGINT, signal.default_int_handler)


# No example fails for how long it took: the host may have stood still meanwhile.
settings.register_profile("any host", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any host")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--rewrite",
        action="store_true",
        help="accept what the scenarios say now: write it into their files, and review the diff",
    )
    parser.addoption("--seed", type=int, help="replay this one simulated history instead of the usual ones")
