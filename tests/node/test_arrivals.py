"""What a member does with a state that a peer sends, or with what pretends to be one."""

import asyncio
from collections.abc import Awaitable, Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from jobguard_store import arrivals
from jobguard_store.arrivals import Arrivals
from jobguard_store.config import Address
from jobguard_store.errors import ServerStopped
from jobguard_store.peer_messages import Delivery, Hello, Part, Roster, Taken, Unwelcome, Welcome, Whole
from jobguard_store.raft.configuration import FIRST_LEVEL, Configuration
from jobguard_store.raft.messages import EntryId, Snapshot, SnapshotOffer
from jobguard_store.security import PeerTls
from jobguard_store.storage.snapshot import Staged
from jobguard_store.transport import Transport, encode_frame, read_frame
from tests.node.members import eventually, run, soon
from tests.ports import free_ports
from tests.storage.member import TERM, member_on_a_new_file

CLUSTER = 7
NAME = Snapshot(EntryId(TERM, 3), Configuration.of((1, 2)))
HELLO = Hello(cluster_id=CLUSTER, sender=2, to=1, boot=1, nonce=1, name="s2")
OFFER = SnapshotOffer(sender=2, to=1, term=TERM, snapshot=NAME)
TORN = (None, b"", b"\xff\xff\xff\xff\x80", b"\0\0\0\x02\x84\xc1", encode_frame(HELLO))


def state() -> bytes:
    with member_on_a_new_file() as member:
        member.put("a", "b", "c")
        member.flush()
        cut = member.database.cut(member.database.leaving_path)
        cut.copy(NAME)
        cut.close()
        return member.database.leaving_path.read_bytes()


class Receiver:
    """Member 1, which knows of member 2, and whatever it took."""

    def __init__(self, folder: Path) -> None:
        self.taken: list[Staged] = []
        self.failed: list[BaseException] = []
        self.path = folder / "node.arriving.sqlite"
        self.take: Callable[[Staged], None] = self.taken.append
        (port,) = free_ports(1)
        self.address = Address("127.0.0.1", port)
        self.arrivals = Arrivals(self.path, welcome=Welcome(sender=1), take=self._take)
        self.transport = Transport(
            Hello(cluster_id=CLUSTER, sender=1, to=0, boot=1, nonce=1, name="s1"),
            tls=PeerTls(),
            on_message=self.failed.append,
            on_lost=lambda _: None,
            on_reachable=lambda _: None,
            on_expelled=lambda _: None,
            on_failed=self.failed.append,
            on_hello=self._meet,
            on_delivery=self.arrivals.receive,
            roster=lambda: Roster(cluster_id=CLUSTER, configuration=b""),
            level=lambda: FIRST_LEVEL,
        )

    async def _take(self, staged: Staged, _offer: SnapshotOffer) -> None:
        self.take(staged)

    async def _meet(self, _hello: Hello) -> Unwelcome | None:
        return None

    async def nothing_is_left(self) -> None:
        await eventually(lambda: not self.path.exists() and not self.arrivals._busy, "the place to be free")
        assert self.failed == []


async def say(receiver: Receiver, *said: object) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection(receiver.address.host, receiver.address.port)
    for each in said:
        writer.write(each if isinstance(each, bytes) else encode_frame(each))
    return reader, writer


async def deliver(receiver: Receiver, content: bytes, *ends: object, offer: SnapshotOffer = OFFER) -> Any:
    """The whole conversation; the last answer, None if the receiver hangs up."""
    reader, writer = await say(receiver, Delivery(hello=HELLO, offer=offer, size=len(content)))
    try:
        answer = await soon(read_frame(reader))
        if isinstance(answer, Welcome):
            half = len(content) // 2
            for each in (Part(data=content[:half]), Part(data=content[half:]), *ends):
                writer.write(each if isinstance(each, bytes) else encode_frame(each))
            answer = await soon(read_frame(reader))
        return answer
    except (EOFError, ConnectionError):
        return None
    finally:
        writer.close()


def whole(content: bytes) -> Whole:
    return Whole(digest=sha256(content).digest())


