"""Members are added, promoted, moved and removed while the cluster serves; each node knows who they are."""

import asyncio
from contextlib import suppress
from pathlib import Path

import pytest

from jobguard_store.config import NodeConfig
from jobguard_store.errors import (
    LearnerNotReady,
    MemberNotFound,
    NoLeader,
    NotALearner,
    NotEnoughStartedMembers,
    PeerURLExists,
    Removed,
    RequestTimedOut,
    StartupError,
    TooManyLearners,
)
from jobguard_store.node import Node
from jobguard_store.opening import open_file
from tests.node.members import ELECTION_MS, HEARTBEAT_MS, Members, eventually, get, members, put, run, soon
from tests.ports import free_ports


def newcomer(cluster: Members, directory: Path, name: str) -> NodeConfig:
    """The flags of a node that is to join, on a port of its own."""
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    known = [f"{config.name}={config.initial_advertise_peer_urls[0]}" for config in cluster.configs]
    return NodeConfig.from_flags(
        name=name,
        data_dir=directory / name,
        listen_client_urls="http://127.0.0.1:9",
        listen_peer_urls=url,
        initial_cluster=",".join((*known, f"{name}={url}")),
        initial_cluster_state="existing",
        heartbeat_interval=HEARTBEAT_MS,
        election_timeout=ELECTION_MS,
    )


def join(cluster: Members, config: NodeConfig) -> int:
    cluster.configs.append(config)
    cluster.nodes.append(None)
    return len(cluster.nodes) - 1


def voters(node: Node) -> set[str]:
    return {member.name for member in node.members() if not member.is_learner}


def test_a_fourth_joins_as_a_learner_and_is_promoted_and_the_old_leader_is_removed(tmp_path: Path) -> None:
    async def story() -> None:
        async with members(tmp_path) as cluster:
            old = await cluster.leader()
            for number in range(50):
                await put(cluster[old], f"k{number}", "x")
            follower = cluster[(await cluster.followers())[0]]
            config = newcomer(cluster, tmp_path, "s4")
            added = await soon(follower.add_member(config.initial_advertise_peer_urls, is_learner=True))
            with pytest.raises(LearnerNotReady):
                await soon(follower.promote_member(added))
            fourth = join(cluster, config)
            await cluster.start(fourth)
            assert cluster[fourth].header().member_id == added
            await eventually(lambda: cluster[fourth].header().revision == 51, "the newcomer's log")
            assert cluster[fourth].status().is_learner
            await promoted(follower, added)
            await eventually(lambda: not cluster[fourth].status().is_learner, "word of its promotion")
            await eventually(lambda: voters(cluster[fourth]) == {"s1", "s2", "s3", "s4"}, "its name")

            gone = cluster[old]
            await soon(gone.remove_member(gone.header().member_id))
            assert isinstance(await soon(gone.failed()), Removed)
            await cluster.stop(old)
            await cluster.leader()
            for node in cluster.running:
                await put(node, "after", "x")
                assert await get(node, "k49") == "x"
                assert len(voters(node)) == 3
            with pytest.raises(StartupError, match="was removed from the cluster"):
                await cluster.start(old)

    run(story())


async def promoted(node: Node, member: int) -> None:
    while True:
        with suppress(LearnerNotReady):
            await soon(node.promote_member(member))
            return
        await asyncio.sleep(HEARTBEAT_MS / 1000)


def test_one_that_is_to_vote_does_so_by_itself_once_it_is_there_and_costs_nobody_a_quorum_before(
    tmp_path: Path,
) -> None:
    async def story() -> None:
        async with members(tmp_path, size=1) as cluster:
            config = newcomer(cluster, tmp_path, "s2")
            await put(cluster[0], "a", "1")
            with pytest.raises(NotEnoughStartedMembers):
                await soon(cluster[0].remove_member(cluster[0].header().member_id))
            added = await soon(cluster[0].add_member(config.initial_advertise_peer_urls, is_learner=False))
            await put(cluster[0], "a", "2")
            with pytest.raises(NotEnoughStartedMembers):
                await soon(cluster[0].add_member(("http://127.0.0.1:1",), is_learner=False))
            second = join(cluster, config)
            await cluster.start(second)
            await eventually(lambda: voters(cluster[0]) == {"s1", "s2"}, "its vote")
            assert await get(cluster[second], "a") == "2"
            with pytest.raises(NotALearner):
                await soon(cluster[second].promote_member(added))
            # A restart knows who counts, whatever the flags of the first start say.
            for number in (0, second):
                await cluster.stop(number)
            for number in (0, second):
                await cluster.start(number)
            await cluster.leader()
            assert voters(cluster[0]) == {"s1", "s2"}
            await put(cluster[second], "a", "3")

    run(story())


