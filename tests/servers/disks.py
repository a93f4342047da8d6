"""Small disks of a test's own, which it fills and empties: tmpfs, mounted where a server keeps its data.

The rule: each is unmounted in the end, and one of a process that was killed by the next who mounts.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path
from typing import Self

from tests.servers.rights import PREFIX, NotAllowed, left_behind, located, root_with, run

BLOCK = 1 << 16
FILLER = "filler"


class Disk:
    """So many megabytes, at this folder, which is made. As a context manager: unmounted in the end.

    `NotAllowed` where that is impossible.
    """

    def __init__(self, folder: Path, megabytes: int) -> None:
        root_with("mounts", "mount", "umount", packages="mount")
        _sweep()
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        name = f"{PREFIX}-{os.getpid()}-disk"
        run([located("mount"), "-t", "tmpfs", "-o", f"size={megabytes}m,mode=0777", name, str(folder)])

    def fill(self) -> int:
        """No byte is left; how many were taken."""
        taken = 0
        with open(self.folder / FILLER, "ab", buffering=0) as filler:
            for size in (BLOCK, 4096, 1):
                try:
                    while True:
                        taken += filler.write(bytes(size))
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
        return taken

    def make_room(self) -> None:
        """All that was taken is free again."""
        (self.folder / FILLER).unlink(missing_ok=True)

    def close(self) -> None:
        """Unmount it, whoever still uses it; harmless twice."""
        if os.path.ismount(self.folder):
            _unmount(str(self.folder))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _unmount(folder: str) -> None:
    run([located("umount"), "--lazy", folder])


def _sweep() -> None:
    """What a process has left that was killed."""
    for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines():
        name, folder, *_ = line.split(" ")
        if left_behind(name):
            with suppress(NotAllowed):  # somebody else has swept it
                _unmount(folder)
