"""The bytes of commands, for ever. A failure here means that old logs would be read differently."""

from typing import get_args

import msgspec
import pytest

from jobguard_store.machine.commands import (
    LEVEL,
    Access,
    AddRole,
    AddUser,
    AuthCommand,
    Authenticate,
    Caller,
    ChangePassword,
    Command,
    Compact,
    Compare,
    CompareResult,
    CompareTarget,
    DeleteRange,
    DeleteRole,
    DeleteUser,
    DisableAuth,
    EnableAuth,
    ExpireLease,
    GrantLease,
    GrantPermission,
    GrantRole,
    LowerAlarm,
    Origin,
    Put,
    RaiseAlarm,
    Range,
    RevokeLease,
    RevokePermission,
    RevokeRole,
    SortOrder,
    SortTarget,
    Txn,
    UnknownCommand,
    decode,
    encode,
)

ORIGIN = Origin(member=0xABCDEF0123456789, boot=2, sequence=300)
HEAD = "0194cfabcdef012345678902cd012c"  # version 1, then [member, boot, sequence, command]

WRITTEN: list[tuple[Command, str]] = [
    (
        Range(b"k", b"l", 5, 9, SortOrder.DESCEND, SortTarget.MOD, True, False, 1, 2, 3, 4),
        "9d01c4016bc4016c05090203c3c201020304",
    ),
    (Put(b"k", b"v", 7, True, False, True), "9702c4016bc4017607c3c2c3"),
    (DeleteRange(b"k", b"\0", True), "9403c4016bc40100c3"),
    (
        Txn(
            (Compare(b"k", b"", CompareTarget.VALUE, CompareResult.NOT_EQUAL, 0, b"v"),),
            (Put(b"k"), Txn()),
            (DeleteRange(b"k"),),
        ),
        "94049196c4016bc400030300c40176929702c4016bc40000c2c2c2940490909091" + "9403c4016bc400c2",
    ),
    (GrantLease(-1, 60), "9305ff3c"),
    (RevokeLease(2**62), "9206cf4000000000000000"),
    (ExpireLease(5, 3), "93070503"),
    (Compact(1000), "9208cd03e8"),
    (EnableAuth(), "910b"),
    (DisableAuth(), "910c"),
    (Authenticate("u", b"t", 9), "940da175c4017409"),
    (AddUser("u", b"h"), "930ea175c40168"),
    (AddUser("u", None), "930ea175c0"),
    (DeleteUser("u"), "920fa175"),
    (ChangePassword("u", b"h"), "9310a175c40168"),
    (GrantRole("u", "r"), "9311a175a172"),
    (RevokeRole("u", "r"), "9312a175a172"),
    (AddRole("r"), "9213a172"),
    (DeleteRole("r"), "9214a172"),
    (GrantPermission("r", Access.READWRITE, b"k", b"l"), "9515a17202c4016bc4016c"),
    (RevokePermission("r", b"k", b"l"), "9416a172c4016bc4016c"),
]


@pytest.mark.parametrize(("command", "written"), WRITTEN, ids=lambda value: type(value).__name__)
def test_the_bytes_of_each_command(command: Command, written: str) -> None:
    assert encode(ORIGIN, command).hex() == HEAD + written
    assert decode(bytes.fromhex(HEAD + written)) == (ORIGIN, command)


def test_who_asked_is_written_behind_the_command_and_nothing_if_nobody_did() -> None:
    """So that what is written while authentication is off is what it was before there were users."""
    signed = ORIGIN._replace(caller=Caller("u", 9))
    head = HEAD.replace("94cf", "96cf", 1)
    assert encode(signed, Compact(1000)).hex() == head + "9208cd03e8" + "a17509"
    assert decode(encode(signed, Compact(1000))) == (signed, Compact(1000))
    assert decode(encode(ORIGIN, Compact(1000)))[0].caller.user == ""


@pytest.mark.parametrize("command", [command for command, _ in WRITTEN], ids=lambda each: type(each).__name__)
def test_the_level_of_each_command_and_of_the_build_that_reads_them_all(command: Command) -> None:
    """Whatever is added later has a higher one: to members that read level 2 it is not sent."""
    assert command.level == (2 if isinstance(command, AuthCommand) else 1)
    assert LEVEL == 2


def test_every_command_is_written_down_here() -> None:
    assert {type(command) for command, _ in WRITTEN} >= set(get_args(Command)) - {RaiseAlarm, LowerAlarm}


def test_fields_added_later_may_be_missing_in_what_was_written_before() -> None:
    """A Put of a build that knew only key and value: fewer elements, read with defaults."""
    assert decode(bytes.fromhex("019401010193" + "02c4016bc40176"))[1] == Put(b"k", b"v")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x02" + encode(ORIGIN, Compact(1))[1:],  # a later format
        b"\x01" + msgspec.msgpack.encode([1, 1, 1, [99, b"k"]]),  # a command of a later build
        b"\x01" + msgspec.msgpack.encode([1, 1, 1, [8, 5, "field of a later build"]]),
        encode(ORIGIN, Compact(1))[:-1],  # cut short
        encode(ORIGIN, Compact(1)) + b"\0",  # or too long
    ],
)
def test_what_is_not_wholly_known_is_not_read(data: bytes) -> None:
    with pytest.raises(UnknownCommand):
        decode(data)
