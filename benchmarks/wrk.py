"""Load by wrk: one thread, so many connections, one kind of request (requests.lua)."""

import math
from pathlib import Path

from benchmarks.plan import Plan
from benchmarks.results import Sample
from benchmarks.session import output_of
from tests.stores import Node

SCRIPT = Path(__file__).with_name("requests.lua")


def measure(plan: Plan, node: Node, kind: str, connections: int, count: int) -> Sample:
    """After a warm-up with the same load."""
    if plan.warm_up_s:
        wrk(node.url, kind, connections, count, plan.warm_up_s)
    return wrk(node.url, kind, connections, count, plan.seconds)


def wrk(url: str, kind: str, connections: int, count: int, seconds: float) -> Sample:
    """An answer that is no success fails the benchmark."""
    most_s = math.ceil(seconds) + 1  # wrk counts whole seconds; it is stopped before
    command = [
        "wrk",
        "-t1",
        f"-c{connections}",
        f"-d{most_s}s",
        "-s",
        str(SCRIPT),
        url,
        "--",
        kind,
        str(count),
    ]
    return read(output_of(command, seconds))


def read(output: str) -> Sample:
    line = next(line for line in output.splitlines() if line.startswith("RESULT"))
    requests, duration_us, p50_us, p99_us, errors = (int(word) for word in line.split()[1:])
    if errors or not requests:
        raise SystemExit(f"{errors} of {requests} requests failed:\n{output}")
    return {"rate": requests / duration_us * 1e6, "p50": p50_us / 1e3, "p99": p99_us / 1e3}
