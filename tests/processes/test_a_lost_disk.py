"""A node whose data is gone does not come back under its old id, whoever was restarted meanwhile."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.stores import Cluster, Node, running


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with running("jobguard", tmp_path, 3) as cluster:
        yield cluster


def ended(node: Node) -> str:
    """Wait for it to refuse, and return its sentence."""
    assert node.process is not None
    assert node.process.wait(60) == 1
    node.process = None
    return node.tail().splitlines()[-1]


def test_an_emptied_node_refuses_also_after_its_peers_were_restarted(
    cluster: Cluster, tmp_path: Path
) -> None:
    lost, *others = cluster.nodes
    with lost.gateway() as gateway:
        gateway.put("a", "1")
    for node in cluster.nodes:
        node.kill()
    shutil.rmtree(tmp_path / lost.name)
    for node in cluster.nodes:
        node.start()
    sentence = ended(lost)
    assert f"({lost.name}) ran before with data that is gone" in sentence
    assert "`member remove`" in sentence
    assert "`member add`" in sentence
    for node in others:
        node.wait_until_ready()

    for node in others:
        node.kill()
    for _ in range(3):  # a supervisor goes on trying; alone it is told by nobody, and knows by itself
        lost.start()
        assert sentence.partition("member ")[2] in ended(lost)
    for node in others:
        node.start()
    for node in others:
        node.wait_until_ready()
    with others[0].gateway() as gateway:
        assert gateway.ok("/v3/kv/range", {"key": "YQ=="})["count"] == "1"


def test_an_old_copy_of_a_nodes_data_refuses_too(cluster: Cluster, tmp_path: Path) -> None:
    """Its count of starts tells: restored from a backup, it has forgotten what it said since."""
    restored, *others = cluster.nodes
    data, backup = tmp_path / restored.name, tmp_path / "backup"
    restored.kill()
    shutil.copytree(data, backup)
    restored.start()
    restored.wait_until_ready()
    restored.kill()
    shutil.rmtree(data)
    shutil.copytree(backup, data)
    restored.start()
    assert "ran before with data that is gone" in ended(restored)
    for node in others:
        node.wait_until_ready()
