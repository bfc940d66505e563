"""Entries of the log: what can be decoded is what can be encoded; all else is an unknown command."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from jobguard_store.machine import commands
from jobguard_store.machine.apply import Machine
from jobguard_store.machine.commands import Origin, UnknownCommand
from jobguard_store.raft.configuration import Configuration, Member
from tests.fuzz.garbage import NUMBER_MAX, damaged, fuzzed
from tests.machine.commands import TERM, histories

numbers = st.one_of(st.integers(-2, 2), st.sampled_from([NUMBER_MAX, -NUMBER_MAX - 1, 2**64 - 1, 2**63]))
shapes = st.recursive(
    st.one_of(numbers, st.booleans(), st.none(), st.binary(max_size=4), st.text(max_size=3), st.floats()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=7), st.dictionaries(st.text(max_size=2), inner, max_size=3)
    ),
    max_leaves=20,
)
entries = histories.filter(bool).map(lambda history: commands.encode(Origin(1, 2, 3), history[0]))


def is_a_command_or_unknown(data: bytes) -> None:
    try:
        origin, command = commands.decode(data)
    except UnknownCommand:
        return
    again = commands.decode(commands.encode(origin, command))
    assert again == (origin, command)
    machine = Machine()
    rows = machine.apply(command, TERM).rows
    assert all(-NUMBER_MAX <= number <= NUMBER_MAX for number in (rows.revision, *sum(rows.leases, ())))


@given(damaged(entries))
@fuzzed(400)
def test_a_damaged_entry_is_a_command_or_unknown(data: bytes) -> None:
    is_a_command_or_unknown(data)


@given(st.integers(0, 23), st.lists(shapes, max_size=12), st.lists(shapes, max_size=2))
@fuzzed(400)
def test_any_shape_of_an_entry_is_a_command_or_unknown(
    tag: int, fields: list[object], more: list[object]
) -> None:
    envelope = [1, 2, 3, [tag, *fields], *more]
    try:
        data = msgspec.msgpack.encode(envelope)
    except OverflowError:
        return
    is_a_command_or_unknown(bytes([commands.VERSION]) + data)


def test_an_entry_as_deep_as_it_is_long_is_unknown() -> None:
    for body in (b"\x94\x01\x02\x03" + b"\x94\x04\x90\x91" * 100_000, b"\x91" * 100_000):
        is_a_command_or_unknown(bytes([commands.VERSION]) + body)


members = st.builds(Member, st.integers(1, NUMBER_MAX), st.booleans(), st.binary(max_size=9))
configurations = st.builds(
    Configuration,
    st.lists(members, max_size=4).map(tuple),
    st.lists(st.integers(1, 9), max_size=3).map(tuple),
)


@given(configurations)
@fuzzed(100)
def test_a_configuration_is_read_back(configuration: Configuration) -> None:
    assert Configuration.decode(configuration.encode()) == configuration


@given(st.one_of(damaged(configurations.map(Configuration.encode)), st.binary(max_size=30)))
@fuzzed(400)
def test_a_damaged_configuration_is_one_or_a_value_error(data: bytes) -> None:
    try:
        found = Configuration.decode(data)
    except ValueError:
        return
    assert Configuration.decode(found.encode()) == found
