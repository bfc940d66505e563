"""A cluster goes from one build to the next, node by node, as docs/operations.md has it."""

import sys
from collections.abc import Iterator
from pathlib import Path
from signal import SIGTERM

import pytest

from jobguard_store.machine.commands import LEVEL
from tests.processes import older
from tests.stores import Cluster, Node, eventually, make

# For word of a member that has just started a node waits three of these: enough for a busy host, too.
FLAGS = ["--heartbeat-interval", "50", "--election-timeout", "2000", "--snapshot-count", "50"]
ADD_USER, ADD_MEMBER = "/v3/auth/user/add", "/v3/cluster/member/add"
REFUSED = (
    "jobguard: not every member of the cluster can read what this request writes: "
    "start {} with this version of jobguard first"
)
TOO_OLD = f"the cluster needs a newer jobguard: its log is at level {LEVEL}, and this one reads level "


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    cluster = make("jobguard", tmp_path, 3, FLAGS)
    try:
        for node in cluster.nodes:
            go_back(node)
            node.start()
        cluster.wait_healthy()
        yield cluster
    finally:
        cluster.stop()


def go_back(node: Node) -> None:
    """To the older build, from the next start on."""
    flags = node.command[node.command.index("--name") :]
    node.command = [sys.executable, older.__file__, *flags]


def upgrade(node: Node) -> None:
    flags = node.command[node.command.index("--name") :]
    node.command = [sys.executable, "-m", "jobguard_store", *flags]


def add_user(node: Node, name: str) -> tuple[int, str]:
    with node.gateway() as gateway:
        answer = gateway.post(ADD_USER, {"name": name, "options": {"no_password": True}})
        return answer.status, answer.json.get("message", "")


def put(node: Node, value: str) -> None:
    with node.gateway() as gateway:
        gateway.put("k", value)


def ends_with(node: Node, sentence: str) -> bool:
    """The process gave up by itself, and said this."""
    assert node.process is not None
    if node.process.poll() is None:
        return False
    node.process = None
    return sentence in node.tail()


def test_what_is_new_waits_for_the_last_and_from_there_on_an_older_build_does_not_come_in(
    cluster: Cluster, tmp_path: Path
) -> None:
    s1, s2, s3 = cluster.nodes
    for node in (s1, s2):
        node.kill(SIGTERM)
        upgrade(node)
        node.start()
        node.wait_until_ready()
        assert add_user(node, "u")[0] == 400
        for each in cluster.nodes:
            put(each, "old and new")
    assert add_user(s1, "u") == (400, REFUSED.format("s3"))
    eventually(lambda: s2.status().get("errors") == ["s3 runs an older jobguard"], what="word of the last")
    s3.kill(SIGTERM)
    upgrade(s3)
    s3.start()
    s3.wait_until_ready()
    for node in cluster.nodes:
        assert add_user(node, f"u at {node.name}") == (200, "")
        assert node.status().get("errors") is None
    for number in range(100):  # what s3 lacks when it comes back is forgotten
        put(s1, str(number))

    s3.kill(SIGTERM)
    go_back(s3)
    s3.start()
    eventually(lambda: ends_with(s3, TOO_OLD), 60, "the end of one that went back")
    assert add_user(s1, "still") == (200, "")
    upgrade(s3)
    s3.start()
    s3.wait_until_ready()

    fourth, url = newcomer(cluster, tmp_path, FLAGS)
    with cluster.nodes[0].gateway() as gateway:
        gateway.ok(ADD_MEMBER, {"peerURLs": [url]})
    cluster.nodes.append(fourth)
    go_back(fourth)
    fourth.start()
    eventually(lambda: ends_with(fourth, TOO_OLD), 60, "the end of one that is too old to join")
    upgrade(fourth)
    fourth.start()
    fourth.wait_until_ready()


def newcomer(cluster: Cluster, directory: Path, flags: list[str]) -> tuple[Node, str]:
    """A node that is to join, and where its peers will reach it; neither added nor started yet."""
    (node,) = make("jobguard", directory / "newcomer", 1, flags).nodes
    node.name, command = "s4", node.command
    url = command[command.index("--listen-peer-urls") + 1]
    others = cluster.nodes[0].command
    together = f"{others[others.index('--initial-cluster') + 1]},s4={url}"
    for flag, value in (("--name", "s4"), ("--initial-cluster", together)):
        command[command.index(flag) + 1] = value
    command += ["--initial-cluster-state", "existing"]
    return node, url
