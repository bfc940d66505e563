"""A leader that hands over: to whom it is told to, or before it stops; nothing asked meanwhile fails."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from jobguard_store.errors import BadTransferee, NotTheLeader
from tests.node.members import NEVER, eventually, members, put, run, soon


def test_leadership_goes_where_it_is_sent_under_load_and_no_write_fails(tmp_path: Path) -> None:
    async def story() -> None:
        async with members(tmp_path) as three:
            old = await three.leader()
            heir = (await three.followers())[0]
            done: list[int] = []

            async def write(number: int) -> None:
                while len(done) < 600:
                    done.append(await put(three[number % 3], f"k{number}", "x"))

            writers = [asyncio.ensure_future(write(number)) for number in range(9)]
            await eventually(lambda: len(done) > 100, "a load")
            three.elect_after(NEVER)
            await soon(three[old].transfer_leadership(three[heir].header().member_id))
            assert await three.leader() == heir
            await soon(asyncio.gather(*writers))
            assert len(set(done)) == len(done)

    run(story())


def test_a_member_that_is_stopped_hands_over_first(tmp_path: Path) -> None:
    """Then nobody waits for an election time-out: here there is none that would come."""

    async def story() -> None:
        async with members(tmp_path) as three:
            old = await three.leader()
            follower = three[(await three.followers())[0]]
            await put(follower, "a", "1")
            three.elect_after(NEVER)
            three[old].config = replace(three[old].config, election_timeout_ms=50_000)  # not given up sooner
            await soon(three[old].hand_over())
            me = three[old].header().member_id
            assert three[old].status().leader not in (None, me), "it returns once another leads"
            await eventually(lambda: follower.status().leader not in (None, me), "word of the new leader")
            await three.stop(old)
            await put(follower, "a", "2")

    run(story())


def test_to_whom_leadership_cannot_go(tmp_path: Path) -> None:
    async def story() -> None:
        async with members(tmp_path) as three:
            leader = three[await three.leader()]
            follower = three[(await three.followers())[0]]
            with pytest.raises(NotTheLeader):
                await follower.transfer_leadership(follower.header().member_id)
            with pytest.raises(BadTransferee):
                await leader.transfer_leadership(99)
            await leader.transfer_leadership(leader.header().member_id)
            assert leader.status().leader == leader.header().member_id

    run(story())


def test_alone_there_is_nobody_to_hand_over_to(tmp_path: Path) -> None:
    async def story() -> None:
        async with members(tmp_path, size=1) as one:
            await soon(one[0].hand_over())
            await put(one[0], "a", "1")

    run(story())
