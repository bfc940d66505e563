"""What puts cost while another client misbehaves, or only asks for much: three nodes, one run.

    make isolation                          # about two minutes
    make isolation ARGS="--rounds 5"        # less of it

The puts are one after the other on one connection, at the leader. In each round every neighbour has its turn,
and nobody has one too, so that a machine that slows down slows all of them; what is compared are medians over
the rounds of the 99th percentile of a put. A neighbour may double it.
"""

import argparse
import signal
import sys
from statistics import median

from tests.processes.neighbours import QUIET, furnish, rounds
from tests.stores import leader_of, nodes

PUTS = 500
RATIO_MAX = 2.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15, help="turns of each neighbour (default 15)")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # or the nodes would outlive us
    with nodes(3) as stores:
        url = leader_of(stores).url
        furnish(url)
        measured = rounds(url, options.rounds, PUTS)
    quiet = median(measured[QUIET])
    print(f"99th percentile of {PUTS} puts, in ms: median (least – most) of {options.rounds}\n")
    print("| beside | p99 | × |")
    print("|---|---|---|")
    for name, times in measured.items():
        spelled = f"{median(times) * 1e3:.1f} ({min(times) * 1e3:.1f} – {max(times) * 1e3:.1f})"
        print(f"| {name} | {spelled} | {median(times) / quiet:.2f} |")
    missed = [name for name, times in measured.items() if median(times) > RATIO_MAX * quiet]
    if missed:
        print(f"\nmissed: {', '.join(missed)}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
