"""Which image a service of docker-compose.yml runs: the official one, else a stand-in made of Debian's programs.

The rule: the file names the official image and a variable that overrides it. A variable that is set is obeyed.
Else an image that the engine has or can pull is used. Only where there is none, one is made: the unpacked packages
of the service's row of the catalogue, the shared libraries that its programs are linked with, and links where the
official image has its programs; no shell, but for the one service that says so, nothing else. A service in Java gets
the catalogue's Java, which is one folder, and the jars of its row. It is made once for the same files, as the name
tells.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import subprocess
import tarfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from tests.servers.compose_engine import Engine, EngineFailed
from tests.servers.fetch import CACHE, Program, jars, java_home, program

COMPOSE_FILE = Path(__file__).parent.parent.parent / "docker-compose.yml"
PASSWD = Path(__file__).parent / "postgresql_files" / "passwd"
PULL_SECONDS = 300.0
# Packages bring much that no server reads.
LEFT_OUT = ("usr/share/doc", "usr/share/man", "usr/share/lintian", "usr/share/bug")
_OVERRIDABLE = re.compile(r"\$\{(COORDKIT_\w+_IMAGE):-([^}\s]+)\}")
# `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x…)`, and the loader: `/lib64/ld-linux-x86-64.so.2 (0x…)`
_LIBRARY = re.compile(r"^\s*(?:\S+ => )?(/\S+) \(0x[0-9a-f]+\)$")


class Unlinked(Exception):
    """A program lacks a shared library, so that it would not run in an image either."""


@dataclass(frozen=True, slots=True)
class StandIn:
    """What the official image of a service has, as far as docker-compose.yml uses it: path in the image -> program.

    `java`: the folder in the image where Java is. `jars`: that of the jars, of the row of the same name. `beside`: what
    installed programs read, as patterns under /; packages that were unpacked bring it. `shell`: /bin/sh, the machine's,
    and somebody who may use it.
    """

    name: str
    programs: Mapping[str, str] = field(default_factory=dict)
    java: str = ""
    jars: str = ""
    beside: tuple[str, ...] = ()
    shell: bool = False
    working_directory: str = "/"


STAND_INS = {
    "COORDKIT_ETCD_IMAGE": StandIn(
        "etcd", programs={"/usr/local/bin/etcd": "etcd", "/usr/local/bin/etcdctl": "etcdctl"}
    ),
    "COORDKIT_ZOOKEEPER_IMAGE": StandIn(
        "zookeeper", java="/opt/java/openjdk", jars="/apache-zookeeper/lib", working_directory="/apache-zookeeper"
    ),
    "COORDKIT_POSTGRESQL_IMAGE": StandIn(
        "postgresql",
        programs={"/usr/local/bin/postgres": "postgres", "/usr/local/bin/initdb": "initdb"},
        beside=("usr/share/postgresql/**/*", "usr/lib/postgresql/*/lib/*"),
        shell=True,
    ),
    "COORDKIT_MARIADB_IMAGE": StandIn(
        "mariadb", programs={"/usr/sbin/mariadbd": "mariadbd"}, beside=("usr/share/mysql/**/*",)
    ),
    "COORDKIT_REDIS_IMAGE": StandIn("redis", programs={"/usr/local/bin/redis-server": "redis-server"}),
}


@dataclass(frozen=True, slots=True)
class Contents:
    """What an image holds: a file for each path, links, and where the loader finds libraries. Paths have no root."""

    files: Mapping[str, Path]
    links: Mapping[str, str]
    library_directories: tuple[str, ...]

    @property
    def digest(self) -> str:
        """Changes with any of the files; they are told by size and time, not read."""
        lines = [f"{path} -> {target}" for path, target in sorted(self.links.items())]
        for path, source in sorted(self.files.items()):
            found = source.stat()
            lines.append(f"{path} {found.st_mode:o} {found.st_size} {found.st_mtime_ns}")
        return hashlib.sha256("\n".join([*lines, *self.library_directories]).encode()).hexdigest()[:12]


def official(compose_file: Path = COMPOSE_FILE) -> dict[str, str]:
    """The images that docker-compose.yml names: variable -> what stands where it is not set."""
    return dict(_OVERRIDABLE.findall(compose_file.read_text(encoding="utf-8")))


def settle(engine: Engine, environment: Mapping[str, str]) -> dict[str, str]:
    """The variables to be set for the file, so that each service has an image; raises `Missing`, `EngineFailed`."""
    return {
        variable: _stand_in(engine, STAND_INS[variable])
        for variable, image in official().items()
        if not environment.get(variable) and not _has(engine, image) and not _pulled(engine, image)
    }


def libraries(ldd: str) -> list[Path]:
    """The paths that `ldd` tells; none for a program that is linked statically. Raises `Unlinked`."""
    if absent := re.findall(r"^\s*(\S+) => not found", ldd, re.MULTILINE):
        raise Unlinked(f"not found: {', '.join(absent)}")
    return [Path(found[1]) for line in ldd.splitlines() if (found := _LIBRARY.match(line))]


def contents(
    stand_in: StandIn,
    programs: Mapping[str, Program],
    closure: Iterable[Path],
    tree: Path | None,
    placed: Mapping[str, Path] | None = None,
) -> Contents:
    """What the stand-in's image holds. Files of `tree` keep their paths in it, all others theirs on this machine.

    `placed`: more files, by their paths in the image.
    """
    files = {place.lstrip("/"): source for place, source in (placed or {}).items()}
    if tree:
        for path in sorted(tree.rglob("*")):
            inside = path.relative_to(tree)
            if path.is_file() and not any(inside.is_relative_to(left_out) for left_out in LEFT_OUT):
                files[inside.as_posix()] = path
    links = {}
    for place, name in stand_in.programs.items():
        source = programs[name].path
        inside = _inside(source, tree)
        files[inside] = source
        if place.lstrip("/") != inside:
            links[place.lstrip("/")] = f"/{inside}"
    directories = set()
    for source in closure:
        inside = _inside(source, tree)
        files[inside] = source
        directories.add(f"/{PurePosixPath(inside).parent}")
    return Contents(files, links, tuple(sorted(directories)))


def write(contents: Contents, archive: tarfile.TarFile) -> None:
    """Put the files and links into an archive, owned by root; symbolic links to files are followed."""
    scratch = tarfile.TarInfo("tmp")
    scratch.type, scratch.mode = tarfile.DIRTYPE, 0o1777
    archive.addfile(scratch)
    for path, source in sorted(contents.files.items()):
        entry = tarfile.TarInfo(path)
        found = source.stat()
        entry.mode, entry.size, entry.mtime = found.st_mode & 0o777, found.st_size, int(found.st_mtime)
        with open(source, "rb") as file:
            archive.addfile(entry, file)
    for path, target in sorted(contents.links.items()):
        entry = tarfile.TarInfo(path)
        entry.type, entry.linkname = tarfile.SYMTYPE, target
        archive.addfile(entry)


def _inside(source: Path, tree: Path | None) -> str:
    if tree and source.is_relative_to(tree):
        return source.relative_to(tree).as_posix()
    return source.as_posix().lstrip("/")


def _has(engine: Engine, image: str) -> bool:
    try:
        engine.docker("image", "inspect", "--format", "{{.Id}}", image)
    except EngineFailed:
        return False
    return True


def _pulled(engine: Engine, image: str) -> bool:
    try:
        engine.docker("pull", "--quiet", image, timeout=PULL_SECONDS)
    except EngineFailed as failed:
        print(f"compose: {image} cannot be pulled ({failed.last_words}); a stand-in takes its place", flush=True)
        return False
    return True


def _stand_in(engine: Engine, stand_in: StandIn) -> str:
    programs = {name: program(name) for name in stand_in.programs.values()}
    tree = _tree_of(programs.values())
    if stand_in.beside and tree is None:  # found from where a program lies, not from where a link to it does
        programs = {name: replace(found, path=found.path.resolve()) for name, found in programs.items()}
    closure = {path for found in programs.values() for path in libraries(_ldd(found))}
    placed: dict[str, Path] = {}
    if stand_in.java:
        home = java_home()
        placed |= {f"{stand_in.java}/{path.relative_to(home)}": path for path in home.rglob("*") if path.is_file()}
        closure |= _linked_by_java(home)
    if stand_in.jars:
        placed |= {f"{stand_in.jars}/{path.name}": path for path in jars(stand_in.name)}
    if tree is None:
        found_beside = (path for pattern in stand_in.beside for path in Path("/").glob(pattern))
        placed |= {str(path): path for path in found_beside if path.is_file()}
    if stand_in.shell:
        placed |= {"/bin/sh": Path("/bin/sh").resolve(), "/etc/passwd": PASSWD}
        closure |= set(libraries(_ldd(Program(placed["/bin/sh"]))))
    held = contents(stand_in, programs, closure, tree, placed)
    image = f"coordkit-stand-in/{stand_in.name}:{held.digest}"
    if not _has(engine, image):
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as archive:
            write(held, archive)
        search = ":".join(held.library_directories)
        change = ["--change", f"WORKDIR {stand_in.working_directory}"]
        if search:
            change += ["--change", f"ENV LD_LIBRARY_PATH={search}"]
        engine.docker("import", *change, "-", image, given=packed.getvalue())
    return image


def _linked_by_java(home: Path) -> set[Path]:
    """The machine's libraries that a Java needs. What draws windows may lack its own: no server does."""
    found: set[Path] = set()
    for own in (home / "bin" / "java", *home.glob("lib/**/*.so")):
        with suppress(Unlinked):
            found |= {path for path in libraries(_ldd(Program(own))) if not path.is_relative_to(home)}
    return found


def _ldd(found: Program) -> str:
    done = subprocess.run(
        ["ldd", str(found.path)],
        env=os.environ | found.environment | {"LC_ALL": "C"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,  # it fails for a program that is linked statically
    )
    return done.stdout


def _tree_of(programs: Iterable[Program]) -> Path | None:
    """The unpacked packages that the programs come from, unless they are installed."""
    for found in programs:
        if found.path.is_relative_to(CACHE):
            return CACHE / found.path.relative_to(CACHE).parts[0]
    return None
