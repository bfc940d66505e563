"""Ports nobody else on this machine is using."""

import socket


def free_ports(count: int) -> list[int]:
    """`count` different free TCP ports on loopback, held together while they are drawn."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()
