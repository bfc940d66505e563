"""`make fuzz`: the properties of this folder for as long as one likes, each round with examples of its own.

A round that breaks ends the run, with the smallest example found and the command that repeats the round.
"""

import argparse
import os
import secrets
import subprocess
import sys
import time
from pathlib import Path

TIMES = 5  # as many examples in a round as in `make test`


def main() -> int:
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, help="repeat this round")
    asked = parser.parse_args()
    began, rounds, failed = time.monotonic(), 0, 0
    while not failed and (not rounds or (asked.seed is None and time.monotonic() < began + asked.seconds)):
        failed = play(secrets.randbelow(1 << 32) if asked.seed is None else asked.seed)
        rounds += 1
        print(f"{rounds} rounds in {time.monotonic() - began:.0f} s", flush=True)
    return failed


def play(seed: int) -> int:
    quiet = ["-q", "--no-header", "--show-capture=no", "--timeout=900", "-x"]
    command = [
        sys.executable,
        "-m",
        "pytest",
        str(Path(__file__).parent),
        *quiet,
        f"--hypothesis-seed={seed}",
    ]
    ended = subprocess.run(command, env={**os.environ, "FUZZ_TIMES": str(TIMES)}, check=False).returncode
    if ended:
        print(f"Again: make fuzz SEED={seed}")
    return ended


if __name__ == "__main__":
    sys.exit(main())
