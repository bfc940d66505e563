"""Ports nobody else on this machine is using, nor will while a node is not listening on its own."""

import random
import socket
from itertools import count

# Below those that the system gives out by itself: one that is drawn here, or whose node is down for a while,
# goes to no connection and to no server that asks for any port.
_FIRST, _SPAN = 12_000, 20_000
_drawn = count(random.SystemRandom().randrange(_SPAN))


def free_ports(number: int) -> list[int]:
    """`number` different free TCP ports on loopback."""
    ports: list[int] = []
    while len(ports) < number:
        port = _FIRST + next(_drawn) % _SPAN
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        ports.append(port)
    return ports
