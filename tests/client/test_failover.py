"""Endpoints that die, hang or refuse: what goes on elsewhere, and what is never sent twice."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from jobguard.client import Client, compare_absent, get_op, put_op
from jobguard.errors import OutcomeUnknown, ServerError, Unavailable
from jobguard.transport import Answer, NotConnected
from jobguard.wire import ErrorBody, encode
from tests.client.proxy import proxied
from tests.ports import free_ports
from tests.stopwatch import Stopwatch
from tests.stores import SURVIVES_KILLS, Cluster, Kind, eventually, leader_of, running


@pytest.fixture(scope="module")
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


def dead_url() -> str:
    (port,) = free_ports(1)
    return f"http://127.0.0.1:{port}"


def test_a_dead_endpoint_is_passed_over_by_reads_and_writes(store: Cluster) -> None:
    with (
        Client([dead_url(), *store.endpoints], namespace="failover", timeout=30) as client,
        Stopwatch() as watch,
    ):
        client.put(client.key("k"), "1")
        assert client.get(client.key("k")) is not None
        assert watch.seconds < 8  # one attempt may take ten


def test_the_endpoint_that_answered_is_asked_first_from_then_on(store: Cluster) -> None:
    with (
        proxied(store.endpoints[0]) as first,
        proxied(store.endpoints[0]) as second,
        Client([first.url, second.url], timeout=30) as client,
    ):
        client.get("k")
        first.close()
        for _ in range(5):
            client.get("k")
        assert len(first.seen) == 1
        assert len(second.seen) == 5


def test_nobody_there_is_unavailable_within_the_timeout() -> None:
    with Client([dead_url(), dead_url()], timeout=0.5) as client:
        for call in (lambda: client.get("k"), lambda: client.put("k", "v"), lambda: client.grant(5)):
            with Stopwatch() as watch:
                with pytest.raises(Unavailable):
                    call()
                assert watch.seconds < 1


def test_a_read_leaves_a_node_that_fell_silent(store: Cluster) -> None:
    with proxied(store.endpoints[0]) as silent, Client([silent.url, *store.endpoints], timeout=4) as client:
        client.get("k")
        silent.freeze()
        client.get("k")


def test_a_write_to_a_node_that_fell_silent_is_not_sent_to_another(store: Cluster) -> None:
    with (
        proxied(store.endpoints[0]) as silent,
        proxied(store.endpoints[0]) as second,
        Client([silent.url, second.url], timeout=30) as client,
    ):
        client.put("k", "before")  # to dial takes time, too, and another node may be dialled
        silent.freeze()
        client.timeout = 0.5
        with pytest.raises(OutcomeUnknown):
            client.put("k", "v")
        assert second.seen == []


def test_a_connection_the_store_closed_while_idle_is_not_used(store: Cluster) -> None:
    with proxied(store.endpoints[0]) as wire, Client([wire.url], timeout=30) as client:
        client.put("k", "1")
        wire.cut()
        connection = client.endpoints.nodes[0]._idle[0]
        eventually(lambda: not connection.still_open())
        client.put("k", "2")
        assert wire.seen == ["/v3/kv/put", "/v3/kv/put"]


def test_our_own_timeouts_hold_whatever_the_process_set(store: Cluster) -> None:
    """Celery's beat sets a global socket timeout; a call must neither inherit nor change it."""
    socket.setdefaulttimeout(0.001)
    try:
        with proxied(store.endpoints[0]) as wire, Client([wire.url], timeout=5) as client:
            wire.freeze()
            threading.Timer(0.2, wire.thaw).start()
            client.get("k")
            assert socket.getdefaulttimeout() == 0.001
    finally:
        socket.setdefaulttimeout(None)


def test_eight_threads_share_one_client(client: Client) -> None:
    def work(number: int) -> None:
        for turn in range(30):
            key = client.key(str(number), str(turn))
            client.put(key, f"{number}/{turn}")
            found = client.get(key)
            assert found is not None
            assert found.value == f"{number}/{turn}".encode()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))


def test_reads_and_unambiguous_writes_go_on_when_the_leader_is_killed(three_nodes: Cluster) -> None:
    with Client(three_nodes.endpoints, timeout=30) as client:
        key = client.key("failover")
        client.txn_until_known((), [put_op(key, "before")])
        leader_of(three_nodes.nodes).kill()
        found = client.get(key)
        assert found is not None
        assert found.value == b"before"
        answer = client.txn_known([compare_absent(key + "2")], [put_op(key + "2", "after")])
        assert (
            answer.response.succeeded or answer.repeated
        )  # the leader may have died between doing and saying
        assert client.get(key + "2") is not None


def test_a_client_that_writes_much_asks_the_leader_first(three_nodes: Cluster) -> None:
    def asks_the_leader() -> bool:
        """False if the lead changed hands while we looked."""
        leader = leader_of(three_nodes.nodes)
        others = [node.url for node in three_nodes.nodes if node is not leader]
        with Client([dead_url(), *others, leader.url], timeout=30) as client:
            followed = not client.status().leads
            client.prefer_leader(timeout=10)
            leads = client.status().leads
            if not leader.leads():
                return False
            assert (followed, leads) == (True, True)
            leader.kill()
            client.get("k")  # and the others when it is gone
        return True

    eventually(asks_the_leader)


def test_two_dead_nodes_of_three_are_unavailable_and_one_that_returns_is_enough(three_nodes: Cluster) -> None:
    with Client(three_nodes.endpoints, timeout=30) as client:
        client.txn_until_known((), [put_op("k", "v")])
        first, second, _ = three_nodes.nodes
        first.kill()
        second.kill()
        impatient = client.at(client.urls, timeout=1)
        with pytest.raises(Unavailable):
            impatient.get("k")
        with pytest.raises((Unavailable, OutcomeUnknown)):
            impatient.put("k", "w")
        second.start()
        three_nodes.wait_healthy()
        assert client.get("k") is not None


