"""How servers are found and fetched, with a made-up catalogue and something else in place of apt."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from tests.servers import Missing, Need, fetch

NEED = Need("oracle", ("oracled", "oracle-tools"), programs=("oracled",), libraries=("liboracle.so.9",))
MENDS = "this mends it: apt-get install -y oracled oracle-tools"


class Apt:
    """Stands for the commands that fetch and unpack; `contents` is what the packages hold."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.contents = ["usr/sbin/oracled", "usr/lib/x86_64-linux-gnu/oracle/liboracle.so.9"]
        self.fails_at = ""

    def run(self, need: Need, *command: str) -> None:
        step = next(word for word in command if word in ("update", "install", "--extract"))
        self.asked.append(step)
        if step == self.fails_at:
            raise Missing(need, f"{command[0]} failed")
        if step == "install":
            (cache,) = (word.partition("=")[2] for word in command if word.startswith("Dir::Cache="))
            Path(cache, "archives", "oracled.deb").touch()
        if step == "--extract":
            for name in self.contents:
                path = Path(command[-1], name)
                path.parent.mkdir(parents=True)
                path.touch(mode=0o755)


@pytest.fixture
def apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Apt:
    apt = Apt()
    monkeypatch.setattr(fetch, "CATALOGUE", (NEED,))
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
