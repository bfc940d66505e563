"""Who hangs, asks for everything or sends half a request costs the others little: `make isolation` in short.

What the machine does besides is in both sides of the comparison, but not equally in each of them, and it only
adds. So there are more rounds where something is found, or where nobody could find anything as a put beside
nobody takes long, too; and of each side the second best counts: of three rounds that is the median. Noise
passes, a reader that holds up the loop does not.
"""

import pytest

from tests.processes.neighbours import NEIGHBOURS, QUIET, furnish, measure
from tests.stores import nodes

RATIO_MAX = 2.0
NOISE_S = 0.005
CALM_S = 0.015  # what a put takes where nothing else goes on
ROUNDS = 3
ROUNDS_NOISY = 9
ROUNDS_MAX = 20


@pytest.mark.timeout(600)
def test_no_neighbour_costs_a_put_more_than_twice_its_time() -> None:
    with nodes() as [store]:
        furnish(store.url)
        rounds = [measure(store.url, puts=100) for _ in range(ROUNDS - 1)]
        while len(rounds) < ROUNDS_MAX:
            rounds.append(measure(store.url, puts=100))
            times = {name: sorted(times[name] for times in rounds)[1] for name in NEIGHBOURS}
            allowed = RATIO_MAX * times[QUIET] + NOISE_S
            held_up = {name: time for name, time in times.items() if time > allowed}
            print(f"a put beside nobody takes {times[QUIET]:.4f} s; too long beside others: {held_up}")
            if not held_up and (times[QUIET] < CALM_S or len(rounds) >= ROUNDS_NOISY):
                return
    raise AssertionError(f"a put beside nobody takes {times[QUIET]:.4f} s, but {held_up}")
