"""`make sim`: simulate for as long as one likes, on all cores; or replay one history.

A history is a function of its seed and of the code. One that breaks ends the run, and tells how to replay it.
"""

import argparse
import multiprocessing
import os
import secrets
import sys
import time
import traceback
from dataclasses import dataclass

from tests.simulation.replay import replayable
from tests.simulation.world import World

TOLD_EVERY_S = 10.0


@dataclass(frozen=True, slots=True)
class Lived:
    histories: int = 0
    steps: int = 0
    failure: str = ""

    def __add__(self, other: "Lived") -> "Lived":
        return Lived(
            self.histories + other.histories, self.steps + other.steps, self.failure or other.failure
        )


def live(seed: int) -> Lived:
    try:
        with replayable(seed) as world:
            world.run()
    except Exception:  # noqa: BLE001 - whatever it is, it is told, and ends the run
        return Lived(failure=traceback.format_exc())
    return Lived(1, world.steps)


def live_for(seconds: float) -> Lived:
    """Histories nobody has seen before, one after the other."""
    end, lived = time.monotonic() + seconds, Lived()
    while time.monotonic() < end and not lived.failure:
        lived += live(secrets.randbelow(1 << 48))
    return lived


def simulate(seconds: float) -> Lived:
    cores, began, lived = os.cpu_count() or 1, time.monotonic(), Lived()
    with multiprocessing.Pool(cores) as pool:
        while (left := began + seconds - time.monotonic()) > 0 and not lived.failure:
            lived = sum(pool.map(live_for, [min(left, TOLD_EVERY_S)] * cores), lived)
            rate = 60 * lived.histories / (time.monotonic() - began)
            print(
                f"{lived.histories:,} histories, {lived.steps:,} steps, "
                f"{rate:,.0f} histories a minute on {cores} cores",
                flush=True,
            )
    return lived


def replay(seed: int) -> Lived:
    """With everything that happened on the way."""
    world = World(seed)
    print(world.temper)
    try:
        world.run()
    except Exception:  # noqa: BLE001 - as in live()
        print(world.tail(len(world.trace)))
        return Lived(failure=traceback.format_exc())
    print(world.tail(len(world.trace)))
    return Lived(1, world.steps)


def main() -> None:
    parser = argparse.ArgumentParser(prog="make sim", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long")
    parser.add_argument("--seed", type=int, help="replay this history, and show all of it")
    asked = parser.parse_args()
    lived = simulate(asked.seconds) if asked.seed is None else replay(asked.seed)
    sys.exit(lived.failure or None)


if __name__ == "__main__":
    main()
