"""Ports that stay ours while the server that listens there is down.

The rule: the kernel chooses the port, and a socket bound to it, which never listens, keeps it. A server that sets
SO_REUSEADDR, as servers do, may listen there all the same; nobody else is given the port, for an outgoing connection
neither. On the address of a host that is not this one the number only is chosen here: nobody else listens there.
"""

from __future__ import annotations

import socket

IP_FREEBIND = 15  # of Linux; the module `socket` has no name for it


class Port:
    """A port of the loopback interface, or of another host of the tests, ours until it is closed."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self._socket = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if ":" not in host:
                self._socket.setsockopt(socket.IPPROTO_IP, IP_FREEBIND, 1)
            self._socket.bind((host, 0))
        except OSError:
            self._socket.close()
            raise
        self.number: int = self._socket.getsockname()[1]

    def close(self) -> None:
        """Give it back; harmless twice."""
        self._socket.close()


def address(host: str, port: int) -> str:
    """`127.0.0.1:2379`, `[::1]:2379`."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