def story(folder: Path, told: Callable[[Receiver], Awaitable[None]]) -> None:
    async def with_a_receiver() -> None:
        receiver = Receiver(folder)
        await receiver.transport.listen([receiver.address])
        receiver.transport.follow({2: (Address("127.0.0.1", 1),)})
        try:
            await told(receiver)
        finally:
            receiver.transport.close()

    run(with_a_receiver())


def test_a_whole_state_is_taken(tmp_path: Path) -> None:
    async def told(receiver: Receiver) -> None:
        content = state()
        assert await deliver(receiver, content, whole(content)) == Taken()
        (staged,) = receiver.taken
        assert (staged.name, staged.machine.revision) == (NAME, 4)
        await receiver.nothing_is_left()

    story(tmp_path, told)


def test_what_is_torn_rotten_or_of_somebody_else_is_dropped_and_the_next_one_welcome(tmp_path: Path) -> None:
    async def told(receiver: Receiver) -> None:
        content = state()
        rotten = content[:5000] + bytes([content[5000] ^ 1]) + content[5001:]
        refused = [
            await deliver(receiver, rotten, whole(content)),
            await deliver(receiver, b"x" * 5000, whole(b"x" * 5000)),
            await deliver(receiver, b"", whole(b"")),
            await deliver(receiver, content, Part(data=b"more"), whole(content + b"more")),
            await deliver(receiver, content, offer=SnapshotOffer(sender=3, to=1, term=1, snapshot=NAME)),
            await deliver(receiver, content, offer=SnapshotOffer(sender=2, to=3, term=1, snapshot=NAME)),
        ]
        assert [isinstance(answer, Unwelcome) for answer in refused] == [True] * 6, refused
        for end in TORN[1:]:
            assert await deliver(receiver, content[:-10], end, b"\0" * 4, b"\0") is None
            await receiver.nothing_is_left()
        _, writer = await say(receiver, Delivery(hello=HELLO, offer=OFFER, size=len(content)))
        await eventually(receiver.path.exists)
        writer.transport.abort()
        await receiver.nothing_is_left()
        assert receiver.taken == []
        assert await deliver(receiver, content, whole(content)) == Taken()

    story(tmp_path, told)


def test_a_stranger_brings_nothing(tmp_path: Path) -> None:
    async def told(receiver: Receiver) -> None:
        for hello in (
            Hello(cluster_id=8, sender=2, to=1, boot=1, nonce=1, name="s2"),
            Hello(cluster_id=CLUSTER, sender=5, to=1, boot=1, nonce=1, name="s5"),
        ):
            reader, writer = await say(receiver, Delivery(hello=hello, offer=OFFER, size=1))
            assert isinstance(await soon(read_frame(reader)), Unwelcome)
            writer.close()
        reader, writer = await say(receiver, Delivery(hello=HELLO, offer=OFFER, size=1), Part(data=b"x"))
        with pytest.raises((EOFError, ConnectionError)):  # it did not wait to be welcome
            await soon(read_frame(reader))
        writer.close()
        await receiver.nothing_is_left()

    story(tmp_path, told)


def test_one_at_a_time_and_none_that_falls_silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def told(receiver: Receiver) -> None:
        content = state()
        reader, writer = await say(receiver, Delivery(hello=HELLO, offer=OFFER, size=len(content)))
        assert isinstance(await soon(read_frame(reader)), Welcome)
        second = await deliver(receiver, content, whole(content))
        assert isinstance(second, Unwelcome)
        assert "another snapshot" in second.reason
        with monkeypatch.context() as soon_silent:
            soon_silent.setattr(arrivals, "SILENT_S", 0.1)
            writer.write(encode_frame(Part(data=content[:100])))  # what it waits for next, it waits so long
            with pytest.raises((EOFError, ConnectionError)):
                await soon(read_frame(reader))
        writer.close()
        await receiver.nothing_is_left()
        assert await deliver(receiver, content, whole(content)) == Taken()

    story(tmp_path, told)


def test_a_member_that_stops_takes_nothing(tmp_path: Path) -> None:
    async def told(receiver: Receiver) -> None:
        def stopped(_: Staged) -> None:
            raise ServerStopped

        receiver.take = stopped
        content = state()
        assert await deliver(receiver, content, whole(content)) is None
        await receiver.nothing_is_left()

    story(tmp_path, told)
