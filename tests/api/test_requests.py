"""Requests before they reach a node: pure functions from messages to commands."""

import pytest

from jobguard import wire
from jobguard_store.api.exchange import Objects
from jobguard_store.api.kv import only_serializable, range_command, txn_command, writes
from jobguard_store.errors import DuplicateKey, InvalidSortOption, KeyNotFound, TooManyOps
from jobguard_store.machine.commands import (
    Compare,
    CompareResult,
    CompareTarget,
    DeleteRange,
    Put,
    Range,
    SortOrder,
    SortTarget,
    Txn,
)

PUT_A = wire.RequestOp(request_put=wire.PutRequest(key=b"a"))
PUT_B = wire.RequestOp(request_put=wire.PutRequest(key=b"b"))
READ = wire.RequestOp(request_range=wire.RangeRequest(key=b"a"))
LOCAL_READ = wire.RequestOp(request_range=wire.RangeRequest(key=b"a", serializable=True))


def delete(key: bytes, end: bytes = b"") -> wire.RequestOp:
    return wire.RequestOp(request_delete_range=wire.DeleteRangeRequest(key=key, range_end=end))


def nested(*success: wire.RequestOp, failure: tuple[wire.RequestOp, ...] = ()) -> wire.RequestOp:
    return wire.RequestOp(request_txn=wire.TxnRequest(success=success, failure=failure))


def test_a_txn_becomes_a_command_level_by_level() -> None:
    request = wire.decode_request(
        b"""{"compare":[{"key":"YQ==","target":"MOD","result":"LESS","mod_revision":"7","value":"aWdub3JlZA=="}],
             "success":[{"requestPut":{"key":"Yg==","value":"dg==","prevKv":true}},
                        {"request_txn":{"failure":[{"request_delete_range":{"key":"Yw=="}}]}}],
             "failure":[{"request_range":{"key":"ZA==","range_end":"AA==","sort_order":2,"sort_target":"VALUE"}}]}""",
        wire.TxnRequest,
    )
    assert txn_command(request) == Txn(
        (Compare(b"a", b"", CompareTarget.MOD, CompareResult.LESS, 7, b""),),
        (Put(b"b", b"v", prev_kv=True), Txn((), (), (DeleteRange(b"c"),))),
        (Range(b"d", b"\0", sort_order=SortOrder.DESCEND, sort_target=SortTarget.VALUE),),
    )


def test_a_number_may_name_a_sort_option_if_there_is_one() -> None:
    assert range_command(wire.RangeRequest(key=b"k", sort_target=4)).sort_target is SortTarget.VALUE
    for request in (wire.RangeRequest(key=b"k", sort_order=3), wire.RangeRequest(key=b"k", sort_target=5)):
        with pytest.raises(InvalidSortOption):
            range_command(request)


@pytest.mark.parametrize(
    "ops",
    [
        (PUT_A, PUT_A),
        (PUT_A, delete(b"a")),
        (delete(b"a", b"b"), PUT_A),
        (nested(PUT_A), PUT_A),
        (nested(PUT_A), nested(failure=(PUT_A,))),
        (nested(delete(b"a")), nested(PUT_A)),
        (nested(nested(PUT_A)), delete(b"\0", b"\xff")),
    ],
)
def test_a_key_changes_once(ops: tuple[wire.RequestOp, ...]) -> None:
    with pytest.raises(DuplicateKey):
        txn_command(wire.TxnRequest(success=ops))
    with pytest.raises(DuplicateKey):
        txn_command(wire.TxnRequest(failure=ops))


@pytest.mark.parametrize(
    "ops",
    [
        (PUT_A, PUT_B, delete(b"c")),
        (delete(b"a", b"c"), delete(b"a", b"b")),
        (nested(PUT_A, failure=(PUT_A,)), PUT_B),
        (nested(PUT_A, failure=(delete(b"a"),)),),
        (delete(b"b", b"a"), PUT_A, PUT_B),
        (READ, PUT_A, READ),
    ],
)
def test_what_cannot_meet_may_stand_together(ops: tuple[wire.RequestOp, ...]) -> None:
    txn_command(wire.TxnRequest(success=ops))


def test_nested_txns_share_one_budget_of_ops() -> None:
    many = tuple(wire.RequestOp(request_put=wire.PutRequest(key=b"%d" % number)) for number in range(127))
    txn_command(wire.TxnRequest(success=(*many, PUT_A)))
    with pytest.raises(TooManyOps):
        txn_command(wire.TxnRequest(success=(*many, nested(PUT_A))))


def test_an_op_must_say_what_it_is() -> None:
    with pytest.raises(KeyNotFound):
        txn_command(wire.TxnRequest(success=(wire.RequestOp(),)))


def test_only_a_txn_without_changes_is_a_read() -> None:
    assert not writes(txn_command(wire.TxnRequest(success=(READ, nested(READ)))))
    assert writes(txn_command(wire.TxnRequest(success=(nested(failure=(PUT_A,)),))))
    assert writes(txn_command(wire.TxnRequest(failure=(delete(b"a"),))))


def test_a_read_is_local_only_if_all_of_it_asks_for_that() -> None:
    assert only_serializable(wire.TxnRequest(success=(LOCAL_READ,), failure=(LOCAL_READ,)))
    assert not only_serializable(wire.TxnRequest(success=(LOCAL_READ, READ)))
    assert not only_serializable(wire.TxnRequest(success=(LOCAL_READ, nested(LOCAL_READ))))
    assert not only_serializable(wire.TxnRequest(compare=(wire.Compare(key=b"k"),)))


@pytest.mark.parametrize(
    ("data", "objects", "rest"),
    [
        (b"", [], b""),
        (b" \n ", [], b""),
        (b'{"a":1}', [b'{"a":1}'], b""),
        (b'{"a":{"b":[1,{}]}} {"c":2}\n', [b'{"a":{"b":[1,{}]}}', b' {"c":2}'], b""),
        (b'{"a":"}"}{"b":"\\"{"}', [b'{"a":"}"}', b'{"b":"\\"{"}'], b""),
        (b'{"a":1}{"b":', [b'{"a":1}'], b'{"b":'),
        (b'{"a":"un}closed', [], b'{"a":"un}closed'),
        (b'{"a":"escaped\\', [], b'{"a":"escaped\\'),
        (b'{"a":1} junk', [b'{"a":1}'], b"junk"),
        (b"[1]{}", [], b"[1]{}"),
    ],
)
def test_a_stream_is_cut_into_objects(data: bytes, objects: list[bytes], rest: bytes) -> None:
    stream = Objects()
    assert stream.feed(data) == [text.lstrip() for text in objects]
    assert stream.rest == rest


def test_a_stream_may_be_cut_anywhere() -> None:
    whole = b'{"create_request":{"key":"YQ==","x":"\\\\\\"}"}} {"cancel_request":{}}'
    expected = Objects().feed(whole)
    for cut in range(len(whole)):
        stream = Objects()
        assert stream.feed(whole[:cut]) + stream.feed(whole[cut:]) == expected
        assert stream.rest == b""


def test_each_byte_of_a_stream_is_looked_at_once() -> None:
    """Of a request that comes byte by byte, or this would not end."""
    whole = b'{"create_request":{"key":"' + b"A" * 100_000 + b'","x":[' + b"{}," * 50_000 + b"{}]}}"
    stream = Objects()
    assert [text for byte in whole for text in stream.feed(bytes([byte]))] == [whole]
