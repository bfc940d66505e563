"""Ten thousand leases at once: none ends early, and their end keeps nobody from anything."""

import asyncio
from pathlib import Path

from jobguard_store.lessor import EXPIRIES_PER_TICK_MAX
from jobguard_store.machine.commands import GrantLease
from tests.node.members import Members, eventually, members, put, run, soon

LEASES = range(1, 10_001)
TTL = 3600


async def grant_all(cluster: Members, leader: int) -> None:
    for start in range(0, len(LEASES), 2000):
        granted = (cluster[leader].propose(GrantLease(id_, TTL)) for id_ in LEASES[start : start + 2000])
        await soon(asyncio.gather(*granted), 60)


def test_ten_thousand_leases_outlive_their_leader_and_end_without_a_stall(tmp_path: Path) -> None:
    """Time is the leader's count of it, which the test moves: no lease may end before, all must after."""

    async def story() -> None:
        async with members(tmp_path) as cluster:
            first = await cluster.leader()
            await grant_all(cluster, first)
            kept = [cluster[first].keepalive(id_) for id_ in LEASES[:2000]]
            assert set(await soon(asyncio.gather(*kept), 60)) == {TTL}
            while (leader := await cluster.leader()) == first:
                await soon(cluster[first].hand_over())
            replica = cluster[leader]._replica
            await eventually(lambda: replica._lessor.term, "the new leader to count time")
            now, term = replica._loop.time(), replica._lessor.term
            assert not replica._lessor.due(now + TTL - 60), "each has its whole time again"
            assert len(await cluster[leader].leases()) == len(LEASES)

            replica._lessor.start(term, [(id_, TTL) for id_ in LEASES], now - TTL - 1)
            ticks, served = replica._ticks, 0
            while left := len(await cluster[leader].leases()):
                ended = len(LEASES) - left + len(replica._lessor._ending)
                assert ended <= EXPIRIES_PER_TICK_MAX * (replica._ticks - ticks), "a few at a time"
                await put(cluster[leader], "k", str(left))
                served += 1
            assert served > 2, "and puts in between, as many as the disk allows"
            assert replica._lessor.term == term, "nor did the followers miss a heartbeat"

    run(story())
