"""Peer frames: what can be read back is what a peer can have sent; all else closes that connection."""

import asyncio
import dataclasses
import logging
import types
import typing
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobguard_store.machine import commands
from jobguard_store.machine.commands import Origin
from jobguard_store.node import Node
from jobguard_store.peer_messages import (
    CODES,
    Delivery,
    Forward,
    Hello,
    Reconfigure,
    Roster,
    Step,
    Welcome,
    WhoIsThere,
)
from jobguard_store.raft import Configuration, Member
from jobguard_store.raft.messages import (
    AppendEntries,
    Entry,
    EntryId,
    EntryKind,
    Snapshot,
    SnapshotOffer,
    VoteRequest,
)
from jobguard_store.transport import BadFrame, Frames, decode_frame, encode_frame, read_frame
from tests.fuzz.garbage import NUMBER_MAX, damaged, fuzzed, in_pieces
from tests.node.members import NEVER, Members, get, members, put, run, soon

PUT = commands.encode(Origin(2, 1, 1), commands.Put(b"k", b"v"))
CONFIGURATION = Configuration((Member(1, True, b'{"peer_urls":["http://127.0.0.1:1"]}'), Member(2, False)))
ENTRIES = (
    Entry(8, 2, EntryKind.NORMAL, PUT),
    Entry(9, 3, EntryKind.CONFIG, CONFIGURATION.encode()),
    Entry(10, 3, EntryKind.NOOP, b""),
)
HELLO = Hello(cluster_id=1, sender=2, to=1, boot=1, nonce=5, name="two", peer_urls=("http://127.0.0.1:2",))
OFFER = SnapshotOffer(sender=2, to=1, term=3, snapshot=Snapshot(EntryId(3, 9), CONFIGURATION))
APPEND = AppendEntries(sender=2, to=1, term=3, previous=EntryId(2, 7), entries=ENTRIES, commit=7)


def example(kind: Any) -> Any:
    """A value of that type, however dull."""
    match kind:
        case _ if kind is bool:
            return True
        case _ if kind is str:
            return "text"
        case _ if kind is bytes:
            return b"bytes"
        case _ if typing.get_origin(kind) is tuple:
            return (example(typing.get_args(kind)[0]),)
        case _ if isinstance(kind, types.UnionType):
            return None
        case _ if dataclasses.is_dataclass(kind):
            hints = typing.get_type_hints(kind)
            return kind(**{field.name: example(hints[field.name]) for field in dataclasses.fields(kind)})
    return kind(1)


SPECIAL: dict[type, Any] = {
    AppendEntries: APPEND,
    SnapshotOffer: OFFER,
    Hello: HELLO,
    Delivery: Delivery(hello=HELLO, offer=OFFER, size=100),
    Forward: Forward(sender=2, to=1, term=3, sequences=(1,), commands=(PUT,)),
    Reconfigure: Reconfigure(
        sender=2, to=1, term=3, sequence=1, step=Step.ADD, member=3, peer_urls=("http://127.0.0.1:3",)
    ),
    Roster: Roster(cluster_id=1, configuration=CONFIGURATION.encode()),
}
MESSAGES = [SPECIAL.get(kind) or example(kind) for kind in CODES.values()]
FRAMES = list(map(encode_frame, MESSAGES))


class Collector(Frames):
    def __init__(self) -> None:
        super().__init__()
        self.messages: list[Any] = []
        self.closed = False

    def message_received(self, message: Any) -> None:
        self.messages.append(message)

    def close(self) -> None:
        self.closed = True


def read(pieces: Sequence[bytes]) -> Collector:
    """What a connection makes of them. Whatever it does not close for would be a traceback, and is."""
    frames = Collector()
    for piece in pieces:
        if not frames.closed:
            frames.data_received(piece)
    return frames


