"""A newcomer asks the members who it is: it believes the one that knows most."""

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from jobguard_store import joining
from jobguard_store.config import NodeConfig
from jobguard_store.errors import StartupError, TooOld
from jobguard_store.joining import join
from jobguard_store.machine.commands import LEVEL
from jobguard_store.members import About
from jobguard_store.peer_messages import Roster, WhoIsThere
from jobguard_store.raft import Configuration, Member
from jobguard_store.transport import encode_frame, read_frame
from tests.ports import free_ports

OURS = "http://127.0.0.1:1"


def knows(index: int, id: int, name: str = "", removed: tuple[int, ...] = ()) -> Roster:
    said = About(name=name, peer_urls=(OURS,)).encode()
    return Roster(
        cluster_id=7, configuration=Configuration((Member(id, True, said),), removed).encode(), index=index
    )


async def told_by(rosters: list[Roster], directory: Path) -> int:
    """The id that a newcomer takes when the members answer these."""
    ports = free_ports(len(rosters))

    def answering(roster: Roster) -> object:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            assert isinstance(await read_frame(reader), WhoIsThere)
            writer.write(encode_frame(roster))
            writer.close()

        return answer

    async with AsyncExitStack() as stack:
        for port, roster in zip(ports, rosters, strict=True):
            await stack.enter_async_context(
                await asyncio.start_server(answering(roster), "127.0.0.1", port)  # type: ignore[arg-type]
            )
        members = ",".join(f"m{port}=http://127.0.0.1:{port}" for port in ports)
        config = NodeConfig.from_flags(
            name="new",
            data_dir=directory,
            listen_peer_urls=OURS,
            initial_cluster=f"{members},new={OURS}",
            initial_cluster_state="existing",
        )
        return (await join(config)).member_id


OLD, BEHIND, AHEAD = knows(5, id=1, name="new"), knows(8, id=2), knows(12, id=3, removed=(1, 2))


@pytest.mark.parametrize("rosters", [[OLD, AHEAD], [AHEAD, OLD], [BEHIND, AHEAD], [OLD, BEHIND, AHEAD]])
def test_one_that_lags_still_names_who_was_replaced(rosters: list[Roster], tmp_path: Path) -> None:
    assert asyncio.run(told_by(rosters, tmp_path)) == 3


def test_all_are_asked_however_late_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The host may have stood still for all the time that the newcomer is given."""
    monkeypatch.setattr(joining, "PATIENCE_S", 0.0)
    assert asyncio.run(told_by([AHEAD], tmp_path)) == 3


def test_one_that_ran_before_is_refused_at_once_if_all_have_answered(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="ran before with data that is gone"):
        asyncio.run(told_by([OLD, OLD], tmp_path))


def test_one_that_cannot_read_the_log_is_told_so_before_it_has_an_id(tmp_path: Path) -> None:
    configuration = replace(Configuration.decode(AHEAD.configuration), level=LEVEL + 1).encode()
    with pytest.raises(TooOld, match="the cluster needs a newer jobguard: its log is at level 3"):
        asyncio.run(told_by([replace(AHEAD, configuration=configuration)], tmp_path))
