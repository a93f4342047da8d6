"""Write the table of expected tests anew, from what pytest collects: `python -m tests.update_expected`."""

from __future__ import annotations

import contextlib
import io
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.expected import TABLE, Cell, load, render, save


class Counting:
    """A pytest plugin that counts the collected tests of each suite and backend."""

    def __init__(self) -> None:
        self.counts: Counter[Cell] = Counter()

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        for item in session.items:
            properties = dict(item.user_properties)
            if backend := str(properties["backend"]):
                self.counts[str(properties["suite"]), backend] += 1


def main() -> int:
    counting = Counting()
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        status = pytest.main(["--collect-only", "-qq", str(Path(__file__).parent)], plugins=[counting])
    if status != pytest.ExitCode.OK:
        print(output.getvalue(), file=sys.stderr)
        return int(status)
    save(counting.counts)
    print(f"{TABLE.name} is written\n\n{render([], load())}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
