"""The two things about its write-ahead log that SQLite does not tell: what it dropped, and how long it is.

Place in the house   file, database -> wal
Never                reads page contents: that is SQLite's business

After a crash SQLite believes the log up to the first frame whose checksum is wrong, and forgets the rest
without a word. That is right for a commit that the crash cut off: nobody was answered. But if a frame rots
further back, acknowledged commits behind it are forgotten too, votes among them. The two differ: a commit
begins only after the one before it was synced, so a crash cuts off one commit at most.

The format: a header of 32 bytes, then frames of 24 bytes and a page each. Every frame repeats the salts of
the header, which change whenever the log starts over; the last frame of a commit tells the size of the
database, others say 0.
"""

import os
import struct
from pathlib import Path

from jobguard_store.storage.damage import Damage

_HEADER = struct.Struct(">8I")  # magic, format, page size, checkpoint, salt, salt, checksum, checksum
_FRAME = struct.Struct(">4I8x")  # page, size of the database, salt, salt
_BIG_ENDIAN = 0x377F0683  # this magic: checksums over big-endian words; one less: little-endian


def refuse_dropped_commits(wal: Path, believed: int) -> None:
    """`believed`: how many frames SQLite has accepted. Raises Damage if it dropped more than one commit."""
    if not wal.exists() or wal.stat().st_size < _HEADER.size:
        return
    with open(wal, "rb") as file:
        head = file.read(_HEADER.size)
        _magic, _format, page_size, _checkpoint, *salts, _one, _two = _HEADER.unpack(head)
        if not _sound(head):
            raise Damage(f"the header of {wal.name} is not what was written")
        frame_size = _FRAME.size + page_size
        file.seek(_HEADER.size + believed * frame_size)
        dropped = 0
        while len(frame := file.read(frame_size)) == frame_size:
            _page, size, *frame_salts = _FRAME.unpack(frame[: _FRAME.size])
            dropped += bool(size) and frame_salts == salts
    if dropped > 1:
        raise Damage(f"{wal.name} has {dropped} commits behind a frame that is not what was written")


def _sound(head: bytes) -> bool:
    """SQLite's checksum over the header's first 24 bytes stands in its last 8."""
    words = struct.unpack(">6I" if head[:4] == _BIG_ENDIAN.to_bytes(4, "big") else "<6I", head[:24])
    one = two = 0
    for first, second in zip(words[::2], words[1::2], strict=True):
        one = (one + first + two) & 0xFFFFFFFF
        two = (two + second + one) & 0xFFFFFFFF
    return (one, two) == struct.unpack(">2I", head[24:])


class Length:
    """How many frames the log has: the mxFrame of its index, the file beside it that ends in -shm.

    Its descriptor stays open until `close`, which must come after SQLite's last: closing one descriptor of a
    file takes away the locks that this process holds on it by any other.
    """

    _MX_FRAME_OFFSET = 16  # in the index's header, in the machine's own byte order

    def __init__(self, database: Path) -> None:
        self._index = open(f"{database}-shm", "rb", buffering=0)  # noqa: SIM115 — see above

    def frames(self) -> int:
        (frames,) = struct.unpack("=I", os.pread(self._index.fileno(), 4, self._MX_FRAME_OFFSET))
        return int(frames)

    def close(self) -> None:
        self._index.close()
