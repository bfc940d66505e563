"""The oracle, real etcd 3.5, and our node beside it. One of each serves a whole module."""

import os
from collections.abc import Iterator

import pytest

from tests.gateway import Gateway
from tests.stores import etcd, nodes

# To look further: another seed, and so many times the usual number of sequences.
SEED = int(os.environ.get("JOBGUARD_TEST_SEED", "20261124"))
FACTOR = int(os.environ.get("JOBGUARD_TEST_FACTOR", "1"))


def pytest_report_header() -> str:
    return f"parity: JOBGUARD_TEST_SEED={SEED} JOBGUARD_TEST_FACTOR={FACTOR}"


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
