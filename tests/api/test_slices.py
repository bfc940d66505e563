"""Nothing a reader asks for, however large, keeps the loop from everybody else."""

import asyncio
import json
from collections.abc import Awaitable
from typing import TypeVar

from jobguard import wire
from jobguard.wire import int64
from jobguard_store.api import shapes
from jobguard_store.machine.results import ChangeEvent, DeleteResult, RangeResult, Record, TxnResult
from tests.gateway import Gateway, b64
from tests.messages import DELETE, RANGE, TXN, delete, put_op, range_, range_op, txn

T = TypeVar("T")
HEAD = wire.ResponseHeader(revision=int64(9))
RECORDS = [Record(b"key-%06d" % number, b"v" * 20, 2, 3, 2, 0) for number in range(20_000)]
LARGE = [Record(b"large-%d" % number, b"v" * 100_000, 2, 3, 2, 0) for number in range(40)]


def turns_while(work: Awaitable[T]) -> tuple[T, int]:
    """The result of `work`, and how often somebody else on the loop had a turn meanwhile."""

    async def measured() -> tuple[T, int]:
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        task = asyncio.create_task(other())
        result = await work
        task.cancel()
        return result, turns

    return asyncio.run(measured())


def joined(body: shapes.Body) -> bytes:
    return body if isinstance(body, bytes) else b"".join(body)


def test_a_large_range_is_encoded_in_slices() -> None:
    body, turns = turns_while(shapes.range_body(HEAD, RangeResult(9, RECORDS, len(RECORDS), True)))
    assert turns >= len(RECORDS) // shapes.SLICE_RECORDS
    document = json.loads(joined(body))
    assert [pair["key"] for pair in document["kvs"]] == [b64(record.key) for record in RECORDS]
    assert list(document) == ["header", "kvs", "more", "count"]
    assert not isinstance(body, bytes)
    assert max(map(len, body)) < 64 * 1024


def test_large_values_make_small_slices() -> None:
    body, turns = turns_while(shapes.range_body(HEAD, RangeResult(9, LARGE, len(LARGE))))
    assert turns >= len(LARGE) // 2
    assert len(json.loads(joined(body))["kvs"]) == len(LARGE)


def test_so_is_what_a_deletion_a_txn_and_a_watch_say() -> None:
    deleted = DeleteResult(9, len(RECORDS), tuple(RECORDS))
    body, turns = turns_while(shapes.delete_body(HEAD, deleted))
    assert turns >= len(RECORDS) // shapes.SLICE_RECORDS
    assert list(json.loads(joined(body))) == ["header", "deleted", "prev_kvs"]

    nested = TxnResult(9, True, (RangeResult(9, RECORDS, len(RECORDS)), TxnResult(9, False, (deleted,))))
    body, turns = turns_while(shapes.txn_body(HEAD, nested))
    assert turns >= 2 * len(RECORDS) // shapes.SLICE_RECORDS
    document = json.loads(joined(body))
    assert len(document["responses"][0]["response_range"]["kvs"]) == len(RECORDS)
    inner = document["responses"][1]["response_txn"]["responses"][0]["response_delete_range"]
    assert len(inner["prev_kvs"]) == len(RECORDS)

    changes = [ChangeEvent(record, None) for record in RECORDS]
    line, turns = turns_while(shapes.watch_body(wire.WatchResponse(header=HEAD), changes, prev_kv=False))
    assert turns >= len(RECORDS) // shapes.SLICE_RECORDS
    assert len(json.loads(line)["events"]) == len(RECORDS)


def test_sliced_and_whole_answers_look_the_same() -> None:
    for records in ([], RECORDS[:1], RECORDS[: shapes.SLICE_RECORDS], RECORDS[: shapes.SLICE_RECORDS + 1]):
        for more in (False, True):
            result = RangeResult(9, records, len(records), more)
            whole = wire.encode(
                wire.RangeResponse(
                    header=HEAD,
                    kvs=tuple(map(shapes.key_value, records)),
                    more=more,
                    count=int64(len(records)),
                )
            )
            body, _ = turns_while(shapes.range_body(HEAD, result))
            assert joined(body) == whole


def test_ten_thousand_keys_over_the_wire(gateway: Gateway) -> None:
    for start in range(0, 10_000, 100):
        gateway.ok(TXN, txn(*(put_op(f"k{start + number:05d}", "v" * 50) for number in range(100))))
    answer = gateway.post(RANGE, range_("k", "l"))
    assert int(answer.headers["content-length"]) == len(answer.body) > 1_000_000
    assert answer.json["count"] == "10000"
    assert [pair["key"] for pair in answer.json["kvs"]] == [b64(f"k{number:05d}") for number in range(10_000)]
    twice = gateway.ok(TXN, txn(range_op("k", "l"), range_op("k", "l", count_only=True)))
    assert len(twice["responses"][0]["response_range"]["kvs"]) == 10_000
    gone = gateway.ok(DELETE, delete("k", "l", prev_kv=True))
    assert len(gone["prev_kvs"]) == 10_000
