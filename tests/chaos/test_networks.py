"""The harness itself: hosts that are cut in the direction that was asked for, full disks, and nothing left of them.

The rule: what a test says that it does to a network or a disk is done, seen by programs that know nothing of it.
"""

from __future__ import annotations

import errno
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.servers.disks import Disk
from tests.servers.local import Place
from tests.servers.namespaces import Network
from tests.servers.rights import PREFIX, NotAllowed, located, run
from tests.support.rights import lacking

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(60)]

PORT = 4000
PATIENCE = 10.0  # s: for an answer
LOST = 1.0  # s: for one that is not to come
LISTEN = """
import socket, sys
heard = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
heard.bind((sys.argv[1], int(sys.argv[2])))
print("ready", flush=True)
while True:
    said, asker = heard.recvfrom(100)
    print(said.decode(), flush=True)
    heard.sendto(b"heard", asker)
"""
ASK = """
import socket, sys
asking = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
asking.settimeout(float(sys.argv[3]))
asking.sendto(sys.argv[4].encode(), (sys.argv[1], int(sys.argv[2])))
try:
    print(asking.recv(100).decode())
except TimeoutError:
    print("nothing")
"""


@pytest.fixture
def network() -> Iterator[Network]:
    try:
        made = Network(["a", "b", "c"])
    except NotAllowed as reason:
        lacking(f"network namespaces: {reason}")
    with made:
        yield made


class Listener:
    """A program on a host, which tells what it hears and answers it."""

    def __init__(self, place: Place) -> None:
        command = [*place.before, sys.executable, "-c", LISTEN, place.host, str(PORT)]
        self.place = place
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.line() == "ready"

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


def ask(place: Place, other: Place, words: str, patience: float = PATIENCE) -> str:
    """What comes back to the one host from the other."""
    command = [*place.before, sys.executable, "-c", ASK, other.host, str(PORT), str(patience), words]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()


def test_a_cut_is_of_the_direction_and_the_pair_that_was_asked_for(network: Network) -> None:
    a, b, c = network.some("a", "b", "c")
    with closing(Listener(a)) as listener:
        assert (ask(b, a, "one"), listener.line()) == ("heard", "one")
        network.drop(["a"], ["b"])
        assert ask(b, a, "two", LOST) == "nothing"
        assert listener.line() == "two"  # it was heard; the answer was lost
        assert (network.dropped("b"), network.dropped("a")) == (1, 0)
        assert (ask(c, a, "three"), listener.line()) == ("heard", "three")
        network.heal()
        network.drop(["b"], ["a"])
        assert ask(b, a, "never", LOST) == "nothing"
        network.part(["a"], ["b", "c"])
        assert ask(c, a, "never", LOST) == "nothing"
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ours:  # the tests reach all, whatever is cut
            ours.settimeout(10.0)
            ours.sendto(b"four", (a.host, PORT))
            assert (ours.recv(100), listener.line()) == (b"heard", "four")
        network.heal()
        assert (ask(b, a, "five"), listener.line()) == ("heard", "five")


def test_nothing_is_left_of_a_network(network: Network) -> None:
    names = [place.before[-1] for place in network.some("a", "b", "c")]
    there = run([located("ip"), "netns", "list"])
    assert all(name in there for name in names)
    left = f"{PREFIX}-{dead()}-left"
    run([located("ip"), "netns", "add", left])  # by a process that was killed
    network.close()
    with Network(["a"]):
        there = run([located("ip"), "netns", "list"])
        assert not any(name in there for name in (*names, left))


def test_a_disk_is_full_until_there_is_room(tmp_path: Path) -> None:
    left = tmp_path / "left"
    try:
        disk = Disk(tmp_path / "disk", 1)
    except NotAllowed as reason:
        lacking(f"small disks: {reason}")
    with disk:
        assert disk.fill() >= 1_000_000
        with pytest.raises(OSError, match="No space") as full:
            (disk.folder / "more").write_bytes(b"x")
        assert full.value.errno == errno.ENOSPC
        disk.make_room()
        (disk.folder / "more").write_bytes(b"x" * 1000)
        left.mkdir()
        run([located("mount"), "-t", "tmpfs", "-o", "size=1m", f"{PREFIX}-{dead()}-disk", str(left)])
        with Disk(tmp_path / "another", 1):
            assert not left.is_mount()
    assert not disk.folder.is_mount()


def dead() -> int:
    """The pid of a process that has ended."""
    with subprocess.Popen(["/bin/true"]) as process:
        process.wait()
    return process.pid