def test_who_is_a_member_outlives_the_entry_that_said_so(tmp_path: Path) -> None:
    """The log begins behind it: the flags of the first start are not what counts then."""

    async def story() -> None:
        async with members(tmp_path, size=1, snapshot_count=10) as cluster:
            added = await soon(cluster[0].add_member(("http://127.0.0.1:9",), is_learner=True))
            changed = cluster[0].status().applied_index
            for number in range(30):
                await put(cluster[0], "a", str(number))
            raft = cluster[0]._replica.raft
            await eventually(lambda: raft.log.base.index > changed, "a shorter log")
            await cluster.stop(0)
            node = await cluster.start(0)
            assert [member.is_learner for member in node.members() if member.id == added] == [True]
            await put(node, "a", "and it serves")

    run(story())


def test_one_that_is_removed_before_anybody_told_it_of_the_others_hears_of_it(tmp_path: Path) -> None:
    async def story() -> None:
        async with members(tmp_path) as cluster:
            await cluster.leader()
            config = newcomer(cluster, tmp_path, "s4")
            added = await soon(cluster[0].add_member(config.initial_advertise_peer_urls, is_learner=False))
            opened = await open_file(config)  # it knows who it is, and crashes
            assert opened.identity.member_id == added
            await opened.writer.stop(opened.database.close)
            await soon(cluster[1].remove_member(added))
            fourth = join(cluster, config)
            await cluster.start(fourth)
            assert "was removed from the cluster" in str(await soon(cluster[fourth].failed()))
            await cluster.stop(fourth)
            with pytest.raises(StartupError, match="was removed from the cluster"):
                await cluster.start(fourth)

    run(story())


def test_what_makes_no_sense_is_refused_wherever_it_is_asked(tmp_path: Path) -> None:
    async def story() -> None:
        async with members(tmp_path) as cluster:
            await cluster.leader()
            taken = cluster.configs[0].initial_advertise_peer_urls
            me = cluster[0].header().member_id
            for node in cluster.running:
                for call, error in (
                    (node.remove_member(99), MemberNotFound),
                    (node.promote_member(99), MemberNotFound),
                    (node.promote_member(me), NotALearner),
                    (node.move_member(99, ("http://127.0.0.1:1",)), MemberNotFound),
                    (node.move_member(cluster[1].header().member_id, taken), PeerURLExists),
                    (node.add_member(taken, is_learner=True), PeerURLExists),
                ):
                    with pytest.raises(error):
                        await soon(call)
            spare = await soon(cluster[0].add_member(("http://127.0.0.1:1",), is_learner=True))
            with pytest.raises(TooManyLearners):
                await soon(cluster[1].add_member(("http://127.0.0.1:2",), is_learner=True))
            await soon(cluster[2].remove_member(spare))
            with pytest.raises(MemberNotFound):
                await soon(cluster[1].remove_member(spare))

    run(story())


def test_a_member_whose_address_changed_keeps_its_identity(tmp_path: Path) -> None:
    async def story() -> None:
        async with members(tmp_path) as cluster:
            moving, *others = [*await cluster.followers(), await cluster.leader()]
            member = cluster[moving].header().member_id
            await cluster.stop(moving)
            old = cluster.configs[moving]
            new = f"http://127.0.0.1:{free_ports(1)[0]}"
            await soon(cluster[others[0]].move_member(member, (new,)))
            await put(cluster[others[0]], "a", "1")
            cluster.configs[moving] = NodeConfig.from_flags(
                name=old.name,
                data_dir=old.data_dir,
                listen_client_urls=old.listen_client_urls[0],
                listen_peer_urls=new,
                initial_cluster=f"{old.name}={new}",
                initial_cluster_state="existing",
                heartbeat_interval=HEARTBEAT_MS,
                election_timeout=ELECTION_MS,
            )
            await cluster.start(moving)
            assert await get(cluster[moving], "a") == "1"
            assert cluster[moving].header().member_id == member

    run(story())


