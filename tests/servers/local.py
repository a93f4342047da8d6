"""A member of a cluster that is a process of this machine, with its data in a folder of its own."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.servers.links import Links
from tests.servers.ports import Port
from tests.servers.processes import Command, ServerProcess


@dataclass(frozen=True, slots=True)
class Place:
    """A host of the tests: its address, and what stands before a command that is to run there."""

    name: str
    host: str
    before: tuple[str, ...]


class LocalMember(ServerProcess):
    """A server and its place among the others. `command` may be changed while it is down."""

    def __init__(self, name: str, host: str, port: Port, folder: Path, command: Command, links: Links) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        super().__init__(command, folder / "log")
        self.name = name
        self.host = host
        self.port = port.number
        self.data = folder / "data"
        self._links = links
        links.identify(name, self)

    def restart(self) -> None:
        """Stop, then start."""
        self.stop()
        self.start()

    def wipe(self) -> None:
        """Remove its data; `RuntimeError` while it is running."""
        if self.running:
            raise RuntimeError(f"{self.name} is running")
        if self.data.exists():
            shutil.rmtree(self.data)

    def cut_off(self) -> None:
        """No traffic between it and the other members, both ways; clients still reach it."""
        self._links.cut_off(self.name)

    def rejoin(self) -> None:
        """The end of `cut_off`."""
        self._links.rejoin(self.name)


def settle(members: Sequence[LocalMember], places: Sequence[Place]) -> None:
    """Each member is to run on its host; without any all run on this one."""
    if places:
        for member, place in zip(members, places, strict=True):
            member.command = member.command.after(place.before)
