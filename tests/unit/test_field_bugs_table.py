"""docs/field-bugs.md and the tests that it names."""

from __future__ import annotations

import re

from tests.support.children import ROOT

TEST = re.compile(r"^def (test_\w+_\w+)\(", re.MULTILINE)


def test_each_bug_in_the_table_has_its_test_and_each_test_its_line() -> None:
    table = re.findall(r"^\| .* \| `(test_\w+)` \|$", (ROOT / "docs/field-bugs.md").read_text("utf-8"), re.MULTILINE)
    files = sorted((ROOT / "tests/integration").glob("test_field_bugs_*.py"))
    tests = [name for file in files for name in TEST.findall(file.read_text("utf-8"))]
    mutants = [name for name in tests if "_comes_back_" in name]
    controls = [name for name in tests if "_is_what_" in name]
    assert sorted(table) == sorted(set(tests) - {*mutants, *controls})
    bugs = [re.match(r"test_[a-z_0-9]*?(\d{3,}|get_token)_", name) for name in table]
    for bug in bugs:
        assert bug is not None
        assert any(name.startswith(bug.group()) for name in mutants), f"no mutant for {bug.group()}"
