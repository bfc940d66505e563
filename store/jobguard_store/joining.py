"""A node that was added to a running cluster, and has nothing yet: it asks the members who it is.

Place in the house   opening -> joining -> transport (frames), members
Takes                the flags: where the members are, and where this node is reached itself
Gives                its Identity, under the id that `member add` gave it; or a StartupError of one sentence
Never                takes up an id that has run before: the disk that kept its votes is gone
"""

from __future__ import annotations

import asyncio

from jobguard_store.config import Address, NodeConfig, address
from jobguard_store.errors import StartupError
from jobguard_store.members import about, data_is_gone
from jobguard_store.peer_messages import Roster, WhoIsThere
from jobguard_store.raft import Configuration
from jobguard_store.storage.database import Identity
from jobguard_store.transport import BadFrame, encode_frame, read_frame

# The members may be starting themselves, and the one that is asked may not have heard of us yet.
PATIENCE_S = 10.0
ASK_AGAIN_S = 0.5
ANSWER_S = 2.0


async def join(config: NodeConfig) -> Identity:
    """Raises StartupError."""
    urls = [url for voter in config.initial_cluster if voter.name != config.name for url in voter.peer_urls]
    if not urls:
        raise StartupError(
            "--initial-cluster-state existing needs an --initial-cluster that names the members to ask."
        )
    loop = asyncio.get_running_loop()
    deadline = loop.time() + PATIENCE_S
    heard = False
    while loop.time() < deadline:
        for url in urls:
            if (roster := await _ask(address(url))) is not None:
                heard = True
                if (identity := _identity(config, roster)) is not None:
                    return identity
        await asyncio.sleep(ASK_AGAIN_S)
    if not heard:
        raise StartupError(f"no member of the cluster answers at {', '.join(urls)}.")
    raise StartupError(
        f"the cluster has no member with the peer URLs {', '.join(config.initial_advertise_peer_urls)}: "
        "add it first, with `member add`."
    )


def _identity(config: NodeConfig, roster: Roster) -> Identity | None:
    """None: whoever was asked knows of no such member, or not yet."""
    for member in Configuration.decode(roster.configuration).members:
        said = about(member)
        if sorted(said.peer_urls) == sorted(config.initial_advertise_peer_urls):
            if said.name:
                raise StartupError(f"{data_is_gone(member.id, said.name)}.")
            return Identity(roster.cluster_id, member.id, config.name, ())
    return None


async def _ask(where: Address) -> Roster | None:
    try:
        async with asyncio.timeout(ANSWER_S):
            reader, writer = await asyncio.open_connection(where.host, where.port)
            try:
                writer.write(encode_frame(WhoIsThere()))
                answer = await read_frame(reader)
            finally:
                writer.close()
    except (OSError, UnicodeError, EOFError, TimeoutError, BadFrame):
        return None
    return answer if isinstance(answer, Roster) else None
