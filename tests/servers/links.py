"""The traffic between the members of a local cluster: a proxy before each port at which others reach a member.

The rule: a member is named to the others by its proxies' addresses, never by its own. One that is cut off is not
reached through its proxies, and is let through nobody else's: they know it by its process. Members that have hosts of
their own reach each other directly: whoever has made these hosts cuts them off.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from tests.servers.processes import ServerProcess
from tests.servers.proxy import Opening, Proxy


class Way(Protocol):
    """Where others find a port of a member."""

    @property
    def host(self) -> str: ...

    @property
    def port(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Direct:
    """The port itself."""

    host: str
    port: int


class Links:
    """All proxies between the members of one cluster; none, if `direct`."""

    def __init__(self, *, direct: bool = False) -> None:
        self._direct = direct
        self._proxies: list[tuple[str, Proxy]] = []
        self._processes: dict[str, ServerProcess] = {}
        self._cut_off: set[str] = set()

    def before(self, name: str, host: str, port: int, *, opening: Opening | None = None, patience: float = 0.0) -> Way:
        """A proxy for a port of this member; others are to be given its address. `opening`, `patience`: of `Proxy`."""
        if self._direct:
            return Direct(host, port)
        proxy = Proxy(host, port, host=host, sources=self._sources, opening=opening, patience=patience)
        self._proxies.append((name, proxy))
        return proxy

    def identify(self, name: str, process: ServerProcess) -> None:
        """Whose process a member is."""
        self._processes[name] = process

    def cut_off(self, name: str) -> None:
        if self._direct:
            raise RuntimeError("members with hosts of their own are cut off by their network")
        self._cut_off.add(name)
        self._apply()

    def rejoin(self, name: str) -> None:
        self._cut_off.discard(name)
        self._apply()

    def close(self) -> None:
        for _, proxy in self._proxies:
            proxy.close()

    def _apply(self) -> None:
        for name, proxy in self._proxies:
            proxy.block(self._processes.keys() if name in self._cut_off else self._cut_off)

    def _sources(self) -> Mapping[int, str]:
        """Asked by the proxies' threads, while a test may be starting or killing members."""
        names = {}
        for name, process in self._processes.items():
            with suppress(LookupError):
                names[process.pid] = name
        return names
