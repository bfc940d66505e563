"""Members of different builds: none is sent what it cannot read, and all say who is to be upgraded."""

import asyncio
import time
from dataclasses import replace
from pathlib import Path

import pytest

from jobguard_store import replica
from jobguard_store.errors import NotAllKnow, StartupError, TooOld
from jobguard_store.machine.commands import LEVEL, AddUser, decode
from jobguard_store.node import Node
from jobguard_store.opening import open_file
from jobguard_store.raft import FIRST_LEVEL, Configuration, EntryKind
from tests.node.members import ELECTION_MS, Members, eventually, get, members, put, run, soon
from tests.node.test_membership import join, newcomer

NEW = AddUser("u", None)
THE_CLUSTER = f"the cluster needs a newer jobguard: its log is at level {LEVEL}, and this one reads level 1."


def level_of(node: Node) -> int:
    return node._replica.raft.configuration.level


def build(cluster: Members, number: int, level: int) -> None:
    """Which one runs there from its next start on."""
    cluster.configs[number] = replace(cluster.configs[number], level=level)


async def restart(cluster: Members, number: int, level: int) -> None:
    await cluster.stop(number)
    build(cluster, number, level)
    await cluster.start(number)


async def raised(cluster: Members) -> None:
    await eventually(lambda: all(level_of(node) == LEVEL for node in cluster.running), "the new level")


async def log_of(cluster: Members, number: int) -> list[int]:
    """The levels of what a stopped member's file holds."""
    opened = await open_file(cluster.configs[number])
    await opened.writer.stop(opened.database.close)
    entries = opened.loaded.entries
    assert entries[0].index == 1, "all of it"
    said = [Configuration.decode(entry.data).level for entry in entries if entry.kind is EntryKind.CONFIG]
    return [*said, *(decode(entry.data)[1].level for entry in entries if entry.kind is EntryKind.NORMAL)]


def test_a_new_cluster_takes_new_commands_at_once_from_any_member(tmp_path: Path) -> None:
    async def story() -> None:
        async with members(tmp_path) as cluster:
            for number in range(3):
                await soon(cluster[number].propose(AddUser(f"u{number}", None)))
            assert [level_of(node) for node in cluster.running] == [LEVEL] * 3

    run(story())


def test_a_member_alone_asks_nobody(tmp_path: Path) -> None:
    async def story() -> None:
        async with members(tmp_path, 1) as cluster:
            await soon(cluster[0].propose(NEW))

    run(story())


def test_a_host_that_stood_still_is_no_reason_to_refuse(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replica, "LEADER_WAIT_ELECTIONS", 1)

    async def story() -> None:
        async with members(tmp_path, 1, patient=False) as alone:
            asked = asyncio.ensure_future(alone[0].propose(NEW))
            await asyncio.sleep(0)
            assert level_of(alone[0]) < LEVEL, "it waits"
            time.sleep(1.5 * ELECTION_MS / 1000)  # noqa: ASYNC251 - the whole loop stands still
            await soon(asked)

    run(story())


def test_while_one_is_older_new_commands_are_refused_and_all_others_done(tmp_path: Path) -> None:
    """A rolling upgrade, one by one: what is new waits for the last, and whoever is asked names it."""

    async def story() -> None:
        cluster = Members(tmp_path, 3)
        for number in range(3):
            build(cluster, number, FIRST_LEVEL)
            await cluster.start(number)
        try:
            await put(cluster[0], "k", "old")
            for number in (0, 1):
                await restart(cluster, number, LEVEL)
                await cluster.leader()
            for number in (0, 1):
                await eventually(
                    lambda n=number: cluster[n]._replica.levels._said(  # type: ignore[misc]
                        cluster[2].header().member_id
                    ),
                    "a word from the older one",
                )
                with pytest.raises(NotAllKnow, match=": start s3 with this version of jobguard first"):
                    await soon(cluster[number].propose(NEW))
                await put(cluster[number], "k", f"new {number}")
            await restart(cluster, 0, FIRST_LEVEL)  # it is not too late to go back
            await restart(cluster, 0, LEVEL)
            await cluster.leader()
            assert await get(cluster[2], "k") == "new 1"
            await cluster.stop(2)
            assert set(await log_of(cluster, 2)) == {FIRST_LEVEL}
            build(cluster, 2, LEVEL)
            await cluster.start(2)
            await raised(cluster)
            for node in cluster.running:
                await soon(node.propose(AddUser(f"at {node.header().member_id}", None)))
            await cluster.stop(2)
            build(cluster, 2, FIRST_LEVEL)
            with pytest.raises(TooOld, match=THE_CLUSTER):
                await cluster.start(2)
        finally:
            await cluster.stop_all()

    run(story())


def test_one_that_is_down_may_come_back_older_so_it_is_waited_for(tmp_path: Path) -> None:
    async def story() -> None:
        cluster = Members(tmp_path, 3, patient=False)
        try:
            for number in (0, 1):
                await cluster.start(number)
            await cluster.leader()
            await put(cluster[0], "k", "v")
            with pytest.raises(NotAllKnow, match=": start s3 with this version of jobguard first"):
                await soon(cluster[0].propose(NEW))
            await cluster.start(2)
            await raised(cluster)
            await soon(cluster[0].propose(NEW))
            await cluster.stop(2)
            await soon(cluster[0].propose(AddUser("v", None)))  # once raised it stays
        finally:
            await cluster.stop_all()

    run(story())


def test_one_that_went_back_unseen_stops_before_it_keeps_what_it_cannot_read(tmp_path: Path) -> None:
    """The leader goes by what it was told, and it was true; the member is there, and older by now."""

    async def story() -> None:
        cluster = Members(tmp_path, 3)
        try:
            build(cluster, 2, FIRST_LEVEL)
            for number in range(3):
                await cluster.start(number)
            await put(cluster[2], "k", "v")
            older = cluster[2]
            for node in (cluster[0], cluster[1]):
                node._replica.levels._said = lambda _: LEVEL
            while older.header().member_id == older.status().leader:
                await soon(older.hand_over())
            failure = await soon(older.failed())
            assert str(failure) == THE_CLUSTER
            await soon(cluster[0].propose(NEW))
            await cluster.stop(2)
            assert set(await log_of(cluster, 2)) == {FIRST_LEVEL}

            again = await cluster.start(2)  # its file is none the wiser; the others are
            assert str(await soon(again.failed())) == THE_CLUSTER
            await cluster.stop(2)
            build(cluster, 2, LEVEL)
            await cluster.start(2)
            revision = await put(cluster[0], "k", "w")
            await eventually(lambda: cluster[2].header().revision == revision, "the upgraded one's log")
        finally:
            await cluster.stop_all()

    run(story())


def test_a_newcomer_of_an_older_build_is_not_let_in(tmp_path: Path) -> None:
    async def story() -> None:
        async with members(tmp_path) as cluster:
            await soon(cluster[0].propose(NEW))
            config = replace(newcomer(cluster, tmp_path, "s4"), level=FIRST_LEVEL)
            await soon(cluster[0].add_member(config.initial_advertise_peer_urls, is_learner=False))
            await soon(cluster[1].propose(AddUser("v", None)))  # it was asked nothing, and has no say
            fourth = join(cluster, config)
            with pytest.raises(StartupError, match=THE_CLUSTER):
                await cluster.start(fourth)
            build(cluster, fourth, LEVEL)
            await cluster.start(fourth)
            await eventually(lambda: not cluster[fourth].is_learner, "its vote")

    run(story())
