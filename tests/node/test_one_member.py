"""A member alone: it leads at once, keeps what it acknowledged, and knows its own file."""

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from jobguard_store import replica, writer
from jobguard_store.config import NodeConfig
from jobguard_store.errors import (
    Compacted,
    DatabaseDamaged,
    DatabaseInUse,
    FutureRevision,
    LeaseNotFound,
    NoSpace,
    RequestTimedOut,
    ServerStopped,
    StartupError,
)
from jobguard_store.history import History
from jobguard_store.journal import Journal
from jobguard_store.machine.apply import Machine
from jobguard_store.machine.commands import Compact, DeleteRange, GrantLease, Put, Range, RevokeLease, Txn
from jobguard_store.machine.results import Applied
from jobguard_store.node import GIVE_WAY_S, Node
from jobguard_store.raft.core import Raft
from jobguard_store.storage.batch import Batch
from jobguard_store.storage.damage import DiskFull
from jobguard_store.storage.database import Database
from tests.node.members import ELECTION_MS, Members, eventually, get, members, pass_time, put, run, soon


def test_what_was_acknowledged_is_there_after_a_restart(tmp_path: Path) -> None:
    async def story() -> None:
        async with members(tmp_path, 1) as alone:
            assert await put(alone[0], "a", "1") == 2
            assert await put(alone[0], "a", "2") == 3
            before = alone[0].header()
            await alone.stop(0)
            await alone.start(0)
            assert await get(alone[0], "a") == "2"
            after = alone[0].header()
            assert (after.cluster_id, after.member_id) == (before.cluster_id, before.member_id)
            assert after.revision == before.revision
            assert after.term > before.term

    run(story())


def test_what_was_asked_just_before_the_host_stood_still_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tick comes before the turn then: there was a leader all the time, and nobody may say otherwise."""
    monkeypatch.setattr(replica, "LEADER_WAIT_ELECTIONS", 0.25)

    async def story() -> None:
        async with members(tmp_path, 1, patient=False) as alone:
            await eventually(lambda: alone[0].has_leader, "leading")
            asked = asyncio.ensure_future(alone[0].propose(Put(b"a", b"1")))
            await asyncio.sleep(0)
            time.sleep(0.5 * ELECTION_MS / 1000)  # noqa: ASYNC251 - the whole loop stands still
            await soon(asked)

    run(story())


def test_old_states_are_read_from_the_file_and_from_what_is_not_yet_in_it(tmp_path: Path) -> None:
    async def story() -> None:
        async with members(tmp_path, 1) as alone:
            revisions = [await put(alone[0], "a", str(number)) for number in range(20)]
            for number, revision in enumerate(revisions):
                assert await get(alone[0], "a", revision=revision) == str(number)
            assert await get(alone[0], "a", revision=1) is None
            with pytest.raises(FutureRevision):
                await get(alone[0], "a", revision=revisions[-1] + 1)

    run(story())


def test_a_compacted_state_is_refused_and_its_rows_go(tmp_path: Path) -> None:
    async def story() -> None:
        async with members(tmp_path, 1) as alone:
            revisions = [await put(alone[0], "a", str(number)) for number in range(5)]
            await soon(alone[0].propose(Compact(revisions[3])))
            assert await get(alone[0], "a", revision=revisions[3]) == "3"
            with pytest.raises(Compacted):
                await get(alone[0], "a", revision=revisions[2])

    run(story())


def test_a_watch_from_the_compacted_revision_sees_what_went_at_it(tmp_path: Path) -> None:
    """From the file: after a restart nothing else knows of it. One revision earlier is gone for good."""

    async def story() -> None:
        async with members(tmp_path, 1) as alone:
            await put(alone[0], "a", "1")
            gone = (await soon(alone[0].propose(DeleteRange(b"a")))).revision
            await soon(alone[0].propose(Compact(gone)))
            await alone.stop(0)
            node = await alone.start(0)
            await soon(node.give_space_back())
            (event,) = (await soon(anext(node.watch(b"a", b"", gone)))).events
            assert (event.revision, event.record.version) == (gone, 0)
            with pytest.raises(Compacted):
                await soon(anext(node.watch(b"a", b"", gone - 1)))

    run(story())


def test_a_txn_may_read_the_past_beside_what_it_writes(tmp_path: Path) -> None:
    async def story() -> None:
        async with members(tmp_path, 1) as alone:
            first = await put(alone[0], "a", "old")
            await put(alone[0], "a", "new")
            txn = Txn(success=(Range(b"a", revision=first), Put(b"b", b"x"), Range(b"a")))
            answer = await soon(alone[0].propose(txn))
            then, _, now = answer.result.responses
            assert [then.kvs[0].value, now.kvs[0].value] == [b"old", b"new"]
            reads = await soon(
                alone[0].read_txn(Txn(success=(Range(b"a", revision=first),)), serializable=False)
            )
            assert reads.result.responses[0].kvs[0].value == b"old"

    run(story())


def test_a_txn_that_wrote_is_not_refused_because_the_past_it_reads_is_gone_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compaction was quicker than the answer here. The writes are done: nothing definite is said."""

    async def overtaken(*_: object) -> None:
        raise Compacted(3)

    async def story() -> None:
        async with members(tmp_path, 1) as alone:
            first = await put(alone[0], "a", "old")
            await put(alone[0], "a", "new")
            monkeypatch.setattr(History, "fill", overtaken)
            with pytest.raises(RequestTimedOut):
                await soon(alone[0].propose(Txn(success=(Range(b"a", revision=first), Put(b"b", b"x")))))
            assert await get(alone[0], "b") == "x"

    run(story())


