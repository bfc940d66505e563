"""Who is in the store's cluster and who leads it, changed by an operator while it serves.

Place in the house   cli.members -> membership -> client, observe, wire
Takes                a client; a member by its name or hexadecimal id
Gives                what the store says afterwards; Refused with a sentence that says what to do
Never                sends a change again by itself: OutcomeUnknown when no answer came, and the list tells

Works on a real etcd too. There a member that is added as a voter counts at once; our store takes it in as a
learner, and promotes it once it has caught up.
"""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from jobguard import observe, wire
from jobguard.errors import ConfigurationError, ServerError, Unavailable

if TYPE_CHECKING:
    from jobguard.client import Client

R = TypeVar("R", bound=wire.Response)

ANSWER_S = 15.0
"""Longer than the store takes at most: what it says then is worth more than an unknown outcome."""

LIST = "`jobguard cluster member list`"
_TAKEN = f"A member has this peer URL already: find it in {LIST}, and remove it first if its data is gone"
SENTENCES = {
    "etcdserver: member not found": f"No member has this id any more: see {LIST}",
    "etcdserver: Peer URLs already exists": _TAKEN,
    "etcdserver: member ID already exist": _TAKEN,  # etcd's ids are hashes of the URLs and the second
    "etcdserver: given member URLs are invalid": (
        "The peer URLs are not of the form http://host:port: correct --peer-urls"
    ),
    "etcdserver: re-configuration failed due to not enough started members": (
        f"Too few members would have started: start those that {LIST} shows without a name, or remove them"
    ),
    "etcdserver: unhealthy cluster": (
        "Too few members are in touch with the leader for this: bring back first those that do not answer"
    ),
    "etcdserver: too many learner members in cluster": (
        "The cluster has a learner already: promote or remove that one first"
    ),
    "etcdserver: can only promote a learner member": "This member votes already: there is nothing to promote",
    "etcdserver: can only promote a learner member which is in sync with leader": (
        "This learner has not caught up with the leader: see that it runs, and try again in a moment"
    ),
    "etcdserver: bad leader transferee": (
        "This member cannot lead: choose one that votes and is in touch with the leader"
    ),
    "etcdserver: not leader": "Another member leads since this moment: try again",
}


class Refused(ServerError):
    """The members stay as they are; the text says why, and what to do."""


def find(client: "Client", which: str) -> wire.Member:
    """By name, else by id. Raises NotFound, and ConfigurationError for a name that two have."""
    members = client.members()
    found = [member for member in members if member.name == which]
    found = found or [member for member in members if f"{int(member.ID):x}" == which.lower()]
    if not found:
        raise observe.NotFound(f"No member has the name or id {which!r}: see {LIST}")
    if len(found) > 1:
        raise ConfigurationError(f"{len(found)} members are called {which!r}: name one by its id")
    return found[0]


def add(client: "Client", peer_urls: Sequence[str], *, learner: bool = False) -> wire.MemberAddResponse:
    """A new member, to be started after this; it is reached by its peers at `peer_urls`."""
    request = wire.MemberAddRequest(peerURLs=tuple(peer_urls), isLearner=learner)
    return _change(client, "/v3/cluster/member/add", request, wire.MemberAddResponse)


def promote(client: "Client", member: wire.Member) -> wire.MemberChangeResponse:
    """A learner that has caught up votes from now on."""
    request = wire.MemberPromoteRequest(ID=member.ID)
    return _change(client, "/v3/cluster/member/promote", request, wire.MemberChangeResponse)


def remove(client: "Client", member: wire.Member) -> wire.MemberChangeResponse:
    """For good: it stops, and comes back under a new id only."""
    request = wire.MemberRemoveRequest(ID=member.ID)
    return _change(client, "/v3/cluster/member/remove", request, wire.MemberChangeResponse)


def update(client: "Client", member: wire.Member, peer_urls: Sequence[str]) -> wire.MemberChangeResponse:
    """Its peers dial it at `peer_urls` from now on; it stays who it is."""
    request = wire.MemberUpdateRequest(ID=member.ID, peerURLs=tuple(peer_urls))
    return _change(client, "/v3/cluster/member/update", request, wire.MemberChangeResponse)


def transfer_leadership(client: "Client", heir: wire.Member) -> None:
    """Returns once `heir` leads. Raises Unavailable if there is no leader to ask."""
    leader = client.status().leader
    if leader == heir.ID:
        return
    urls = next((member.clientURLs for member in client.members() if leader == member.ID), ())
    if not urls:
        raise Unavailable("The store has no leader that could hand over")
    with client.at(urls) as at_leader:
        request = wire.MoveLeaderRequest(targetID=heir.ID)
        _change(at_leader, "/v3/maintenance/transfer-leadership", request, wire.MoveLeaderResponse)


def _change(client: "Client", path: str, request: wire.Message, kind: type[R]) -> R:
    deadline = time.monotonic() + max(client.timeout, ANSWER_S)
    try:
        answer = client.endpoints.ask(
            path, wire.encode(request), harmless=False, deadline=deadline, patience=client.timeout
        )
    except ServerError as error:
        raise Refused(error.code, SENTENCES.get(error.text, error.text)) from error
    return wire.decode(answer.body, kind)


# --- what to think of before --------------------------------------------------------------------------


def cost_of_removing(seen: observe.Cluster, member_id: int) -> str:
    """A sentence, if the voters that answer would be too few, or just enough, without this member."""
    rest = [each for each in seen.members if not each.learner and each.id != f"{member_id:x}"]
    if len(rest) == len([each for each in seen.members if not each.learner]):
        return ""  # a learner costs nobody a quorum
    alive, needed = sum(each.state != "unreachable" for each in rest), len(rest) // 2 + 1
    if alive < needed:
        return (
            f"This costs the store its quorum: {alive} of the {len(rest)} voters left would answer, "
            f"{needed} must. Reads and writes stop"
        )
    if alive == needed:
        return f"Afterwards no node may fail: {alive} of {len(rest)} voters answer, and {needed} must"
    return ""


def start_command(
    members: Sequence[wire.Member],
    added: wire.Member,
    name: str,
    client_urls: Sequence[str] = (),
) -> list[str]:
    """With which a member that was added is to be started, on a host and in a directory that are empty.

    Those that have not started yet have no name, and cannot be asked who it is: they are left out.
    """
    peers = ",".join(added.peerURLs)
    scheme = (
        "https" if any(url.startswith("https:") for each in members for url in each.clientURLs) else "http"
    )
    clients = ",".join(client_urls) or f"{scheme}://{_host(added.peerURLs[0])}:2379"
    known = [(each.name, url) for each in members if each.name for url in each.peerURLs]
    together = [*known, *((name, url) for url in added.peerURLs)]
    flags = {
        "name": name,
        "listen-peer-urls": peers,
        "initial-advertise-peer-urls": peers,
        "listen-client-urls": clients,
        "advertise-client-urls": clients,
        "initial-cluster": ",".join(f"{known_as}={url}" for known_as, url in together),
        "initial-cluster-state": "existing",
    }
    return ["jobguard", "store", *(word for flag, value in flags.items() for word in (f"--{flag}", value))]


def _host(url: str) -> str:
    host = urlsplit(url).hostname or ""
    return f"[{host}]" if ":" in host else host
