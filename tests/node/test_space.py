"""History goes by itself, and so does the alarm of a member that is short of space."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from jobguard_store.errors import Compacted, NoSpace
from jobguard_store.machine.commands import AlarmKind, DeleteRange, GrantLease, LowerAlarm, Put, RaiseAlarm
from jobguard_store.machine.results import Alarm
from jobguard_store.node import Node
from tests.node.members import Members, eventually, get, members, put, run, soon

KIB = 1024
QUOTA = 400 * KIB
# The log is subtracted by its bytes, but fills whole pages: beside so small a quota it must be short.
LOG_ENTRIES = 20


def test_revisions_beyond_their_number_are_compacted_on_every_member(tmp_path: Path) -> None:
    async def story() -> None:
        three = Members(tmp_path, 3)
        three.configs = [replace(config, auto_compaction_revisions=20) for config in three.configs]
        try:
            for number in range(3):
                await three.start(number)
            leader = three[await three.leader()]
            first = await put(leader, "a", "0")
            for number in range(1, 60):
                last = await put(leader, "a", str(number))
            for node in three.running:
                with pytest.raises(Compacted):
                    await soon(read_on(node, first))
                assert await get(node, "a", revision=last - 10) == "49"
        finally:
            await three.stop_all()

    run(story())


def test_history_goes_by_its_age(tmp_path: Path) -> None:
    async def story() -> None:
        alone = Members(tmp_path, 1)
        alone.configs = [replace(config, auto_compaction_retention_s=0.3) for config in alone.configs]
        try:
            node = await alone.start(0)
            first = await put(node, "a", "0")
            await put(node, "a", "1")
            with pytest.raises(Compacted):
                await soon(read_on(node, first))
            assert await get(node, "a") == "1"
        finally:
            await alone.stop_all()

    run(story())


def test_a_member_beyond_its_quota_stops_all_that_grows_until_there_is_space(tmp_path: Path) -> None:
    """Only one of the three has such a quota; what is refused is refused by all, and their states agree."""

    async def story() -> None:
        three = Members(tmp_path, 3)
        three.configs[1] = replace(three.configs[1], quota_backend_bytes=QUOTA, snapshot_count=LOG_ENTRIES)
        try:
            for number in range(3):
                await three.start(number)
            await three.leader()
            written = await fill(three)
            assert written > 3
            for node in three.running:
                await eventually(node.alarms, "the alarm is known")
                with pytest.raises(NoSpace):
                    await soon(node.propose(Put(b"more", b"x")))
                with pytest.raises(NoSpace):
                    await soon(node.propose(GrantLease(9, 60)))
            (alarm,) = three[0].alarms()
            assert alarm == Alarm(three[1].header().member_id, AlarmKind.NOSPACE)
            assert f"memberID:{alarm.member} alarm:NOSPACE " in three[2].status().errors
            await soon(three[0].propose(DeleteRange(b"big", b"bih")))
            for node in three.running:
                await eventually(lambda node=node: not node.alarms(), "space is back, and the alarm off")
                await put(node, "more", "x")
            hashes = [await soon(node.hash_kv(0)) for node in three.running]
            assert len({found.value for found in hashes if found.revision == hashes[-1].revision}) == 1
        finally:
            await three.stop_all()

    run(story())


async def read_on(node: Node, revision: int) -> None:
    while True:
        await get(node, "a", revision=revision)
        await asyncio.sleep(0.01)


async def overwrite(node: Node) -> None:
    while True:
        await put(node, "k", "x" * 20 * KIB)


async def fill(cluster: Members) -> int:
    for number in range(1000):
        try:
            await put(cluster[0], f"big/{number:03}", "x" * 20 * KIB)
        except NoSpace:
            return number
    raise AssertionError("no quota stopped it")


def test_history_alone_is_given_up_for_space(tmp_path: Path) -> None:
    """One key, overwritten: nobody has to do anything."""

    async def story() -> None:
        alone = Members(tmp_path, 1)
        alone.configs = [
            replace(config, quota_backend_bytes=QUOTA, snapshot_count=LOG_ENTRIES) for config in alone.configs
        ]
        try:
            node = await alone.start(0)
            for _ in range(2):
                with pytest.raises(NoSpace):
                    await soon(overwrite(node))
                await eventually(lambda: not node.alarms(), "the alarm is off again")
        finally:
            await alone.stop_all()

    run(story())


def test_an_alarm_raised_by_hand_stays_over_a_restart_until_it_is_lowered(tmp_path: Path) -> None:
    async def story() -> None:
        async with members(tmp_path, 1) as alone:
            await put(alone[0], "a", "1")
            await soon(alone[0].propose(RaiseAlarm(77, AlarmKind.NOSPACE, by_hand=True)))
            await alone.stop(0)
            node = await alone.start(0)
            assert node.alarms() == [Alarm(77, AlarmKind.NOSPACE)]
            with pytest.raises(NoSpace):
                await put(node, "a", "2")
            await soon(node.propose(LowerAlarm(77, AlarmKind.NOSPACE, by_hand=True)))
            await put(node, "a", "2")

    run(story())
