"""The simulation finds what it is for: each of these cores breaks one rule, and is caught."""

import dataclasses

import pytest

from jobguard_store.raft import (
    AppendEntries,
    EntryId,
    HardState,
    Limits,
    PreVoteRequest,
    Raft,
    Ready,
    VoteRequest,
)
from jobguard_store.raft.leading import Leadership
from jobguard_store.raft.quorum import majority_holds
from tests.simulation.world import Temper, World

HISTORIES_MAX = 400


class ForgetsItsVote(Raft):
    """The vote is not made durable: a crash, and it votes again in the same term."""

    def ready(self) -> Ready:
        ready = super().ready()
        if ready.hard_state is None:
            return ready
        return dataclasses.replace(ready, hard_state=HardState(ready.hard_state.term, None))

    def hard_state_persisted(self, hard_state: HardState) -> None:
        super().hard_state_persisted(HardState(self.term, self._voted_for))


class AcknowledgesBeforeTheDisk(Raft):
    """Says what it holds in memory, as if that survived a crash."""

    def ready(self) -> Ready:
        ready = super().ready()
        if ready.entries:
            self.persisted(ready.entries[-1].id)
        return dataclasses.replace(
            ready, messages=ready.messages + ready.messages_after_persist, messages_after_persist=()
        )


class CountsCopiesOfAnyTerm(Leadership):
    def committed(self, commit_index: int) -> int:
        copies = [progress.match for progress in self.progress.values()]
        index = majority_holds([self._log.durable_index, *copies])
        self.may_send |= index > commit_index
        return max(index, commit_index)


class CommitsEarlierTermsByCounting(Raft):
    """The mistake of Figure 8."""

    def _become_leader(self) -> None:
        super()._become_leader()
        assert self._leadership
        self._leadership.__class__ = CountsCopiesOfAnyTerm


class LetsAShorterLogWin(Raft):
    """Votes for whoever asks first (5.4.1)."""

    def _on_vote_request(self, ask: VoteRequest) -> None:
        super()._on_vote_request(dataclasses.replace(ask, last=EntryId(1 << 60, 1 << 60)))

    def _on_pre_vote_request(self, ask: PreVoteRequest) -> None:
        super()._on_pre_vote_request(dataclasses.replace(ask, last=EntryId(1 << 60, 1 << 60)))


class ReadsBecauseItOnceLed(Raft):
    """Answers reads without asking anyone whether it still leads."""

    def read_index(self, context: int) -> None:
        super().read_index(context)
        self._reads.begin(self.commit_index)
        for peer in self._electorate.others:
            self._reads.confirm(peer, self._reads.context)


class LetsReadsJoinAnOpenRound(Raft):
    """A read is confirmed by answers that are older than itself."""

    def read_index(self, context: int) -> None:
        super().read_index(context)
        if self._reads.context:
            self._reads._reads += self._reads._waiting
            self._reads._waiting = []
            self._reads._index = self.commit_index


class CutsWhatALateAppendDoesNotName(Raft):
    """A delayed, shorter AppendEntries removes the tail behind it, acknowledged or not (5.3)."""

    def _on_append(self, append: AppendEntries) -> None:
        super()._on_append(append)
        end = append.previous.index + len(append.entries) + 1
        if append.entries and self.commit_index < end <= self.last_index:
            self.log._truncate(end, self.commit_index)


CALM = Temper(
    voters=3,
    election_ticks=2,
    limits=Limits(),
    crash_rate=0.0,
    reign_max=0,
    duplicate_rate=0.0,
    late_rate=0.0,
    hint_rate=0.0,
    chaos_pause=60,
)
ANY = None
VOTES_COLLIDE = dataclasses.replace(CALM, voters=5, election_ticks=3, crash_rate=0.01, late_rate=0.1)
SHORT_REIGNS = dataclasses.replace(CALM, limits=Limits(append_entries=1, in_flight=1), reign_max=30)
LONGER_REIGNS = dataclasses.replace(CALM, reign_max=60)


@pytest.mark.parametrize(
    ("core", "temper"),
    [
        (ForgetsItsVote, VOTES_COLLIDE),
        (AcknowledgesBeforeTheDisk, ANY),
        (CommitsEarlierTermsByCounting, SHORT_REIGNS),
        (LetsAShorterLogWin, ANY),
        (ReadsBecauseItOnceLed, ANY),
        (LetsReadsJoinAnOpenRound, LONGER_REIGNS),
        (CutsWhatALateAppendDoesNotName, ANY),
    ],
)
def test_a_planted_bug_is_caught(core: type[Raft], temper: Temper | None) -> None:
    """Within a few hundred histories an invariant breaks, or the core's own assertion does."""
    for seed in range(HISTORIES_MAX):
        try:
            World(seed, core=core, temper=temper).run()
        except AssertionError:
            return
    pytest.fail(f"{HISTORIES_MAX} histories went by, and nobody noticed {core.__name__}")