@given(st.lists(st.sampled_from(range(len(FRAMES)))), st.lists(st.integers(0, 5000)))
@fuzzed(100)
def test_every_message_is_read_back_wherever_the_stream_is_cut(which: list[int], cuts: list[int]) -> None:
    frames = read(in_pieces(b"".join(FRAMES[each] for each in which), cuts))
    assert frames.messages == [MESSAGES[each] for each in which]
    assert not frames.closed


@given(damaged(st.sampled_from(FRAMES)), st.lists(st.integers(0, 5000), max_size=3))
@fuzzed(1000)
def test_a_damaged_frame_is_a_message_or_the_end(data: bytes, cuts: list[int]) -> None:
    for message in read(in_pieces(data, cuts)).messages:
        assert type(message) in CODES.values()
        if isinstance(message, AppendEntries):
            for at, entry in enumerate(message.entries, message.previous.index + 1):
                assert entry.index == at
                if entry.kind is EntryKind.CONFIG:
                    Configuration.decode(entry.data)
        if isinstance(message, Forward):
            assert all(commands.decode(each) for each in message.commands)


@given(st.binary(max_size=200))
@fuzzed(300)
def test_noise_is_a_message_or_the_end(data: bytes) -> None:
    for code in CODES:
        with suppress(BadFrame):
            assert isinstance(decode_frame(code, memoryview(data)), CODES[code])


def configured(data: bytes) -> AppendEntries:
    return dataclasses.replace(APPEND, entries=(Entry(8, 2, EntryKind.CONFIG, data),))


def said(about: bytes, *, voter: bool = True) -> AppendEntries:
    return configured(Configuration((Member(1, voter, about),)).encode())


def appended(*entries: Entry, previous: EntryId = APPEND.previous) -> AppendEntries:
    return dataclasses.replace(APPEND, entries=entries, previous=previous)


def forwarded(command: bytes) -> Forward:
    return Forward(sender=2, to=1, term=3, sequences=(1,), commands=(command,))


# Of the right shape, and poison: in a log, in a file, in the list of whom to dial.
POISON: list[Any] = [
    dataclasses.replace(HELLO, boot=2**63),
    dataclasses.replace(HELLO, disk=-1),
    dataclasses.replace(APPEND, term=2**63),
    dataclasses.replace(APPEND, commit=-1),
    VoteRequest(sender=2, to=1, term=2, last=EntryId(-1, 2**63)),
    appended(Entry(9, 2, EntryKind.NOOP, b"")),
    appended(Entry(8, 1, EntryKind.NOOP, b"")),
    appended(Entry(8, 4, EntryKind.NOOP, b"")),
    appended(Entry(8, 3, EntryKind.NOOP, b""), Entry(9, 2, EntryKind.NOOP, b"")),
    appended(Entry(NUMBER_MAX + 1, 3, EntryKind.NOOP, b""), previous=EntryId(3, NUMBER_MAX)),
    configured(b""),
    configured(b"[]"),
    configured(b'{"members":[],"removed":3}'),
    configured(b'{"members":[{"id":"1","voter":true,"data":""}],"removed":[]}'),
    configured(b'{"members":[{"id":1,"voter":2,"data":""}],"removed":[]}'),
    configured(b'{"members":[{"id":1,"voter":true,"data":"!"}],"removed":[]}'),
    configured(b'{"members":[],"removed":[],"level":"2"}'),
    configured(b'{"members":[],"removed":[],"level":0}'),
    configured(b"[" * 100_000),
    configured(Configuration((Member(2, True), Member(1, True))).encode()),
    configured(Configuration((Member(1, True), Member(1, True))).encode()),
    said(b"{}", voter=False),
    said(b"nothing"),
    said(b'{"name":"\xff"}'),
    said(b"[" * 100_000),
    said(b'{"peer_urls":["http://["]}'),
    said(b'{"peer_urls":["http://h:1,http://h:2"]}'),
    forwarded(b""),
    forwarded(PUT[:-1]),
    forwarded(b"\x02" + PUT[1:]),
    forwarded(commands.encode(Origin(2, 1, 1), commands.GrantLease(2**63, 1))),
    forwarded(PUT[:4] + b"\x94\x04\x90\x91" * 5000),
    dataclasses.replace(forwarded(PUT), sequences=()),
    Delivery(hello=HELLO, offer=OFFER, size=-1),
    Delivery(hello=dataclasses.replace(HELLO, nonce=2**63), offer=OFFER, size=1),
    Roster(cluster_id=1, configuration=b"{}"),
    Reconfigure(sender=2, to=1, term=3, sequence=1, step=Step.ADD, member=-1),
    Reconfigure(sender=2, to=1, term=3, sequence=1, step=Step.MOVE, member=1, peer_urls=("http://[",)),
]


