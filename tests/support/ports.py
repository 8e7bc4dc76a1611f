"""Ports for processes that meet."""

import random
import socket
from contextlib import suppress


def free_port() -> int:
    """Returns a port below those that the system gives away, which might be gone before process 0 has started."""
    while True:
        port = random.SystemRandom().randrange(20_000, 32_000)
        with socket.socket() as found, suppress(OSError):
            found.bind(("127.0.0.1", port))
            return port
