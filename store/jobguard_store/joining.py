"""A node that was added to a running cluster, and has nothing yet: it asks the members who it is.

Place in the house   opening, replica -> joining -> transport (frames), members
Takes                the flags: where the members are, and where this node is reached itself
Gives                its Identity, under the id that `member add` gave it; or a StartupError of one sentence
Never                takes up an id that has run before: the disk that kept its votes is gone

A member that lags may still know the one whose place we take: all are asked, and the one ahead is believed.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Sequence

from jobguard.tls import explained
from jobguard_store.config import Address, NodeConfig, address
from jobguard_store.errors import StartupError, TooOld
from jobguard_store.members import about, data_is_gone
from jobguard_store.peer_messages import Roster, WhoIsThere
from jobguard_store.raft import Configuration, Member
from jobguard_store.security import PeerTls
from jobguard_store.storage.database import Identity
from jobguard_store.transport import BadFrame, encode_frame, read_frame

log = logging.getLogger("jobguard_store.joining")

# The members may be starting themselves, and the one that is asked may not have heard of us yet.
PATIENCE_S = 10.0
ASK_AGAIN_S = 0.5
ANSWER_S = 2.0


async def join(config: NodeConfig) -> Identity:
    """Raises StartupError."""
    urls = _urls_of_others(config)
    if not urls:
        raise StartupError(
            "--initial-cluster-state existing needs an --initial-cluster that names the members to ask."
        )
    tls = PeerTls(config.peer_tls)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + PATIENCE_S
    refusal = f"no member of the cluster answers at {', '.join(urls)}."
    while True:
        if rosters := await _ask_all(urls, tls):
            roster = max(rosters, key=lambda roster: roster.index)
            configuration = Configuration.decode(roster.configuration)
            if configuration.level > config.level:
                raise TooOld("the cluster", configuration.level, config.level)
            member = _with_our_urls(config, configuration)
            if member is not None and not (name := about(member).name):
                return Identity(roster.cluster_id, member.id, config.name, ())
            refusal = f"{data_is_gone(member.id, name)}." if member is not None else _nobody_is(config)
            if member is not None and len(rosters) == len(urls):
                raise StartupError(refusal)  # one who is silent may know better; but all have spoken
        if loop.time() >= deadline:
            raise StartupError(refusal)
        await asyncio.sleep(ASK_AGAIN_S)


async def removed(config: NodeConfig, identity: Identity) -> bool:
    """Whether a member says so. Nobody dials a newcomer that was removed before it was told of the others."""
    return any(
        roster.cluster_id == identity.cluster_id
        and identity.member_id in Configuration.decode(roster.configuration).removed
        for roster in await _ask_all(_urls_of_others(config), PeerTls(config.peer_tls))
    )


def _urls_of_others(config: NodeConfig) -> list[str]:
    return [url for voter in config.initial_cluster if voter.name != config.name for url in voter.peer_urls]


def _with_our_urls(config: NodeConfig, configuration: Configuration) -> Member | None:
    for member in configuration.members:
        if sorted(about(member).peer_urls) == sorted(config.initial_advertise_peer_urls):
            return member
    return None


def _nobody_is(config: NodeConfig) -> str:
    return (
        f"the cluster has no member with the peer URLs {', '.join(config.initial_advertise_peer_urls)}: "
        "add it first, with `member add`."
    )


async def _ask_all(urls: Sequence[str], tls: PeerTls) -> list[Roster]:
    answers = await asyncio.gather(*(_ask(address(url), tls) for url in urls))
    return [roster for roster in answers if roster is not None]


async def _ask(where: Address, tls: PeerTls) -> Roster | None:
    try:
        async with asyncio.timeout(ANSWER_S):
            context = tls.context(tls=where.tls)
            reader, writer = await asyncio.open_connection(where.host, where.port, ssl=context)
            try:
                writer.write(encode_frame(WhoIsThere()))
                answer = await read_frame(reader)
            finally:
                writer.close()
    except ssl.SSLError as error:
        whom = f"the member at {where.host}:{where.port}"
        log.warning("%s", explained(error, whom, "--peer-trusted-ca-file"))
        return None
    except (OSError, UnicodeError, EOFError, TimeoutError, BadFrame):
        return None
    return answer if isinstance(answer, Roster) else None
