"""Forks: what a child inherits is refused at once or starts afresh, and its parent's term does not notice.

The rule: the parent of every scene is a process of its own, so that nothing of pytest is forked.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from coordkit.audit import judge, parse
from tests.integration import fork_scenes as scenes
from tests.support.children import Child, took

pytestmark = [pytest.mark.backend("sqlite"), pytest.mark.timeout(100)]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "leader.db"


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    return {"COORDKIT_JOURNAL": str(tmp_path / "journal")}


def is_intact(file: Path) -> bool:
    with closing(sqlite3.connect(file)) as connection:
        return connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def is_lawful(tmp_path: Path) -> bool:
    records, cut = parse((tmp_path / "journal").read_bytes())
    report = judge(records, cut=cut)
    assert report.ok, report.violations
    return report.terms > 0


def test_an_elector_made_before_the_fork_starts_afresh_in_each_child(
    file: Path, env: dict[str, str], tmp_path: Path
) -> None:
    with Child(scenes.preload, f"sqlite://{file}", env=env) as parent:
        led = [parent.expect("led").split() for _ in range(4)]
        assert parent.expect("exits") == "0 0 0 0"
        led.append(parent.expect("led").split())
        assert parent.exit_code() == 0
        assert parent.complaints == ""
    pids, tokens, ids = zip(*led, strict=True)
    assert len(set(pids)) == len(set(ids)) == 5
    assert [int(token) for token in tokens] == sorted(int(token) for token in tokens)
    assert len(set(tokens)) == 5
    assert pids[-1] == str(parent.pid)
    assert is_lawful(tmp_path)


def test_what_was_open_is_refused_in_the_child_at_once_and_stays_valid_in_the_parent(
    file: Path, env: dict[str, str], tmp_path: Path
) -> None:
    with Child(scenes.open_term, f"sqlite://{file}", env=env) as parent:
        assert parent.line() == "child 0"
        assert parent.line() == "ended False []"
        parent.expect("parent")
        assert parent.exit_code() == 0
        assert "Traceback" not in parent.errors, parent.errors
    assert is_intact(file)
    assert is_lawful(tmp_path)


@pytest.mark.parametrize(("how", "code"), [("sys.exit", 3), ("os._exit", 3), ("exception", 1), ("the end", 0)], ids=str)
def test_a_child_that_leaves_the_parents_block_disturbs_nothing(
    how: str, code: int, file: Path, env: dict[str, str], tmp_path: Path
) -> None:
    with Child(scenes.block_across_forks, f"sqlite://{file}", how, env=env) as parent:
        parent.expect("leads")
        assert parent.expect("exit") == str(code)
        assert parent.expect("ended") == "False"
        parent.expect("left")
        assert parent.exit_code() == 0
        assert ("in the child" in parent.errors) == (how == "exception")
    assert is_intact(file)
    assert is_lawful(tmp_path)


def test_fifty_forks_while_the_parent_renews(file: Path, env: dict[str, str], tmp_path: Path) -> None:
    with Child(scenes.many_forks, f"sqlite://{file}", 50, env=env) as parent:
        assert parent.expect("codes", 60) == "0 50"
        assert float(parent.expect("slowest")) < 3.0
        assert parent.expect("parent") == "[] True"
        assert parent.exit_code() == 0
        assert "Traceback" not in parent.errors, parent.errors
    assert is_intact(file)
    assert is_lawful(tmp_path)


def test_a_fork_while_the_files_thread_waits_for_a_lock(file: Path, env: dict[str, str], tmp_path: Path) -> None:
    with Child(scenes.fork_while_busy, f"sqlite://{file}", file, env=env) as parent:
        parent.expect("leads")
        with closing(sqlite3.connect(file, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            parent.tell("locked")
            both = [parent.line(), parent.line()]  # the child and the parent, in any order
            connection.execute("ROLLBACK")
        assert {line.split()[0] for line in both} == {"child", "forked"}
        assert all(float(line.split()[1]) < 3.0 for line in both), both
        parent.expect("child-led")
        assert parent.expect("exit") == "0"
        assert parent.expect("parent") == "[] True"
        assert parent.exit_code() == 0
    assert is_intact(file)
    assert is_lawful(tmp_path)


def test_workers_of_a_prefork_server_follow_each_other(file: Path, env: dict[str, str], tmp_path: Path) -> None:
    tokens = []
    with Child(scenes.prefork_server, f"sqlite://{file}", env=env) as master:
        for _ in range(4):
            with took(most=10.0):
                pid, token = master.expect("leads").split()
            tokens.append(int(token))
            if len(tokens) < 4:
                master.tell(pid)
        master.tell("over")
        master.expect("over")
        assert master.exit_code() == 0
    assert tokens == sorted(set(tokens))
    assert is_lawful(tmp_path)
