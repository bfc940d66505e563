"""The drills of docs/operations.md, carried out: what its operator does when data, or a quorum, is lost."""

import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from signal import SIGTERM
from typing import Any

import pytest

from jobguard.client import Client
from jobguard_store.anew import REVISIONS_SKIPPED
from tests.messages import HASHKV, RANGE, WATCH, create, range_
from tests.processes.test_catching_up import applied, leader_last, writing
from tests.stores import Cluster, Node, eventually, running

ADD = "/v3/cluster/member/add"


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with running("jobguard", tmp_path, 3) as cluster:
        yield cluster


def jobguard(*words: str, code: int = 0) -> str:
    """What `jobguard store …` says."""
    command = [sys.executable, "-m", "jobguard_store", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == code, done.stderr + done.stdout
    return done.stdout if code == 0 else done.stderr.splitlines()[-1]


def flags_of(node: Node, *names: str) -> list[str]:
    """Those of its start that its restore needs as well."""
    found = []
    for name in names:
        found += [f"--{name}", node.command[node.command.index(f"--{name}") + 1]]
    return found


def read(node: Node, key: str, end: str = "") -> Any:
    with node.gateway() as gateway:
        return gateway.ok(RANGE, range_(key, end))


def revision(node: Node) -> int:
    return int(read(node, "-")["header"]["revision"])


def last_on_disk(data: Path) -> int:
    with closing(sqlite3.connect(f"file:{data / 'node.sqlite'}?mode=ro", uri=True)) as file:
        (index,) = file.execute('SELECT max("index") FROM log').fetchone()
    return int(index)


def agree(nodes: list[Node]) -> None:
    def hashes() -> bool:
        answers = []
        for node in nodes:
            with node.gateway() as gateway:
                answer = gateway.ok(HASHKV)
                answers.append((answer["hash"], answer["hash_revision"], answer.get("compact_revision")))
        return len(set(answers)) == 1

    eventually(hashes, 60, "all to hold the same")


def told_compacted(node: Node, start: int) -> bool:
    """Whether a watch that goes on from the old cluster's revision is told to begin anew."""
    with node.gateway() as gateway, gateway.stream(WATCH, create("w/", "w0", start_revision=start)) as stream:
        while not (message := stream.result()).get("canceled"):
            pass
        return int(message["compact_revision"]) > start


def test_a_new_cluster_begins_with_a_backup(cluster: Cluster, tmp_path: Path) -> None:
    backup = tmp_path / "backup"
    with Client(cluster.endpoints, timeout=30) as client:
        with client.lock("digest", ttl=60) as lock:
            held = lock.fencing_token
        client.put("kept", "1")
        old_cluster = client.cluster_id()
    with cluster.nodes[0].gateway() as gateway:
        gateway.ok("/v3/lease/grant", {"ID": 7, "TTL": 600})
        gateway.put("leased", "1", lease=7)
    with writing(cluster.nodes):
        said = jobguard("backup", str(backup), "--endpoints", ",".join(cluster.endpoints))
    assert "whole and durable" in said
    assert "exists already" in jobguard("backup", str(backup), "--endpoints", cluster.endpoints[0], code=1)
    before = max(map(revision, cluster.nodes))
    for node in cluster.nodes:
        node.kill()

    for node in cluster.nodes:
        directory = tmp_path / node.name
        own = flags_of(node, "name", "data-dir", "initial-cluster")
        assert "is not empty" in jobguard("restore", str(backup), *own, code=1)
        shutil.rmtree(directory)
        assert "new cluster" in jobguard("restore", str(backup), *own)
        node.start()
    cluster.wait_healthy()

    with Client(cluster.endpoints, timeout=30) as client:
        assert client.get("kept").value == b"1"
        assert client.cluster_id() != old_cluster
        with client.lock("digest", ttl=60) as lock:
            assert lock.fencing_token > before
    assert REVISIONS_SKIPPED < revision(cluster.nodes[0]) < before + REVISIONS_SKIPPED + 100
    assert told_compacted(cluster.nodes[1], before)
    assert held < before
    with cluster.nodes[2].gateway() as gateway:
        left = int(gateway.ok("/v3/kv/lease/timetolive", {"ID": 7})["TTL"])
        assert 500 < left <= 600, "it counts from the new cluster's begin"
    agree(cluster.nodes)
    for node in cluster.nodes:  # and it is a cluster like any other
        node.kill(SIGTERM)
        node.start()
    cluster.wait_healthy()
    assert read(cluster.nodes[0], "kept")["count"] == "1"


@pytest.mark.parametrize("how", ["cut short", "a flipped bit", "no backup"])
def test_what_is_no_whole_backup_is_refused(tmp_path: Path, how: str) -> None:
    backup = tmp_path / "backup"
    with running("jobguard", tmp_path, 1) as alone:
        jobguard("backup", str(backup), "--endpoints", alone.endpoints[0])
    content = bytearray(backup.read_bytes())
    match how:
        case "cut short":
            del content[-1000:]
        case "a flipped bit":
            content[len(content) // 2] ^= 1
        case _:
            content = bytearray(b"something else altogether, and longer than a digest is")
    backup.write_bytes(content)
    target = tmp_path / "restored"
    said = jobguard("restore", str(backup), "--data-dir", str(target), code=1)
    assert "is not a whole backup, its checksum does not match: use another copy." in said
    assert [each.name for each in target.iterdir()] == ["node.sqlite.lock"]


def test_a_lost_quorum_is_replaced_by_the_one_that_is_left(cluster: Cluster, tmp_path: Path) -> None:
    left, *lost = cluster.nodes
    data = str(tmp_path / left.name)
    with left.gateway() as gateway:
        for number in range(50):
            gateway.put(f"k/{number}", "x")
    before = revision(left)
    assert "in use by another process" in jobguard("recover", "--data-dir", data, code=1)
    # What a quorum has, and so is answered, need not be on the disk of each yet.
    eventually(lambda: last_on_disk(Path(data)) >= applied(left), what="its own disk to have all of it")
    for node in cluster.nodes:
        node.kill()

    said = jobguard("recover", "--data-dir", data)
    assert f"member       {left.name} (" in said
    assert f"revision {before}, 50 keys, 0 leases" in said
    assert "Lost is whatever a majority among s2, s3 acknowledged after that entry." in said
    assert "Nothing was changed" in said
    assert "Nothing was changed" in jobguard(
        "recover", "--data-dir", data, "--force-new-cluster", "--dry-run"
    )
    assert "the only member of the new cluster" in jobguard(
        "recover", "--data-dir", data, "--force-new-cluster", "--yes"
    )

    left.start()
    left.wait_until_ready()
    assert read(left, "k/", end="k0")["count"] == "50"
    assert revision(left) == before + REVISIONS_SKIPPED
    assert told_compacted(left, before + 1)
    with left.gateway() as gateway:
        assert len(gateway.ok("/v3/cluster/member/list")["members"]) == 1
        assert int(gateway.put("k/0", "y")["header"]["revision"]) == before + REVISIONS_SKIPPED + 1

    lost[0].start()  # a member of the old cluster finds nobody, and nobody finds it
    for node in lost[1:]:
        join(node, left, tmp_path)
    agree([left, *lost[1:]])
    assert lost[0].process is not None
    lost[0].kill()


def join(node: Node, member: Node, directory: Path) -> None:
    """Add `node` with an empty disk."""
    shutil.rmtree(directory / node.name)
    (peer,) = flags_of(node, "initial-advertise-peer-urls")[1:]
    with member.gateway() as gateway:
        gateway.ok(ADD, {"peerURLs": [peer]})
    node.command += ["--initial-cluster-state", "existing"]
    node.start()
    node.wait_until_ready()


def test_a_member_whose_disk_died_is_replaced(cluster: Cluster, tmp_path: Path) -> None:
    lost, *others = leader_last(cluster)  # an election would cost the writers an answer
    id = str(lost.status()["header"]["member_id"])
    with writing(others):
        lost.kill()
        with others[0].gateway() as gateway:
            gateway.ok("/v3/cluster/member/remove", {"ID": id})
        join(lost, others[0], tmp_path)
    agree(cluster.nodes)
    assert lost.status()["header"]["member_id"] != id
