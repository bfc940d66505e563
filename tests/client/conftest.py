"""Every test of the client runs on three stores: ours, and real etcds, 3.5 and 3.4."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from jobguard.client import Client
from tests.stores import CLIENTS_KINDS, SURVIVES_KILLS, Cluster, Kind, running


@pytest.fixture(scope="session", params=CLIENTS_KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(scope="session")
def store(kind: Kind, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One node that all tests share, each in a namespace of its own."""
    with running(kind, tmp_path_factory.mktemp(kind)) as cluster:
        yield cluster


@pytest.fixture
def own_store(kind: Kind, tmp_path: Path) -> Iterator[Cluster]:
    """One node for this test alone, which may kill it."""
    with running(kind, tmp_path, extra=SURVIVES_KILLS[kind]) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def _three_nodes(kind: Kind, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    directory = tmp_path_factory.mktemp(f"{kind}-cluster")
    with running(kind, directory, nodes=3, extra=SURVIVES_KILLS[kind]) as cluster:
        yield cluster


@pytest.fixture
def three_nodes(_three_nodes: Cluster) -> Iterator[Cluster]:
    """A cluster whose nodes the test may kill; each test gets it whole."""
    yield _three_nodes
    for node in _three_nodes.nodes:
        if node.process is None:
            node.start()
    _three_nodes.wait_healthy()


@pytest.fixture
def namespace(request: pytest.FixtureRequest) -> str:
    return str(request.node.name)


@pytest.fixture
def client(store: Cluster, namespace: str) -> Iterator[Client]:
    with Client(store.endpoints, namespace=namespace) as client:
        yield client


@pytest.fixture
def other(store: Cluster, namespace: str) -> Iterator[Client]:
    """A second client of the same namespace, as another host would have."""
    with Client(store.endpoints, namespace=namespace) as client:
        yield client
