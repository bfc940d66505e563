"""A member that lags too far: it is sent the state, lives by it, and everybody on it goes on."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from jobguard_store import arrivals, departures
from jobguard_store.errors import Compacted, InvalidAuthToken, OutcomeUnknown
from jobguard_store.guarded import Guarded
from jobguard_store.machine.commands import (
    AddUser,
    Compact,
    DeleteRange,
    DisableAuth,
    EnableAuth,
    GrantLease,
    GrantRole,
    Put,
)
from jobguard_store.machine.keyspace import Keyspace
from jobguard_store.node import Node, Subscription
from jobguard_store.raft.messages import AppendReply
from jobguard_store.storage.database import Database
from jobguard_store.storage.file import newest_generation
from tests.node.members import PATIENT, Members, eventually, get, heartbeats, members, put, run, soon

COUNT = 20


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(departures, "RETRY_S", 0.05)


def base(node: Node) -> int:
    return node._replica.raft.log.base.index


def generation(three: Members, number: int) -> int:
    """How many states it has taken in."""
    return newest_generation(three.configs[number].database_path)


@contextlib.asynccontextmanager
async def deaf(three: Members, number: int) -> AsyncIterator[None]:
    """While nothing reaches it, more is written than the others keep. It can still be heard."""
    transport = three[number]._replica._transport
    hears, transport.on_message = transport.on_message, lambda _message: None
    leader = next(node for node in three.running if node.status().leader == node.header().member_id)
    lag = three[number].status().applied_index
    try:
        yield
        await eventually(lambda: not _in_touch(leader, three[number]), "the leader to give it up")
        while base(leader) <= lag:
            await put(leader, "filler", "x")
    finally:
        transport.on_message = hears


def _in_touch(leader: Node, member: Node) -> bool:
    leadership = leader._replica.raft._leadership
    return leadership is not None and member.header().member_id in leadership._in_touch()


async def agree(three: Members) -> None:
    """All have applied the same, and say that it is the same."""
    await eventually(lambda: len({node.status().applied_index for node in three.running}) == 1, "agreement")
    hashes = [await soon(node.hash_kv(0)) for node in three.running]
    assert len(set(hashes)) == 1, hashes
    assert len({node._replica.machine.fingerprint() for node in three.running}) == 1


def test_the_state_that_was_is_freed_beside_the_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A million records freed in one go held the loop, and the heartbeats, for a third of a second."""
    freed = []
    dissolve = Keyspace.dissolve

    def noted(keyspace: Keyspace) -> None:
        dissolve(keyspace)
        freed.append((keyspace, threading.current_thread()))

    monkeypatch.setattr(Keyspace, "dissolve", noted)

    async def story() -> None:
        async with members(tmp_path, snapshot_count=COUNT) as three:
            number = (await three.followers())[0]
            await put(three[number], "k", "before")
            await eventually(lambda: len(three[number]._replica.machine.keys), "the key")
            before = three[number]._replica.machine.keys
            async with deaf(three, number):
                pass
            await eventually(lambda: freed, "the old state to go")
            [(gone, thread)] = freed
            assert gone is before
            assert thread is not threading.main_thread()
            assert len(before) == 0
            await agree(three)
            assert await get(three[number], "k") == "before"

    run(story())


def test_a_stopped_member_comes_back_by_the_state_and_stays_a_member(tmp_path: Path) -> None:
    async def story() -> None:
        async with members(tmp_path, snapshot_count=COUNT) as three:
            follower = (await three.followers())[0]
            await put(three[follower], "gone", "x")
            await three.stop(follower)
            leader = three[await three.leader()]
            await soon(leader.propose(GrantLease(77, 600)))
            await put(leader, "leased", "x", lease=77)
            await soon(leader.propose(DeleteRange(b"gone")))
            for number in range(5 * COUNT):
                await put(leader, f"k{number % 7}", str(number))
            await soon(leader.propose(Compact(40)))
            await eventually(lambda: base(leader) > COUNT, "the log to be trimmed")

            behind = await three.start(follower)
            await eventually(lambda: generation(three, follower), "the state")
            await agree(three)
            assert await get(behind, "leased") == "x"
            assert await get(behind, "k0", revision=60) is not None
            assert await soon(behind.leases()) == [77]
            await put(behind, "by the one that was behind", "1")
            await agree(three)

            for _ in range(2):  # what it lives by is on its disk
                await three.stop(follower)
                await three.start(follower)
                await agree(three)
            assert sorted(each.name for each in three.configs[follower].data_dir.glob("*.sqlite")) == [
                "node.1.sqlite"
            ]

    run(story())


