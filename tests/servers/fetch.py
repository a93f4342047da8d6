"""Finds what a row of the catalogue is wanted for: on the machine, else in its packages, unpacked.

The rule: nothing of the machine is changed, and several test runs may ask at once. So apt gets lists and a
cache of our own, one process at a time downloads, and a tree of packages appears whole or not at all.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.servers.catalogue import CATALOGUE, Need

CACHE = Path(__file__).parent.parent.parent / ".cache" / "servers"
DOWNLOAD_SECONDS = 900.0
# Where the machine keeps programs beside the PATH (an unprivileged user's has no sbin) and libraries.
PROGRAM_DIRECTORIES = ("usr/local/sbin", "usr/sbin", "sbin", "usr/bin", "bin", "usr/lib/postgresql/*/bin")
LIBRARY_DIRECTORIES = ("usr/local/lib", "usr/lib/*-linux-gnu*", "lib/*-linux-gnu*", "usr/lib64", "usr/lib")


class Missing(Exception):
    """A server can neither be found nor fetched; the message names the command that mends it."""

    def __init__(self, need: Need, why: str) -> None:
        super().__init__(f"{need.name}: {why}; this mends it: apt-get install -y {' '.join(need.packages)}")


@dataclass(frozen=True, slots=True)
class Program:
    """An executable file. `environment` is to be added to that of its process; empty for an installed one."""

    path: Path
    environment: Mapping[str, str] = field(default_factory=dict)


def program(name: str) -> Program:
    """The executable `name`, fetched if need be; raises `Missing`."""
    need = _need_of(name)
    if on_path := shutil.which(name):
        return Program(Path(on_path))
    if installed := _find_program(Path("/"), name):
        return Program(installed)
    tree = _tree(need)
    if unpacked := _find_program(tree, name):
        return Program(unpacked, _where_libraries_are(tree))
    raise Missing(need, f"its packages have no program {name}")


def library(name: str) -> Path:
    """The shared library `name`, fetched if need be; raises `Missing`."""
    need = _need_of(name)
    if installed := _find_library(Path("/"), name):
        return installed
    if unpacked := _find_library(_tree(need), name):
        return unpacked
    raise Missing(need, f"its packages have no library {name}")


def provide(need: Need) -> Mapping[str, Path]:
    """See that everything of a row is there; where each thing was found."""
    programs = {name: program(name).path for name in need.programs}
    return programs | {name: library(name) for name in need.libraries}


def _need_of(name: str) -> Need:
    return next(need for need in CATALOGUE if name in need.programs + need.libraries)


def _find_program(root: Path, name: str) -> Path | None:
    for directory in PROGRAM_DIRECTORIES:
        for path in sorted(root.glob(f"{directory}/{name}"), reverse=True):  # the newest version first
            if os.access(path, os.X_OK):
                return path
    return None


def _find_library(root: Path, name: str) -> Path | None:
    for directory in LIBRARY_DIRECTORIES:
        for pattern in (f"{directory}/{name}", f"{directory}/*/{name}"):
            if found := sorted(root.glob(pattern)):
                return found[0]
    return None


def _where_libraries_are(tree: Path) -> dict[str, str]:
    """Directories of directories too: a private one is compiled in as an absolute path, which is not here."""
    patterns = [f"{directory}/{depth}" for directory in LIBRARY_DIRECTORIES for depth in ("*.so*", "*/*.so*")]
    directories = sorted({str(path.parent) for pattern in patterns for path in tree.glob(pattern)})
    if outer := os.environ.get("LD_LIBRARY_PATH"):
        directories.append(outer)
    return {"LD_LIBRARY_PATH": ":".join(directories)} if directories else {}


def _tree(need: Need) -> Path:
    """The unpacked packages of a row. The path tells them, so that a changed row is fetched anew."""
    wanted = " ".join((platform.machine(), *need.packages))
    tree = CACHE / f"{need.name}-{hashlib.sha256(wanted.encode()).hexdigest()[:12]}"
    if tree.is_dir():
        return tree
    CACHE.mkdir(parents=True, exist_ok=True)
    with _one_at_a_time(), tempfile.TemporaryDirectory(dir=CACHE, prefix=f".{need.name}-") as place:
        if not tree.is_dir():  # nobody else made it while this process waited
            unpacked = Path(place, "tree")
            unpacked.mkdir()
            for package in _download(need, Path(place)):
                _run(need, "dpkg-deb", "--extract", str(package), str(unpacked))
            unpacked.rename(tree)
    return tree


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    with open(CACHE / "lock", "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _download(need: Need, place: Path) -> list[Path]:
    """The packages of a row, with those of their dependencies that this machine lacks."""
    lists, cache = CACHE / "apt" / "lists", place / "cache"
    for directory in (lists / "partial", cache / "archives" / "partial"):
        directory.mkdir(parents=True, exist_ok=True)
    apt = (
        "apt-get",
        *("-o", f"Dir::State::Lists={lists}"),
        *("-o", f"Dir::Cache={cache}"),
        *("-o", "Dir::Cache::Archives=archives"),
        *("-o", "Debug::NoLocking=1"),
        *("-o", "APT::Sandbox::User="),  # root keeps its rights: another user may not enter the checkout
        *("-o", "Acquire::Retries=3"),
        *("-o", "Acquire::http::Timeout=60"),
        *("-q", "-y"),
    )
    _run(need, *apt, "update")
    _run(need, *apt, "--download-only", "--no-install-recommends", "install", *need.packages)
    packages = sorted((cache / "archives").glob("*.deb"))
    if not packages:
        raise Missing(need, "apt-get downloaded nothing")
    return packages


def _run(need: Need, *command: str) -> None:
    environment = os.environ | {"LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=DOWNLOAD_SECONDS,
            check=False,
        )
    except FileNotFoundError:
        raise Missing(need, f"it is not installed, and there is no {command[0]} to fetch it with") from None
    except subprocess.TimeoutExpired:
        raise Missing(need, f"{command[0]} did not end in {DOWNLOAD_SECONDS:.0f} s") from None
    if done.returncode != 0:
        last_words = [line for line in done.stdout.splitlines() if line.strip()][-3:]
        raise Missing(need, f"{command[0]} failed ({' / '.join(last_words)})")
