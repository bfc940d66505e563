"""Watches over one connection: framing, ids, order, slowness, and the end of them."""

import json
import threading

import pytest

from jobguard_store.api import watch as watching
from jobguard_store.api.watch import cut
from jobguard_store.machine.results import ChangeEvent, Record
from tests.api.conftest import Inside
from tests.gateway import PATIENCE_S, Gateway, Stream, b64
from tests.messages import (
    COMPACTION,
    DELETE,
    PROGRESS,
    RANGE,
    TXN,
    WATCH,
    cancel,
    create,
    delete,
    delete_op,
    put_op,
    range_,
    txn,
)
from tests.stores import eventually


def revision(gateway: Gateway) -> int:
    return int(gateway.ok(RANGE, range_("-"))["header"]["revision"])


def test_one_message_is_one_line_in_one_chunk(gateway: Gateway) -> None:
    with gateway.stream(WATCH, create("k", "l")) as stream:
        assert json.loads(stream.chunk())["result"]["created"] is True
        gateway.ok(TXN, txn(*(put_op(f"k{number}", "v" * 5000) for number in range(100))))
        gateway.put("k", "small")
        for expected in (100, 1):
            chunk = stream.chunk()
            assert chunk.endswith(b"\n")
            assert chunk.count(b"\n") == 1
            assert len(json.loads(chunk)["result"]["events"]) == expected


def test_the_head_comes_with_the_first_message(gateway: Gateway) -> None:
    with gateway.stream(WATCH, {}, more=True) as stream:
        assert stream.silent_for(0.2)
        stream.send(create("k"))
        assert stream.result()["created"] is True
        assert stream.headers["content-type"] == "application/json"
        assert stream.headers["transfer-encoding"] == "chunked"


def test_requests_may_follow_on_an_open_body(gateway: Gateway) -> None:
    with gateway.stream(WATCH, create("a"), more=True) as stream:
        assert "watch_id" not in stream.result()
        stream.send(b'{"create_request":{"ke')
        stream.send(b'y":"Yg=="}}{"create_request":{"key":"Yw==","watch_id":"9"}}')
        assert stream.result()["watch_id"] == "1"
        assert stream.result()["watch_id"] == "9"
        gateway.put("b")
        assert stream.result()["watch_id"] == "1"
        stream.send(cancel(1))
        assert stream.result()["canceled"] is True
        gateway.put("b")
        gateway.put("c")
        assert stream.result()["watch_id"] == "9"
        stream.end_body()
        gateway.put("a")
        message = stream.result()
        assert "watch_id" not in message
        assert message["events"][0]["kv"]["key"] == b64("a")


def test_the_first_message_must_be_readable_and_later_ones_may_end_the_requests(gateway: Gateway) -> None:
    for body in (b"[]", b'{"create_request":', b'{"create_request":{"key":7}}', b"nonsense"):
        answer = gateway.post(WATCH, body)
        assert answer.error[:2] == (400, 3)
    with gateway.stream(WATCH, create("k"), b"nonsense", create("ignored")) as stream:
        assert stream.result()["created"] is True
        gateway.put("ignored")
        gateway.put("k")
        assert stream.result()["events"][0]["kv"]["key"] == b64("k")


def test_a_client_that_leaves_takes_its_watchers_along(gateway: Gateway, inside: Inside) -> None:
    before = inside.watchers()
    streams = [gateway.stream(WATCH, *(create(f"k{number}") for number in range(5))) for _ in range(4)]
    for stream in streams:
        for _ in range(5):
            stream.result()
    assert inside.watchers() == before + 20
    for stream in streams:
        stream.close()
    eventually(lambda: inside.watchers() == before, what="the node to forget the watchers")


def test_a_canceled_watcher_is_forgotten(gateway: Gateway, inside: Inside) -> None:
    before = inside.watchers()
    with gateway.stream(WATCH, create("a"), create("b"), cancel(0)) as stream:
        for _ in range(3):
            stream.result()
        eventually(lambda: inside.watchers() == before + 1, what="one watcher")


def test_a_slow_client_gets_everything_once_and_in_order(gateway: Gateway) -> None:
    """It reads nothing while far more is written than all buffers hold; others go on meanwhile."""
    size, count = 60_000, 400
    with gateway.stream(WATCH, create("k")) as slow, gateway.stream(WATCH, create("k")) as quick:
        slow.result()
        quick.result()
        reader = threading.Thread(target=read_events, args=(quick, count))
        reader.start()
        first = revision(gateway) + 1
        for number in range(count):
            gateway.put("k", str(number) + "v" * size)
        reader.join(PATIENCE_S)
        assert not reader.is_alive(), "the quick watcher waits for the slow one"
        assert read_events(slow, count) == list(range(first, first + count))


def read_events(stream: Stream, count: int) -> list[int]:
    revisions: list[int] = []
    while len(revisions) < count:
        revisions += [int(event["kv"]["mod_revision"]) for event in stream.result()["events"]]
    return revisions


