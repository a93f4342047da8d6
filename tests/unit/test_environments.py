"""Environments for tests: made once, whole or not at all. Nothing is fetched here."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from tests.support import environments
from tests.support.environments import NotMade, environment


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(environments, "CACHE", tmp_path / "environments")
    return tmp_path / "environments"


def folders(cache: Path) -> list[str]:
    return [path.name for path in cache.iterdir() if path.is_dir()]


def test_one_makes_it_and_the_others_wait(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed: list[Path] = []
    all_ask = threading.Barrier(4)
    found: list[Path] = []
    monkeypatch.setattr(environments, "_install", lambda python, requirements: installed.append(python))

    def ask() -> None:
        all_ask.wait()
        found.append(environment("one", "two").python)

    crowd = [threading.Thread(target=ask) for _ in range(4)]
    for thread in crowd:
        thread.start()
    for thread in crowd:
        thread.join()
    assert len(installed) == 1
    assert len(found) == 4
    (python,) = set(found)
    assert python.exists()
    assert environment("two", "one").python == python  # in whatever order
    assert len(installed) == 1
    assert environment("two").python != python
    assert len(folders(cache)) == 2


def test_a_failure_leaves_nothing(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(python: Path, requirements: tuple[str, ...]) -> None:
        assert python.exists()
        raise NotMade("no network")

    monkeypatch.setattr(environments, "_install", refuse)
    with pytest.raises(NotMade, match="no network"):
        environment("one")
    assert folders(cache) == []


def test_it_is_not_there_before_it_is_whole(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    during: list[list[str]] = []
    monkeypatch.setattr(environments, "_install", lambda python, requirements: during.append(folders(cache)))
    place = environment("one").python.parents[1]
    assert place.name not in during[0]
    assert folders(cache) == [place.name]
