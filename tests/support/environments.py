"""Small virtual environments: the packages that a test names, beside this checkout.

The rule: an environment is there whole or not at all, is made once, and by one process while the others wait. What it
has is in its name, so that other requirements are another environment. If pip cannot fetch a package, the test fails.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import subprocess
import sys
import sysconfig
import tempfile
import venv
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from tests.support.children import ROOT

CACHE = ROOT / ".cache" / "environments"
FETCH_SECONDS = 300.0
PATIENCE = 60.0  # s: for a scene, on a machine that is busy with other things


class NotMade(Exception):
    """pip could not fetch or install what was asked for; the message has its last words."""


@dataclass(frozen=True, slots=True)
class Environment:
    """A Python with packages. It finds this checkout by PYTHONPATH; nothing of it is installed."""

    python: Path

    def play(
        self,
        scene: Callable[..., object],
        *arguments: object,
        env: Mapping[str, str] | None = None,
        warnings: str = "error",
    ) -> Any:
        """Let a fresh interpreter run this function, warnings being errors; what it returned, by JSON.

        The function's module is imported there, so it imports nothing that is not there. Fails if the scene raised, or
        wrote to stderr.
        """
        start = (
            f"import json, sys; from {scene.__module__} import {scene.__qualname__} as scene; "
            "answer = scene(*sys.argv[1:]); print(json.dumps(answer), flush=True)"
        )
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **(env or {})}
        done = subprocess.run(
            [self.python, "-W", warnings, "-c", start, *map(str, arguments)],
            env=environment,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        told = f"{self.python}: {scene.__qualname__}{arguments} ended with {done.returncode}:\n{done.stderr}"
        assert done.returncode == 0, told
        assert not done.stderr, told
        return json.loads(done.stdout)


HERE = Environment(Path(sys.executable))


def environment(*requirements: str) -> Environment:
    """The environment with these packages and what they need, made if it is not there yet. Raises `NotMade`."""
    wanted = "\n".join((sys.version, sysconfig.get_platform(), platform.machine(), *sorted(requirements)))
    place = CACHE / hashlib.sha256(wanted.encode()).hexdigest()[:12]
    if not place.is_dir():
        CACHE.mkdir(parents=True, exist_ok=True)
        with open(place.with_suffix(".lock"), "w", encoding="ascii") as lock, _locked(lock):
            if not place.is_dir():  # nobody else made it while this process waited
                _make(place, requirements)
    return Environment(_python(place))


def _make(place: Path, requirements: tuple[str, ...]) -> None:
    with tempfile.TemporaryDirectory(dir=CACHE, prefix=".making-") as folder:
        made = Path(folder, "environment")
        venv.create(made, with_pip=False, symlinks=True)
        _install(_python(made), requirements)
        made.rename(place)  # an environment finds itself by where its python is


def _install(python: Path, requirements: tuple[str, ...]) -> None:
    """By our own pip, with whatever index this machine is set up for."""
    pip = (sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check", "--no-input")
    try:
        done = subprocess.run(
            [*pip, "install", "--quiet", "--no-warn-script-location", *requirements],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=FETCH_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise NotMade(f"pip did not end in {FETCH_SECONDS:.0f} s with {' '.join(requirements)}") from None
    if done.returncode != 0:
        last_words = " / ".join([line for line in done.stdout.splitlines() if line.strip()][-5:])
        raise NotMade(f"pip failed with {' '.join(requirements)} ({last_words})")


def _python(place: Path) -> Path:
    return place / "bin" / "python"


@contextmanager
def _locked(lock: IO[str]) -> Iterator[None]:
    fcntl.flock(lock, fcntl.LOCK_EX)  # until the file is closed, or its process has ended
    yield
