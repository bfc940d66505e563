"""What a client reads from a store, and the plugin from its keys: what was asked for, or one error."""

import json
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobguard import records, wire
from jobguard.config import read_value
from jobguard.endpoints import read_refusal
from jobguard.lock import Seat
from jobguard.observe.holders import contender
from jobguard.records import Record
from jobguard.transport import Answer
from tests.fuzz.garbage import ODD_VALUES, damaged, fuzzed, odd_documents

ANSWERS = [each for each in wire.Response.__subclasses__() if each is not wire.Response]
LINES: list[type[msgspec.Struct]] = [wire.WatchLine, wire.LeaseKeepAliveLine]
RECORDS: list[type[Record]] = [*Record.__subclasses__(), *records.Active.__subclasses__()]
HEADER = {"cluster_id": "1", "member_id": "2", "revision": "3", "raft_term": "4"}
KEY_VALUE = {"key": "aw==", "value": "dg==", "create_revision": "1", "mod_revision": "2", "version": "1"}
ANSWER = {
    "header": HEADER,
    "kvs": [KEY_VALUE],
    "count": "1",
    "more": False,
    "responses": [{"response_range": {"kvs": [KEY_VALUE]}}, {"response_put": {"prev_kv": KEY_VALUE}}],
    "members": [{"ID": "1", "name": "m", "peerURLs": ["http://h:1"], "clientURLs": []}],
    "events": [{"type": "DELETE", "kv": KEY_VALUE, "prev_kv": KEY_VALUE}],
    "ID": "5",
    "TTL": "60",
    "leases": [{"ID": "5"}],
    "error": "etcdserver: no leader",
    "code": 14,
}
LINE = {"result": ANSWER, "error": {"grpc_code": 14, "message": "m"}}
RECORD = {
    "v": 1,
    "job": "j",
    "nominal": "2026-01-01T00:00:00Z",
    "n": 1,
    "at": "now",
    "by": "me",
    "task_id": "t",
}


def bytes_like(document: dict[str, Any]) -> st.SearchStrategy[bytes]:
    valid = st.just(json.dumps(document).encode())
    return st.one_of(odd_documents(document), damaged(valid), st.binary(max_size=40))


@given(st.sampled_from(ANSWERS), bytes_like(ANSWER))
@fuzzed(400)
def test_an_answer_is_of_its_kind_or_cannot_be_read(kind: type[wire.Response], body: bytes) -> None:
    with suppress(msgspec.DecodeError):
        assert type(wire.decode(body, kind)) is kind


@given(st.sampled_from(LINES), bytes_like(LINE))
@fuzzed(200)
def test_a_line_of_a_stream_is_one_or_cannot_be_read(kind: type[msgspec.Struct], line: bytes) -> None:
    with suppress(msgspec.DecodeError):
        assert type(wire.decode(line, kind)) is kind


@given(st.integers(0, 999), bytes_like({"error": "e", "code": 5, "message": "e"}))
@fuzzed(200)
def test_whatever_a_proxy_answers_is_a_refusal(status: int, body: bytes) -> None:
    assert read_refusal(Answer(status, b"", body)).error


@given(st.sampled_from(RECORDS), bytes_like(RECORD))
@fuzzed(300)
def test_a_record_is_of_its_kind_or_cannot_be_read(kind: type[Record], value: bytes) -> None:
    with suppress(msgspec.DecodeError):
        assert type(records.decode(value, kind)) is kind


@given(st.one_of(st.binary(max_size=60), bytes_like(RECORD), st.sampled_from(ODD_VALUES)))
@fuzzed(200)
def test_another_programs_key_in_a_queue_or_among_the_settings_stops_nobody(value: bytes) -> None:
    kv = wire.KeyValue(key=b"\xff/key", value=value)
    assert Seat.read(kv).contender is not None
    assert contender(kv) is not None
    read_value(value)


@pytest.mark.parametrize("value", [b'"\xff"', b"[" * 100_000, b'{"x":"\xff"}', b'{"host":"\xff"}'], ids=len)
def test_what_is_no_text_is_another_programs(value: bytes) -> None:
    """Found by the properties above: both escaped as something else than an error of decoding."""
    kv = wire.KeyValue(key=b"k", value=value)
    assert Seat.read(kv).contender == contender(kv)
    read_value(value)
    with pytest.raises(msgspec.DecodeError):
        records.decode(value, records.Cursor)


@given(
    st.one_of(st.dictionaries(st.text(max_size=8), st.text(max_size=30)), st.text(), st.none(), st.integers())
)
@fuzzed(200)
def test_a_message_header_is_ours_or_none(value: Any) -> None:
    for header in (value, {**RECORD, **value} if isinstance(value, dict) else value):
        found = records.read_header(header)
        assert found is None or found.occurrence
