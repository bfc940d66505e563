"""Users of three nodes: known everywhere at once, and through restarts, snapshots and backups."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.accounts import PASSWORD, ROOT_PASSWORD, add_user, as_, disable, enable, raw, token
from tests.gateway import Gateway, b64
from tests.messages import PUT, RANGE, WATCH, create, put, range_
from tests.processes.test_drills import flags_of, jobguard
from tests.stores import Cluster, Node, eventually, leader_of, make, running

FLAGS = ["--heartbeat-interval", "50", "--election-timeout", "500", "--snapshot-count", "100"]
CHANGES = 6
INVALID = (401, 16, "etcdserver: invalid auth token")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running("jobguard", tmp_path_factory.mktemp("cluster"), 3, FLAGS) as cluster:
        yield cluster


@pytest.fixture
def gateways(cluster: Cluster) -> Iterator[list[Gateway]]:
    gateways = [node.gateway() for node in cluster.nodes]
    yield gateways
    for gateway in gateways:
        gateway.close()


def test_what_one_member_acknowledged_counts_at_the_next(gateways: list[Gateway]) -> None:
    """A grant, its loss, a login: the request that follows comes to another member, leader or not."""
    root = enable(gateways[0])
    for number in range(CHANGES):
        there, here = gateways[number % 3], gateways[(number + 1) % 3]
        assert here.post(RANGE, range_("k")).error == (400, 3, "etcdserver: user name is empty")
        name = f"user {number}"
        add_user(there, root, name, ("READWRITE", "k", ""))
        user = token(there, name)
        assert here.post(PUT, put("k", name), headers=raw(user)).status == 200
        assert here.post(RANGE, range_("k"), headers=raw(user)).json["kvs"][0]["value"] == b64(name)
        as_(there, root, "/v3/auth/role/revoke", {"role": name, "key": b64("k")})
        assert here.post(PUT, put("k"), headers=raw(user)).status == 403
        assert here.post(RANGE, range_("k"), headers=raw(user)).status == 403
        as_(there, root, "/v3/auth/user/delete", {"name": name})
        assert here.post(PUT, put("k"), headers=raw(user)).error == INVALID
    disable(gateways[1], root)
    for gateway in gateways:
        gateway.put("k", "anybody's")


def test_nobody_else_on_the_host_reads_the_hashes(cluster: Cluster) -> None:
    """Also in a directory that was there before, for others to look into."""
    for node in cluster.nodes:
        folder = Path(node.command[node.command.index("--data-dir") + 1])
        modes = {each.name: each.stat().st_mode & 0o077 for each in (folder, *folder.rglob("*"))}
        assert len(modes) > 2
        assert set(modes.values()) == {0}, modes


def test_users_outlive_a_restart(cluster: Cluster, gateways: list[Gateway]) -> None:
    root = enable(gateways[0])
    add_user(gateways[0], root, "user", ("READWRITE", "a/", "a0"))
    user = token(gateways[0], "user")
    with gateways[2].stream(WATCH, create("a/", "a0"), headers=raw(user)) as stream:
        assert stream.result()["created"]
        for node in cluster.nodes:
            node.kill()
    for node, gateway in zip(cluster.nodes, gateways, strict=True):
        gateway.close()
        node.start()
    cluster.wait_healthy()
    leader_of(cluster.nodes)
    for gateway in gateways:
        assert gateway.post(RANGE, range_("a/k")).status == 400
    new = token(gateways[1], "user")
    for gateway in gateways:
        as_(gateway, new, PUT, put("a/k"))
        assert gateway.post(PUT, put("b"), headers=raw(new)).status == 403
    disable(gateways[0], token(gateways[0], "root", ROOT_PASSWORD))


def test_a_member_that_took_a_snapshot_asks_the_same_users(cluster: Cluster) -> None:
    """What made them it has never seen; a token from then is good at the others only."""
    late = next(node for node in cluster.nodes if not node.leads())
    [other, _] = [node for node in cluster.nodes if node is not late]
    late.kill()
    with other.gateway() as gateway:
        root = enable(gateway)
        add_user(gateway, root, "user", ("READWRITE", "a/", "a0"))
        user = token(gateway, "user")
        for number in range(400):
            as_(gateway, user, PUT, put("a/k", str(number)))
        late.start()
        late.wait_until_ready()
        eventually(lambda: "lives by a snapshot" in late.log.read_text(), what="a snapshot")
        with late.gateway() as behind:
            assert behind.post(PUT, put("b")).status == 400
            assert behind.post(PUT, put("a/k"), headers=raw(user)).error == INVALID
            new = token(behind, "user")
            for each in (behind, gateway):
                as_(each, new, PUT, put("a/k"))
                assert each.post(PUT, put("b"), headers=raw(new)).status == 403
        disable(gateway, token(gateway, "root", ROOT_PASSWORD))


def test_a_backup_is_roots_and_keeps_the_users(cluster: Cluster, tmp_path: Path) -> None:
    with cluster.nodes[0].gateway() as gateway:
        root = enable(gateway)
        add_user(gateway, root, "user", ("READWRITE", "a/", "a0"))
        as_(gateway, token(gateway, "user"), PUT, put("a/k", "v"))
        backup(gateway.url, tmp_path)
        disable(gateway, root)
    [restored] = make("jobguard", tmp_path / "restored").nodes
    flags = flags_of(restored, "name", "data-dir", "initial-cluster", "initial-advertise-peer-urls")
    jobguard("restore", str(tmp_path / "backup"), *flags)
    restored.start()
    try:
        restored.wait_until_ready()
        asks(restored)
    finally:
        restored.kill()


def backup(url: str, folder: Path) -> None:
    """By root, and by nobody else."""
    password = folder / "password"
    words = ["backup", str(folder / "backup"), "--endpoints", url]
    assert "user name is empty" in jobguard(*words, code=1)
    for user, known, said in (
        ("user", PASSWORD, "permission denied"),
        ("root", "wrong", "authentication failed"),
        ("root", ROOT_PASSWORD, ""),
    ):
        password.write_text(f"{known}\n")
        who = ["--username", user, "--password-file", str(password)]
        assert said in jobguard(*words, *who, code=1 if said else 0)


def asks(node: Node) -> None:
    with node.gateway() as gateway:
        assert gateway.post(RANGE, range_("a/k")).status == 400
        user = token(gateway, "user")
        assert as_(gateway, user, RANGE, range_("a/k")).json["kvs"][0]["value"] == b64("v")
        assert gateway.post(RANGE, range_("b"), headers=raw(user)).status == 403
