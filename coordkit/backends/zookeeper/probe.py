"""Asking one server of ZooKeeper, over a connection of its own: a four-letter word, or what it grants a session.

The rule: a session that was made to ask is ended before the answer is told. What kazoo hides, a server's limits of a
session's timeout, is read off its ConnectResponse.
"""

from __future__ import annotations

import asyncio
import re
import ssl
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

SHORTEST: Final = 1  # ms: it grants its least
LONGEST: Final = 2**31 - 1  # ms: it grants its most

_ASKED: Final = struct.Struct("!iiqiqi16s?")  # length, protocol, zxid, timeout, session, its password, read-only
_GRANTED: Final = struct.Struct("!iiq")  # protocol, timeout in milliseconds, session
_FAREWELL: Final = struct.Struct("!iii")  # length, xid, type
_LENGTH: Final = struct.Struct("!i")
_CLOSE: Final = -11
_LONGEST_ANSWER: Final = 1024
_LONGEST_WORD: Final = 1 << 20


class Garbled(OSError):
    """What answers there does not speak ZooKeeper's protocol."""


@dataclass(frozen=True, slots=True)
class Server:
    """Where one server is, and how it is reached."""

    host: str
    port: int
    context: Callable[[], ssl.SSLContext] | None = None
    name: str = ""  # what its certificate is checked for

    @property
    def shown(self) -> str:
        """host:port."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


async def word(server: Server, text: str) -> str:
    """What a server answers to a four-letter word; raises OSError. One that may not tell says so in a sentence."""
    async with _connected(server) as (reader, writer):
        writer.write(text.encode("ascii"))
        answer = await reader.read(_LONGEST_WORD)
        while more := await reader.read(_LONGEST_WORD):
            answer += more
            if len(answer) > _LONGEST_WORD:
                raise Garbled("what answers there does not end")
        return answer.decode(errors="replace")


async def granted(server: Server, milliseconds: int) -> float:
    """The timeout, in seconds, that a server grants to who asks for so many milliseconds; raises OSError."""
    async with _connected(server) as (reader, writer):
        writer.write(_ASKED.pack(_ASKED.size - _LENGTH.size, 0, 0, milliseconds, 0, 16, bytes(16), False))
        try:
            (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
            if not _GRANTED.size <= length <= _LONGEST_ANSWER:
                raise Garbled("what answers there does not speak as ZooKeeper")
            _, timeout, _ = _GRANTED.unpack_from(await reader.readexactly(length))
            writer.write(_FAREWELL.pack(_FAREWELL.size - _LENGTH.size, 1, _CLOSE))
            await reader.read(_LONGEST_ANSWER)  # its answer, or its hanging up: the session is over
        except asyncio.IncompleteReadError as error:
            raise ConnectionResetError("it hangs up: it serves nobody, as without a majority") from error
        return float(timeout) / 1000


def fields(text: str, separator: str) -> dict[str, str]:
    """The lines of an answer that have a name and a value."""
    pairs = (line.partition(separator) for line in text.splitlines())
    return {name.strip(): value.strip() for name, found, value in pairs if found}


def version_of(srvr: str) -> str:
    """Such as 3.8.0; empty if it is not told."""
    found = re.match(r"\d+(?:\.\d+)*", fields(srvr, ": ").get("Zookeeper version", ""))
    return found[0] if found else ""


@asynccontextmanager
async def _connected(server: Server) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    context = server.context() if server.context is not None else None
    name = (server.name or server.host) if context is not None else None
    reader, writer = await asyncio.open_connection(server.host, server.port, ssl=context, server_hostname=name)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()
