"""Ports nobody else on this machine is using, or is about to.

Whoever asks the kernel for any port may be given one that another test has drawn, whose server is still
coming up, or was killed to be started again. So ours lie below those it gives away, and each process has a
span of its own: the one whose first port it holds.
"""

import socket
from collections.abc import Iterator
from contextlib import suppress

_SPANS = range(11_000, 31_000, 200)


def free_ports(count: int) -> list[int]:
    """`count` different free TCP ports on loopback; none comes again soon."""
    return [next(_ports) for _ in range(count)]


def _in_turn() -> Iterator[int]:
    span = next(span for span in _SPANS if _taken(span))
    while True:
        for port in range(span + 1, span + _SPANS.step):
            if _is_free(port):
                yield port


def _taken(port: int) -> bool:
    """Whether it is ours now, until this process ends."""
    holder = socket.socket()
    with suppress(OSError):
        holder.bind(("127.0.0.1", port))
        holder.detach()
        return True
    holder.close()
    return False


def _is_free(port: int) -> bool:
    with socket.socket() as probe, suppress(OSError):
        probe.bind(("127.0.0.1", port))
        return True
    return False


_ports = _in_turn()