def test_a_refusal_by_the_machine_is_raised(tmp_path: Path) -> None:
    async def story() -> None:
        async with members(tmp_path, 1) as alone:
            with pytest.raises(LeaseNotFound):
                await put(alone[0], "a", "1", lease=7)
            assert alone[0].header().revision == 1

    run(story())


def test_idle_rows_are_flushed_and_a_stopped_node_replays_nothing(tmp_path: Path) -> None:
    async def story() -> None:
        async with members(tmp_path, 1) as alone:
            await put(alone[0], "a", "1")
            applied = alone[0].status().applied_index
            await alone.stop(0)
            node = await alone.start(0)
            assert node.status().applied_index >= applied
            assert await get(node, "a", serializable=True) == "1"

    run(story())


def test_leases_survive_a_restart_and_begin_their_time_again(tmp_path: Path) -> None:
    async def story() -> None:
        async with members(tmp_path, 1) as alone:
            await soon(alone[0].propose(GrantLease(7, 600)))
            await put(alone[0], "mine", "x", lease=7)
            pass_time(alone[0], 300)
            stopped = asyncio.get_running_loop().time()
            await alone.stop(0)
            node = await alone.start(0)
            status = await soon(node.time_to_live(7, keys=True))
            assert (status.granted, status.keys) == (600, (b"mine",))
            passed = asyncio.get_running_loop().time() - stopped
            assert 600 - passed - 1 < status.remaining <= 600  # whole seconds, rounded down
            assert await soon(node.leases()) == [7]

    run(story())


def test_stop_ends_watches_and_refuses_what_comes_after(tmp_path: Path) -> None:
    async def story() -> None:
        async with members(tmp_path, 1) as alone:
            node = alone[0]
            watch = node.watch(b"a")
            await alone.stop(0)
            with pytest.raises(ServerStopped):
                await soon(anext(watch))
            with pytest.raises(ServerStopped):
                await soon(node.propose(DeleteRange(b"a")))
            with pytest.raises(ServerStopped):
                await soon(node.read_barrier())
            with pytest.raises(ServerStopped):
                await soon(node.keepalive(1))
            await node.stop()

    run(story())


def test_status_tells_of_the_file_and_the_log(tmp_path: Path) -> None:
    async def story() -> None:
        async with members(tmp_path, 1) as alone:
            await put(alone[0], "a", "1")
            await alone.settled()
            status = alone[0].status()
            assert status.leader == alone[0].header().member_id
            assert status.raft_index == status.applied_index
            assert status.db_size >= status.db_size_in_use > 0
            assert status.errors == ()

    run(story())


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"initial_cluster_token": "another"}, r"belongs to cluster \w+ \(s1\), but --initial-cluster"),
        ({"initial_cluster": "s1=http://127.0.0.1:1,s2=http://127.0.0.1:2"}, "belongs to cluster"),
    ],
)
def test_a_file_of_another_cluster_is_refused(tmp_path: Path, change: dict[str, str], sentence: str) -> None:
    async def story() -> None:
        alone = Members(tmp_path, 1)
        await alone.start(0)
        await alone.stop(0)
        with pytest.raises(StartupError, match=sentence):
            await Node.start(NodeConfig.from_flags(name="s1", data_dir=tmp_path / "s1", **change))
        await alone.start(0)  # and nothing was left open
        await alone.stop(0)

    run(story())


