"""A history that breaks tells how to see it again.

Place in the house   test_histories, __main__  ->  replay  ->  world
"""

from collections.abc import Iterator
from contextlib import contextmanager

from tests.simulation.world import World


@contextmanager
def replayable(seed: int) -> Iterator[World]:
    """The world of `seed`. Whatever is raised about it says what led there, and how to see it again."""
    world = World(seed)
    try:
        yield world
    except Exception as failure:
        failure.add_note(f"{world.tail(30)}\n{world.temper}\nreplay: make sim SEED={seed}")
        raise
