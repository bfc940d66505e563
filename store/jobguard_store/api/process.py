"""What the kernel says of this process; where it has no /proc, what there is without.

Place in the house   metrics -> process
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator

_PAGE = resource.getpagesize()


def facts() -> Iterator[tuple[str, str, float, str]]:
    """Name, kind, value and meaning."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    cpu = used.ru_utime + used.ru_stime
    yield "process_cpu_seconds_total", "counter", cpu, "Seconds of processor time, of user and system."
    files_max, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield "process_max_fds", "gauge", files_max, "Files that may be open."
    yield "os_fd_limit", "gauge", files_max, "Files that may be open."
    if os.path.isdir("/proc/self/fd"):
        files = len(os.listdir("/proc/self/fd"))
        yield "process_open_fds", "gauge", files, "Open files."
        yield "os_fd_used", "gauge", files, "Open files."
        virtual, resident = (int(pages) * _PAGE for pages in _read("/proc/self/statm").split()[:2])
        yield "process_resident_memory_bytes", "gauge", resident, "Bytes in memory."
        yield "process_virtual_memory_bytes", "gauge", virtual, "Bytes of address space."
        yield "process_start_time_seconds", "gauge", _started(), "When it began, in seconds since 1970."


def _started() -> float:
    """The kernel counts in ticks from its own start; a process's name, in brackets, may hold anything."""
    ticks = int(_read("/proc/self/stat").rpartition(")")[2].split()[19])
    (booted,) = (line.split()[1] for line in _read("/proc/stat").splitlines() if line.startswith("btime "))
    return int(booted) + ticks / os.sysconf("SC_CLK_TCK")


def _read(path: str) -> str:
    with open(path) as file:
        return file.read()
