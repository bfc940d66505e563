"""A client with a user's name and password, who may touch the plugin's prefix and nothing else."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from jobguard.cli import main
from jobguard.client import Client
from jobguard.errors import ConfigurationError, ServerError, Unavailable
from jobguard.login import AUTHENTICATE
from jobguard.session import State
from jobguard.settings import Settings
from tests.accounts import PASSWORD, ROOT_PASSWORD, add_user, as_, enable, token
from tests.client.test_fork import in_child
from tests.gateway import Gateway
from tests.stores import Cluster, Kind, running

DENIED = "etcdserver: permission denied"
FAILED = "etcdserver: authentication failed, invalid user ID or password"


@dataclass
class Guarded:
    """A store with authentication on, and `app`, as docs/security.md makes it for a Celery app."""

    cluster: Cluster
    gateway: Gateway

    def root(self) -> str:
        return token(self.gateway, "root", ROOT_PASSWORD)

    def change(self, path: str, message: Any) -> None:
        as_(self.gateway, self.root(), f"/v3/auth/{path}", message)

    def client(self, namespace: str, password: str = PASSWORD) -> Client:
        """One so patient that a log-in is never begun again because the host stood still."""
        return Client(
            self.cluster.endpoints, namespace=namespace, timeout=30, username="app", password=password
        )


@pytest.fixture(scope="module")
def guarded(kind: Kind, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    with running(kind, tmp_path_factory.mktemp(f"{kind}-guarded")) as cluster:
        [node] = cluster.nodes
        with node.gateway() as gateway:
            root = enable(gateway)
            add_user(gateway, root, "app", ("READWRITE", "/jobguard/", "/jobguard0"))
            yield Guarded(cluster, gateway)


@pytest.fixture
def mine(guarded: Guarded, namespace: str) -> Iterator[Client]:
    with guarded.client(namespace) as client:
        yield client


@pytest.fixture
def logins(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Counts what is asked of the store to log in."""
    from jobguard.endpoints import Node

    asked: list[str] = []
    exchange = Node._exchange

    def counting(self: Node, path: str, *rest: Any) -> Any:
        if path == AUTHENTICATE:
            asked.append(path)
        return exchange(self, path, *rest)

    monkeypatch.setattr(Node, "_exchange", counting)
    monkeypatch.setattr("jobguard.watch.PATIENCE", 30.0)
    return asked


def forgotten(client: Client) -> None:
    """As the token is after some minutes without use, or a restart of the store."""
    login = client.endpoints.login
    assert login is not None
    login.token = "forgotten.1"


def test_all_that_the_plugin_builds_on_works_below_its_prefix(mine: Client) -> None:
    key = mine.key("k")
    mine.put(key, "v")
    assert mine.get(key) is not None
    with mine.lock("l", ttl=60.0) as lock:
        assert lock.fencing_token > 0
    with mine.election("e", ttl=60.0) as leader:
        assert leader.is_leader
    with mine.session(60.0) as session:
        mine.put(mine.key("leased"), "v", lease=session.lease_id)
        assert mine.time_to_live(session.lease_id, keys=True).keys == (mine.key("leased").encode(),)
        assert mine.keepalive(session.lease_id) > 0
    assert mine.members()
    assert mine.status().version


def test_what_lies_beyond_it_is_denied(mine: Client) -> None:
    for ask in (
        lambda: mine.get("elsewhere"),
        lambda: mine.put("elsewhere", "v"),
        lambda: mine.delete("elsewhere"),
        lambda: mine.prefix(""),
        lambda: mine.watch("elsewhere", start_revision=1).poll(30.0),
    ):
        with pytest.raises(ServerError, match=DENIED) as refused:
            ask()
        assert refused.value.code == 7


def test_a_token_is_had_when_one_is_asked_for_and_kept(mine: Client, logins: list[str]) -> None:
    for _ in range(3):
        mine.put(mine.key("k"), "v")
    assert len(logins) == 1
    forgotten(mine)
    mine.put(mine.key("k"), "w")
    assert len(logins) == 2


def test_of_many_threads_one_logs_in(mine: Client, logins: list[str]) -> None:
    start = threading.Barrier(8)

    def work(number: int) -> None:
        start.wait(30)
        mine.put(mine.key(str(number)), "v")

    with ThreadPoolExecutor(8) as pool:
        for each in [pool.submit(work, number) for number in range(8)]:
            each.result(60)
    assert len(logins) == 1


def test_a_child_goes_on_with_its_parents_token_and_gets_its_own(mine: Client) -> None:
    mine.put(mine.key("k"), "v")
    login = mine.endpoints.login
    assert login is not None

    def work() -> None:
        assert mine.endpoints.login is not login
        assert mine.get(mine.key("k")) is not None
        forgotten(mine)
        assert mine.get(mine.key("k")) is not None

    with login._renewing:  # held in the parent at the moment of the fork
        in_child(work)


