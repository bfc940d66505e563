"""Three members: any of them answers, one may go, a lease ends late rather than early."""

import asyncio
import contextlib
import threading
from pathlib import Path

import pytest

from jobguard_store import gathering, writer
from jobguard_store.errors import NoLeader, NoSpace, OutcomeUnknown, RequestTimedOut, StoreError
from jobguard_store.machine.commands import (
    Command,
    Compare,
    CompareTarget,
    GrantLease,
    Put,
    Range,
    RevokeLease,
    Txn,
)
from jobguard_store.node import Answer, Node
from jobguard_store.peer_messages import PeerMessage
from jobguard_store.raft.messages import PreVote, PreVoteRequest, Vote, VoteRequest
from jobguard_store.storage.batch import Batch
from jobguard_store.storage.damage import DiskFull
from jobguard_store.storage.database import Database
from tests.node.members import (
    ELECTION_TICKS,
    NEVER,
    Members,
    eventually,
    get,
    heartbeats,
    members,
    pass_time,
    put,
    run,
    soon,
)


def test_any_member_takes_writes_and_answers_reads_alike(tmp_path: Path) -> None:
    async def story() -> None:
        async with members(tmp_path) as three:
            await three.leader()
            for writer in three.running:
                for round_ in range(5):
                    value = f"{writer.header().member_id}/{round_}"
                    await put(writer, "a", value)
                    for reader in three.running:
                        assert await get(reader, "a") == value
            everything = Range(b"\0", b"\0")
            answers = [await soon(node.range(everything, serializable=False)) for node in three.running]
            assert answers[0] == answers[1] == answers[2]
            assert len({node.header().cluster_id for node in three.running}) == 1
            assert len({node.header().member_id for node in three.running}) == 3
            # On each one's own disk, that is; which the others need not wait for.
            await eventually(lambda: len({node.header().term for node in three.running}) == 1, "one term")

    run(story())


def test_many_writers_everywhere_each_count_once(tmp_path: Path) -> None:
    async def story() -> None:
        async with members(tmp_path) as three:
            await three.leader()
            revisions: list[int] = []

            async def write(number: int) -> None:
                for _ in range(10):
                    revisions.append(await put(three[number % 3], f"k{number}", "x"))

            await asyncio.gather(*(write(number) for number in range(30)))
            assert sorted(revisions) == list(range(2, 302))

    run(story())


def test_the_members_know_each_other(tmp_path: Path) -> None:
    async def story() -> None:
        async with members(tmp_path) as three:
            await three.leader()
            await eventually(lambda: all(m.client_urls for n in three.running for m in n.members()))
            lists = [node.members() for node in three.running]
            assert lists[0] == lists[1] == lists[2]
            assert sorted(member.name for member in lists[0]) == ["s1", "s2", "s3"]
            ids = sorted(node.header().member_id for node in three.running)
            assert [member.id for member in lists[0]] == ids

    run(story())


def test_when_the_leader_goes_the_others_go_on_and_it_comes_back(tmp_path: Path) -> None:
    async def story() -> None:
        async with members(tmp_path) as three:
            old = await three.leader()
            await put(three[old], "a", "1")
            term = three[old].header().term
            await three.stop(old)
            new = await three.leader()
            assert new != old
            for node in three.running:
                assert await get(node, "a") == "1"
            await put(three[new], "a", "2")
            await three.start(old)
            assert await get(three[old], "a") == "2"
            await eventually(lambda: three[old].header().term > term, "the new term, on its disk")

    run(story())


def test_a_closed_connection_is_noticed_before_the_election_timeout(tmp_path: Path) -> None:
    """By the hint of a closed connection: here there is no time-out that would come without it."""

    async def story() -> None:
        async with members(tmp_path) as three:
            old = await three.leader()
            follower = three[(await three.followers())[0]]
            three.elect_after(NEVER)
            await three.stop(old)
            await put(follower, "a", "1")

    run(story())


