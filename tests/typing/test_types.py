"""mypy --strict and pyright agree with the public API: they understand its use, and find its misuse.

The rule: nothing is run but the checkers, as `make types` runs them. `right.py` must be without error; in `wrong.py`
each line that carries an ignore must be an error to both, and no other.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import coordkit

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
IGNORE = re.compile(r"  # type: ignore\[.*\]$")
CHECKED = ["coordkit", "tests/typing"]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    tool, *rest = arguments
    command = [sys.executable, "-m", tool, *rest]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)


def mypy(*paths: str) -> subprocess.CompletedProcess[str]:
    return run("mypy", "--strict", "--no-error-summary", "--hide-error-context", "--no-pretty", *paths)


def pyright(*paths: str) -> list[tuple[str, int, str]]:
    """File, line and message of every diagnostic, warnings too."""
    done = run("basedpyright", "--outputjson", *paths)
    found = json.loads(done.stdout)
    assert found["summary"]["filesAnalyzed"] > 0, done.stdout
    return [
        (Path(each["file"]).name, each["range"]["start"]["line"] + 1, each["message"])
        for each in found["generalDiagnostics"]
    ]


def test_mypy_has_nothing_to_say() -> None:
    done = mypy(*CHECKED)
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)


def test_pyright_has_nothing_to_say() -> None:
    assert pyright(*CHECKED) == []


@pytest.fixture(scope="module")
def unmarked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, set[int]]:
    """The misuse without its ignores, and the lines that had one."""
    lines = (HERE / "wrong.py").read_text(encoding="utf-8").splitlines()
    marked = {number for number, line in enumerate(lines, 1) if IGNORE.search(line)}
    assert len(marked) > 40
    path = tmp_path_factory.mktemp("typing") / "misuse.py"
    path.write_text("\n".join(IGNORE.sub("", line) for line in lines) + "\n", encoding="utf-8")
    return path, marked


def test_mypy_finds_each_misuse(unmarked: tuple[Path, set[int]]) -> None:
    path, marked = unmarked
    found = re.findall(r"misuse\.py:(\d+): error: ", mypy(str(path)).stdout)
    assert {int(line) for line in found} == marked


def test_pyright_finds_each_misuse(unmarked: tuple[Path, set[int]]) -> None:
    path, marked = unmarked
    assert {line for file, line, _ in pyright(str(path)) if file == "misuse.py"} == marked


def test_the_package_says_that_it_is_typed() -> None:
    assert (Path(coordkit.__file__).parent / "py.typed").is_file()