def test_a_state_is_acknowledged_when_it_is_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, let_through = threading.Event(), threading.Event()
    adopt = Database.adopt

    def adopt_when_let(*arguments: Any) -> None:
        begun.set()
        let_through.wait()
        adopt(*arguments)

    monkeypatch.setattr(Database, "adopt", adopt_when_let)

    async def story() -> None:
        async with members(tmp_path, snapshot_count=COUNT) as three:
            number = (await three.followers())[0]
            behind, said = three[number]._replica, list[Any]()
            post = behind._courier.post
            monkeypatch.setattr(
                behind._courier, "post", lambda message: said.append(message) or post(message)
            )
            try:
                async with deaf(three, number):
                    lag = behind.raft.last_index
                await eventually(begun.is_set, "the state")
                await heartbeats(2)
                assert not [each for each in said if isinstance(each, AppendReply) and each.match > lag]
            finally:
                let_through.set()
            await agree(three)

    run(story())


def test_whoever_watches_there_sees_every_change_once(tmp_path: Path) -> None:
    async def story() -> None:
        async with members(tmp_path, snapshot_count=COUNT) as three:
            follower = (await three.followers())[0]
            leader = three[await three.leader()]
            await put(leader, "w/0", "x")
            await agree(three)
            live = three[follower].watch(b"w/", b"w0")
            late = three[follower].watch(b"w/", b"w0", start_revision=2)
            future = three[follower].watch(b"w/", b"w0", start_revision=10_000)
            async with deaf(three, follower):
                for number in range(1, 30):
                    await put(leader, f"w/{number}", "x")
            await eventually(lambda: generation(three, follower), "the state")
            await put(leader, "w/30", "x")
            await agree(three)
            assert await keys(live, 30) == [f"w/{number}" for number in range(1, 31)]
            assert await keys(late, 31) == [f"w/{number}" for number in range(31)]
            assert future.progress() is not None, "it is live still, with nothing to see yet"
            assert await get(three[follower], "w/3", revision=5) == "x"

    run(story())


async def keys(watch: Subscription, count: int) -> list[str]:
    seen: list[str] = []
    while len(seen) < count:
        batch = await soon(anext(watch))
        seen += [event.record.key.decode() for event in batch.events]
    return seen


def test_a_token_that_ended_in_skipped_entries_has_ended_there(tmp_path: Path) -> None:
    """Authentication was off in between, and is on again: user and password are the same."""

    async def story() -> None:
        async with members(tmp_path, snapshot_count=COUNT) as three:
            follower = (await three.followers())[0]
            leader = three[await three.leader()]
            for command in (AddUser("root", await leader.hash_password("x")), GrantRole("root", "root")):
                await leader.propose(command)
            await leader.propose(EnableAuth())
            token = await soon(leader.authenticate("root", "x"))
            await agree(three)
            root, on_the_follower = Guarded(leader, token), Guarded(three[follower], token)
            await get(on_the_follower, "w/0")
            async with deaf(three, follower):
                await soon(root.propose(DisableAuth()))
            await eventually(lambda: generation(three, follower), "the state")
            await soon(leader.propose(EnableAuth()))
            await agree(three)
            with pytest.raises(InvalidAuthToken):
                await get(on_the_follower, "w/0")

    run(story())