@pytest.mark.parametrize("message", POISON, ids=lambda each: type(each).__name__)
def test_what_no_peer_can_have_sent_is_not_let_in(message: Any) -> None:
    frames = read([encode_frame(message)])
    assert frames.messages == []
    assert frames.closed


# --- against three members --------------------------------------------------------------------------

STRANGER = 0xBAD  # not in any log, and let in: it might be a member that ours does not name yet


class Conversation:
    """A connection dialled to a member by one who knows the cluster's id and the member's."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def begin(cls, cluster: Members, number: int) -> "Conversation":
        where = urlsplit(cluster.configs[number].listen_peer_urls[0])
        return cls(*await asyncio.open_connection(where.hostname, where.port))

    async def said_until_the_end(self, *data: bytes) -> bytes:
        """What the member says to this before it closes, which it must."""
        try:
            self.writer.write(b"".join(data))
            return await soon(self.reader.read(10 << 20))
        except ConnectionError:
            return b""
        finally:
            self.writer.close()


def hello_to(node: Node, number: int) -> Hello:
    to = node.header()
    urls = (f"http://127.0.0.1:{number + 1}",)  # nobody is there
    return Hello(
        cluster_id=to.cluster_id,
        sender=STRANGER,
        to=to.member_id,
        boot=1,
        nonce=1,
        name="stranger",
        peer_urls=urls,
        level=commands.LEVEL,
    )


def test_garbage_costs_a_connection_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def story() -> None:
        async with members(tmp_path) as cluster:
            leader = await cluster.leader()
            await put(cluster[leader], "k", "before")
            cluster.elect_after(NEVER)
            term = cluster[leader].status().raft_term
            hello = hello_to(cluster[leader], leader)
            for garbage in (
                b"\xff" * 70_000,
                encode_frame(dataclasses.replace(hello, boot=2**63)),
                encode_frame(dataclasses.replace(hello, name="x")).replace(b"\xa1x", b"\xa1\xff"),
            ):
                connection = await Conversation.begin(cluster, leader)
                await connection.said_until_the_end(garbage)
            for garbage in (
                *map(encode_frame, POISON),
                *(frame[:4] + bytes([frame[4] ^ 0x20]) + frame[5:] for frame in FRAMES),
            ):
                connection = await Conversation.begin(cluster, leader)
                connection.writer.write(encode_frame(hello))
                assert isinstance(await soon(read_frame(connection.reader)), Welcome)
                await connection.said_until_the_end(garbage)
            assert await put(cluster[leader], "k", "after")
            for number in range(3):
                assert await get(cluster[number], "k") == "after"
            assert cluster[leader].status().raft_term == term, "and nobody was deposed"

    with caplog.at_level(logging.WARNING):
        run(story())
    assert not [record for record in caplog.records if record.levelno > logging.WARNING or record.exc_info]
    assert "a peer connection that sent" in caplog.text


def test_who_asks_who_is_there_hears_it_once(tmp_path: Path) -> None:
    """A stranger that asks on without reading would have the answers gather in our memory."""

    async def story() -> None:
        async with members(tmp_path, 1) as cluster:
            connection = await Conversation.begin(cluster, 0)
            said = await connection.said_until_the_end(encode_frame(WhoIsThere()) * 10_000)
            assert len(read([said]).messages) <= 1

    run(story())
