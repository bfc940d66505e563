"""Users of three nodes: known everywhere at once, and through restarts, snapshots and backups."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.accounts import PASSWORD, ROOT_PASSWORD, add_user, as_, disable, enable, raw, token
from tests.gateway import Answer, Gateway, b64, unb64
from tests.messages import PUT, RANGE, WATCH, create, put, range_
from tests.processes.test_catching_up import applied, leave_behind
from tests.processes.test_drills import flags_of, jobguard
from tests.processes.test_upgrade import newcomer
from tests.stores import Cluster, Node, eventually, leader_of, make, running

# An election comes when a node starts or leadership is handed over, and not because the host was busy.
FLAGS = ["--heartbeat-interval", "50", "--election-timeout", "2000", "--snapshot-count", "100"]
CHANGES = 6
UNANSWERED = (503, 504)  # while the leader changes, or a state takes the place of entries
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


def data_of(node: Node) -> Path:
    return Path(node.command[node.command.index("--data-dir") + 1])


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
        folder = data_of(node)
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
    others = [node for node in cluster.nodes if node is not late]
    other, left_at = others[0], applied(late)
    late.kill()
    with other.gateway() as gateway:
        root = enable(gateway)
        add_user(gateway, root, "user", ("READWRITE", "a/", "a0"))
        user = token(gateway, "user")
        for number in range(400):
            as_(gateway, user, PUT, put("a/k", str(number)))
        leave_behind(left_at, others, data_of(late).parent)
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


def test_a_learner_asks_the_same_users_and_is_as_good_a_place_to_change_them(
    cluster: Cluster, gateways: list[Gateway], tmp_path: Path
) -> None:
    root = enable(gateways[0])
    add_user(gateways[0], root, "user", ("READWRITE", "a/", "a0"))
    learner, url = newcomer(cluster, tmp_path, FLAGS)
    added = as_(gateways[1], root, "/v3/cluster/member/add", {"peerURLs": [url], "isLearner": True}).json
    learner.start()
    try:
        learner.wait_until_ready()
        assert learner.status()["isLearner"]
        with learner.gateway() as there:
            for asked, other in ((there, gateways[0]), (gateways[0], there)):
                user = token(asked, "user")
                for each in (asked, other):
                    as_(each, user, PUT, put("a/k"))
                    as_(each, user, RANGE, range_("a/k"))
                    assert each.post(PUT, put("b"), headers=raw(user)).status == 403
                    assert each.post(RANGE, range_("b"), headers=raw(user)).status == 403
                    assert each.post(PUT, put("a/k")).error == (400, 3, "etcdserver: user name is empty")
            with there.stream(WATCH, create("a/", "a0"), headers=raw(user)) as stream:
                assert stream.result()["created"]
                as_(gateways[2], user, PUT, put("a/k", "seen"))
                assert stream.result()["events"]
                as_(
                    gateways[1],
                    root,
                    "/v3/auth/role/revoke",
                    {"role": "user", "key": b64("a/"), "range_end": b64("a0")},
                )
                assert there.post(PUT, put("a/k"), headers=raw(user)).status == 403
                assert there.post(RANGE, range_("a/k"), headers=raw(user)).status == 403
                for each in gateways:
                    each.post(PUT, put("a/k", "not to be seen"), headers=raw(root))
                assert stream.result()["canceled"]
            roots = token(there, "root", ROOT_PASSWORD)  # what came as a state brought no older token along
            add_user(there, roots, "another", ("READWRITE", "a/", "a0"))
            as_(gateways[2], token(gateways[2], "another"), PUT, put("a/k"))
            as_(there, roots, "/v3/cluster/member/remove", {"ID": added["member"]["ID"]})
    finally:
        learner.kill()
    disable(gateways[0], root)


def test_tokens_and_rights_hold_while_leaders_change_under_load(
    cluster: Cluster, gateways: list[Gateway]
) -> None:
    """Each user writes what he may, and tries what he may not, at a node he did not log in at."""
    root = enable(gateways[0])
    for number in range(3):
        add_user(gateways[0], root, f"user {number}", ("READWRITE", f"{number}/", f"{number}0"))
    writers = [
        Writer(node, number, token(gateways[number - 1], f"user {number}"))
        for number, node in enumerate(cluster.nodes)
    ]
    try:
        for number in range(6):
            leader = leader_of(cluster.nodes)
            heir = cluster.nodes[(cluster.nodes.index(leader) + 1) % 3]
            with leader.gateway() as gateway:
                target = {"targetID": heir.status()["header"]["member_id"]}
                as_(gateway, root, "/v3/maintenance/transfer-leadership", target)
            add_user(gateways[number % 3], root, f"added {number}")  # all are told from their tokens anew
            for writer in writers:
                writer.goes_on()
    finally:
        for writer in writers:
            writer.end()
    assert [writer.surprises for writer in writers] == [[], [], []]
    for number, writer in enumerate(writers):
        found = as_(gateways[number], root, RANGE, range_(f"{number}/k")).json["kvs"][0]["value"]
        assert int(unb64(found)) in (writer.done, writer.done + 1), "the last that was answered, or the next"
    disable(gateways[0], root)


class Writer:
    """Writes of one user at one node, one after the other."""

    def __init__(self, node: Node, number: int, user: str) -> None:
        self.done = 0
        self.surprises: list[object] = []
        self._key = f"{number}/k"
        self._others = f"{(number + 1) % 3}/k"
        self._headers = raw(user)
        self._gateway = node.gateway()
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._ends.is_set():
            written = self._ask(self._key, str(self.done + 1))
            if written.status == 200:
                self.done += 1
            elif written.status not in UNANSWERED:  # whether it was done may be unknown
                self.surprises.append(written)
            refused = self._ask(self._others, "stolen")
            if refused.status not in (403, *UNANSWERED):
                self.surprises.append(refused)
        self._gateway.close()

    def _ask(self, key: str, value: str) -> Answer:
        return self._gateway.post(PUT, put(key, value), headers=self._headers)

    def goes_on(self, requests: int = 10) -> None:
        before = self.done
        eventually(lambda: self.surprises or self.done >= before + requests, what="writes")

    def end(self) -> None:
        self._ends.set()
        self._thread.join()


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
