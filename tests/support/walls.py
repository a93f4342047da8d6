"""The wall clock of one process, moved by a file, while its other clocks stay (libfaketime)."""

from __future__ import annotations

from pathlib import Path


class Wall:
    """To be given to a process by its environment."""

    def __init__(self, library: Path, folder: Path, name: str) -> None:
        self._file = folder / f"time-of-{name}"
        self.moved = False
        self.env = {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        self.step(0)

    def step(self, seconds: float) -> None:
        """Be so far from the true time, at once."""
        self.moved = seconds != 0
        new = self._file.with_suffix(".new")
        new.write_text(f"{seconds:+.0f}s\n", encoding="ascii")
        new.replace(self._file)
