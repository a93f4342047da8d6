"""Mutants: the shipped source with one rule patched out, in a temporary copy, and the schedule that has to break.

The rule: a patch is exact text that occurs once, so a mutant that does not apply any more fails; it counts as caught
only where a schedule says `Broken`, not where the patched source falls over. No switch in the product turns a rule off.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
SECONDS = 60.0

Patch = tuple[str, str, str]  # file in coordkit/, text, text instead; whole lines begin after a line break


@dataclass(frozen=True, slots=True)
class Mutant:
    """One rule gone, and the schedule that misses it."""

    rule: str
    what: str
    schedule: str
    patches: tuple[Patch, ...]

    def __str__(self) -> str:
        return f"{self.rule}: {self.what}"


def mutant(rule: str, what: str, schedule: str, *patches: Patch) -> Mutant:
    """The patches with their texts as they stand in the source."""
    return Mutant(
        rule,
        what,
        schedule,
        tuple((file, old.removeprefix("\n"), new.removeprefix("\n")) for file, old, new in patches),
    )


class Copy:
    """The package, and a module of schedules with what it imports, in a place of their own."""

    def __init__(self, place: Path, module: str, beside: Sequence[str]) -> None:
        self.place = place
        self._module = module
        shutil.copytree(ROOT / "coordkit", place / "coordkit", ignore=shutil.ignore_patterns("__pycache__"))
        for name in (
            "__init__.py",
            "simulation/__init__.py",
            *(f"simulation/{each}.py" for each in ("playing", module, *beside)),
        ):
            (place / "tests" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / "tests" / name, place / "tests" / name)
        done = self.play(place)
        assert done.returncode == 0, f"a schedule does not hold in an unpatched copy:\n{done.stdout}{done.stderr}"

    def play(self, place: Path, *names: str) -> subprocess.CompletedProcess[str]:
        """Run schedules, all if none is named, on the sources in a place. Their coverage is not ours."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("COVERAGE", "PYTHONPATH"))}
        return subprocess.run(
            [sys.executable, "-m", f"tests.simulation.{self._module}", *names],
            cwd=place,
            env=kept,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )

    def patch(self, mutant: Mutant, place: Path) -> None:
        """Make a patched copy in `place`."""
        shutil.copytree(self.place, place)  # with its bytecode: only what is patched is compiled again
        for file, text, instead in mutant.patches:
            path = place / "coordkit" / file
            source = path.read_text(encoding="utf-8")
            assert source.count(text) == 1, f"{file} has this {source.count(text)} times, not once:\n{text}"
            path.write_text(source.replace(text, instead), encoding="utf-8")

    def check(self, mutant: Mutant, place: Path) -> None:
        """See that the mutant's schedule breaks on a patched copy, made in `place`."""
        self.patch(mutant, place)
        done = self.play(place, mutant.schedule)
        shown = f"{done.stdout}{done.stderr}"
        assert done.returncode == 3, f"{mutant.schedule} held without the rule, or fell over, not broken:\n{shown}"
        assert done.stdout.startswith(f"{mutant.schedule}: "), shown
