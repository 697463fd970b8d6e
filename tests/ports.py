"""Ports for servers that tests start."""

import random
import socket


def free_port() -> int:
    """A free port of 127.0.0.1, none of those that systems give to connections: left for a moment, it stays free."""
    return next(port for port in random.sample(range(20000, 32000), 100) if is_free(port))


def is_free(port: int) -> bool:
    """Whether a server can take a port of 127.0.0.1; what closed connections leave behind does not matter."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
