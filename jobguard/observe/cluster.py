"""Is the store well: its members, who leads them, and what may still fail.

Place in the house   the pages, the REST API and the CLI -> cluster -> client
Gives                frozen values; their JSON is the API's body
Never                waits for a dead node longer than PATIENCE_S, or needs a leader to say that there is none
"""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Literal

import msgspec
from msgspec.structs import replace

from jobguard.errors import JobguardError
from jobguard.wire import Member as WireMember
from jobguard.wire import StatusResponse

if TYPE_CHECKING:
    from jobguard.client import Client

PATIENCE_S = 1.0

State = Literal["leader", "follower", "learner", "no leader", "unreachable"]


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """A node of the store, as it describes itself. Numbers are null when it does not answer.

    `lag`: how many log entries it has applied fewer than the one that has applied most.
    """

    id: str
    name: str
    state: State
    client_urls: list[str]
    learner: bool = False
    version: str = ""
    term: int | None = None
    applied_index: int | None = None
    lag: int | None = None
    db_size_bytes: int | None = None
    trouble: str = ""


class Cluster(msgspec.Struct, frozen=True, kw_only=True):
    """All nodes. `summary` is the sentence for people; `degraded` still serves reads and writes."""

    health: Literal["well", "degraded", "down"]
    summary: str
    leader: str | None
    term: int
    members: list[Member]
    revision: int


def cluster(client: "Client") -> Cluster:
    """Ask every node for itself, at the same time. Raises Unavailable if none answers."""
    listed = client.members(linearizable=False)
    answers = ask_all(client, listed)
    leader_id = agreed_leader([a for each, a in zip(listed, answers, strict=True) if not each.isLearner])
    heard = [answer for answer in answers if isinstance(answer, StatusResponse)]
    newest = max((int(answer.raftAppliedIndex) for answer in heard), default=0)
    members = [member(each, answer, leader_id, newest) for each, answer in zip(listed, answers, strict=True)]
    health, summary = assess(members)
    return Cluster(
        health=health,
        summary=summary,
        leader=next((each.name or each.id for each in members if each.state == "leader"), None),
        term=max((int(answer.raftTerm) for answer in heard), default=0),
        members=sorted(members, key=lambda each: (each.name, each.id)),
        revision=max((int(answer.revision) for answer in heard), default=0),
    )


def ask_all(client: "Client", members: Sequence[WireMember]) -> list[StatusResponse | str]:
    """Each member's status, or why there is none."""
    pool = ThreadPoolExecutor(max_workers=min(max(len(members), 1), 16))
    try:
        asked = [
            pool.submit(client.status, each.clientURLs[0]) if each.clientURLs else None for each in members
        ]
        wait([future for future in asked if future], timeout=PATIENCE_S)
        return [answer_of(future) for future in asked]
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def answer_of(future: "Future[StatusResponse] | None") -> StatusResponse | str:
    if future is None:
        return "has not joined yet: it announces no address"
    if not future.done():
        return f"did not answer within {PATIENCE_S:g} s"
    try:
        return future.result()
    except JobguardError as error:
        return str(error).rpartition("[Errno ")[2].partition("] ")[2] or str(error)


def agreed_leader(answers: Sequence[StatusResponse | str]) -> int:
    """Whom a majority of the voters calls its leader; 0 for nobody. A node cut off may name an old one."""
    named = [int(answer.leader) for answer in answers if isinstance(answer, StatusResponse) and answer.leader]
    return next((each for each in named if 2 * named.count(each) > len(answers)), 0)


def member(listed: WireMember, answer: StatusResponse | str, leader_id: int, newest: int) -> Member:
    known = Member(
        id=f"{int(listed.ID):x}",
        name=listed.name,
        state="unreachable",
        client_urls=list(listed.clientURLs),
        learner=listed.isLearner,
    )
    if isinstance(answer, str):
        return replace(known, trouble=answer)
    return replace(
        known,
        state=state(listed, answer, leader_id),
        version=answer.version,
        term=int(answer.raftTerm),
        applied_index=int(answer.raftAppliedIndex),
        lag=newest - int(answer.raftAppliedIndex),
        db_size_bytes=int(answer.dbSize),
        trouble="; ".join(answer.errors),
    )


def state(listed: WireMember, answer: StatusResponse, leader_id: int) -> State:
    if listed.isLearner:
        return "learner"
    if not answer.leader or not leader_id:
        return "no leader"
    return "leader" if int(listed.ID) == leader_id else "follower"


def assess(members: Sequence[Member]) -> tuple[Literal["well", "degraded", "down"], str]:
    """The state of the whole, as a word and as a sentence that says what may still fail."""
    voters = [each for each in members if not each.learner]
    answering = [each for each in voters if each.state != "unreachable"]
    size, alive, needed = len(voters), len(answering), len(voters) // 2 + 1
    counted = f"{alive} of {size} node{'s' * (size != 1)} answer{'s' * (alive == 1)}"
    if not any(each.state == "leader" for each in members):
        return "down", f"No leader: {counted}, {needed} must agree."
    spare = f"{alive - needed} more may fail" if alive > needed else "no other may fail"
    if alive < size or any(each.trouble or each.state == "no leader" for each in voters):
        return "degraded", f"{counted}: reads and writes go on, {spare}."
    return "well", f"{counted}, {spare.replace('other', 'node').replace(' more', '')}."
