"""Watches: every change once, in order, over whatever happens to nodes and connections."""

import threading
from itertools import islice

import pytest

from jobguard.client import Client, delete_op, put_op
from jobguard.errors import Compacted
from jobguard.mirror import Mirror
from jobguard.wire import Event
from tests.client.proxy import proxied
from tests.client.test_keys_and_transactions import compact
from tests.stopwatch import Stopwatch
from tests.stores import Cluster, eventually


def told(events: tuple[Event, ...]) -> list[tuple[str, bytes]]:
    return [(event.type, event.kv.value) for event in events if event.kv is not None]


def test_it_begins_now(client: Client) -> None:
    key = client.key("k")
    client.put(key, "before")
    with client.watch(key) as watch:
        client.put(key, "after")
        client.delete(key)
        assert told(tuple(islice(watch, 2))) == [("PUT", b"after"), ("DELETE", b"")]
        assert watch.poll(0.05) is None


def test_it_begins_at_a_revision_of_the_past(client: Client) -> None:
    key = client.key("k")
    first = client.put(key, "1").revision
    client.put(key, "2")
    with client.watch(key, start_revision=first) as watch:
        assert told(tuple(islice(watch, 2))) == [("PUT", b"1"), ("PUT", b"2")]


def test_a_prefix_or_one_key(client: Client) -> None:
    below, key = client.key("k", "1"), client.key("k")
    with client.watch(key) as prefix, client.watch(key, prefix=False) as only:
        client.put(below, "below")
        client.put(key, "self")
        assert told(tuple(islice(prefix, 2))) == [("PUT", b"below"), ("PUT", b"self")]
        assert told(tuple(islice(only, 1))) == [("PUT", b"self")]


def test_a_transaction_comes_as_one_batch(client: Client) -> None:
    key = client.key("k", "")
    with client.watch(key) as watch:
        done = client.txn((), [put_op(key + "a", "1"), put_op(key + "b", "2")])
        batch = watch.poll(30)
        assert batch is not None
        assert (batch.revision, told(batch.events)) == (done.revision, [("PUT", b"1"), ("PUT", b"2")])


