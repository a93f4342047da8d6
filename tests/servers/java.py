"""Programs in Java: started small and quick, and compiled where the machine has no more than a runtime.

The rule: the machine's Java is used, else that of the catalogue. A source is compiled once for the same text, compiler
and jars, by the compiler that is itself a jar.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.servers.fetch import jars, once, program
from tests.servers.processes import Command

COMPILE_SECONDS = 120.0
COMPILER = "org.eclipse.jdt.internal.compiler.batch.Main"
RELEASE = "9"  # of the language: the newest that the compiler knows
SMALL = (
    *("-Xms24m", "-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto", "-XX:-UsePerfData"),
    *("-Dorg.slf4j.simpleLogger.showDateTime=true", "-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS"),
)


def command(main: str, class_path: Sequence[Path], *arguments: str, flags: Sequence[str] = ()) -> Command:
    """How to start a class that has a `main`."""
    return Command.of(program("java"), *SMALL, *flags, "-cp", _joined(class_path), main, *arguments)


def compiled(source: Path, class_path: Sequence[Path]) -> Path:
    """The folder with the classes of one source file."""
    compiler = jars("ecj")
    told = "\n".join([source.read_text(encoding="utf-8"), RELEASE, *map(str, [*compiler, *class_path])])
    asked = command(COMPILER, compiler, f"-{RELEASE}", "-cp", _joined(class_path), "-d")

    def compile_into(folder: Path) -> None:
        done = subprocess.run(
            [*asked.arguments, str(folder), str(source)],
            env=dict(asked.environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMPILE_SECONDS,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(f"{source.name} was not compiled:\n{done.stdout}{done.stderr}")

    return once(source.stem.lower(), told, compile_into)


def _joined(class_path: Sequence[Path]) -> str:
    return os.pathsep.join(map(str, class_path))
