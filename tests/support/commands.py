"""The command `coordkit`, run as a user runs it.

The rule: whatever goes wrong, what it writes is free of tracebacks and of passwords.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

from tests.support.children import ROOT
from tests.support.failing import MARK

# By name, with an election `x`: each gives up by itself, but for the one that waits for news.
COMMANDS: dict[str, Sequence[str]] = {
    "leader": ("leader", "--timeout", "1", "x"),
    "candidates": ("candidates", "--timeout", "1", "x"),
    "run": ("run", "--wait", "1", "x", "--", "true"),
    "run-no-wait": ("run", "--no-wait", "--ttl", "2", "x", "--", "true"),
}
OBSERVE = ("observe", "x")


def coordkit(url: str, *arguments: str, timeout: float = 30.0) -> subprocess.CompletedProcess[str]:
    """Run the command to its end; the URL comes by the environment."""
    done = subprocess.run(
        [sys.executable, "-m", "coordkit", *arguments],
        env=environment(url),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    for text in (done.stdout, done.stderr):
        assert "Traceback" not in text
        assert MARK not in text
    return done


def environment(url: str) -> dict[str, str]:
    """That of a command that is to use this URL."""
    return {**os.environ, "COORDKIT_URL": url, "PYTHONPATH": str(ROOT)}
