"""What puts cost while another client misbehaves, or only asks for much: ours beside a real etcd, in one run.

    make isolation                          # about five minutes
    make isolation ARGS="--rounds 5"        # less of it

Three nodes of each store are up at once and take turns. The puts are one after the other on one connection,
at the leader. In each round every neighbour has its turn, and nobody has one too, so that a machine that
slows down slows all of them; what is compared are medians over the rounds of the 99th percentile of a put. A
neighbour may double it. On few cores the neighbour's own process is in that figure, and whatever else runs:
how much, etcd's column tells.
"""

import argparse
import signal
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from tests.processes.neighbours import NEIGHBOURS, QUIET, Times, furnish, measure
from tests.stores import KINDS, Kind, leader_of, running

PUTS = 500
RATIO_MAX = 2.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15, help="turns of each neighbour (default 15)")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # or the nodes would outlive us
    measured = compare(options.rounds)
    ratios = {kind: ratios_of(times) for kind, times in measured.items()}
    print(f"99th percentile of {PUTS} puts, in ms: median (least – most) of {options.rounds}\n")
    print("| beside | etcd 3.5.1 | × | jobguard store | × |")
    print("|---|---|---|---|---|")
    for name in NEIGHBOURS:
        columns = [
            f"{spell(measured[kind][name])} | {ratios[kind][name]:.2f}" for kind in ("etcd", "jobguard")
        ]
        print(f"| {name} | {' | '.join(columns)} |")
    missed = [name for name, ratio in ratios["jobguard"].items() if ratio > RATIO_MAX]
    if missed:
        print(f"\nmissed: {', '.join(missed)}")
    return 1 if missed else 0


def compare(rounds: int) -> dict[Kind, Times]:
    measured: dict[Kind, Times] = {kind: {name: [] for name in NEIGHBOURS} for kind in KINDS}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="jobguard-isolation-")))
        urls: dict[Kind, str] = {}
        for kind in KINDS:
            cluster = stack.enter_context(running(kind, folder / kind, 3))
            urls[kind] = leader_of(cluster.nodes).url
            furnish(urls[kind])
        for number in range(rounds):
            for kind in KINDS:
                for name, seconds in measure(urls[kind], PUTS).items():
                    measured[kind][name].append(seconds)
            print(f"round {number + 1}/{rounds}", file=sys.stderr, flush=True)
    return measured


def ratios_of(times: Times) -> dict[str, float]:
    return {name: median(each) / median(times[QUIET]) for name, each in times.items()}


def spell(times: list[float]) -> str:
    return f"{median(times) * 1e3:.1f} ({min(times) * 1e3:.1f} – {max(times) * 1e3:.1f})"


if __name__ == "__main__":
    sys.exit(main())
