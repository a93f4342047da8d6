"""Servers that refuse to run as root, run by nobody.

The rule: whoever is not root runs them as they are. For root they run as `nobody`, who owns the folder of their data
and no other; programs that nobody can reach, in a checkout of root's, are copied to where nobody can.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Self

from tests.servers.fetch import CACHE, Program
from tests.servers.images import LEFT_OUT
from tests.servers.processes import Command

NOBODY = 65534


def runner() -> int:
    """Who shall run such a server, for `Command.user`: 0 is whoever asks."""
    return NOBODY if os.geteuid() == 0 else 0


class Place:
    """A folder of the runner's, `folder`, that is removed with all that is in it when it is closed."""

    def __init__(self, name: str) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix=f"coordkit-{name}-", ignore_cleanup_errors=True)
        self.folder = Path(self._temporary.name)
        self._programs: dict[Path, Path] = {}
        self.give(self.folder)

    def give(self, path: Path) -> None:
        """Make the runner the owner of a file or folder."""
        if runner():
            os.chown(path, runner(), runner())

    def command(self, found: Program, *arguments: str, **environment: str) -> Command:
        """A program that was found, where the runner reaches it, to be run by them."""
        command = Command.of(self.reachable(found), *arguments, **environment)
        return replace(command, environment={**command.environment, "HOME": str(self.folder)}, user=runner())

    def reachable(self, found: Program) -> Program:
        """The program, in a copy of its packages if the runner could not start it where it is."""
        path = found.path.absolute()
        if not runner() or all(parent.stat().st_mode & stat.S_IXOTH for parent in path.parents):
            return found
        tree = CACHE.absolute() / path.relative_to(CACHE.absolute()).parts[0]
        if tree not in self._programs:
            copy = self.folder / "programs" / tree.name
            shutil.copytree(
                tree,
                copy,
                symlinks=True,
                ignore=lambda folder, names: {
                    name for name in names if Path(folder, name).relative_to(tree).as_posix() in LEFT_OUT
                },
            )
            self._programs[tree] = copy
        copy = self._programs[tree]
        environment = {name: value.replace(str(tree), str(copy)) for name, value in found.environment.items()}
        before = tuple(word.replace(str(tree), str(copy)) for word in found.before)
        return Program(copy / path.relative_to(tree), environment, before)

    def close(self) -> None:
        self._temporary.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
