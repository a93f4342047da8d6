"""Hosts of a test's own: network namespaces on one bridge, between which packets can be dropped in one direction.

The rule: who drops is the receiver, by nftables in its own namespace; so a cut is of one direction, and of exactly the
pairs that are named. Nothing is done to the machine's own network but one interface by which the tests reach the hosts.
All names have the pid of who made them: they are removed in the end, and those of a process that was killed by the
next one.
"""

from __future__ import annotations

import fcntl
import os
import random
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import Self

from tests.servers.local import Place
from tests.servers.rights import PREFIX, NotAllowed, left_behind, located, root_with, run

HARNESS = 254  # the tests' own last number; the hosts count from 1
NETWORKS = 200  # how many of 198.18.0.0/15, which is set aside for tests of networks, are tried
LOCK = Path(tempfile.gettempdir(), f"{PREFIX}-namespaces.lock")


class Network:
    """Hosts that reach each other and the tests, until they are cut. As a context manager: removed in the end.

    `NotAllowed` where that is impossible. Not for several threads at once.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._cuts: set[tuple[str, str]] = set()  # from whom, to whom
        self._run = f"{PREFIX}-{os.getpid()}-{random.SystemRandom().getrandbits(24):06x}"
        self.places: dict[str, Place] = {}
        root_with("network namespaces", "ip", "nft", packages="iproute2 nftables")
        try:
            with open(LOCK, "w", encoding="ascii") as lock:  # others look for a free network at the same time
                fcntl.flock(lock, fcntl.LOCK_EX)
                _sweep()
                self._make(names)
        except BaseException:
            self.close()
            raise

    def __getitem__(self, name: str) -> Place:
        return self.places[name]

    def some(self, *names: str) -> tuple[Place, ...]:
        """These hosts, in this order."""
        return tuple(self.places[name] for name in names)

    def drop(self, sources: Iterable[str], targets: Iterable[str]) -> None:
        """From now on no packet of these sources reaches these targets; the other direction is as it was."""
        self._cuts |= {(source, target) for source, target in product(sources, targets) if source != target}
        self._apply()

    def part(self, one: Iterable[str], other: Iterable[str]) -> None:
        """No packet passes between these two groups, in neither direction."""
        left, right = tuple(one), tuple(other)
        self._cuts |= {pair for pair in (*product(left, right), *product(right, left)) if pair[0] != pair[1]}
        self._apply()

    def heal(self) -> None:
        """All packets pass again."""
        self._cuts.clear()
        self._apply()

    def dropped(self, name: str) -> int:
        """How many packets this host has dropped since its rules were last changed."""
        listed = self._inside(name, "nft", "list", "table", "inet", PREFIX)
        words = listed.split()
        return sum(int(words[at + 1]) for at, word in enumerate(words) if word == "packets")

    def close(self) -> None:
        """Remove all; harmless twice. Processes that still run there are cut from everybody."""
        for name in _existing():
            if name.startswith(f"{self._run}-"):
                _remove(name)
        self.places = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- within ------------------------------------------------------------------------------------------

    def _make(self, names: Sequence[str]) -> None:
        network = _free_network()
        switch = f"{self._run}-switch"
        ours = self._run.removeprefix(f"{PREFIX}-").replace("-", "")[-12:]  # an interface's name has 15 letters at most
        _ip(f"netns add {switch}")
        _ip_in(switch, "link add bridge type bridge", "link set bridge up")
        _ip(
            f"link add ck{ours} type veth peer name harness netns {switch}",
            f"address add {network}.{HARNESS}/24 dev ck{ours}",
            f"link set ck{ours} up",
        )
        _ip_in(switch, "link set harness master bridge", "link set harness up")
        for number, name in enumerate(names, start=1):
            namespace, host = f"{self._run}-{name}", f"{network}.{number}"
            _ip(f"netns add {namespace}")
            _ip_in(switch, f"link add port{number} type veth peer name eth0 netns {namespace}")
            _ip_in(switch, f"link set port{number} master bridge", f"link set port{number} up")
            _ip_in(namespace, "link set lo up", f"address add {host}/24 dev eth0", "link set eth0 up")
            self.places[name] = Place(name, host, (located("ip"), "netns", "exec", namespace))
        self._apply()

    def _apply(self) -> None:
        """One transaction in each namespace. The targets of a cut are changed one after the other."""
        for name in self.places:
            dropped = sorted(self.places[source].host for source, target in self._cuts if target == name)
            rules = "".join(f"  ip saddr {host} counter drop\n" for host in dropped)
            self._inside(
                name,
                *("nft", "-f", "-"),
                given=f"table inet {PREFIX} {{}}\ndelete table inet {PREFIX}\ntable inet {PREFIX} {{\n"
                f" chain input {{\n  type filter hook input priority 0; policy accept;\n{rules} }}\n}}\n",
            )

    def _inside(self, name: str, program: str, *arguments: str, given: str = "") -> str:
        return run([*self.places[name].before, located(program), *arguments], given)


def _ip(*lines: str) -> None:
    run([located("ip"), "-batch", "-"], "\n".join(lines) + "\n")


def _ip_in(namespace: str, *lines: str) -> None:
    run([located("ip"), "-netns", namespace, "-batch", "-"], "\n".join(lines) + "\n")


def _existing() -> list[str]:
    return [line.split()[0] for line in run([located("ip"), "netns", "list"]).splitlines() if line.strip()]


def _remove(name: str) -> None:
    with suppress(NotAllowed):  # somebody else has swept it
        run([located("ip"), "netns", "delete", name])


def _sweep() -> None:
    """What a process has left that was killed."""
    for name in _existing():
        if left_behind(name):
            _remove(name)


def _free_network() -> str:
    """The first three numbers of a network that no interface of this machine has."""
    taken = run([located("ip"), "-o", "-4", "address"])
    for number in range(1, NETWORKS):
        if f" 198.18.{number}." not in taken:
            return f"198.18.{number}"
    raise NotAllowed("no network of 198.18.0.0/16 is free")