def test_watches_and_sessions_outlive_their_token(mine: Client, guarded: Guarded) -> None:
    with mine.session(60.0) as session, mine.watch(mine.key("w")) as watch:
        mine.put(mine.key("w", "1"), "v")
        first = watch.poll(30.0)
        assert first is not None
        forgotten(mine)
        watch._disconnect()
        mine.put(mine.key("w", "2"), "v")
        forgotten(mine)
        batch = watch.poll(30.0)
        assert batch is not None
        assert batch.events[0].kv is not None
        assert batch.events[0].kv.key == mine.key("w", "2").encode()
        forgotten(mine)
        before = session.deadline
        assert session._renew()
        assert session.deadline > before
        assert session.state is State.HELD


def test_a_watch_whose_right_is_lost_ends(guarded: Guarded, namespace: str, kind: Kind) -> None:
    guarded.change("user/add", {"name": "lost", "password": PASSWORD})
    guarded.change("user/grant", {"user": "lost", "role": "app"})
    with (
        Client(
            guarded.cluster.endpoints, namespace=namespace, timeout=30, username="lost", password=PASSWORD
        ) as client,
        client.watch(client.key("w")) as watch,
    ):
        client.put(client.key("w"), "v")
        assert watch.poll(30.0) is not None
        guarded.change("user/revoke", {"name": "lost", "role": "app"})
        with guarded.client(namespace) as other:
            other.put(client.key("w"), "v")
        if kind != "jobguard":
            watch._disconnect()  # real etcd goes on until something breaks the stream
        with pytest.raises(ServerError, match=DENIED):
            list(watch)
    guarded.change("user/delete", {"name": "lost"})


@pytest.mark.parametrize(
    "ask", [lambda each: each.get("k"), lambda each: each.put("k", "v")], ids=["get", "put"]
)
def test_a_wrong_password_is_said_so_at_once(
    guarded: Guarded, namespace: str, ask: Callable[[Client], Any], logins: list[str]
) -> None:
    with guarded.client(namespace, password="wrong") as client:
        with pytest.raises(ServerError, match=FAILED):
            ask(client)
        with pytest.raises(ServerError, match=FAILED):
            client.watch("k", start_revision=1).poll(30.0)
    assert len(logins) == 2


def test_a_password_that_changes_in_its_file_needs_no_restart(
    guarded: Guarded, namespace: str, tmp_path: Path
) -> None:
    file = tmp_path / "password"
    file.write_text(f"{PASSWORD}\n")
    with Client(
        guarded.cluster.endpoints, namespace=namespace, timeout=30, username="app", password_file=file
    ) as client:
        client.put(client.key("k"), "v")
        guarded.change("user/changepw", {"name": "app", "password": "another"})
        with pytest.raises(ServerError, match=FAILED):
            client.get(client.key("k"))
        file.write_text("another")
        assert client.get(client.key("k")) is not None
        guarded.change("user/changepw", {"name": "app", "password": PASSWORD})


def test_a_store_without_authentication_takes_anybody(client: Client, store: Cluster, namespace: str) -> None:
    with Client(store.endpoints, namespace=namespace, username="app", password=PASSWORD, timeout=30) as mine:
        mine.put(mine.key("k"), "v")
        forgotten(mine)
        last = mine.put(mine.key("k"), "v").revision
        with mine.watch(mine.key("k"), start_revision=last) as watch:
            forgotten(mine)
            assert watch.poll(30.0) is not None


def test_a_node_that_is_gone_is_unavailable(guarded: Guarded) -> None:
    nowhere = Client("http://127.0.0.1:1", timeout=0.3, username="app", password=PASSWORD)
    with nowhere as client, pytest.raises(Unavailable):
        client.put("k", "v")


def test_the_command_takes_them_too(guarded: Guarded, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text(PASSWORD)
    urls = ",".join(guarded.cluster.endpoints)
    listed = ["locks", "list", "--endpoints", urls]
    for words, env, code in (
        ([*listed, "--username", "app", "--password-file", str(file)], {"JOBGUARD_PASSWORD": "x"}, 0),
        (listed, {"JOBGUARD_USERNAME": "app", "JOBGUARD_PASSWORD": PASSWORD}, 0),
        (listed, {}, 1),
    ):
        done = CliRunner().invoke(main, words, env=env | {"JOBGUARD_TIMEOUT": "30"})
        assert done.exit_code == code, done.output
    assert "user name is empty" in done.stderr


# --- what is said of them, on no store ----------------------------------------------------------------


def test_a_name_needs_a_password_and_a_password_a_name(tmp_path: Path) -> None:
    for given, said in (
        ({"username": "app"}, "needs a password, or a file that holds it"),
        ({"username": "app", "password": "p", "password_file": "f"}, "not both"),
        ({"password": "p"}, "without a username"),
        ({"username": "app", "password_file": tmp_path / "none"}, "cannot be read"),
    ):
        with pytest.raises(ConfigurationError, match=said):
            Client(**given)  # type: ignore[arg-type]


def test_no_password_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOBGUARD_USERNAME", "app")
    monkeypatch.setenv("JOBGUARD_PASSWORD", "a secret")
    settings = Settings.from_environment()
    assert settings.password == "a secret"
    assert "a secret" not in repr(settings)
    with Client.from_settings(settings) as client:
        assert "a secret" not in repr(client)

    class App:
        conf = {"jobguard_password": 4711}

    with pytest.raises(ConfigurationError) as refused:
        Settings.from_app(App)
    assert "4711" not in str(refused.value)
