"""Whatever is asked of it, the machine answers as a list of all versions would."""

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from jobguard_store.machine.apply import Machine
from jobguard_store.machine.commands import Command, Origin, Range, Txn, decode, encode
from jobguard_store.machine.txn import writes
from tests.machine.commands import TERM, commands, histories, ranges, txns
from tests.machine.model import Model, plain


@settings(max_examples=400, deadline=None)
@given(histories)
def test_every_answer_and_event_is_the_models(history: list[Command]) -> None:
    machine, model = Machine(), Model()
    for command in history:
        before = model.revision
        applied = machine.apply(command, TERM)
        assert plain(applied.result) == plain(model.apply(command, TERM))
        assert (applied.revision, machine.compact_revision) == (model.revision, model.compact_revision)
        assert list(applied.events) == model.events(before + 1, model.revision)
        for lease in model.leases:
            assert machine.lease_keys(lease) == model.lease_keys(lease)
    assert list(machine.keys) == list(model.state().values())
    assert {lease: machine.lease_ttl(lease) for lease in machine.lease_ids()} == model.leases


@settings(max_examples=200, deadline=None)
@given(histories, st.lists(ranges, min_size=5, max_size=10))
def test_whatever_range_is_asked_of_the_newest_state(history: list[Command], asked: list[Range]) -> None:
    machine, model = Machine(), Model()
    for command in history:
        machine.apply(command, TERM)
        model.apply(command, TERM)
    for ask in asked:
        newest = msgspec.structs.replace(ask, revision=0)
        assert plain(machine.range(newest)) == plain(model.range(newest, model.revision))


@settings(max_examples=100, deadline=None)
@given(histories, ranges, txns)
def test_a_read_beside_the_log_answers_as_one_in_it(history: list[Command], ask: Range, txn: Txn) -> None:
    machine = Machine()
    for command in history:
        machine.apply(command, TERM)
    state = machine.fingerprint()
    if not machine.compact_revision <= ask.revision <= machine.revision:
        ask = Range(ask.key, ask.range_end)
    assert plain(machine.range(ask)) == plain(machine.apply(ask, TERM).result)
    if not writes(txn):
        logged = machine.apply(txn, TERM).result
        if not isinstance(logged, Exception):
            assert plain(machine.read_txn(txn)) == plain(logged)
    assert machine.fingerprint() == state


@settings(max_examples=50, deadline=None)
@given(histories)
def test_two_nodes_end_in_the_same_state(history: list[Command]) -> None:
    """Through the bytes of the log, as on a peer; refusals and all."""
    one, other = Machine(), Machine()
    for command in history:
        one.apply(command, TERM)
        other.apply(decode(encode(Origin(1, 1, 1), command))[1], TERM)
    assert one.fingerprint() == other.fingerprint()


@settings(max_examples=300, deadline=None)
@given(commands)
def test_a_command_survives_the_log(command: Command) -> None:
    origin = Origin(member=2**64 - 1, boot=7, sequence=2**40)
    assert decode(encode(origin, command)) == (origin, command)