def test_history_joins_the_present_without_a_seam(gateway: Gateway) -> None:
    """While one writes, others begin to watch from ever older revisions: nobody misses or repeats one."""
    start = revision(gateway) + 1
    count = 300
    writer = threading.Thread(target=write, args=(gateway.url, count))
    writer.start()
    streams = []
    try:
        for _ in range(10):
            stream = gateway.stream(WATCH, create("k", start_revision=start))
            streams.append(stream)
            stream.result()
        for stream in streams:
            assert read_events(stream, count) == list(range(start, start + count))
    finally:
        writer.join(PATIENCE_S)
        for stream in streams:
            stream.close()


def write(url: str, count: int) -> None:
    with Gateway(url) as gateway:
        for number in range(count):
            gateway.put("k", str(number))


def test_progress_comes_after_everything_it_speaks_of(gateway: Gateway) -> None:
    start = revision(gateway) + 1
    for number in range(50):
        gateway.put("k", str(number))
    with gateway.stream(WATCH, create("k", start_revision=start), create("other"), PROGRESS) as stream:
        seen = 0
        while (message := stream.result()).get("watch_id") != "-1":
            seen += len(message.get("events", ()))
        assert seen == 50
        assert int(message["header"]["revision"]) == start + 49
        assert list(message) == ["header", "watch_id"]


def test_an_idle_watcher_that_wants_it_gets_a_sign_of_life(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "PROGRESS_INTERVAL_S", 0.05)
    with gateway.stream(WATCH, create("k", progress_notify=True, watch_id=3), create("quiet")) as stream:
        stream.result()
        stream.result()
        gateway.put("elsewhere")
        heard = [0]
        while len(heard) <= 3 or heard[-1] < revision(gateway):
            message = stream.result()
            assert list(message) == ["header", "watch_id"]
            assert message["watch_id"] == "3"
            heard.append(int(message["header"]["revision"]))
        assert heard == sorted(heard)
        assert heard[-1] == revision(gateway)


def test_much_history_comes_in_several_messages(gateway: Gateway) -> None:
    start = revision(gateway) + 1
    for size in (1_000_000, 1_000_000, 10):
        gateway.put("k", "v" * size)
    with gateway.stream(WATCH, create("k", start_revision=start)) as stream:
        stream.result()
        messages = [stream.result() for _ in range(2)]
    assert [len(message["events"]) for message in messages] == [1, 2]
    assert not any("fragment" in message for message in messages)


def test_a_revision_is_split_only_for_those_who_ask() -> None:
    def change(key: bytes, revision: int) -> ChangeEvent:
        return ChangeEvent(Record(key, b"v" * 1_000_000, revision, revision, 1, 0), None)

    one, two, three = change(b"a", 2), change(b"b", 2), change(b"c", 3)
    assert list(cut([one, two, three], False, False)) == [([one, two], False), ([three], False)]
    assert list(cut([one, two, three], False, True)) == [([one], True), ([two], False), ([three], False)]


def test_compaction_ends_a_watcher_whose_place_is_gone_and_no_other(gateway: Gateway, inside: Inside) -> None:
    start = revision(gateway) + 1
    for number in range(5):
        gateway.put("k", str(number))
    gateway.ok(COMPACTION, {"revision": start + 3})
    with gateway.stream(WATCH, create("k", start_revision=start), create("k", watch_id=5)) as stream:
        messages = [stream.result() for _ in range(3)]
        (ended,) = [message for message in messages if "canceled" in message]
        assert list(ended) == ["header", "canceled", "compact_revision"]
        assert ended["compact_revision"] == str(start + 3)
        assert list(ended["header"]) == ["cluster_id", "member_id", "raft_term"]
        gateway.put("k", "on")
        assert stream.result()["watch_id"] == "5"


def test_a_revisions_events_come_in_the_order_they_were_made(gateway: Gateway) -> None:
    gateway.put("k2")
    with gateway.stream(WATCH, create("k", "l", prev_kv=True)) as stream:
        stream.result()
        gateway.ok(TXN, txn(put_op("k3"), delete_op("k2"), put_op("k1")))
        events = stream.result()["events"]
        assert [event["kv"]["key"] for event in events] == [b64("k3"), b64("k2"), b64("k1")]
        assert [event.get("type") for event in events] == [None, "DELETE", None]
        gateway.post(DELETE, delete("k", "l"))
        assert [event["kv"]["key"] for event in stream.result()["events"]] == [b64("k1"), b64("k3")]


def test_a_watch_may_have_a_deadline(gateway: Gateway) -> None:
    with gateway.stream(WATCH, create("k"), headers={"Grpc-Timeout": "100m"}) as stream:
        message = stream.next()
        if "result" in message:  # if it came to be made before its end
            assert message["result"]["created"] is True
            message = stream.next()
        assert message == {
            "error": {
                "grpc_code": 4,
                "http_code": 504,
                "message": "context deadline exceeded",
                "http_status": "Gateway Timeout",
                "code": 4,
            }
        }
        with pytest.raises(EOFError):
            stream.next()