def test_closing_from_another_thread_ends_it_at_once(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobguard.watch.IDLE", 1000.0)
    watch = client.watch(client.key("k"))
    ended = threading.Event()

    def read() -> None:
        list(watch)
        ended.set()

    thread = threading.Thread(target=read)
    thread.start()
    eventually(lambda: watch._open is not None)
    watch.close()
    assert ended.wait(30)  # and not at the end of its poll, nor of a silence
    thread.join()
    assert watch.poll(30) is None


def test_after_a_cut_it_goes_on_without_a_gap_or_a_repetition(store: Cluster, client: Client) -> None:
    key = client.key("k")
    with proxied(store.endpoints[0]) as wire, Client([wire.url], timeout=30) as far, far.watch(key) as watch:
        seen: list[bytes] = []
        for number in range(20):
            client.put(key, str(number))
            if number % 5 == 2:
                seen += [value for _, value in told(watch.poll(30).events)]  # type: ignore[union-attr]
                wire.cut()
        while len(seen) < 20:
            batch = watch.poll(30)
            assert batch is not None
            seen += [value for _, value in told(batch.events)]
        assert seen == [str(number).encode() for number in range(20)]


def test_it_goes_on_after_a_restart_of_the_store(own_store: Cluster) -> None:
    with Client(own_store.endpoints, timeout=30) as client, client.watch("k") as watch:
        client.put("k", "1")
        assert watch.poll(30) is not None
        client.put("k", "2")  # not read before the node dies
        own_store.crash()
        own_store.nodes[0].start()
        own_store.wait_healthy()
        client.put("k", "3")
        seen: list[tuple[str, bytes]] = []
        while len(seen) < 2:
            batch = watch.poll(30)
            assert batch is not None
            seen += told(batch.events)
        assert seen == [("PUT", b"2"), ("PUT", b"3")]


def test_a_node_that_fell_silent_is_left(
    store: Cluster, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dead connection and a quiet prefix look alike; only asking tells them apart."""
    monkeypatch.setattr("jobguard.watch.IDLE", 0.2)
    monkeypatch.setattr("jobguard.watch.PATIENCE", 0.3)
    key = client.key("k")
    with (
        proxied(store.endpoints[0]) as silent,
        Client([silent.url, *store.endpoints]) as far,
        far.watch(key) as watch,
    ):
        client.put(key, "1")
        assert watch.poll(30) is not None
        silent.freeze()
        client.put(key, "2")
        batch = watch.poll(30)
        assert batch is not None
        assert told(batch.events) == [("PUT", b"2")]
        silent.thaw()


def test_a_quiet_prefix_is_asked_about_and_kept(
    store: Cluster, monkeypatch: pytest.MonkeyPatch, namespace: str
) -> None:
    monkeypatch.setattr("jobguard.watch.IDLE", 0.1)
    monkeypatch.setattr("jobguard.watch.PATIENCE", 30.0)
    with (
        proxied(store.endpoints[0]) as wire,
        Client([wire.url], namespace=namespace) as client,
        client.watch(client.key("k")) as watch,
    ):

        def asked() -> bool:
            assert watch.poll(0.35) is None
            return wire.seen.count("/v3/kv/range") >= 3  # one to begin, one for each silence

        eventually(asked)
        assert wire.seen.count("/v3/watch") == 1


def test_what_was_compacted_away_is_said(client: Client) -> None:
    key = client.key("k")
    old = client.put(key, "1").revision
    client.put(key, "2")
    client.put(key, "3")
    compact(client)
    with client.watch(key, start_revision=old) as watch:
        with pytest.raises(Compacted) as gone:
            watch.poll(30)
        assert gone.value.compact_revision > old
        assert watch.poll(1) is None


def test_nothing_is_heard_of_other_keys(client: Client) -> None:
    with client.watch(client.key("mine")) as watch:
        client.put(client.key("theirs"), "x")
        assert watch.poll(0.05) is None


# --- mirror ---


def test_a_mirror_follows_its_prefix(client: Client, other: Client) -> None:
    below = client.key("m", "")
    client.put(below + "a", "1")
    mirror = Mirror(client, below)
    assert {key: kv.value for key, kv in mirror.items()} == {(below + "a").encode(): b"1"}
    revision = other.put(below + "b", "2").revision
    assert mirror.wait_for(revision, 30)
    assert mirror[(below + "b").encode()].value == b"2"
    assert mirror.wait_for(other.delete(below + "a").revision, 30)
    assert list(mirror) == [(below + "b").encode()]
    mirror.close()


def test_a_mirror_never_shows_half_of_a_transaction(client: Client, other: Client) -> None:
    below = client.key("m", "")
    left, right = below + "left", below + "right"
    client.txn((), [put_op(left, "0"), put_op(right, "0")])
    mirror = Mirror(client, below)
    mirror.start()
    torn: list[object] = []
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            if len({kv.value for kv in mirror.snapshot().values()}) != 1:
                torn.append(mirror.snapshot())

    reader = threading.Thread(target=look)
    reader.start()
    revision = 0
    for turn in range(50):
        revision = other.txn((), [put_op(left, str(turn)), put_op(right, str(turn))]).revision
    assert mirror.wait_for(revision, 30)
    done.set()
    reader.join()
    assert torn == []
    mirror.close()


def test_a_mirror_catches_up_after_a_compaction_and_tells_the_difference(
    store: Cluster, client: Client, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    below = client.key("m", "")
    for name in "abc":
        client.put(below + name, "1")
    with proxied(store.endpoints[0]) as wire, Client([wire.url], namespace=namespace) as far:
        mirror = Mirror(far, below)
        changes: list[tuple[bytes, bytes | None]] = []
        mirror.on_change(lambda key, kv: changes.append((key[-1:], None if kv is None else kv.value)))
        wire.freeze()
        wire.cut()
        client.txn((), [delete_op(below + "a"), put_op(below + "b", "2"), put_op(below + "d", "1")])
        client.put(below + "d", "2")
        compact(client)
        wire.thaw()
        eventually(lambda: len(changes) == 3)
        assert sorted(changes) == [(b"a", None), (b"b", b"2"), (b"d", b"2")]
        assert [key[-1:] for key in sorted(mirror)] == [b"b", b"c", b"d"]
        assert "was compacted" in caplog.text
        mirror.close()


def test_a_callback_that_fails_stops_neither_the_mirror_nor_the_next_callback(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    mirror = Mirror(client, client.key("m", ""))
    told = threading.Event()
    mirror.on_change(lambda key, kv: 1 / 0)  # type: ignore[arg-type, return-value]
    mirror.on_change(lambda key, kv: told.set())
    client.put(client.key("m", "a"), "1")
    assert told.wait(30)
    assert "division by zero" in caplog.text
    mirror.close()


def test_a_closed_mirror_leaves_no_thread(client: Client) -> None:
    mirror = Mirror(client, client.key("m", ""))
    mirror.start()
    with Stopwatch() as watch:
        mirror.close()
        assert watch.seconds < 4  # and gives up after five
    assert "jobguard-mirror" not in {thread.name for thread in threading.enumerate()}
