"""Whole histories of a cluster in trouble; after every step its promises are checked.

`pytest tests/simulation --seed=N` replays one. A failure names its N.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from jobguard_store.raft import Limits
from tests.simulation.world import Temper, World, written

ACKNOWLEDGED_PER_HISTORY = 20  # on average; fewer would mean that the trouble leaves no room for work


@contextmanager
def replayable(seed: int, world: World) -> Iterator[None]:
    try:
        yield
    except Exception as failure:
        failure.add_note(f"replay: pytest tests/simulation --seed={seed}\n{world.temper}\n{world.tail(30)}")
        raise


def run(seeds: list[int]) -> int:
    acknowledged = 0
    for seed in seeds:
        world = World(seed)
        with replayable(seed, world):
            world.run()
        acknowledged += len(world.ledger.acknowledged)
    return acknowledged


def test_the_promises_hold(fixed_seeds: list[int]) -> None:
    """Crash, partition, delay and reorder; what was acknowledged stays, and everything heals."""
    acknowledged = run(fixed_seeds)
    assert len(fixed_seeds) == 1 or acknowledged > ACKNOWLEDGED_PER_HISTORY * len(fixed_seeds)


def test_the_promises_hold_in_histories_nobody_has_seen(fresh_seeds: list[int]) -> None:
    run(fresh_seeds)


def test_the_same_seed_is_the_same_history() -> None:
    for seed in (1, 2):
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