def test_a_file_of_another_member_is_refused(tmp_path: Path) -> None:
    async def story() -> None:
        three = Members(tmp_path, 3)
        await three.start(0)
        await three.stop(0)
        other = replace(three.configs[1], data_dir=three.configs[0].data_dir)
        with pytest.raises(StartupError, match="belongs to member 's1', but --name is 's2'"):
            await Node.start(other)

    run(story())


def test_two_nodes_cannot_share_a_file(tmp_path: Path) -> None:
    async def story() -> None:
        async with members(tmp_path, 1) as alone:
            with pytest.raises(DatabaseInUse):
                await Node.start(alone.configs[0])

    run(story())


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    async def story() -> None:
        alone = Members(tmp_path, 1)
        await alone.start(0)
        await alone.stop(0)
        path = alone.configs[0].database_path
        path.write_bytes(path.read_bytes()[:4096] + bytes(8192))
        with pytest.raises(DatabaseDamaged, match=r"^[^\n]+$"):
            await alone.start(0)

    run(story())


def test_damage_in_what_no_start_reads_is_found_behind_it(tmp_path: Path) -> None:
    """A start does not walk history, it would last as long as that; the node does so beside its work."""

    async def story() -> None:
        async with members(tmp_path, 1) as alone:
            await put(alone[0], "a", "overwritten")
            for number in range(200):
                await put(alone[0], "a", f"{number}" * 100)
            await alone[0].hash_kv(0)  # or all of it were still to be indexed, and read for that
            await alone.stop(0)
            path = alone.configs[0].database_path
            content = path.read_bytes()
            page = content.index(b"aoverwritten") // 4096 * 4096  # in history alone do the two adjoin
            path.write_bytes(content[:page] + bytes(64) + content[page + 64 :])
            await alone.start(0)
            assert isinstance(await soon(alone[0].failed()), DatabaseDamaged)

    run(story())


def test_a_full_disk_refuses_what_is_new_and_finishes_what_it_took(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "DISK_FULL_RETRY_S", 0.02)
    there_is_space = threading.Event()
    fail_unless(there_is_space, DiskFull(), monkeypatch)

    async def story() -> None:
        there_is_space.set()
        async with members(tmp_path, 1) as alone:
            node = alone[0]
            await put(node, "a", "1")
            await node.hash_kv(
                0
            )  # or the put's rows would be what finds the disk full, before the next comes
            there_is_space.clear()
            taken = [asyncio.ensure_future(put(node, f"k{number}", "x")) for number in range(3)]
            await eventually(lambda: node.status().errors, "the alarm")
            assert "NOSPACE" in node.status().errors[0]
            with pytest.raises(NoSpace):
                await put(node, "a", "2")
            assert await get(node, "a") == "1"
            assert not any(future.done() for future in taken)
            there_is_space.set()
            await asyncio.gather(*taken)
            assert node.status().errors == ()
            await put(node, "a", "3")

    run(story())


def test_an_error_nobody_expected_is_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    it_works = threading.Event()
    fail_unless(it_works, OSError("fsync failed"), monkeypatch)

    async def story() -> None:
        it_works.set()
        async with members(tmp_path, 1) as alone:
            node = alone[0]
            await put(node, "a", "1")
            await node.hash_kv(0)  # or the put's rows would be what fails, before the next comes
            it_works.clear()
            lost = asyncio.ensure_future(node.propose(Put(b"a", b"2")))
            assert isinstance(await soon(node.failed()), OSError)
            with pytest.raises(ServerStopped):
                await put(node, "a", "3")
            assert not lost.done(), "it may have reached the disk: nothing definite is said"
            await alone.stop(0)
            with pytest.raises(RequestTimedOut):
                await lost
            it_works.set()
            await alone.start(0)
            assert await get(alone[0], "a") == "1"

    run(story())


