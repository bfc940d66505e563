"""The token of this server, when nobody chose one: made at the start and told once.

Place in the house   app -> here
Never                logs the token, or leaves it where another user of the host could read it

gunicorn builds the application once in every worker, and all of them must open to the same token, which
the operator saw a single time. The workers have one thing in common, the process that started them, so the
token lies in a file named after it, readable by this user alone. The file counts for as long as a living
process holds a shared lock on it: what an earlier server left behind is never taken up again, whoever
got its process id.
"""

import fcntl
import os
import secrets
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO


@dataclass(frozen=True, slots=True)
class SharedToken:
    """The token, valid for siblings while `file` stays open, and whether we are the one who made it."""

    value: str
    made_here: bool
    file: IO[str]


def share_token(directory: Path | None = None, server: int | None = None) -> SharedToken:
    """The token this server's processes share; the first to ask makes it."""
    folder = directory or private_folder()
    path = folder / f"web-{server or os.getppid()}.token"
    with only_one_at_a_time(folder / "web.lock"):
        forget_dead_servers(folder, path)
        file = open_private(path)
        made_here = unused(file)
        if made_here:
            file.truncate()
            file.write(f"jg_{secrets.token_urlsafe(24)}")
            file.flush()
            file.seek(0)
        fcntl.flock(file, fcntl.LOCK_SH)
        return SharedToken(file.read(), made_here, file)


def open_private(path: Path) -> IO[str]:
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600), "r+")


def forget_dead_servers(folder: Path, ours: Path) -> None:
    for path in folder.glob("web-*.token"):
        with open_private(path) as file:
            if path != ours and unused(file):
                path.unlink()


def unused(file: IO[str]) -> bool:
    """Whether no living process holds this file's token: then we lock it, and may write a new one."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def only_one_at_a_time(path: Path) -> Iterator[None]:
    """Going from an exclusive lock to a shared one is not atomic; behind this lock nobody sees the gap."""
    with open_private(path) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def private_folder() -> Path:
    """A folder that only this user can enter; refuses one that somebody else prepared."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    folder = Path(runtime, "jobguard") if runtime else Path(tempfile.gettempdir(), f"jobguard-{os.geteuid()}")
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise SystemExit(f"no place for the web UI's token ({error}); set JOBGUARD_WEB_TOKEN") from None
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise SystemExit(f"{folder} is open to other users of this host; set JOBGUARD_WEB_TOKEN")
    return folder


def announce(token: SharedToken) -> None:
    """Tell the operator, on the terminal of the server and nowhere else."""
    if token.made_here:
        print(
            "jobguard web: JOBGUARD_WEB_TOKEN is not set; the token of this server is\n"
            f"\n    {token.value}\n",
            file=sys.stderr,
            flush=True,
        )
