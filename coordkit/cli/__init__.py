"""The command line: `coordkit`, or `python -m coordkit`. Importing this needs no package but coordkit.

The rule: a mistake of the user's is one line on stderr and a documented exit code, never a traceback, never a
password.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

UNAVAILABLE = 69  # EX_UNAVAILABLE of sysexits.h: a program or service that is needed is not there
INTERRUPTED = 130  # as a shell counts a Ctrl-C


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code; 69 if the packages of the extra `cli` are not installed."""
    try:
        from coordkit.cli.commands import run_command_line

        return run_command_line(arguments)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("click", "rich"):
            raise
        print(f"coordkit: {error.name} is not installed: pip install 'coordkit[cli]'", file=sys.stderr)
        return UNAVAILABLE
    except KeyboardInterrupt:
        return INTERRUPTED
