"""One record in a mapped file: written and read without a call, whole or not at all.

Place in the house   celery.deadline, pulse -> here -> memory-mapped files
Takes                a struct and a path
Gives                what was packed last
Never                waits, or gives half of a record
"""

import mmap
import os
import struct
import zlib
from pathlib import Path


class Mapped:
    """A record in a mapped file, with a checksum: a read that met a write shows, and is read again."""

    _READS_MAX = 1000

    def __init__(self, path: Path, record: struct.Struct, *, create: bool) -> None:
        self._record, self._check = record, struct.Struct("<I")
        size = record.size + self._check.size
        flags = os.O_RDWR | (os.O_CREAT if create else 0)
        descriptor = os.open(path, flags | os.O_CLOEXEC, 0o600)
        try:
            if create:
                os.ftruncate(descriptor, size)
            self._memory = mmap.mmap(descriptor, size)
        finally:
            os.close(descriptor)

    def pack(self, *fields: object) -> None:
        record = self._record.pack(*fields)
        self._memory[:] = record + self._check.pack(zlib.crc32(record))

    def unpack(self) -> tuple[object, ...] | None:
        for _ in range(self._READS_MAX):
            copy = self._memory[:]
            record = copy[: self._record.size]
            if self._check.unpack(copy[self._record.size :]) == (zlib.crc32(record),):
                return self._record.unpack(record)
        return None
