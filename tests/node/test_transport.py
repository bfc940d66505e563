"""Streams between peers: framing, introductions, losses."""

import asyncio
import contextlib
import dataclasses
import logging
from dataclasses import replace
from typing import Any

import pytest

from jobguard_store import transport as module
from jobguard_store.config import Address
from jobguard_store.errors import StartupError
from jobguard_store.machine.commands import Origin, Put, encode
from jobguard_store.peer_messages import (
    CODES,
    Delivery,
    Forward,
    ForwardRefused,
    Hello,
    Roster,
    Unwelcome,
    Welcome,
    WhoIsThere,
)
from jobguard_store.raft import FIRST_LEVEL
from jobguard_store.raft.messages import MESSAGES, AppendEntries, Entry, EntryId, EntryKind
from jobguard_store.security import PeerTls
from jobguard_store.transport import Frames, Transport, encode_frame, write_frame
from tests.node.members import eventually, run, soon
from tests.ports import free_ports

CLUSTER = 99


class House:
    """A transport and what it told."""

    def __init__(
        self,
        member: int,
        *,
        cluster: int = CLUSTER,
        refusal: Unwelcome | None = None,
        peer_urls: tuple[str, ...] = (),
        tls: PeerTls | None = None,
        reads: int = FIRST_LEVEL,
        level: int = FIRST_LEVEL,
    ) -> None:
        """`reads`: what it can read itself; `level`: what others have to."""
        self.messages: list[Any] = []
        self.lost: list[int] = []
        self.reachable: list[int] = []
        self.expelled: list[str] = []
        self.failed: list[BaseException] = []
        hello = Hello(
            cluster_id=cluster,
            sender=member,
            to=0,
            boot=1,
            nonce=1,
            name=f"s{member}",
            peer_urls=peer_urls,
            level=reads,
        )
        self.transport = Transport(
            hello,
            on_message=self.messages.append,
            on_lost=self.lost.append,
            on_reachable=self.reachable.append,
            on_expelled=self.expelled.append,
            on_failed=self.failed.append,
            on_hello=self.meet,
            on_delivery=self.receive,
            roster=lambda: Roster(cluster_id=cluster, configuration=b""),
            level=lambda: level,
            tls=tls or PeerTls(),
        )
        self.refusal = refusal

    async def meet(self, hello: Hello) -> Unwelcome | None:
        return self.refusal

    async def receive(
        self, delivery: Delivery, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.messages.append(delivery)


class Pair:
    """Members 1 and 2, each dialling the other."""

    def __init__(self, one: House, two: House) -> None:
        self.houses = {1: one, 2: two}
        ports = free_ports(2)
        self.where = {1: Address("127.0.0.1", ports[0]), 2: Address("127.0.0.1", ports[1])}

    async def open(self, member: int) -> None:
        house = self.houses[member].transport
        await house.listen([self.where[member]])
        other = 3 - member
        house.follow({other: (self.where[other],)})

    async def __aenter__(self) -> "Pair":
        await self.open(1)
        await self.open(2)
        return self

    async def __aexit__(self, *_: object) -> None:
        for house in self.houses.values():
            house.transport.close()
        await asyncio.sleep(0.01)  # connections say goodbye on the loop


def append(to: int, number: int, size: int = 1) -> AppendEntries:
    entry = Entry(number, 3, EntryKind.NORMAL, bytes(size))
    return AppendEntries(
        sender=3 - to, to=to, term=3, previous=EntryId(3, number - 1), entries=(entry,), commit=0
    )


def test_messages_arrive_whole_in_order_and_typed() -> None:
    async def story() -> None:
        one, two = House(1), House(2)
        async with Pair(one, two):
            await eventually(lambda: one.reachable and two.reachable)
            sent = [append(2, number, size) for number, size in enumerate((1, 70_000, 3_000_000, 5), start=1)]
            for message in sent:
                assert one.transport.post(message)
            one.transport.flush()
            await eventually(lambda: len(two.messages) == len(sent))
            assert two.messages == sent
            assert type(two.messages[0].entries[0]) is Entry
            assert two.messages[0].entries[0].kind is EntryKind.NORMAL
            refused = ForwardRefused(sender=2, to=1, sequences=(1, 2))
            two.transport.post(refused)
            two.transport.flush()
            await eventually(lambda: one.messages == [refused])

    run(story())


def test_to_write_to_a_peer_that_is_gone_is_a_connection_error() -> None:
    """uvloop raises a RuntimeError. One, in the middle of a snapshot, once ended the process that led."""

    async def story() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.transport.abort()
        with pytest.raises(ConnectionError):
            write_frame(writer, WhoIsThere())
        server.close()

    run(story())


def test_nothing_is_heard_of_a_connection_that_was_closed_in_the_middle() -> None:
    heard: list[Any] = []

    class Once(Frames):
        def message_received(self, message: Any) -> None:
            heard.append(message)
            self.close()

    async def story() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Once, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(encode_frame(WhoIsThere()) * 3)
        with contextlib.suppress(ConnectionError):
            await soon(reader.read())
        writer.close()
        server.close()

    run(story())
    assert heard == [WhoIsThere()]


def test_a_stream_may_be_cut_anywhere() -> None:
    class Collector(Frames):
        def __init__(self) -> None:
            super().__init__()
            self.messages: list[Any] = []

        def message_received(self, message: Any) -> None:
            self.messages.append(message)

    sent = [append(2, 1, 300), ForwardRefused(sender=2, to=1, sequences=()), append(2, 2, 0)]
    stream = b"".join(encode_frame(message) for message in sent)
    for size in (1, 2, 3, 5, 7, 100, len(stream) - 1, len(stream)):
        frames = Collector()
        for start in range(0, len(stream), size):
            frames.data_received(stream[start : start + size])
        assert frames.messages == sent, f"in chunks of {size}"


def test_codes_are_a_format_for_ever() -> None:
    assert [CODES[code] for code in range(len(MESSAGES))] == list(MESSAGES)
    assert {code: cls.__name__ for code, cls in CODES.items() if code >= 64} == {
        64: "Forward",
        65: "ForwardRefused",
        66: "Ask",
        67: "Told",
        68: "Reconfigure",
        69: "Reconfigured",
        128: "Hello",
        129: "Welcome",
        130: "Unwelcome",
        131: "Delivery",
        132: "Part",
        133: "Whole",
        134: "Taken",
        135: "WhoIsThere",
        136: "Roster",
    }


def test_what_cannot_be_sent_is_dropped_and_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        one, two = House(1), House(2)
        pair = Pair(one, two)
        await pair.open(1)
        assert not one.transport.post(append(2, 1)), "nobody is there"
        assert not one.transport.reaches(2)
        await pair.open(2)
        await eventually(lambda: one.reachable)
        monkeypatch.setattr(module, "QUEUED_BYTES_MAX", 10_000)
        posted = [one.transport.post(append(2, number, 1000)) for number in range(1, 21)]
        assert posted[0]
        assert not posted[-1], "a queue has an end"
        one.transport.flush()
        await eventually(lambda: len(two.messages) == sum(posted))
        await pair.__aexit__()

    run(story())


def test_a_closed_connection_is_told_and_dialled_again() -> None:
    async def story() -> None:
        one, two = House(1), House(2)
        async with Pair(one, two) as pair:
            await eventually(lambda: one.reachable and two.reachable)
            two.transport.close()
            await eventually(lambda: 2 in one.lost)
            pair.houses[2] = again = House(2)
            await pair.open(2)
            await eventually(lambda: len(one.reachable) == 2 and again.reachable)
            one.transport.post(append(2, 1))
            one.transport.flush()
            await eventually(lambda: again.messages)

    run(story())


@pytest.mark.parametrize(
    ("two", "reason"),
    [
        (lambda: House(2, cluster=CLUSTER + 1), "cluster id 63 is not ours, 64"),
        (lambda: House(7), "it looks for member 2, this is 7"),
    ],
)
def test_strangers_are_refused_and_both_sides_say_why(
    two: Any, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def story() -> None:
        one = House(1)
        other = two()
        async with Pair(one, other):
            await eventually(lambda: sum(reason in message for message in caplog.messages) >= 2)
            assert not one.reachable
            assert not one.transport.post(append(2, 1))

    with caplog.at_level(logging.WARNING):
        run(story())


def test_one_that_the_log_does_not_name_yet_is_heard_and_answered_for_as_long_as_it_is_there() -> None:
    async def story() -> None:
        ports = free_ports(2)
        where = {number: Address("127.0.0.1", port) for number, port in zip((1, 5), ports, strict=True)}
        one, newcomer = House(1), House(5, peer_urls=(f"http://127.0.0.1:{ports[1]}",))
        for number, house in ((1, one), (5, newcomer)):
            await house.transport.listen([where[number]])
        newcomer.transport.follow({1: (where[1],)})
        await eventually(lambda: one.transport.reaches(5))
        assert one.transport.post(dataclasses.replace(append(5, 1), sender=1))
        one.transport.flush()
        await eventually(lambda: newcomer.messages)
        newcomer.transport.close()
        await eventually(lambda: one.lost)
        assert not one.transport.reaches(5)
        one.transport.close()
        await asyncio.sleep(0.01)

    run(story())


def test_one_that_cannot_be_answered_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        one, stranger = House(1), House(5)
        ports = free_ports(1)
        await one.transport.listen([Address("127.0.0.1", ports[0])])
        stranger.transport.follow({1: (Address("127.0.0.1", ports[0]),)})
        await eventually(lambda: any("it cannot be answered" in text for text in caplog.messages))
        one.transport.close()
        stranger.transport.close()
        await asyncio.sleep(0.01)

    run(story())


def test_a_refusal_for_good_is_passed_on() -> None:
    async def story() -> None:
        one, two = House(1), House(2, refusal=Unwelcome(reason="your data is gone", fatal=True))
        async with Pair(one, two):
            await eventually(lambda: one.expelled)
            assert one.expelled[0] == "your data is gone"

    run(story())


def test_one_that_is_too_old_ends_and_nothing_is_written_down_for_good() -> None:
    async def story() -> None:
        one, two = House(1), House(2, refusal=Unwelcome(reason="too old", too_old=True))
        async with Pair(one, two):
            await eventually(lambda: one.failed)
            assert isinstance(one.failed[0], StartupError)
            assert str(one.failed[0]) == "too old"
            assert one.expelled == []

    run(story())


def test_what_a_peer_can_read_is_known_for_as_long_as_its_connection_lasts() -> None:
    """One that says nothing of it, as builds before this, can read what all can."""

    async def story() -> None:
        one, two = House(1, reads=3), House(2)
        async with Pair(one, two) as pair:
            await eventually(lambda: one.reachable and two.reachable)
            assert (one.transport.said_level(2), two.transport.said_level(1)) == (FIRST_LEVEL, 3)
            assert one.transport.said_level(5) is None
            two.transport.close()
            await eventually(lambda: one.transport.said_level(2) is None)
            pair.houses[2] = House(2, reads=4)
            await pair.open(2)
            await eventually(lambda: one.transport.said_level(2) == 4)

    run(story())


def test_nothing_is_sent_to_one_that_cannot_read_what_the_log_may_hold(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def story() -> None:
        one, two = House(1, level=2), House(2)
        async with Pair(one, two):
            await eventually(lambda: two.reachable)
            sentence = (
                "2 is not talked to: it needs a newer jobguard: its log is at level 2, and this one reads"
            )
            await eventually(lambda: sentence in caplog.text)
            assert not one.reachable
            assert not one.transport.post(append(2, 1))

    run(story())


def test_nonsense_closes_the_connection_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        one, two = House(1), House(2)
        async with Pair(one, two) as pair:
            await eventually(lambda: one.reachable)
            hello = replace(two.transport.hello, to=1)
            for nonsense in (
                b"GET / HTTP/1.1\r\nHost: h\r\n\r\n",
                b"\0\0\0\1\xee",
                encode_frame(ForwardRefused(sender=2, to=1, sequences=())),
                encode_frame(hello) + encode_frame(ForwardRefused(sender=3, to=1, sequences=())),
                encode_frame(hello) + b"\0\0\0\2\x40\xff",
                encode_frame(hello) + encode_frame(hello),
                encode_frame(hello) + encode_frame(Welcome(sender=2)),
                (module.STRANGERS_FRAME_BYTES_MAX + 1).to_bytes(4, "big") + b"\x80",
            ):
                reader, writer = await asyncio.open_connection(pair.where[1].host, pair.where[1].port)
                writer.write(nonsense)
                await asyncio.wait_for(reader.read(), 5)
                writer.close()
            assert one.messages == []
            assert len([text for text in caplog.messages if "closing a peer connection" in text]) == 8

    run(story())


def test_an_error_nobody_expected_does_not_silently_end_the_dialling() -> None:
    async def story() -> None:
        one, two = House(1), House(2)

        def broken(_: int) -> None:
            raise ZeroDivisionError

        one.transport.on_reachable = broken
        async with Pair(one, two):
            await eventually(lambda: [type(error) for error in one.failed] == [ZeroDivisionError])

    run(story())


def test_a_taken_port_is_one_sentence() -> None:
    async def story() -> None:
        one, two = House(1), House(2)
        (port,) = free_ports(1)
        await one.transport.listen([Address("127.0.0.1", port)])
        with pytest.raises(StartupError, match=f"cannot listen for peers on 127.0.0.1:{port}: .*in use"):
            await two.transport.listen([Address("127.0.0.1", port)])
        one.transport.close()

    run(story())


def test_a_forward_names_the_term_it_is_for() -> None:
    command = encode(Origin(1, 1, 1), Put(b"k"))
    forward = Forward(sender=1, to=2, term=7, sequences=(1,), commands=(command,))
    frame = encode_frame(forward)
    assert module.decode_frame(frame[4], memoryview(frame)[5:]) == forward
