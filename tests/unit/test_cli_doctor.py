"""`coordkit doctor` in process: exit codes, the report for people and for programs, mistakes in one line."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from coordkit import Guarantees
from coordkit.cli import doctor_command, main
from coordkit.cli.doctor_command import WIDTH
from coordkit.doctor import Diagnosis
from coordkit.errors import BackendNotInstalled
from coordkit.findings import Finding, Progress, Question, Step, failed, ok, unchecked, warning

PROMISED = Guarantees("theirs", "a counter", True, ("a crash",), ("a restore",))
OK = ok("connection", "opened", "a candidate gets in")
WARNING = warning("members", "2 members", "no better than 1", "add one")
FAILED = failed("alarms", "NOSPACE", "nobody new can lead", "compact it")
UNCHECKED = unchecked("keys", "not looked at, for want of the connection")


@dataclass(frozen=True)
class Done:
    """A command line that has run."""

    code: int
    out: str
    err: str


Command = Callable[..., Done]


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Run a command line in this process."""
    monkeypatch.setenv("COORDKIT_URL", "memory://cli-doctor")

    def run(*arguments: str) -> Done:
        code = main(arguments)
        read = capfd.readouterr()
        return Done(code, read.out, read.err)

    return run


@pytest.fixture
def finds(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let the examination find these."""

    def found(*findings: Finding, url: str = "theirs://h") -> None:
        diagnosis = Diagnosis(url, PROMISED, findings)
        monkeypatch.setattr(doctor_command, "examine", lambda *_, **__: diagnosis)

    return found


@pytest.mark.parametrize(
    ("findings", "code", "says"),
    [
        ((OK,), 0, "no promise is broken, 0 warnings"),
        ((OK, WARNING), 0, "no promise is broken, 1 warning"),
        ((WARNING, WARNING, UNCHECKED), 0, "no promise is broken, 2 warnings, 1 thing could not be looked at"),
        ((OK, FAILED), 1, "1 promise is broken, 0 warnings"),
        (
            (FAILED, FAILED, UNCHECKED, UNCHECKED),
            1,
            "2 promises are broken, 0 warnings, 2 things could not be looked at",
        ),
    ],
)
def test_the_exit_code_and_the_last_line_tell_whether_a_promise_is_broken(
    cli: Command, finds: Callable[..., None], findings: tuple[Finding, ...], code: int, says: str
) -> None:
    finds(*findings)
    done = cli("doctor")
    assert (done.code, done.err) == (code, "")
    assert done.out.splitlines()[-1] == says
    assert cli("doctor", "--json").code == code


def test_the_report_says_what_was_seen_what_it_means_and_what_to_do(cli: Command, finds: Callable[..., None]) -> None:
    finds(OK, WARNING, UNCHECKED)
    assert cli("doctor").out.splitlines()[:-1] == [
        "theirs://h",
        "ok         connection  opened",
        "                       so: a candidate gets in",
        "warning    members     2 members",
        "                       so: no better than 1",
        "                       do: add one",
        "unchecked  keys        not looked at, for want of the connection",
    ]


def test_it_fits_into_80_columns_whatever_was_found(cli: Command, finds: Callable[..., None]) -> None:
    word = "x" * 200
    finds(ok("a", word, "so " * 60), warning("b", "several words " * 20, word, word))
    for line in cli("doctor").out.splitlines()[1:]:
        assert len(line) <= WIDTH
        assert line == line.rstrip()


def test_what_a_store_says_is_shown_as_text_alone(cli: Command, finds: Callable[..., None]) -> None:
    finds(ok("keys", "a\x1b[31mred\n\udc80 [bold]x[/bold] :smile:", "\x07"))
    out = cli("doctor").out
    assert "\x1b" not in out
    assert "\x07" not in out
    assert r"a\x1b[31mred \udc80 [bold]x[/bold] :smile:" in out
    finds(ok("keys", "a\x1b\n\udc80"))
    assert json.loads(cli("doctor", "--json").out)["findings"][0]["detail"] == "a\x1b\n\udc80"


def test_json_is_one_object_with_all_of_it(cli: Command, finds: Callable[..., None]) -> None:
    finds(OK, FAILED)
    shown: dict[str, Any] = json.loads(cli("doctor", "--json").out)
    assert shown == {
        "url": "theirs://h",
        "backend": "theirs",
        "ok": False,
        "guarantees": {
            "backend": "theirs",
            "token": "a counter",
            "fifo": True,
            "survives": ["a crash"],
            "not_covered": ["a restore"],
        },
        "findings": [
            {
                "check": "connection",
                "verdict": "ok",
                "detail": "opened",
                "meaning": "a candidate gets in",
                "remedy": "",
            },
            {
                "check": "alarms",
                "verdict": "failed",
                "detail": "NOSPACE",
                "meaning": "nobody new can lead",
                "remedy": "compact it",
            },
        ],
    }


def test_the_url_is_an_argument_or_comes_by_the_environment(
    cli: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert cli("doctor").out.startswith("memory://cli-doctor\n")
    assert cli("doctor", "memory://other").out.startswith("memory://other\n")
    monkeypatch.delenv("COORDKIT_URL")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    done = cli("doctor")
    assert done.code == 0
    assert done.err.startswith("coordkit: no URL and no COORDKIT_URL: sqlite://")
    assert list((tmp_path / "coordkit").iterdir()) == [], "it only looks"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["foo://x"], "the scheme 'foo' is none of"),
        (["memory://x", "more"], "unexpected extra argument"),
        (["--timeout", "0"], "--timeout must be finite and > 0 seconds"),
        (["--ttl", "-1"], "--ttl must be finite and > 0 seconds"),
        (["--ttl", "soon"], "'soon' is not a valid float"),
        (["--nope"], "No such option"),
        (["etcd://127.0.0.1:1", "--init"], "etcd:// needs no --init"),
        (["zookeeper://127.0.0.1:1", "--replace", "a=b"], "zookeeper:// needs no --replace"),
        (["sqlite:///nowhere/x.db", "--init", "--yes"], "sqlite:// needs no --init"),
        (["sqlite:///nowhere/x.db", "--forget", "x"], "sqlite:// needs no --forget"),
        (["memory://x", "--forget", ""], "memory:// needs no --forget"),
        (["redis://x", "--init", "--forget", "x"], "--init and --forget are done one after the other"),
        (["redis://x", "--forget", "a//b"], "segments joined by '/'"),
        (["redis+quorum://a,b,c", "--replace", "a"], "--replace reads OLD=NEW"),
        (["memory://x", "--init"], "memory:// needs no --init"),
    ],
)
def test_a_mistake_is_one_line_and_2(cli: Command, arguments: list[str], says: str) -> None:
    done = cli("doctor", *arguments)
    assert (done.code, done.out) == (2, "")
    assert says in done.err
    assert done.err.count("\n") == 1


@pytest.fixture
def mends(monkeypatch: pytest.MonkeyPatch, finds: Callable[..., None]) -> list[object]:
    """A repair that asks one question; what it was asked for, and each thing that it has done."""
    done: list[object] = []

    def steps(*asked: str) -> Iterator[Step]:
        done.append(asked)
        try:
            yield Progress("looking\n")
            yield Question("Is it new")
            done.append("marked")
            yield ok("init", "a: marked")
        finally:
            done.append("over")

    finds(OK)
    monkeypatch.setattr(doctor_command, "mend", steps)
    return done


def test_a_repair_tells_how_it_goes_and_what_it_did_before_all_else(cli: Command, mends: list[object]) -> None:
    done = cli("doctor", "redis://x", "--init", "--yes")
    assert (done.code, done.err) == (0, "coordkit: looking\n")
    assert [line.split()[1] for line in done.out.splitlines()[1:3]] == ["init", "connection"]
    assert mends == [("redis://x", "--init", ""), "marked", "over"]
    shown = json.loads(cli("doctor", "redis://x", "--replace", "a=b", "--yes", "--json").out)
    assert [each["check"] for each in shown["findings"]] == ["init", "connection"]
    assert mends[3] == ("redis://x", "--replace", "a=b")


@pytest.mark.parametrize(("answer", "code", "did"), [("y\n", 0, ["marked"]), ("n\n", 130, []), ("", 130, [])])
def test_a_repair_that_wants_the_operators_word_goes_on_with_it_alone(
    cli: Command, mends: list[object], monkeypatch: pytest.MonkeyPatch, answer: str, code: int, did: list[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(answer))
    done = cli("doctor", "redis://x", "--init")
    assert done.code == code
    assert "Is it new [y/N]:" in done.err
    assert mends == [("redis://x", "--init", ""), *did, "over"]


def test_a_package_that_is_not_there_is_69(cli: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> Diagnosis:
        raise BackendNotInstalled("x is not installed")

    monkeypatch.setattr(doctor_command, "examine", missing)
    assert cli("doctor") == Done(69, "", "coordkit: x is not installed\n")
