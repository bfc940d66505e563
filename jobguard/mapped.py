"""One record in a mapped file: written and read without a call, whole or not at all.

Place in the house   celery.deadline, pulse -> here -> memory-mapped files
Takes                a struct and a path
Gives                what was packed last
Never                waits, or gives half of a record

It is there twice, and one is written after the other: a writer that is stopped in the middle of one, by a
signal or because its host does not run it, leaves the other whole. To a child, no record is a lease lost.
"""

import mmap
import os
import struct
import zlib
from pathlib import Path


class Mapped:
    """A record in a mapped file, twice, with a checksum: a read that met a write shows. One thread writes."""

    _READS_MAX = 1000

    def __init__(self, path: Path, record: struct.Struct, *, create: bool) -> None:
        self._record, self._check = record, struct.Struct("<I")
        self._size = record.size + self._check.size
        flags = os.O_RDWR | (os.O_CREAT if create else 0)
        descriptor = os.open(path, flags | os.O_CLOEXEC, 0o600)
        try:
            if create:
                os.ftruncate(descriptor, 2 * self._size)
            self._memory = mmap.mmap(descriptor, 2 * self._size)
        finally:
            os.close(descriptor)

    def pack(self, *fields: object) -> None:
        record = self._record.pack(*fields)
        whole = record + self._check.pack(zlib.crc32(record))
        self._memory[: self._size] = whole
        self._memory[self._size :] = whole

    def unpack(self) -> tuple[object, ...] | None:
        for start in (0, self._size) * self._READS_MAX:
            copy = self._memory[start : start + self._size]
            record = copy[: self._record.size]
            if self._check.unpack(copy[self._record.size :]) == (zlib.crc32(record),):
                return self._record.unpack(record)
        return None