def test_a_watch_moves_to_another_node_when_its_own_dies(three_nodes: Cluster) -> None:
    with Client(three_nodes.endpoints, timeout=10) as client, client.watch("moving") as watch:
        client.txn_until_known((), [put_op("moving", "1")])
        assert watch.poll(30) is not None
        assert watch._open is not None
        url = watch._open.node.endpoint.url
        next(node for node in three_nodes.nodes if node.url == url).kill()
        client.txn_until_known((), [put_op("moving", "2")], timeout=30)
        seen: list[tuple[str, bytes]] = []
        while ("PUT", b"2") not in seen:
            batch = watch.poll(30)
            assert batch is not None
            seen += [(event.type, event.kv.value) for event in batch.events if event.kv is not None]


def test_a_lock_lets_in_one_while_the_leader_is_killed(three_nodes: Cluster, namespace: str) -> None:
    """Those inside are counted here, in one process, where nothing can be ambiguous."""
    inside: list[int] = []
    tokens: list[int] = []

    def work(number: int) -> None:
        with Client(three_nodes.endpoints, namespace=namespace, timeout=5) as client:
            for _ in range(40):
                lock = client.lock("l", ttl=10)
                try:
                    with lock:
                        inside.append(number)
                        assert inside == [number]
                        tokens.append(lock.fencing_token)
                        inside.remove(number)
                except (Unavailable, OutcomeUnknown):
                    continue  # no leader for too long: nobody was inside, or the end was not confirmed

    def kill_the_leader() -> None:
        eventually(lambda: len(tokens) > 20)
        leader_of(three_nodes.nodes).kill()

    with ThreadPoolExecutor(5) as pool:
        working = [pool.submit(work, number) for number in range(4)]
        pool.submit(kill_the_leader).result()
        for each in working:
            each.result()
    assert inside == []
    assert tokens == sorted(set(tokens))
    assert len(tokens) > 100


class Scripted:
    """A node that gives the answers it is told to, one per request."""

    def __init__(self, client: Client, *answers: Answer) -> None:
        self._answers = list(answers)
        self.asked: list[str] = []
        (node,) = client.endpoints.nodes
        node.exchange = self.exchange  # type: ignore[method-assign]

    def exchange(self, path: str, body: bytes, deadline: float, connect_by: float = 0) -> Answer:
        self.asked.append(path)
        return self._answers.pop(0)


def refused(status: int, code: int, text: str) -> Answer:
    return Answer(status, b"", encode(ErrorBody(error=text, code=code, message=text)))


DONE = Answer(200, b"", b'{"header":{"cluster_id":"1"}}')


def test_a_refusal_before_anything_was_proposed_is_asked_again_even_for_a_write() -> None:
    client = Client("http://127.0.0.1:1")
    node = Scripted(client, refused(503, 14, "etcdserver: no leader"), DONE)
    client.put("k", "v")
    assert node.asked == ["/v3/kv/put", "/v3/kv/put"]


@pytest.mark.parametrize(
    "answer",
    [
        refused(503, 14, "etcdserver: leader changed"),
        refused(503, 14, "etcdserver: request timed out"),
        refused(503, 14, "etcdserver: request timed out, possibly due to connection lost"),
        refused(504, 4, "context deadline exceeded"),
        refused(500, 2, "raft proposal dropped"),
        Answer(502, b"", b"<html>Bad Gateway</html>"),
        Answer(200, b"", b"not json"),
    ],
)
def test_an_ambiguous_answer_to_a_write_stays_ambiguous_and_a_read_asks_again(answer: Answer) -> None:
    client = Client("http://127.0.0.1:1")
    node = Scripted(client, answer)
    with pytest.raises(OutcomeUnknown):
        client.put("k", "v")
    assert node.asked == ["/v3/kv/put"]
    if answer.status != 200:
        Scripted(client, answer, DONE)
        client.get("k")


@pytest.mark.parametrize(
    "ask", [lambda each: each.get("k"), lambda each: each.put("k", "v")], ids=["get", "put"]
)
def test_an_attempt_that_the_deadline_cut_short_does_not_hide_what_is_wrong(
    ask: Callable[[Client], object],
) -> None:
    """As by chance, or on a host that stood still: "timed out" stood where the certificate was refused."""
    client = Client("http://127.0.0.1:1", timeout=0.2)
    (node,) = client.endpoints.nodes
    troubles = iter(["asks for a certificate"])

    def exchange(path: str, body: bytes, deadline: float, connect_by: float = 0) -> Answer:
        if trouble := next(troubles, ""):
            raise NotConnected(trouble)
        time.sleep(0.2)
        raise NotConnected("timed out")

    node.exchange = exchange  # type: ignore[method-assign]
    with pytest.raises(Unavailable, match="asks for a certificate"):
        ask(client)


def test_an_address_that_is_not_a_store_is_refused_in_a_sentence() -> None:
    client = Client("http://127.0.0.1:1")
    Scripted(client, Answer(404, b"", b"<h1>It works</h1>"))
    with pytest.raises(ServerError, match="HTTP 404: <h1>It works</h1>"):
        client.put("k", "v")


def test_a_transaction_that_only_reads_is_asked_again() -> None:
    client = Client("http://127.0.0.1:1")
    Scripted(client, refused(503, 14, "etcdserver: request timed out"), DONE)
    client.txn((), [get_op("k")])
