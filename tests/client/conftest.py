"""Every test of the client runs on three stores: ours, and real etcds, 3.5 and 3.4."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jobguard.client import Client
from tests.stores import CLIENTS_KINDS, SURVIVES_KILLS, Cluster, Kind, running


@pytest.fixture(scope="session", params=CLIENTS_KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(scope="session")
def store(kind: Kind, stores: Callable[[Kind], Cluster]) -> Cluster:
    """One node that all tests share, each in a namespace of its own."""
    return stores(kind)


@pytest.fixture
def own_store(kind: Kind, tmp_path: Path) -> Iterator[Cluster]:
    """One node for this test alone, which may kill it."""
    with running(kind, tmp_path, extra=SURVIVES_KILLS[kind]) as cluster:
        yield cluster


@pytest.fixture
def namespace(request: pytest.FixtureRequest) -> str:
    return str(request.node.nodeid)


@pytest.fixture
def client(store: Cluster, namespace: str) -> Iterator[Client]:
    with Client(store.endpoints, namespace=namespace, timeout=30) as client:
        yield client


@pytest.fixture
def other(store: Cluster, namespace: str) -> Iterator[Client]:
    """A second client of the same namespace, as another host would have."""
    with Client(store.endpoints, namespace=namespace, timeout=30) as client:
        yield client
