"""The simulation finds what it is for: each of the cores and nodes in `bugs` breaks one rule, and is caught.

How many histories that takes at most is part of the list, with a margin of about three. A kind of trouble is
named where most histories would never come near; where even that needs a conspiracy of five coincidences, the
scenario that arranges them is the judge.
"""

import inspect
from dataclasses import replace
from pathlib import Path

import pytest

from jobguard_store.raft import Limits, Raft
from tests.raft.test_scenarios import SCENARIOS, play
from tests.simulation import bugs
from tests.simulation.node import Node
from tests.simulation.temper import Temper
from tests.simulation.world import World

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
PAUSED = replace(CALM, election_ticks=10, client_pause=10)  # a leader sleeps through the next one's reign
SHORT_REIGNS = replace(CALM, limits=Limits(append_entries=1, in_flight=1), reign_max=30)
SPLIT_VOTES = replace(CALM, voters=5, election_ticks=3, crash_rate=0.01, late_rate=0.1)
STATES = replace(  # much is forgotten, and what takes its place comes late and twice
    CALM,
    compact_rate=0.3,
    late_rate=0.2,
    duplicate_rate=0.3,
    crash_rate=0.003,
    client_pause=4,
    limits=Limits(append_entries=1),
)
LATE_STATES = replace(
    CALM,
    voters=5,
    election_ticks=10,
    limits=Limits(in_flight=1),
    crash_rate=0.003,
    duplicate_rate=0.5,
    late_rate=0.3,
    chaos_pause=20,
    client_pause=10,
    compact_rate=0.1,
)
MEMBERS = replace(CALM, compact_rate=0.3, late_rate=0.1, crash_rate=0.003, change_pause=30, election_ticks=3)
MANY_CHANGES = replace(CALM, change_pause=6, late_rate=0.1, hint_rate=1.0, voters=4, client_pause=4)

CAUGHT: list[tuple[type[Raft] | type[Node], Temper | None, int]] = [
    # durability
    (bugs.ForgetsItsVote, SPLIT_VOTES, 100),
    (bugs.VotesBeforeTheDisk, ANY, 50),
    (bugs.AcknowledgesBeforeTheDisk, ANY, 20),
    (bugs.CountsItselfBeforeTheDisk, ANY, 20),
    (bugs.AcknowledgesAStateBeforeTheDisk, STATES, 100),
    # elections
    (bugs.LetsAShorterLogWin, ANY, 20),
    (bugs.IsDeposedByAPreVote, ANY, 20),
    (bugs.CountsAVoteTwice, replace(SPLIT_VOTES, duplicate_rate=0.3), 100),
    # replication
    (bugs.CommitsEarlierTermsByCounting, SHORT_REIGNS, 400),
    (bugs.CutsWhatALateAppendDoesNotName, ANY, 20),
    (bugs.AppendsWithoutLooking, ANY, 60),
    (bugs.CommitsWhatItDidNotCompare, ANY, 30),
    (bugs.ListensToALeaderOfThePast, ANY, 20),
    (bugs.HeartbeatsTellTooMuch, ANY, 60),
    # reads
    (bugs.ReadsBecauseItOnceLed, ANY, 30),
    (bugs.LetsReadsJoinAnOpenRound, PAUSED, 100),
    (bugs.TakesAnyAnswerForARound, PAUSED, 300),
    (bugs.ReadsBeforeItsNoOp, ANY, 20),
    # snapshots
    (bugs.TakesAStateThatIsBehind, STATES, 100),
    (bugs.DropsALogThatLeadsToTheState, LATE_STATES, 150),
    (bugs.TrimsWhatIsOnlyApplied, STATES, 20),
    (bugs.BringsHardStateAlong, STATES, 100),
    (bugs.ForgetsWhoIsInTheState, MEMBERS, 150),
    # membership
    (bugs.ChangesTwoAtOnce, MANY_CHANGES, 200),
    (bugs.CountsLearners, MEMBERS, 50),
    (bugs.CountsItselfAfterItLeft, MEMBERS, 100),
    (bugs.KeepsAChangeThatWasCutOff, MEMBERS, 100),
    (bugs.CountsTheFoundersAfterARestart, MEMBERS, 20),
]
BY_SCENARIO: list[tuple[type[Raft], str]] = [
    (bugs.BelievesAnOvertakenFsync, "slow_disk"),
    (bugs.ChangesBeforeItsOwnCommit, "member_change_needs_a_commit_first"),
]


def named(value: object) -> str:
    return value.__name__ if isinstance(value, type) else ""


def world(seed: int, bug: type[Raft] | type[Node], temper: Temper | None) -> World:
    if issubclass(bug, Node):
        return World(seed, node=bug, temper=temper)
    return World(seed, core=bug, temper=temper)


@pytest.mark.parametrize(("bug", "temper", "histories"), CAUGHT, ids=named)
def test_a_planted_bug_is_caught(bug: type[Raft] | type[Node], temper: Temper | None, histories: int) -> None:
    """An invariant breaks, or the core's own assertion does."""
    for seed in range(histories):
        try:
            world(seed, bug, temper).run()
        except AssertionError:
            return
    pytest.fail(f"{histories} histories went by, and nobody noticed {bug.__name__}")


@pytest.mark.parametrize(("bug", "scenario"), BY_SCENARIO, ids=named)
def test_a_planted_bug_changes_the_story(bug: type[Raft], scenario: str) -> None:
    (path,) = (path for path in SCENARIOS if path.stem == scenario)
    assert told_by(bug, path) != path.read_text()


def told_by(bug: type[Raft], path: Path) -> str:
    try:
        return play(path.read_text(), bug)
    except AssertionError as broken:
        return str(broken)


@pytest.mark.parametrize("temper", sorted({t for _, t, _ in CAUGHT if t}, key=repr), ids=named)
def test_the_same_trouble_breaks_nothing_that_is_sound(temper: Temper) -> None:
    for seed in range(10):
        World(seed, temper=temper).run()


def test_every_bug_is_on_the_list() -> None:
    planted = {
        bug
        for bug in vars(bugs).values()
        if inspect.isclass(bug) and bug.__module__ == bugs.__name__ and issubclass(bug, Raft | Node)
    }
    listed = {bug for bug, _, _ in CAUGHT} | {bug for bug, _ in BY_SCENARIO}
    assert planted - listed == {bugs.WrongLog, bugs.WrongLeader}
