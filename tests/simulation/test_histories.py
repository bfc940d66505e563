"""Whole histories of a cluster in trouble; after every step its promises are checked.

`make sim SECONDS=600` runs as many as fit; `make sim SEED=N` replays one. A failure names its N.
"""

from collections import Counter
from dataclasses import dataclass, field

from jobguard_store.raft import Limits
from tests.simulation.replay import replayable
from tests.simulation.temper import Temper
from tests.simulation.world import World, written

STEPS_PER_HISTORY = 500  # at least, on average; fewer would hardly be a history
ACKNOWLEDGED_PER_HISTORY = 20  # on average; fewer would mean that the trouble leaves no room for work
STEPS_OF_A_READY = {
    "before anything",
    "after a message",
    "before a state is switched",
    "before the disk is done",
    "after an entry is applied",
    "after the disk is done",
    "after a state is switched",
    "after a promise",
}


@dataclass
class Seen:
    """What happened in all of them: trouble that never happens proves nothing."""

    steps: int = 0
    acknowledged: int = 0
    installed: int = 0
    configurations: int = 0
    crashed_at: Counter[str] = field(default_factory=Counter)


def run(seeds: list[int]) -> Seen:
    seen = Seen()
    for seed in seeds:
        with replayable(seed) as world:
            world.run()
        seen.steps += world.steps
        seen.acknowledged += len(world.ledger.acknowledged)
        seen.installed += world.installed
        seen.configurations += len(world.ledger.configurations) - 1
        seen.crashed_at += world.crashed_at
    return seen


def test_the_promises_hold(fixed_seeds: list[int]) -> None:
    """Crash, pause, partition, delay, reorder, replace; what was acknowledged stays, and everything heals."""
    seen, histories = run(fixed_seeds), len(fixed_seeds)
    if histories == 1:
        return
    assert seen.steps > STEPS_PER_HISTORY * histories
    assert seen.acknowledged > ACKNOWLEDGED_PER_HISTORY * histories
    assert seen.installed > histories, "states were sent, and taken"
    assert seen.configurations > histories, "members came and went"
    assert set(seen.crashed_at) == STEPS_OF_A_READY, "a crash between any two steps"


def test_the_promises_hold_in_histories_nobody_has_seen(fresh_seeds: list[int]) -> None:
    run(fresh_seeds)


def test_the_same_seed_is_the_same_history() -> None:
    for seed in (1, 2, 3):
        first, second = World(seed), World(seed)
        first.run()
        second.run()
        assert first.trace == second.trace
        assert first.trace != World(seed + 100).trace


def test_without_trouble_a_cluster_works_and_nothing_is_refused() -> None:
    """The simulation itself: a calm history elects once and commits what is proposed."""
    calm = Temper(
        voters=3,
        election_ticks=10,
        limits=Limits(),
        crash_rate=0.0,
        reign_max=0,
        duplicate_rate=0.0,
        late_rate=0.0,
        hint_rate=0.0,
        chaos_pause=1_000_000,
    )
    world = World(0, temper=calm)
    world.run()
    assert sum(line[1] == "leads" for line in world.trace) == 1
    assert written(world) > 100
    assert len(world.ledger.acknowledged) == written(world)
