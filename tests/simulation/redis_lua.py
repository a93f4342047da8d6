"""A voter in memory: the real scripts, run by Lua 5.1 as in Redis, on the few commands that they use.

The rule: it answers as the server does, and what the scripts do not use it does not know. `test_redis_scripts.py` holds
it to a real server by one table of calls.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from typing import Any

from lupa import lua51

from coordkit.backends.redis.scripts import script


class LuaError(Exception):
    """A script has failed."""


class MemoryServer:
    """One Redis server, as far as the scripts see it."""

    def __init__(self, number: int, time: Callable[[], float]) -> None:
        self.number = number
        self.time = time  # s since 1970, as it believes
        self.role = "master"
        self.starts = 0
        self.data: dict[bytes, dict[bytes, bytes]] = {}
        self.subscribers: dict[bytes, list[Callable[[bytes], None]]] = {}  # by channel

    @property
    def run_id(self) -> str:
        """Another one after each start."""
        return f"{self.number:020x}{self.starts:020x}"

    def call(self, *arguments: bytes) -> Any:
        """One command."""
        name, *rest = arguments
        command = _COMMANDS.get(name.upper())
        if command is None:
            raise LuaError(f"ERR unknown command {name!r}")
        return command(self, *rest)

    def run(self, name: str, keys: list[bytes], arguments: list[bytes]) -> Any:
        """One script of coordkit."""
        return self.eval(script(name).text, keys, arguments)

    def eval(self, text: bytes, keys: list[bytes], arguments: list[bytes]) -> Any:
        """EVAL."""
        return _lua().run(self, text, keys, arguments)

    # --- commands --------------------------------------------------------------------------------------------

    def _hget(self, key: bytes, field: bytes) -> Any:
        return self.data.get(key, {}).get(field, False)

    def _hset(self, key: bytes, field: bytes, value: bytes) -> int:
        fields = self.data.setdefault(key, {})
        new = field not in fields
        fields[field] = value
        return int(new)

    def _hdel(self, key: bytes, field: bytes) -> int:
        fields = self.data.get(key, {})
        gone = fields.pop(field, None) is not None
        if not fields:
            self.data.pop(key, None)
        return int(gone)

    def _hgetall(self, key: bytes) -> list[bytes]:
        return [each for pair in self.data.get(key, {}).items() for each in pair]

    def _hscan(self, key: bytes, *_: bytes) -> list[Any]:
        return [b"0", self._hgetall(key)]

    def _hlen(self, key: bytes) -> int:
        return len(self.data.get(key, {}))

    def _dbsize(self) -> int:
        return len(self.data)

    def _time(self) -> list[bytes]:
        micros = round(self.time() * 1e6)
        return [b"%d" % (micros // 1_000_000), b"%d" % (micros % 1_000_000)]

    def _info(self, section: bytes = b"") -> bytes:
        sections = {
            b"server": [b"# Server", b"run_id:" + self.run_id.encode()],
            b"replication": [
                b"# Replication",
                b"role:" + self.role.encode(),
                b"master_replid:" + (b"r" + self.run_id.encode())[:40],
            ],
        }
        chosen = [sections[section.lower()]] if section else sections.values()
        return b"\r\n".join([*(line for lines in chosen for line in lines), b""])

    def _publish(self, channel: bytes, message: bytes) -> int:
        heard = self.subscribers.get(channel, [])
        for tell in list(heard):
            tell(message)
        return len(heard)

    def _pubsub(self, what: bytes, channel: bytes) -> list[Any]:
        if what.upper() != b"NUMSUB":
            raise LuaError("ERR unknown subcommand")
        return [channel, len(self.subscribers.get(channel, []))]


_COMMANDS: dict[bytes, Callable[..., Any]] = {
    b"HGET": MemoryServer._hget,
    b"HSET": MemoryServer._hset,
    b"HDEL": MemoryServer._hdel,
    b"HGETALL": MemoryServer._hgetall,
    b"HSCAN": MemoryServer._hscan,
    b"HLEN": MemoryServer._hlen,
    b"DBSIZE": MemoryServer._dbsize,
    b"TIME": MemoryServer._time,
    b"INFO": MemoryServer._info,
    b"PUBLISH": MemoryServer._publish,
    b"PUBSUB": MemoryServer._pubsub,
}


class Lua:
    """One interpreter for all servers; a script is compiled once."""

    def __init__(self) -> None:
        self._runtime = lua51.LuaRuntime(encoding=None, unpack_returned_tuples=True)
        self._compiled: dict[bytes, Any] = {}
        self._server: MemoryServer | None = None
        make = self._runtime.eval(
            b"function(call, sha1hex) return {"
            b"call = function(...) local ok, value = call(...) if ok then return value end error(value, 0) end, "
            b"pcall = function(...) local ok, value = call(...) if ok then return value end return {err = value} end, "
            b"sha1hex = sha1hex} end"
        )
        self._redis = make(self._call, lambda text: hashlib.sha1(text, usedforsecurity=False).hexdigest().encode())

    def _call(self, *arguments: Any) -> tuple[bool, Any]:
        assert self._server is not None
        given = [each if isinstance(each, bytes) else str(each).encode() for each in arguments]
        try:
            answer = self._server.call(*given)
        except LuaError as error:
            return False, str(error).encode()
        return True, self._runtime.table_from(answer) if isinstance(answer, list) else answer

    def run(self, server: MemoryServer, text: bytes, keys: list[bytes], arguments: list[bytes]) -> Any:
        """A script with these keys and arguments; what Redis would answer."""
        function = self._compiled.get(text)
        if function is None:
            source = b"return function(KEYS, ARGV, redis)\n" + text + b"\nend"
            function = self._compiled[text] = self._runtime.execute(source)
        self._server = server
        try:
            table = self._runtime.table_from
            return _answer(function(table(keys), table(arguments), self._redis))
        except lua51.LuaError as error:
            raise LuaError(str(error)) from error
        finally:
            self._server = None


@functools.cache
def _lua() -> Lua:
    return Lua()


def _answer(value: Any) -> Any:
    """What a value of Lua becomes on the wire."""
    if value is None or value is False:
        return None
    if value is True:
        return 1
    if isinstance(value, float):
        return int(value)
    if lua51.lua_type(value) == "table":
        found = []
        place = 1
        while (each := value[place]) is not None:  # an array ends at its first nil
            found.append(_answer(each))
            place += 1
        return found
    return value
