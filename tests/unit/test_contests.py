"""What judges a contest can fail it: stale writes are found, and a machine without the rights is no pass."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from coordkit import FencingToken
from tests.servers import rights
from tests.support import writes
from tests.support.rights import lacking


def records(folder: Path, *lines: tuple[str, int, str, float]) -> None:
    fields = ("event", "token", "write", "boot")
    text = "".join(json.dumps(dict(zip(fields, line, strict=True))) + "\n" for line in lines)
    (folder / "writes").write_text(text, encoding="ascii")


def test_a_stale_write_that_was_accepted_is_found(tmp_path: Path) -> None:
    records(
        tmp_path,
        ("tried", 1, "a", 1.0),
        ("accepted", 1, "a", 1.1),
        ("tried", 2, "b", 2.0),
        ("accepted", 2, "b", 2.1),
        ("tried", 1, "c", 2.2),
        ("accepted", 1, "c", 2.3),
    )
    found = writes.read(tmp_path)
    assert [record["write"] for record in found.stale] == ["c"]
    assert found.tokens == (1, 2)


def test_writes_that_were_under_way_together_are_no_proof(tmp_path: Path) -> None:
    records(
        tmp_path,
        ("tried", 1, "a", 1.0),
        ("tried", 2, "b", 1.1),
        ("accepted", 2, "b", 1.2),
        ("accepted", 1, "a", 1.3),
    )
    assert writes.read(tmp_path).stale == ()


def test_a_writer_records_what_the_fence_has_said(tmp_path: Path) -> None:
    writer = writes.Writer(tmp_path)
    assert writer.write(FencingToken("x", 2))
    assert not writer.write(FencingToken("x", 1))
    found = writes.read(tmp_path)
    assert (dict(found.counts), found.tokens) == ({"tried": 2, "accepted": 1, "refused": 1}, (2,))
    os.close(writer._records)


def test_who_is_not_root_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(rights.NotAllowed, match="these need root"):
        rights.root_with("these", packages="none")


def test_a_missing_program_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(rights.NotAllowed, match="no-such-program; this mends it: apt-get install -y such"):
        rights.root_with("these", "no-such-program", packages="such")


@pytest.mark.parametrize(("ci", "outcome"), [("true", pytest.fail.Exception), ("", pytest.skip.Exception)])
def test_what_is_lacking_is_a_failure_in_ci(
    monkeypatch: pytest.MonkeyPatch, ci: str, outcome: type[BaseException]
) -> None:
    monkeypatch.setenv("CI", ci)
    with pytest.raises(outcome, match="not allowed here: hosts"):
        lacking("hosts")


@pytest.mark.parametrize(
    ("name", "left"),
    [(f"coordkit-{os.getpid()}-a", False), ("coordkit-x-a", False), ("other-1-a", False), ("coordkit-4194305-a", True)],
    ids=["of a living one", "no pid", "of others", "of a dead one"],
)
def test_what_a_process_has_left_is_known_by_its_pid(name: str, *, left: bool) -> None:
    assert rights.left_behind(name) is left  # there is no pid above 4194304
