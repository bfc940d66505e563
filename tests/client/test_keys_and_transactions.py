"""Reading and writing keys: what the client adds to the API is that it reads well from Python."""

import secrets
import time
from email.utils import formatdate
from typing import Any

import pytest

from jobguard.client import (
    Client,
    compare_absent,
    compare_created,
    compare_mod,
    compare_present,
    compare_value,
    delete_op,
    get_op,
    put_op,
)
from jobguard.errors import Compacted, ConfigurationError, LeaseNotFound, ServerError
from jobguard.ops import prefix_end
from jobguard.transport import Answer
from jobguard.wire import CompactionRequest, CompactionResponse


def test_a_key_is_written_read_and_deleted(client: Client) -> None:
    key = client.key("greeting")
    assert client.get(key) is None
    written = client.put(key, "hello")
    found = client.get(key)
    assert found is not None
    assert (found.value, found.mod_revision, found.version) == (b"hello", written.revision, 1)
    assert client.delete(key).deleted == 1
    assert client.delete(key).deleted == 0


def test_a_key_may_hold_any_bytes(client: Client) -> None:
    key, value = client.key("bytes").encode() + b"\0\xff", bytes(range(256))
    client.put(key, value)
    found = client.get(key)
    assert found is not None
    assert found.value == value


def test_names_are_percent_encoded_so_that_a_slash_in_a_name_is_not_a_level(client: Client) -> None:
    assert client.key("locks", 'a/b "c"', "x").endswith("/locks/a%2Fb%20%22c%22/x")


def test_an_old_revision_can_be_read(client: Client) -> None:
    key = client.key("k")
    first = client.put(key, "1").revision
    client.put(key, "2")
    assert client.range(key, revision=first).kvs[0].value == b"1"


