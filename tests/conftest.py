"""Options of the whole suite."""

import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.stores import Cluster, Kind, etcd, running

# In the background of a shell without job control SIGINT is ignored, and stays so in all processes we start.
signal.signal(signal.SIGINT, signal.default_int_handler)


# No example fails for how long it took: the host may have stood still meanwhile.
settings.register_profile("any host", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any host")

TESTS = Path(__file__).parent

# The files that take longest. No worker of xdist shall begin one when the others are about to end.
LONGEST = (
    "plugin/test_ledger.py",
    "processes/test_the_demo.py",
    "plugin/test_worker_deaths.py",
    "plugin/test_beat_processes.py",
    "parity/test_generated.py",
    "plugin/test_worker.py",
    "plugin/test_pools.py",
    "processes/test_chaos.py",
    "plugin/test_crash_points.py",
    "simulation/test_histories.py",
)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, all others as they were: `make test` forbids xdist an order of its own."""
    rank = {TESTS / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path, len(rank)))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--rewrite",
        action="store_true",
        help="accept what the scenarios say now: write it into their files, and review the diff",
    )
    parser.addoption("--seed", type=int, help="replay this one simulated history instead of the usual ones")


@pytest.fixture(scope="session")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Kind], Cluster]]:
    """A store of one node, of the kind you ask for, which all tests share: each needs a namespace of its own.

    A fixture with the kinds as its parameters would start each of them again for every file.
    """
    with ExitStack() as stack:

        @cache
        def store(kind: Kind) -> Cluster:
            if kind == "etcd":
                return Cluster(kind, stack.enter_context(etcd()))
            return stack.enter_context(running(kind, tmp_path_factory.mktemp(kind)))

        yield store
