"""Being told by the kernel that a file was touched, without polling it. Linux only: inotify(7).

The rule: an event is a hint. Events may be merged, lost on overflow or come for nothing; whoever waits looks again.
"""

from __future__ import annotations

import ctypes
import os

from coordkit.clock import LINUX

# <sys/inotify.h>
IN_ATTRIB = 0x004
IN_DELETE_SELF = 0x400
IN_MOVE_SELF = 0x800
_IN_NONBLOCK = os.O_NONBLOCK
_IN_CLOEXEC = os.O_CLOEXEC


class FileEvents:
    """A file descriptor that becomes readable when a watched file is touched, moved or deleted."""

    def __init__(self) -> None:
        """Raises OSError where there is no inotify, or no instance of it is left."""
        if not LINUX:
            raise OSError("no inotify on this platform")
        self._libc = ctypes.CDLL(None, use_errno=True)
        self.fd = self._checked(self._libc.inotify_init1(_IN_NONBLOCK | _IN_CLOEXEC))

    def watch(self, path: str, mask: int) -> None:
        """Watch one file; watching it again is harmless."""
        self._checked(self._libc.inotify_add_watch(self.fd, os.fsencode(path), ctypes.c_uint32(mask)))

    def drain(self) -> None:
        """Forget the events read so far: what moved is looked up, not read from them."""
        try:
            while os.read(self.fd, 65536):
                pass
        except BlockingIOError:
            return

    def close(self) -> None:
        """Stop watching."""
        os.close(self.fd)

    def _checked(self, result: int) -> int:
        if result < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return result