def test_a_host_name_that_cannot_be_one_is_no_harm(tmp_path: Path) -> None:
    async def story() -> None:
        async with members(tmp_path) as cluster:
            await cluster.leader()
            await soon(cluster[0].add_member((f"http://{'x' * 70}..example:1",), is_learner=True))
            await put(cluster[0], "a", "1")
            await put(cluster[1], "a", "2")

    run(story())


def test_a_member_whose_disk_was_lost_comes_back_under_a_new_id(tmp_path: Path) -> None:
    async def story() -> None:
        async with members(tmp_path) as cluster:
            lost = (await cluster.followers())[0]
            other = cluster[await cluster.leader()]
            old = cluster[lost].header().member_id
            await eventually(lambda: all(m.client_urls for m in other.members()))
            await put(other, "a", "1")
            await cluster.stop(lost)
            cluster.configs[lost].database_path.unlink()
            config = newcomer(cluster, tmp_path, cluster.configs[lost].name)
            urls = cluster.configs[lost].initial_advertise_peer_urls
            again = NodeConfig.from_flags(
                name=config.name,
                data_dir=config.data_dir,
                listen_client_urls="http://127.0.0.1:9",
                listen_peer_urls=urls[0],
                initial_cluster=",".join(
                    f"{c.name}={c.initial_advertise_peer_urls[0]}" for c in cluster.configs
                ),
                initial_cluster_state="existing",
                heartbeat_interval=HEARTBEAT_MS,
                election_timeout=ELECTION_MS,
            )
            cluster.configs[lost] = again
            with pytest.raises(StartupError, match="ran before with data that is gone: remove it"):
                await cluster.start(lost)
            await soon(other.remove_member(old))
            added = await soon(other.add_member(urls, is_learner=False))
            await cluster.start(lost)
            assert cluster[lost].header().member_id == added != old
            await eventually(lambda: len(voters(other)) == 3, "its vote")
            assert await get(cluster[lost], "a") == "1"

    run(story())


def test_without_a_quorum_a_change_is_refused_or_its_outcome_is_unknown_and_none_comes_later_unasked(
    tmp_path: Path,
) -> None:
    async def story() -> None:
        async with members(tmp_path, patient=False) as cluster:
            last, *others = [await cluster.leader(), *await cluster.followers()]
            for number in others:
                await cluster.stop(number)
            begun = cluster[last].add_member(("http://127.0.0.1:1",), is_learner=True)
            with pytest.raises((RequestTimedOut, NoLeader)) as told:
                await soon(begun)
            with pytest.raises(NoLeader):
                await soon(cluster[last].add_member(("http://127.0.0.1:2",), is_learner=True))
            for number in others:
                await cluster.start(number)
            await cluster.leader()
            await soon(cluster[last].read_barrier())
            urls = {url for member in cluster[last].members() for url in member.peer_urls}
            assert "http://127.0.0.1:2" not in urls
            assert "http://127.0.0.1:1" not in urls or told.type is RequestTimedOut

    run(story())


def test_changes_that_meet_wait_for_each_other(tmp_path: Path) -> None:
    async def story() -> None:
        async with members(tmp_path) as cluster:
            await cluster.leader()
            spare = await soon(cluster[0].add_member(("http://127.0.0.1:1",), is_learner=True))
            moves = [
                cluster[number % 3].move_member(spare, (f"http://127.0.0.1:{number}",))
                for number in range(2, 20)
            ]
            assert await soon(asyncio.gather(*moves)) == [None] * 18

            def agree() -> bool:  # not at once: each member says its name and client URLs by a change, too
                return len({tuple(node.members()) for node in cluster.running}) == 1

            await eventually(agree, "all know the same members")

    run(story())
