"""The terms of a test's own process, judged.

The rule: what the test has seen of its terms proves little; their journal is judged as those of other processes are.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from coordkit.audit import judge, parse
from coordkit.engine import current
from coordkit.journal import FileJournal


@pytest.fixture
def judged(tmp_path: Path) -> Iterator[None]:
    """After the test: no two terms of one election have overlapped, and tokens have risen."""
    engine, path = current(), tmp_path / "journal"
    journal = FileJournal(str(path), pytest.fail)
    before, engine.journal = engine.journal, journal
    try:
        yield
    finally:
        engine.journal = before
        os.close(journal._file)
    records, cut = parse(path.read_bytes())
    report = judge(records, cut=cut)
    assert report.ok, report.violations
