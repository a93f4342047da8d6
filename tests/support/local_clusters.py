"""How a cluster of local processes fails to start, and ends, whatever its servers are.

The rule: what has ended is told by the kernel: no process, nobody who listens, no thread of a proxy.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.servers.cluster import Cluster, NotReady
from tests.servers.local import LocalMember
from tests.support.children import PATIENCE, Child, hear, say


def leaves_nothing(cluster: Cluster[LocalMember], *, proxies: int) -> None:
    """Once it is closed no server is left, one of them paused, and none of so many proxies; it may be closed again."""
    with cluster:
        pids = [member.pid for member in cluster.members]
        threads = [thread for thread in threading.enumerate() if thread.name.startswith("proxy-")]
        cluster.members[0].pause()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    for member in cluster.members:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((member.host, member.port))
    assert len(threads) >= proxies
    assert sum(thread.is_alive() for thread in threads) == len(threads) - proxies
    cluster.close()


def tells_why_it_cannot_start(cluster: Cluster[Any], words: str) -> None:
    """The error has the first server's last words, which are searched for these."""
    name = cluster.members[0].name
    with pytest.raises(NotReady, match=rf"(?s){name} is down.*{words}"), cluster:
        pytest.fail("it started")


def stays(cluster: Cluster[LocalMember]) -> None:
    """In a scene: a cluster of one that runs tells its server's pid, and is there until its process is ended."""
    (member,) = cluster.members
    say("pid", member.pid)
    hear()


def ends_with_its_process(scene: Callable[[str], None], folder: Path) -> None:
    """A scene that is given a folder and `stays`: when it is killed, its server ends too."""
    with Child(scene, folder) as child:
        server = os.pidfd_open(int(child.expect("pid")))
        child.send(signal.SIGKILL)
        try:
            ended, _, _ = select.select([server], [], [], PATIENCE)
        finally:
            os.close(server)
    assert ended
