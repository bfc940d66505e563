"""The token of this server when nobody chose one: made at its start, told once.

Place in the house   app -> here
Never                writes the token to a file, or accepts one that could be guessed

gunicorn builds the application anew in each worker, when a worker is replaced too, and all of them must open
to the token that the operator saw a single time. What forked workers share is the memory of the process that
started them, and in it a secret that CPython draws from the system at every start: the 128-bit key of its
string hash, which is a keyed hash for the very reason that nobody can predict it. The token is a digest of
what that key makes of a few fixed strings: the same in all workers, another after every start.
"""

import os
import sys
import tempfile
from base64 import urlsafe_b64encode
from hashlib import sha256

from jobguard.errors import ConfigurationError


def made_token() -> str:
    """Raises ConfigurationError where the secret is not secret."""
    if not hashes_are_secret():
        raise ConfigurationError(
            "no token can be made here (PYTHONHASHSEED is fixed): set JOBGUARD_WEB_TOKEN"
        )
    return "jg_" + derived("token")[:32]


def hashes_are_secret() -> bool:
    """Whether this interpreter's string hash has a key of 128 bits that it drew from the system."""
    chosen = "" if sys.flags.ignore_environment else os.environ.get("PYTHONHASHSEED", "")
    kind = sys.hash_info
    strong = kind.algorithm.startswith("siphash") and (kind.hash_bits, kind.seed_bits) == (64, 128)
    return strong and chosen in ("", "random")


def derived(purpose: str) -> str:
    parts = (hash(f"jobguard web {purpose} {number}") for number in range(4))
    digest = sha256(b"".join(part.to_bytes(8, "big", signed=True) for part in parts))
    return urlsafe_b64encode(digest.digest()).decode().rstrip("=")


def tell_once(token: str) -> None:
    """Print it on the server's terminal, from whichever worker comes first.

    A marker file, whose name nobody can know beforehand either, tells the others that it was done.
    """
    marker = os.path.join(tempfile.gettempdir(), f"jobguard-web-{derived('told')[:16]}")
    try:
        os.close(os.open(marker, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        return
    except OSError:
        pass  # nowhere to leave a mark: better told once per worker than never
    print(
        f"jobguard web: JOBGUARD_WEB_TOKEN is not set. The token until the next start is\n\n    {token}\n",
        file=sys.stderr,
        flush=True,
    )