def test_a_prefix_is_read_page_by_page_as_of_one_revision(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobguard.client.PAGE", 3)
    keys = [client.key("many", f"{number:02}") for number in range(10)]
    client.txn((), [put_op(key, "x") for key in keys])
    client.put(client.key("manyfold"), "not below")
    found = client.prefix(client.key("many", ""))
    assert [kv.key.decode() for kv in found.kvs] == keys
    assert found.count == 10
    assert not found.more


def test_a_prefix_page_that_was_compacted_away_is_read_again(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobguard.client.PAGE", 2)
    for number in range(3):
        client.put(client.key("few", str(number)), "x")
    pages = iter([1])
    real = Client.range

    def compacting(self: Client, *args: object, **options: object) -> object:
        if options.get("revision") and next(pages, None):
            self.put(client.key("few", "3"), "x")
            compact(self)
        return real(self, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Client, "range", compacting)
    assert len(client.prefix(client.key("few", "")).kvs) == 4


def test_the_end_of_a_prefix() -> None:
    assert prefix_end("ab") == b"ac"
    assert prefix_end(b"a\xff\xff") == b"b"
    assert prefix_end(b"\xff") == b"\0"
    assert prefix_end("") == b"\0"


def test_a_transaction_does_one_branch_or_the_other(client: Client) -> None:
    key = client.key("once")
    first = client.txn([compare_absent(key)], [put_op(key, "mine"), get_op(key)], [get_op(key)])
    assert first.succeeded
    again = client.txn([compare_absent(key)], [put_op(key, "theirs")], [get_op(key)])
    assert not again.succeeded
    (answer,) = again.responses
    assert answer.response_range is not None
    assert answer.response_range.kvs[0].value == b"mine"


def test_each_compare_says_what_its_name_says(client: Client) -> None:
    key, gone = client.key("k"), client.key("gone")
    created = client.put(key, "1").revision
    changed = client.put(key, "2").revision
    for compare, holds in [
        (compare_created(key, created), True),
        (compare_created(key, changed), False),
        (compare_mod(key, changed), True),
        (compare_mod(key, created), False),
        (compare_value(key, "2"), True),
        (compare_value(key, "1"), False),
        (compare_value(gone, ""), False),
        (compare_present(key), True),
        (compare_present(gone), False),
        (compare_absent(key), False),
        (compare_absent(gone), True),
    ]:
        assert client.txn([compare]).succeeded is holds, compare


def test_delete_in_a_transaction(client: Client) -> None:
    for name in "ab":
        client.put(client.key("d", name), "x")
    below = client.key("d", "")
    assert client.txn((), [delete_op(below, prefix_end(below))]).succeeded
    assert not client.prefix(below).kvs


def test_a_lease_is_granted_renewed_and_revoked_with_its_keys(client: Client) -> None:
    lease = client.grant(30)
    assert lease.ttl == 30
    client.put(client.key("leased"), "x", lease.id)
    renewing = time.monotonic()
    assert client.keepalive(lease.id) == 30
    left = client.time_to_live(lease.id, keys=True)
    assert (left.grantedTTL, left.keys) == (30, (client.key("leased").encode(),))
    assert 30 - (time.monotonic() - renewing) - 1 <= left.TTL <= 30  # whole seconds, rounded down
    client.revoke(lease.id)
    assert client.get(client.key("leased")) is None
    assert client.keepalive(lease.id) == 0
    assert client.time_to_live(lease.id).TTL == -1
    client.revoke(lease.id)  # what has ended has ended


def test_a_ttl_that_is_too_short_is_raised_and_said(client: Client) -> None:
    assert client.grant(0.3).ttl >= 2


def test_a_lease_under_a_taken_id_is_refused(client: Client) -> None:
    taken = secrets.randbits(60)
    client.grant(30, taken)
    with pytest.raises(ServerError, match="lease already exists"):
        client.grant(30, taken)


def test_a_put_on_an_ended_lease_is_refused_for_good(client: Client) -> None:
    with pytest.raises(LeaseNotFound):
        client.put(client.key("k"), "x", lease=4711)


def test_what_the_store_refuses_says_why(client: Client) -> None:
    with pytest.raises(ServerError, match="etcdserver: key is not provided") as refused:
        client.put("", "x")
    assert refused.value.code == 3


def test_a_compacted_revision_is_named_so(client: Client) -> None:
    old = client.put(client.key("k"), "1").revision
    client.put(client.key("k"), "2")
    compact(client)
    with pytest.raises(Compacted):
        client.range(client.key("k"), revision=old - 1)


def test_the_cluster_says_who_it_is(client: Client) -> None:
    (member,) = client.members()
    assert member.clientURLs == client.urls
    status = client.status(client.urls[0])
    assert status.leader == member.ID
    assert client.cluster_id() > 0


def test_the_clock_of_the_store_is_compared_with_ours(client: Client) -> None:
    assert client.clock_offset() is None
    client.status()
    offset = client.clock_offset()
    assert offset is not None
    assert abs(offset) < 5


class Clocks:
    """`time` in the client: a wall clock that is `ahead` of the store's, and moves when it is told to."""

    def __init__(self, ahead: float, second: float) -> None:
        self.now, self.ahead, self.in_between = second, ahead, 0.0
        self._start = time.monotonic()  # deadlines are looked at beside it

    def monotonic(self) -> float:
        return self._start + self.now

    def time(self) -> float:
        self.now, moment = self.now + self.in_between, self.now
        return EPOCH + moment + self.ahead

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


EPOCH = 1_800_000_000.0


def offset_read(
    monkeypatch: pytest.MonkeyPatch, clocks: Clocks, late_there: float, late_here: float
) -> float:
    """What a client makes of an answer that the store gave `late_there` seconds after the question."""
    monkeypatch.setattr("jobguard.client.time", clocks)
    client = Client("http://127.0.0.1:1", timeout=600)
    (node,) = client.endpoints.nodes

    def exchange(path: str, body: bytes, deadline: float, connect_by: float = 0) -> Answer:
        clocks.now += late_there
        date = formatdate(EPOCH + clocks.now, usegmt=True).encode()
        clocks.now += late_here
        return Answer(200, date, b"{}")

    monkeypatch.setattr(node, "exchange", exchange)
    client.status()
    offset = client.clock_offset()
    assert offset is not None
    return offset


@pytest.mark.parametrize("second", [0.0, 0.5, 0.99])
@pytest.mark.parametrize(("late_there", "late_here"), [(0.0, 0.0), (3.0, 0.0), (0.0, 3.0), (1.5, 1.5)])
def test_a_pause_of_ours_is_no_offset(
    monkeypatch: pytest.MonkeyPatch, late_there: float, late_here: float, second: float
) -> None:
    clocks = Clocks(0, second)
    assert offset_read(monkeypatch, clocks, late_there, late_here) == 0
    clocks = Clocks(0, second)
    clocks.in_between = late_here  # between two looks at the clocks
    assert offset_read(monkeypatch, clocks, 0, 0) == 0


@pytest.mark.parametrize("second", [0.0, 0.5, 0.99])
@pytest.mark.parametrize("ahead", [-60.0, -3.0, 3.0, 60.0])
def test_an_offset_is_told_to_a_second_however_late_the_answer(
    monkeypatch: pytest.MonkeyPatch, ahead: float, second: float
) -> None:
    for late in (0.0, 2.0):
        offset = offset_read(monkeypatch, Clocks(ahead, second), late / 2, late / 2)
        assert abs(ahead) - late / 2 - 0.6 <= abs(offset) <= abs(ahead) + 0.6
        assert offset * ahead < 0


def test_endpoints_that_cannot_be_meant_are_refused() -> None:
    for wrong in ("ftp://host", "http://host/path", "", [], "http://"):
        with pytest.raises(ConfigurationError):
            Client(wrong)
    assert Client("host:1, http://other").urls == ("http://host:1", "http://other:2379")


def compact(client: Client) -> None:
    """Forget all history up to now."""
    revision = client.range("x", count_only=True).revision
    request = CompactionRequest(revision=revision)  # type: ignore[arg-type]
    client._call("/v3/kv/compaction", request, CompactionResponse, harmless=True)