@pytest.mark.parametrize("where", [Raft.tick, Raft.ready, Journal.durable, Database.sizes])
def test_an_error_nobody_expected_is_the_end_wherever_it_is_met(
    where: Callable[..., object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a tick, in a turn, at word of durability, in the background."""

    async def story() -> None:
        async with members(tmp_path, 1) as alone:
            await put(alone[0], "a", "1")

            def broken(*_: object) -> None:
                raise ZeroDivisionError

            owner = next(each for each in (Raft, Journal, Database) if where in vars(each).values())
            monkeypatch.setattr(owner, where.__name__, broken)
            lost = asyncio.ensure_future(alone[0].propose(Put(b"a", b"2")))
            assert isinstance(await soon(alone[0].failed()), ZeroDivisionError)
            with pytest.raises(ServerStopped):
                await get(alone[0], "a", serializable=True)
            lost.cancel()
            await asyncio.gather(lost, return_exceptions=True)
            monkeypatch.undo()

    run(story())


def test_a_machine_that_broke_in_the_middle_of_a_command_is_read_by_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        async with members(tmp_path, 1) as alone:
            node = alone[0]
            await put(node, "a", "1")

            def broken(*_: object) -> Applied:
                raise ZeroDivisionError

            monkeypatch.setattr(Machine, "apply", broken)
            lost = asyncio.ensure_future(node.propose(Put(b"a", b"2")))
            assert isinstance(await soon(node.failed()), ZeroDivisionError)
            with pytest.raises(ServerStopped):
                await get(node, "a", serializable=True)
            with pytest.raises(ServerStopped):
                await node.read_txn(Txn(success=(Range(b"a"),)), serializable=True)
            with pytest.raises(ServerStopped):
                node.watch(b"a")
            assert not lost.done()
            await alone.stop(0)
            with pytest.raises(RequestTimedOut):
                await lost

    run(story())


def fail_unless(allowed: threading.Event, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writes of nodes that start from here on raise `error` while they are not allowed."""
    write = Database.write

    def write_if_allowed(database: Database, batch: Batch) -> None:
        if not allowed.is_set():
            raise error
        write(database, batch)

    monkeypatch.setattr(Database, "write", write_if_allowed)


def test_a_node_alone_leads_before_its_first_heartbeat_is_due(tmp_path: Path) -> None:
    async def story() -> None:
        alone = Members(tmp_path, 1)
        node = await Node.start(
            replace(alone.configs[0], heartbeat_interval_ms=10_000, election_timeout_ms=50_000)
        )
        try:
            await put(node, "a", "1")
            assert node._replica._ticks == 1, "that with which its time began"
        finally:
            await node.stop()

    run(story())


def test_an_expiry_does_not_end_a_lease_whose_id_was_granted_anew_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Revoked and granted again by entries still on their way to the disk when the old lease runs out."""
    let_through = threading.Event()
    let_through.set()
    write = Database.write

    def write_when_let(database: Database, batch: Batch) -> None:
        let_through.wait()
        write(database, batch)

    monkeypatch.setattr(Database, "write", write_when_let)

    async def story() -> None:
        async with members(tmp_path, 1) as alone:
            node = alone[0]
            await soon(node.propose(GrantLease(7, 60)))
            last = node._replica.raft.last_index
            let_through.clear()
            try:
                again = [asyncio.ensure_future(node.propose(c)) for c in (RevokeLease(7), GrantLease(7, 60))]
                await eventually(lambda: node._replica.raft.last_index >= last + 2, "both in the log")
                pass_time(node, 60)
                ticks = node._replica._ticks
                await eventually(lambda: node._replica._ticks > ticks + 2, "a look at what has run out")
            finally:
                let_through.set()
            await soon(asyncio.gather(*again))
            await put(node, "a", "behind the expiry, if there was one")
            status = await soon(node.time_to_live(7, keys=True))
            assert status.granted == 60
            assert 50 <= status.remaining <= 60

    run(story())


def test_long_work_leaves_the_loop_to_a_write_that_is_under_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    sleep = asyncio.sleep

    async def noted(seconds: float) -> None:
        slept.append(seconds)
        await sleep(0)

    async def story() -> None:
        async with members(tmp_path, 1) as alone:
            await put(alone[0], "a", "1")
            await alone.settled()
            monkeypatch.setattr(asyncio, "sleep", noted)
            writing = asyncio.ensure_future(alone[0].propose(Put(b"a", b"2")))
            await sleep(0)
            await alone[0].give_way()
            await writing
            await alone[0].give_way()
            assert slept == [GIVE_WAY_S, 0]
            monkeypatch.undo()

    run(story())
