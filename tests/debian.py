"""Programs that Debian packages, to compare with or to look on: unpacked below the venv, never installed.

Place in the house   make's set-up, tests/stores.py, processes/test_fsync -> debian -> apt-get, dpkg-deb
Gives                a program's path; it is fetched once
Never                needs root, starts a service, or changes what apt knows: the package lists are its own
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ETCD_3_4 = ("etcd-server", "usr/bin/etcd")
STRACE = ("strace", "usr/bin/strace")
LIBUNWIND = ("libunwind8", "usr/lib")  # which strace is linked to
RABBITMQ = ("rabbitmq-server", "usr/lib")
_WITH = {  # unpacked into the same folder
    "rabbitmq-server": (
        *("erlang-asn1", "erlang-base", "erlang-crypto", "erlang-eldap", "erlang-ftp", "erlang-inets"),
        *("erlang-mnesia", "erlang-os-mon", "erlang-parsetools", "erlang-public-key", "erlang-runtime-tools"),
        *("erlang-snmp", "erlang-ssl", "erlang-syntax-tools", "erlang-tftp", "erlang-tools", "erlang-xmerl"),
        "libsctp1",
    )
}


def program(package: str, path: str) -> Path:
    """Where `path` of that package is. Raises SystemExit, in a sentence, if the package cannot be had."""
    folder = Path(sys.prefix) / "debian" / package
    if not folder.exists():
        _fetch(package, folder)
    return folder / path


def _fetch(package: str, folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".fetching-") as workplace:
        lists = Path(workplace, "lists")
        unpacked = Path(workplace, "unpacked")
        (lists / "partial").mkdir(parents=True)
        apt = ("apt-get", "--quiet", "-o", f"Dir::State::Lists={lists}", "-o", f"Dir::Cache={workplace}")
        try:
            _run(*apt, "update", cwd=workplace)
            _run(*apt, "download", package, *_WITH.get(package, ()), cwd=workplace)
            for archive in Path(workplace).glob("*.deb"):
                _run("dpkg-deb", "--extract", str(archive), str(unpacked), cwd=workplace)
        except (OSError, subprocess.CalledProcessError) as error:
            told = (getattr(error, "stderr", None) or str(error)).strip()
            raise SystemExit(
                f"Debian's package {package}, which the tests need, cannot be had: {told}"
            ) from None
        unpacked.rename(folder)


def _run(*command: str, cwd: str) -> None:
    subprocess.run(command, cwd=cwd, check=True, text=True, capture_output=True, timeout=300)


if __name__ == "__main__":
    if shutil.which("curl") is None:
        raise SystemExit("curl, which runs the examples of docs/rest.md, is missing: apt-get install curl")
    for each in (ETCD_3_4, STRACE, LIBUNWIND, RABBITMQ):
        program(*each)
