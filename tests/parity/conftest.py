"""The oracle, real etcd 3.5, and our node beside it. One of each serves a whole module."""

from collections.abc import Iterator

import pytest

from tests.gateway import Gateway
from tests.parity.agreement import FACTOR, SEED, TALLY
from tests.stores import etcd, nodes


def pytest_report_header() -> str:
    return f"parity: JOBGUARD_TEST_SEED={SEED} JOBGUARD_TEST_FACTOR={FACTOR}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if TALLY.requests:
        terminalreporter.write_line(
            f"parity: {TALLY.requests:,} generated requests to ours and to etcd in {TALLY.seconds:.0f} s, "
            "answered alike"
        )


@pytest.fixture(scope="module")
def oracle() -> Iterator[Gateway]:
    with etcd() as [store], store.gateway() as gateway:
        yield gateway


@pytest.fixture(scope="module")
def other_oracle() -> Iterator[Gateway]:
    with etcd() as [store], store.gateway() as gateway:
        yield gateway


@pytest.fixture(scope="module")
def ours() -> Iterator[Gateway]:
    with nodes() as [store], store.gateway() as gateway:
        yield gateway
