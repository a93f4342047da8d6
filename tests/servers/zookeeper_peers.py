"""What ZooKeeper servers tell each other of their addresses, as far as it would lead around the proxies between them.

The rule: a server that connects for an election says where it is reached itself, and one with a higher number hangs up
and connects back to there. So a proxy puts the proxy's port in place of the server's own, as a NAT would.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

_VERSIONS = (-65536, -65535)  # of the first message; an older server sends its number instead, and no address
_HEAD = struct.Struct(">qqi")  # version, the sender's number, length of the addresses


class Greeting:
    """Rewrites the first message of a connection. `ports`: the proxy's for each server's own."""

    def __init__(self, ports: Mapping[int, int]) -> None:
        self.ports = ports

    def __call__(self, said: bytes) -> bytes | None:
        """What is to be said instead; None until the message is whole."""
        if len(said) < 8:
            return None
        if struct.unpack_from(">q", said)[0] not in _VERSIONS:
            return said
        if len(said) < _HEAD.size:
            return None
        version, number, length = _HEAD.unpack_from(said)
        rest = said[_HEAD.size :]
        if len(rest) < length:
            return None
        told = [self._readdressed(one) for one in rest[:length].decode("ascii").split("|")]
        addresses = "|".join(told).encode("ascii")
        return _HEAD.pack(version, number, len(addresses)) + addresses + rest[length:]

    def _readdressed(self, address: str) -> str:
        host, _, port = address.rpartition(":")
        return f"{host}:{self.ports.get(int(port), int(port))}"
