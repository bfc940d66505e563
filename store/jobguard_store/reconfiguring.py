"""Changes of the members on their way to the log, and those who wait for them.

Place in the house   replica -> reconfiguring -> raft (change_membership), members
Takes                changes asked for here, or handed on to us, who lead, by others
Gives                what to hand on; answers through futures, from this node's own apply
Never                hands a change on twice, unless it was refused before anybody appended it

A change is asked of the leader of one term, like a command (see proposals). An entry does not say who wanted
it, so its leader answers with its index before the entry itself arrives: whoever lost that answer, and no
other, does not know what became of the change.

A member that is to vote joins as a learner, and the leader promotes it once it has caught up: until then it
costs nobody a quorum, not even if it never starts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace

import msgspec

from jobguard_store.errors import (
    LeaderChanged,
    LearnerNotReady,
    MemberExists,
    MemberNotFound,
    NoLeader,
    NotALearner,
    NotEnoughStartedMembers,
    PeerURLExists,
    ReconfigurationRefused,
    RequestTimedOut,
    ServerStopped,
    StoreError,
    TooManyLearners,
    UnhealthyCluster,
)
from jobguard_store.members import About, about
from jobguard_store.peer_messages import Reconfigure, Reconfigured, Step, numbers
from jobguard_store.raft import (
    AddLearner,
    Change,
    ChangeRefused,
    Configuration,
    Promote,
    Raft,
    Refusal,
    Remove,
    Update,
)

LEARNERS_MAX = 1  # etcd's default, too: a learner that stays one is for reading, or forgotten
QUEUED = 0  # no term is 0: in no leader's hands
HELD_BACK = -1  # .. and asked again at the next tick: we may know better then who leads

REFUSALS: dict[Refusal, type[StoreError]] = {
    Refusal.UNKNOWN: MemberNotFound,
    Refusal.KNOWN: MemberExists,
    Refusal.REMOVED: MemberExists,
    Refusal.NOT_A_LEARNER: NotALearner,
    Refusal.NOT_CAUGHT_UP: LearnerNotReady,
    Refusal.LAST_VOTER: NotEnoughStartedMembers,
    Refusal.QUORUM_AT_RISK: UnhealthyCluster,
}
"""For good; the others pass, and are waited for."""

_OURS: tuple[type[StoreError], ...] = (*REFUSALS.values(), PeerURLExists, TooManyLearners)
_BY_TEXT = {kind.text: kind for kind in _OURS}


def change_of(configuration: Configuration, asked: Reconfigure) -> Change:
    """Raises StoreError for what the core has no opinion about: addresses, and who never started."""
    member = configuration.member(asked.member)
    match asked.step:
        case Step.ADD | Step.ADD_LEARNER:
            wants_vote = asked.step is Step.ADD
            _check_room(configuration, wants_vote=wants_vote)
            _check_addresses(configuration, asked)
            return AddLearner(asked.member, About(peer_urls=asked.peer_urls, wants_vote=wants_vote).encode())
        case Step.PROMOTE:
            return Promote(asked.member)
        case Step.REMOVE:
            return Remove(asked.member)
        case _ if member is None:
            raise MemberNotFound
        case Step.MOVE:
            _check_addresses(configuration, asked)
            return _update(asked.member, about(member), peer_urls=asked.peer_urls)
        case Step.INTRODUCE:
            return _update(asked.member, about(member), name=asked.name, client_urls=asked.client_urls)


def _update(member_id: int, said: About, **now: str | tuple[str, ...]) -> Update:
    return Update(member_id, msgspec.structs.replace(said, **now).encode())


def _check_room(configuration: Configuration, *, wants_vote: bool) -> None:
    """Of all that vote or will, most should have started: what never did is more likely a mistake."""
    voting = [member for member in configuration.members if member.voter or about(member).wants_vote]
    if not wants_vote:
        if len(configuration.members) - len(voting) >= LEARNERS_MAX:
            raise TooManyLearners
        return
    started = sum(bool(about(member).name) for member in voting)
    if started <= (len(voting) + 1) // 2 and len(voting) > 1:
        raise NotEnoughStartedMembers


def _check_addresses(configuration: Configuration, asked: Reconfigure) -> None:
    others = (member for member in configuration.members if member.id != asked.member)
    if any(url in asked.peer_urls for member in others for url in about(member).peer_urls):
        raise PeerURLExists


@dataclass(slots=True)
class Waiter:
    asked: Reconfigure
    since: float
    future: asyncio.Future[None]
    term: int = QUEUED
    index: int = 0  # where the leader of that term appended it, once it has said so


class Reconfiguring:
    def __init__(
        self,
        raft: Raft,
        post: Callable[[Reconfigure | Reconfigured], bool],
        *,
        boot: int,
        leader_wait_s: float,
        timeout_s: float,
    ) -> None:
        self._raft = raft
        self._post = post
        self._loop = asyncio.get_running_loop()
        self._leader_wait_s = leader_wait_s
        self._timeout_s = timeout_s
        self._numbers = numbers(boot)
        self._waiting: dict[int, Waiter] = {}
        self._asked: list[Reconfigure] = []  # of us, by ourselves too
        self._introduction: asyncio.Future[None] | None = None

    def ask(
        self,
        step: Step,
        member: int,
        *,
        peer_urls: tuple[str, ...] = (),
        name: str = "",
        client_urls: tuple[str, ...] = (),
    ) -> asyncio.Future[None]:
        """Its future ends once the change is applied here."""
        me, sequence = self._raft.node_id, next(self._numbers)
        asked = Reconfigure(
            sender=me,
            to=me,
            term=QUEUED,
            sequence=sequence,
            step=step,
            member=member,
            peer_urls=peer_urls,
            name=name,
            client_urls=client_urls,
        )
        future: asyncio.Future[None] = self._loop.create_future()
        self._waiting[sequence] = Waiter(asked, self._loop.time(), future)
        return future

    def introduce(self, name: str, client_urls: tuple[str, ...]) -> None:
        """Have the configuration say of us what we say, at the first start and whenever that changes."""
        us = self._raft.configuration.member(self._raft.node_id)
        if us is None or self._raft.leader is None or self._introduction is not None:
            return
        asked = self.ask(Step.INTRODUCE, us.id, name=name, client_urls=client_urls)
        asked.add_done_callback(self._introduced)
        self._introduction = asked

    def _introduced(self, asked: asyncio.Future[None]) -> None:
        """If it was refused, or lost, the next tick finds that it is still to be done."""
        self._introduction = None
        if not asked.cancelled():
            asked.exception()

    def turn(self) -> None:
        """Hand on what has gathered; if we lead, change what may be changed now."""
        leader, term = self._raft.leader, self._raft.term
        for waiter in self._waiting.values():
            if waiter.term == QUEUED and leader is not None:
                asked = replace(waiter.asked, to=leader, term=term)
                if leader == self._raft.node_id:
                    self._asked.append(asked)
                elif not self._post(asked):
                    continue
                waiter.term = term
        self._asked = [asked for asked in self._asked if not self._settle(asked)]

    def receive(self, message: Reconfigure | Reconfigured) -> None:
        if isinstance(message, Reconfigure):
            self._asked.append(message)
        else:
            self._answered(message)

    # --- leading ------------------------------------------------------------------------------------

    def _settle(self, asked: Reconfigure) -> bool:
        """Whether it need not wait here any longer."""
        if asked.term != self._raft.term or self._raft.leader != self._raft.node_id:
            self._answer(asked)
            return True
        try:
            change = change_of(self._raft.configuration, asked)
            appended = self._raft.change_membership(change)
        except ChangeRefused as refused:
            if refused.refusal in REFUSALS:
                self._answer(asked, refusal=REFUSALS[refused.refusal].text)
            return refused.refusal in REFUSALS
        except StoreError as error:
            self._answer(asked, refusal=error.text)
        else:
            self._answer(asked, index=appended.index)
        return True

    def _answer(self, asked: Reconfigure, *, index: int = 0, refusal: str = "") -> None:
        answer = Reconfigured(
            sender=self._raft.node_id, to=asked.sender, sequence=asked.sequence, index=index, refusal=refusal
        )
        if asked.sender == self._raft.node_id:
            self._answered(answer)
        else:
            self._post(answer)

    def promote_who_caught_up(self) -> None:
        """Of those that were added to vote; refused, it is tried again at the next tick."""
        for member in self._raft.configuration.members:
            if not member.voter and about(member).wants_vote:
                try:
                    self._raft.change_membership(Promote(member.id))
                except ChangeRefused:
                    continue

    # --- waiting ------------------------------------------------------------------------------------

    def _answered(self, answer: Reconfigured) -> None:
        waiter = self._waiting.get(answer.sequence)
        if waiter is None:
            return
        if answer.index:
            waiter.index = answer.index
        elif answer.refusal:
            kind = _BY_TEXT.get(answer.refusal, ReconfigurationRefused)
            self._end(waiter, kind(answer.refusal))
        else:
            waiter.term = HELD_BACK

    def applied(self, term: int, index: int) -> None:
        """The configuration that was appended at `index` in `term` is in force."""
        for waiter in tuple(self._waiting.values()):
            if (waiter.term, waiter.index) == (term, index):
                self._end(waiter, None)

    def term_began(self, term: int) -> None:
        """The first entry of `term` is applied: what an older leader appended and we have not, is lost."""
        for waiter in tuple(self._waiting.values()):
            if QUEUED < waiter.term < term:
                self._end(waiter, LeaderChanged() if waiter.index else RequestTimedOut())

    def skipped(self) -> None:
        """A state took the place of entries: what we handed on may be among those, and may yet come, too."""
        for waiter in [waiter for waiter in self._waiting.values() if waiter.term != QUEUED]:
            self._end(waiter, RequestTimedOut())

    def tick(self, now: float) -> None:
        for waiter in tuple(self._waiting.values()):
            age = now - waiter.since
            waiter.term = max(waiter.term, QUEUED)
            if age >= self._timeout_s:
                self._end(waiter, NoLeader() if waiter.term == QUEUED else RequestTimedOut())
            elif waiter.term == QUEUED and self._raft.leader is None and age >= self._leader_wait_s:
                self._end(waiter, NoLeader())

    def stop(self) -> None:
        for waiter in tuple(self._waiting.values()):
            self._end(waiter, ServerStopped() if waiter.term <= QUEUED else RequestTimedOut())

    def _end(self, waiter: Waiter, error: Exception | None) -> None:
        del self._waiting[waiter.asked.sequence]
        if waiter.future.done():
            return
        if error is None:
            waiter.future.set_result(None)
        else:
            waiter.future.set_exception(error)