def test_whoever_watches_what_is_compacted_meanwhile_is_told(tmp_path: Path) -> None:
    async def story() -> None:
        async with members(tmp_path, snapshot_count=COUNT) as three:
            follower = (await three.followers())[0]
            leader = three[await three.leader()]
            await put(leader, "w", "x")
            await agree(three)
            watch = three[follower].watch(b"w")
            async with deaf(three, follower):
                revision = 0
                for number in range(30):
                    revision = await put(leader, "w", str(number))
                await soon(leader.propose(Compact(revision)))
            with pytest.raises(Compacted):
                await soon(anext(watch))
            await agree(three)

    run(story())


def test_who_waits_for_an_entry_that_is_skipped_hears_that_it_is_unknown(tmp_path: Path) -> None:
    """It may not hear «certainly not»: it was done."""

    async def story() -> None:
        async with members(tmp_path, snapshot_count=COUNT) as three:
            follower = (await three.followers())[0]
            leader = three[await three.leader()]
            await put(three[follower], "a", "1")
            async with deaf(three, follower):
                waiting = asyncio.ensure_future(three[follower].propose(Put(b"a", b"2")))
                done = three[follower].status().applied_index + 1
                await eventually(lambda: leader.status().applied_index >= done)
                reading = asyncio.ensure_future(get(three[follower], "a"))
            with pytest.raises(OutcomeUnknown):
                await soon(waiting, within=PATIENT["REQUEST_TIMEOUT_S"] / 2)
            assert await soon(reading) == "2"
            await agree(three)

    run(story())


def test_a_state_that_breaks_off_or_finds_no_room_is_sent_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        async with members(tmp_path, snapshot_count=COUNT) as three:
            follower = (await three.followers())[0]
            leader = three[await three.leader()]
            await put(leader, "a", "1")
            await agree(three)
            attempts: list[str] = []
            write = arrivals._write

            def stumble(state: Any, data: bytes) -> None:
                attempts.append("write")
                if len(attempts) == 1:
                    raise OSError(28, "No space left on device")
                if len(attempts) == 2:
                    raise EOFError
                write(state, b"x" * len(data) if len(attempts) == 3 else data)

            monkeypatch.setattr(arrivals, "_write", stumble)
            async with deaf(three, follower):
                await put(leader, "a", "2")
            await eventually(lambda: generation(three, follower), "the state")
            assert len(attempts) >= 4
            await agree(three)
            folders = [config.data_dir for config in three.configs]
            await eventually(lambda: not [each for folder in folders for each in folder.glob("*ing.sqlite")])

    run(story())


def test_no_room_at_all_refuses_before_anything_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        async with members(tmp_path, snapshot_count=COUNT) as three:
            follower = (await three.followers())[0]
            await put(three[follower], "a", "1")
            asked: list[Path] = []

            def disk_usage(folder: Path) -> Any:
                asked.append(folder)
                return type("usage", (), {"free": 10 if len(asked) < 3 else 1 << 40})

            monkeypatch.setattr(arrivals.shutil, "disk_usage", disk_usage)
            async with deaf(three, follower):
                pass
            await eventually(lambda: generation(three, follower), "the state")
            assert len(asked) == 3
            await agree(three)

    run(story())


@pytest.mark.parametrize("count", [1, COUNT])
def test_writes_go_on_while_a_member_is_sent_the_state(tmp_path: Path, count: int) -> None:
    async def story() -> None:
        async with members(tmp_path, snapshot_count=count) as three:
            follower = (await three.followers())[0]
            leader = three[await three.leader()]
            for number in range(200):
                await put(leader, f"k{number}", "x" * 1000)
            enough = asyncio.Event()
            revisions: list[int] = []

            async def write(number: int) -> None:
                while not enough.is_set():
                    revisions.append(await put(leader, f"w{number}", "x"))

            writers = [asyncio.ensure_future(write(number)) for number in range(5)]
            async with deaf(three, follower):
                pass
            await eventually(lambda: generation(three, follower), "the state")
            goal = leader.status().applied_index
            await eventually(lambda: three[follower].status().applied_index > goal, "catching up under load")
            enough.set()
            await soon(asyncio.gather(*writers))
            await agree(three)
            assert len(set(revisions)) == len(revisions)

    run(story())
