"""One run of the benchmark: its stores, its processes, what it measured so far.

Place in the house   __main__ -> families (requests, watching, locks, growth, …) -> session -> tests.stores
Gives                stores on an empty folder and a quiet disk; child processes that end with their use
Never                leaves a process behind, also after a failure or Ctrl-C
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import IO

from benchmarks.plan import Plan
from benchmarks.results import Results, Row, Sample
from tests.stores import KINDS, Cluster, Kind, Node, eventually, leader_of, running

ROOT = Path(__file__).resolve().parent.parent
PATIENCE_S = 120.0


@dataclass
class Session:
    plan: Plan
    folder: Path  # on the disk that is measured
    results: Results = field(default_factory=Results)
    round: int = 0
    _begin: float = field(default_factory=time.monotonic)
    _number: Iterator[int] = field(default_factory=count)
    _kept: dict[tuple[Kind, int], Cluster] = field(default_factory=dict)
    _stack: ExitStack = field(default_factory=ExitStack)

    def close(self) -> None:
        self._stack.close()

    def turns(self, nodes: int = 3) -> Iterator[Cluster]:
        """Each store in turn, alone on the machine."""
        for kind in KINDS:
            with self.store(kind, nodes) as cluster:
                yield cluster

    @contextmanager
    def store(self, kind: Kind, nodes: int = 3) -> Iterator[Cluster]:
        if self.plan.fresh_stores:
            os.sync()  # what others left unwritten is not this one's burden
            folder = self.new_folder()
            with running(kind, folder, nodes, self.plan.flags) as cluster:
                yield cluster
            shutil.rmtree(folder)  # a million keys of three nodes, in each round
            return
        if (kind, nodes) not in self._kept:
            started = running(kind, self.new_folder(), nodes, self.plan.flags)
            self._kept[kind, nodes] = self._stack.enter_context(started)
        yield self._kept[kind, nodes]

    def new_folder(self) -> Path:
        folder = self.folder / str(next(self._number))
        folder.mkdir()
        return folder

    def record(self, row: Row, subject: str, sample: Sample) -> None:
        self.results.record(row, subject, sample)
        numbers = ", ".join(f"{quantity} {value:,.2f}" for quantity, value in sample.items())
        self.say(f"{row}: {subject} {numbers}")

    def say(self, what: str) -> None:
        minutes, seconds = divmod(int(time.monotonic() - self._begin), 60)
        print(
            f"{minutes:2}:{seconds:02} round {self.round}/{self.plan.rounds}  {what}",
            file=sys.stderr,
            flush=True,
        )


def leader(cluster: Cluster) -> Node:
    return leader_of(cluster.nodes)


def memory_mib(node: Node) -> float:
    """What the process has of its own: pages of files, which etcd maps and SQLite reads, are left out."""
    assert node.process is not None
    lines = Path(f"/proc/{node.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:")) / 1024


# --- child processes ------------------------------------------------------------------------------


@contextmanager
def child(
    command: Sequence[str],
    *,
    output: IO[bytes] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[subprocess.Popen[str]]:
    """A process of ours, gone by the end with all it started. A terminal's Ctrl-C is for us, not for it.

    Without a file for all it says, what it prints is a pipe.
    """
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=output or subprocess.PIPE,
        stderr=output,
        text=True,
        process_group=0,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def output_of(command: Sequence[str], seconds: float | None = None) -> str:
    """What it printed; with `seconds` it is told to stop (SIGINT) after that time."""
    with child(command) as process:
        if seconds is not None:
            eventually(lambda: catches(process, signal.SIGINT), PATIENCE_S, f"the begin of {command[0]}")
            with suppress(subprocess.TimeoutExpired):
                process.wait(seconds)
            process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=PATIENCE_S)
        if process.returncode:
            raise SystemExit(f"{' '.join(command)} ended with {process.returncode}:\n{output}")
    return output


def catches(process: subprocess.Popen[str], number: signal.Signals) -> bool:
    """Whether that signal is no longer the end of it; or the process is over."""
    if process.poll() is not None:
        return True
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    caught = next(int(line.split()[1], 16) for line in lines if line.startswith("SigCgt:"))
    return bool(caught >> number - 1 & 1)


def module(name: str, *arguments: object) -> list[str]:
    """The command that runs a module of ours."""
    return [sys.executable, "-m", f"benchmarks.{name}", *map(str, arguments)]
