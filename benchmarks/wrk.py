"""Load by wrk: one thread, so many connections, one kind of request (requests.lua)."""

import math
from pathlib import Path

from benchmarks.plan import Plan
from benchmarks.results import Sample
from benchmarks.session import PATIENCE_S, output_of
from tests.stores import Node

SCRIPT = Path(__file__).with_name("requests.lua")


def measure(plan: Plan, node: Node, kind: str, connections: int, count: int) -> Sample:
    """After a warm-up with the same load."""
    if plan.warm_up_s:
        wrk(node.url, kind, connections, count, plan.warm_up_s)
    return wrk(node.url, kind, connections, count, plan.seconds)


def wrk(url: str, kind: str, connections: int, count: int, seconds: float) -> Sample:
    """For so long, or as much longer as it takes to be answered at all."""
    while (sample := run(url, kind, connections, count, seconds)) is None:
        seconds *= 2
        if seconds > PATIENCE_S:
            raise SystemExit(f"{url} does not answer")
    return sample


def run(url: str, kind: str, connections: int, count: int, seconds: float) -> Sample | None:
    """An answer that is no success fails the benchmark. None if there was no answer: the host stood still."""
    most_s = math.ceil(seconds) + 1  # wrk counts whole seconds; it is stopped before
    command = [
        "wrk",
        "-t1",
        f"-c{connections}",
        f"-d{most_s}s",
        f"--timeout={PATIENCE_S:.0f}s",
        "-s",
        str(SCRIPT),
        url,
        "--",
        kind,
        str(count),
    ]
    return read(output_of(command, seconds))


def read(output: str) -> Sample | None:
    line = next(line for line in output.splitlines() if line.startswith("RESULT"))
    requests, duration_us, p50_us, p99_us, errors = (int(word) for word in line.split()[1:])
    if errors:
        raise SystemExit(f"{errors} of {requests} requests failed:\n{output}")
    if not requests:
        return None
    return {"rate": requests / duration_us * 1e6, "p50": p50_us / 1e3, "p99": p99_us / 1e3}