def test_who_sees_the_end_of_a_leader_a_moment_later_is_not_asked_too_early(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its connections close one after the other. A refusal in between costs the next turn of an election."""

    async def story() -> None:
        async with members(tmp_path) as three:
            leader = three[await three.leader()]
            first, second = [three[number]._replica for number in await three.followers()]
            silent, step = leader.header().member_id, second.raft.step
            # Deaf, where it hears: what the leader said before may still be on its way, and is no silence.
            monkeypatch.setattr(second.raft, "step", lambda m: None if m.sender == silent else step(m))
            said: list[PeerMessage] = []
            monkeypatch.setattr(second._courier, "post", said.append)
            peers = {"sender": first.identity.member_id, "to": second.identity.member_id}
            ask = PreVoteRequest(**peers, term=second.raft.term + 1, last=second.raft.log.last)
            second._receive(ask)
            second._peer_lost(silent)
            votes = await eventually(lambda: [each for each in said if isinstance(each, PreVote)], "a vote")
            assert votes[0].granted

    run(story())


def test_a_vote_waits_for_the_voters_own_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    let_through = threading.Event()
    slow: list[Database] = []
    write = Database.write

    def write_when_let(database: Database, batch: Batch) -> None:
        if database in slow:
            let_through.wait()
        write(database, batch)

    monkeypatch.setattr(Database, "write", write_when_let)

    async def story() -> None:
        async with members(tmp_path) as three:
            first, second = [three[number]._replica for number in await three.followers()]
            said: list[PeerMessage] = []
            monkeypatch.setattr(first._courier, "post", said.append)
            slow.append(first._database)
            try:
                peers = {"sender": second.identity.member_id, "to": first.identity.member_id}
                term, last = first.raft.term + 1, first.raft.log.last
                first._receive(VoteRequest(**peers, term=term, last=last, at_leaders_wish=True))
                await eventually(lambda: first.raft.voted_for == peers["sender"], "its decision")
                await heartbeats(2)
                assert not [each for each in said if isinstance(each, Vote)]
            finally:
                let_through.set()
            await eventually(lambda: [each for each in said if isinstance(each, Vote)], "its vote")

    run(story())


def test_a_leader_that_nobody_hears_neither_reads_nor_renews(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others may lead by now, and have ended the lease: each answer needs word from a quorum."""

    async def story() -> None:
        async with members(tmp_path) as three:
            cut_off = three[await three.leader()]
            await soon(cut_off.propose(GrantLease(7, 60)))
            monkeypatch.setattr(cut_off._replica._courier, "post", lambda _: False)
            calls = (
                cut_off.keepalive(7),
                cut_off.time_to_live(7, keys=True),
                cut_off.leases(),
                get(cut_off, "a"),
            )
            asked = [asyncio.ensure_future(call) for call in calls]
            me = cut_off.header().member_id
            await eventually(lambda: cut_off.status().leader != me, "stepping down")
            assert not any(each.done() for each in asked)
            for each in asked:
                each.cancel()

    run(story())


def test_what_is_claimed_before_there_is_a_leader_is_claimed_once(tmp_path: Path) -> None:
    """At whichever member, and however long before the others were started."""
    absent = Compare(b"lock", target=CompareTarget.CREATE, number=0)

    async def story() -> None:
        three = Members(tmp_path, 3)
        claims = []
        try:
            for number in range(3):
                node = await three.start(number)
                claim = Txn((absent,), (Put(b"lock", b"%d" % number),))
                claims.append(asyncio.ensure_future(node.propose(claim)))
                await heartbeats(2)
                assert number or not claims[0].done(), "one of three decides nothing"
            answers = await soon(asyncio.gather(*claims))
            (holder,) = (number for number, answer in enumerate(answers) if answer.result.succeeded)
            assert {await get(node, "lock") for node in three.running} == {str(holder)}
        finally:
            await three.stop_all()

    run(story())


async def appended_alone(leader: Node, command: Command) -> asyncio.Future[Answer]:
    """Its answer; it is in the log of a leader that hears from nobody, and has not noticed yet."""
    raft = leader._replica.raft
    last = raft.last_index
    answer = asyncio.ensure_future(leader.propose(command))
    await eventually(lambda: raft.last_index > last, "the entry")
    assert leader.has_leader
    return answer


def test_two_of_three_gone_is_no_leader_and_one_back_is_enough(tmp_path: Path) -> None:
    async def story() -> None:
        async with members(tmp_path, patient=False) as three:
            leader = await three.leader()
            await put(three[leader], "a", "1")
            first, second = await three.followers()
            three.elect_after(NEVER)
            await three.stop(first)
            await three.stop(second)
            survivor = three[leader]
            unknown = await appended_alone(survivor, Put(b"a", b"2"))  # may yet be
            three.elect_after(ELECTION_TICKS)
            await eventually(lambda: not survivor.has_leader, "stepping down")
            refused = [put(survivor, "a", "3"), get(survivor, "a"), soon(survivor.keepalive(1))]
            for error in await asyncio.gather(*refused, return_exceptions=True):
                assert isinstance(error, NoLeader)
            if unknown.done():  # the host kept us for longer than it was to wait
                assert isinstance(unknown.exception(), RequestTimedOut)
            assert survivor.status().errors == ("etcdserver: no leader",)
            assert await get(survivor, "a", serializable=True) == "1"
            await three.start(first)
            await three.leader()
            await put(survivor, "a", "4")
            assert await get(three[first], "a") == "4"
            with contextlib.suppress(StoreError, OutcomeUnknown):
                await soon(unknown)

    run(story())


def test_a_write_cut_off_with_its_leader_is_answered_when_the_next_one_leads(tmp_path: Path) -> None:
    """The leader loses its quorum with a write in hand: it never commits, and that becomes certain."""

    async def story() -> None:
        async with members(tmp_path) as three:
            leader = await three.leader()
            first, second = await three.followers()
            await put(three[leader], "a", "1")
            three.elect_after(NEVER)
            await three.stop(first)
            await three.stop(second)
            cut_off = await appended_alone(three[leader], Put(b"a", b"lost or not"))
            three.elect_after(ELECTION_TICKS)
            await eventually(lambda: not three[leader].has_leader, "stepping down")
            await three.start(first)
            await three.start(second)
            with contextlib.suppress(StoreError, OutcomeUnknown):
                await soon(cut_off)
            values = {await get(node, "a") for node in three.running}
            assert len(values) == 1

    run(story())


def test_a_follower_sees_at_once_what_was_acknowledged_elsewhere(tmp_path: Path) -> None:
    async def story() -> None:
        async with members(tmp_path) as three:
            leader = await three.leader()
            for number in range(50):
                await put(three[leader], "a", str(number))
                reads = [get(three[follower], "a") for follower in await three.followers()]
                assert await asyncio.gather(*reads) == [str(number)] * 2

    run(story())


def test_a_watch_on_any_member_sees_every_revision_once(tmp_path: Path) -> None:
    async def story() -> None:
        async with members(tmp_path) as three:
            await three.leader()
            await put(three[0], "a/0", "before")
            watches = [node.watch(b"a/", b"a0", 2) for node in three.running]
            for number in range(1, 20):
                await put(three[number % 3], f"a/{number}", "x")
                await put(three[number % 3], f"b/{number}", "not watched")
            for watch in watches:
                keys: list[bytes] = []
                while len(keys) < 20:
                    batch = await soon(anext(watch))
                    keys += [event.record.key for event in batch.events]
                assert keys == [f"a/{number}".encode() for number in range(20)]
                await watch.aclose()
                with pytest.raises(StopAsyncIteration):
                    await anext(watch)

    run(story())


def test_a_watch_goes_on_over_a_restart_from_where_it_was(tmp_path: Path) -> None:
    async def story() -> None:
        async with members(tmp_path) as three:
            follower = (await three.followers())[0]
            last = await put(three[follower], "a", "1")
            await three.stop(follower)
            others = await three.followers()
            missed = [await put(three[others[0]], "a", str(number)) for number in range(2, 5)]
            watch = (await three.start(follower)).watch(b"a", b"", last + 1)
            seen: list[int] = []
            while len(seen) < len(missed):
                seen += [event.revision for event in (await soon(anext(watch))).events]
            assert seen == missed

    run(story())


def test_a_lease_is_kept_alive_through_any_member_and_ends_after_its_ttl_without(tmp_path: Path) -> None:
    async def story() -> None:
        async with members(tmp_path) as three:
            leader = three[await three.leader()]
            loop = asyncio.get_running_loop()
            await soon(three[0].propose(GrantLease(7, 60)))
            revision = await put(three[0], "mine", "x", lease=7)
            watch = three[1].watch(b"mine", b"", revision + 1)
            for number in range(6):
                pass_time(leader, 40)
                await heartbeats(2)
                renewed = loop.time()
                assert await soon(three[number % 3].keepalive(7)) == 60
                status = await soon(three[(number + 1) % 3].time_to_live(7, keys=True))
                assert (status.granted, status.keys) == (60, (b"mine",))
                assert status.remaining > 40
            pass_time(leader, 59)
            (event,) = (await soon(anext(watch))).events
            assert not event.record.version
            assert loop.time() - renewed >= 1.0, "a lease never ends early"
            assert await soon(three[2].keepalive(7)) == 0
            assert (await soon(three[2].time_to_live(7, keys=True))).remaining == -1
            assert await soon(three[2].leases()) == []

    run(story())


def test_a_new_leader_gives_every_lease_its_full_time_again(tmp_path: Path) -> None:
    async def story() -> None:
        async with members(tmp_path) as three:
            leader = await three.leader()
            await soon(three[leader].propose(GrantLease(7, 60)))
            revision = await put(three[leader], "mine", "x", lease=7)
            pass_time(three[leader], 40)
            left = await soon(three[leader].time_to_live(7, keys=False))
            assert left.remaining <= 20
            loop = asyncio.get_running_loop()
            stopped = loop.time()
            await three.stop(leader)
            left = await soon(three.running[0].time_to_live(7, keys=False))
            assert 60 - (loop.time() - stopped) - 1 < left.remaining <= 60  # whole seconds, rounded down
            watch = three.running[0].watch(b"mine", b"", revision + 1)
            pass_time(three[await three.leader()], 60)
            await soon(anext(watch))

    run(story())


def test_revoking_a_lease_takes_its_keys_in_one_revision(tmp_path: Path) -> None:
    async def story() -> None:
        async with members(tmp_path) as three:
            await three.leader()
            await soon(three[0].propose(GrantLease(7, 60)))
            for key in ("a/1", "a/2", "a/3"):
                await put(three[1], key, "x", lease=7)
            watch = three[2].watch(b"a/", b"a0", three[1].header().revision + 1)
            await soon(three[0].propose(RevokeLease(7)))
            batch = await soon(anext(watch))
            assert [event.record.key for event in batch.events] == [b"a/1", b"a/2", b"a/3"]
            assert {event.revision for event in batch.events} == {batch.revision}
            assert await soon(three[1].keepalive(7)) == 0

    run(story())


def test_a_member_whose_disk_was_lost_is_not_let_in_under_its_old_id(tmp_path: Path) -> None:
    async def story() -> None:
        async with members(tmp_path) as three:
            follower = (await three.followers())[0]
            await put(three[follower], "a", "1")
            await three.stop(follower)
            three.configs[follower].database_path.unlink()
            reborn = await three.start(follower)
            failure = await soon(reborn.failed())
            assert "ran before with data that is gone" in str(failure)
            assert "`member remove`" in str(failure)
            assert "`member add`" in str(failure)
            assert reborn.header().revision == 1

    run(story())


def test_a_lost_disk_is_noticed_by_those_who_were_restarted_since(tmp_path: Path) -> None:
    """What they know of each other's disks is on their own, or it might vote twice in a term."""

    async def story() -> None:
        async with members(tmp_path) as three:
            follower = (await three.followers())[0]
            await put(three[follower], "a", "1")
            await three.stop_all()
            three.configs[follower].database_path.unlink()
            for number in range(3):
                await three.start(number)
            failure = await soon(three[follower].failed())
            assert "ran before with data that is gone" in str(failure)

    run(story())


def test_a_leader_appends_only_so_much_that_its_quorum_has_not_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Followers whose disks hang still answer heartbeats; the log must not fill the leader's memory."""
    monkeypatch.setattr(gathering, "UNCOMMITTED_BYTES_MAX", 100_000)
    let_through = threading.Event()
    let_through.set()
    quick: list[Database] = []
    write = Database.write

    def write_when_let(database: Database, batch: Batch) -> None:
        if database not in quick:
            let_through.wait()
        write(database, batch)

    monkeypatch.setattr(Database, "write", write_when_let)

    async def story() -> None:
        async with members(tmp_path) as three:
            leader = await three.leader()
            follower = three[(await three.followers())[0]]
            await put(follower, "a", "1")
            await soon(three.settled())
            quick.append(three[leader]._replica._database)
            let_through.clear()
            try:
                raft = three[leader]._replica.raft
                before = raft.last_index
                puts = []
                for number in range(40):
                    node = three[leader] if number % 2 else follower
                    puts.append(asyncio.ensure_future(node.propose(Put(b"k%d" % number, bytes(20_000)))))
                    await heartbeats(1)
                assert 5 <= raft.last_index - before <= 7
                assert raft.commit_index == before
                for task in puts[20:30]:
                    task.cancel()
            finally:
                let_through.set()
            outcomes = await soon(asyncio.gather(*puts, return_exceptions=True))
            assert not [each for each in outcomes[:20] + outcomes[30:] if isinstance(each, BaseException)]
            answer = await soon(follower.range(Range(b"k", b"l", count_only=True), serializable=False))
            assert answer.result.count == 30, "of those that went away nobody was sent on"

    run(story())


def test_a_leader_whose_disk_is_full_lets_another_lead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or one full disk of three keeps everybody from writing."""
    monkeypatch.setattr(writer, "DISK_FULL_RETRY_S", 0.02)
    full: list[Database] = []
    write = Database.write

    def write_if_there_is_space(database: Database, batch: Batch) -> None:
        if database in full:
            raise DiskFull
        write(database, batch)

    monkeypatch.setattr(Database, "write", write_if_there_is_space)

    async def story() -> None:
        async with members(tmp_path) as three:
            old = await three.leader()
            follower = three[(await three.followers())[0]]
            await put(follower, "a", "1")
            full.append(three[old]._replica._database)
            await put(follower, "a", "2")
            await put(follower, "a", "3")
            await eventually(lambda: follower.status().leader not in (None, three[old].header().member_id))
            assert await three.leader() != old
            assert await get(three[old], "a", serializable=True) is not None
            with pytest.raises(NoSpace):
                await put(three[old], "a", "4")
            full.clear()
            await eventually(lambda: three[old].status().errors == (), "space")
            await put(three[old], "a", "5")
            assert await get(follower, "a") == "5"

    run(story())
