"""Waits until it is let through, then becomes the command. Run as `python -I -S gate.py FD COMMAND…`.

The rule: nothing of the command runs before its guard is armed. If the supervisor dies first, the pipe FD closes and
the command never runs. It imports nothing of coordkit.
"""

import os
import signal
import sys

OPEN = b"!"
NOT_LET_THROUGH = 125
NOT_EXECUTABLE = 126
NOT_FOUND = 127


def main(fd: int, command: list[str]) -> int:
    """Become the command; returns only if that was not possible, with the exit code that says why."""
    # Python's own settings are not the command's: it is to find what it would find without us.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    let_through = os.read(fd, 1) == OPEN
    os.close(fd)
    if not let_through:
        return NOT_LET_THROUGH
    for each in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(each, signal.SIG_DFL)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        sys.stderr.write(f"coordkit: {command[0]}: {error.strerror}\n")
        return NOT_FOUND if isinstance(error, (FileNotFoundError, NotADirectoryError)) else NOT_EXECUTABLE


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
