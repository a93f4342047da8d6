"""Which process is at the other end of a connection over loopback.

The rule: the kernel is asked, at the moment of the connection. /proc/net/tcp tells a connection's inode, /proc/<pid>/fd
who has it open. That needs no root for processes of one's own.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

TABLES = ("/proc/net/tcp", "/proc/net/tcp6")


def owner(local_port: int, remote_port: int, pids: Iterable[int]) -> int | None:
    """Which of these processes has the socket that goes from one port to the other; None: none of them."""
    inode = _inode(local_port, remote_port)
    if inode is None:
        return None
    return next((pid for pid in pids if _has_open(pid, f"socket:[{inode}]")), None)


def _inode(local_port: int, remote_port: int) -> str | None:
    ends = (f":{local_port:04X}", f":{remote_port:04X}")
    for table in TABLES:
        if not os.path.exists(table):  # a kernel without IPv6
            continue
        with open(table, encoding="ascii") as lines:
            next(lines)
            for line in lines:
                _, local, remote, *rest = line.split()
                if local.endswith(ends[0]) and remote.endswith(ends[1]) and rest[6] != "0":
                    return rest[6]
    return None


def _has_open(pid: int, link: str) -> bool:
    folder = f"/proc/{pid}/fd"
    try:
        numbers = os.listdir(folder)
    except (FileNotFoundError, ProcessLookupError, PermissionError):  # it has ended, or is about to be reaped
        return False
    return any(_target(f"{folder}/{number}") == link for number in numbers)


def _target(path: str) -> str:
    try:
        return os.readlink(path)
    except FileNotFoundError:  # closed since it was listed
        return ""
