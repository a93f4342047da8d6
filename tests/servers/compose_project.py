"""One project of docker-compose.yml on an engine: brought up, found again by its labels, taken down without a trace.

The rule: containers, networks and volumes are found by the labels that compose gives them, never by names made up
here, for docker-compose 1.29 and Compose v2 name them differently. Whatever failed, `down` leaves nothing.
"""

from __future__ import annotations

import hashlib
import os
import random
import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path

from tests.servers import images
from tests.servers.compose_engine import Engine
from tests.servers.images import COMPOSE_FILE

PROJECT_VARIABLE = "COORDKIT_COMPOSE_PROJECT"
STANDING_PROJECT = "coordkit"  # of `make compose-up`
_PORT = re.compile(r'"127\.0\.0\.1:\$\{(COORDKIT_\w+_PORT):-\d+\}:\d+"')
PEERS_VARIABLE = "COORDKIT_PEERS"  # the first three numbers of the addresses on the network `peers`
# Below those that a kernel hands out to outgoing connections: a server that is down keeps its port for its return.
PORTS = range(20000, 32000)
NETWORKS_TRIED = 1000


@dataclass(frozen=True, slots=True)
class Project:
    """A project by its name. `variables` are for the file; whoever only finds what is there needs none."""

    engine: Engine
    name: str

    def up(self, variables: Mapping[str, str]) -> None:
        """Start all services; they need not be ready. Raises `EngineFailed`."""
        self.compose("up", "--detach", variables=variables)

    def down(self) -> None:
        """Remove containers, networks and volumes, whatever state they are in; harmless where there are none."""
        for container in self._listed("ps", "--filter", "status=paused"):
            self.engine.docker("unpause", container)
        # No grace: what a server would still write goes with its volume.
        self.compose("down", "--volumes", "--remove-orphans", "--timeout", "0", variables={})

    def compose(self, *arguments: str, variables: Mapping[str, str]) -> None:
        """Run a command of compose on this project."""
        self.engine.compose("-p", self.name, "-f", str(COMPOSE_FILE), *arguments, variables=variables)

    def container(self, service: str) -> str:
        """The id of a service's container, running or not; `LookupError` if it has none."""
        return self._one("ps", "service", service, "--all", "--no-trunc")

    def network(self, name: str) -> str:
        return self._one("network", "network", name)

    def peers(self) -> str:
        """The first three numbers of the addresses on the network `peers`."""
        template = "{{range .IPAM.Config}}{{.Subnet}}{{end}}"
        subnet = self.engine.docker("network", "inspect", "--format", template, self.network("peers"))
        return subnet.rpartition(".")[0]

    def volume(self, name: str) -> str:
        return self._one("volume", "volume", name)

    def _one(self, kind: str, label: str, name: str, *more: str) -> str:
        found = self._listed(kind, *more, "--filter", f"label=com.docker.compose.{label}={name}")
        if len(found) != 1:
            raise LookupError(f"{len(found)} of {label} {name} in project {self.name}; `make compose-up` brings it up")
        return found[0]

    def _listed(self, kind: str, *more: str) -> list[str]:
        command = (kind,) if kind == "ps" else (kind, "ls")
        label = f"label=com.docker.compose.project={self.name}"
        return self.engine.docker(*command, "--quiet", *more, "--filter", label).split()


@contextmanager
def brought_up(engine: Engine, name: str, variables: Mapping[str, str]) -> Iterator[Project]:
    """A project for a while. Remains of an earlier run go first; what this run made goes in the end."""
    project = Project(engine, name)
    project.down()
    try:
        project.up(variables)
        yield project
    finally:
        project.down()


def name_of_test_project() -> str:
    """One for each checkout, so that a run finds the remains of an earlier one that was killed."""
    return f"coordkit-test-{hashlib.sha256(str(COMPOSE_FILE).encode()).hexdigest()[:8]}"


def settled_images(engine: Engine) -> dict[str, str]:
    """The variables that give each service an image on this engine; raises `Missing`, `EngineFailed`."""
    return images.settle(engine, os.environ)


def free_network() -> dict[str, str]:
    """The variable that gives the network `peers` addresses that nothing on this machine has, unless it is set."""
    if os.environ.get(PEERS_VARIABLE):
        return {}
    taken = networks(Path("/proc/net/route").read_text(encoding="ascii"))
    for _ in range(NETWORKS_TRIED):
        prefix = f"10.{random.randrange(256)}.{random.randrange(256)}"
        if not any(IPv4Network(f"{prefix}.0/24").overlaps(network) for network in taken):
            return {PEERS_VARIABLE: prefix}
    return {}


def networks(routes: str) -> list[IPv4Network]:
    """Those that a kernel's table of routes (/proc/net/route) tells to be on this machine or near it."""
    found = []
    for line in routes.splitlines()[1:]:
        destination, mask = (int.from_bytes(bytes.fromhex(line.split()[column]), "little") for column in (1, 7))
        if mask:  # what is left is everything
            found.append(IPv4Network((destination, mask.bit_count())))
    return found


def free_ports() -> dict[str, str]:
    """The variables that publish each service on a free port, but for those that are set."""
    named = _PORT.findall(COMPOSE_FILE.read_text(encoding="utf-8"))
    wanted = [variable for variable in named if not os.environ.get(variable)]
    found: list[int] = []
    for port in random.sample(PORTS, k=200):
        if len(found) == len(wanted):
            break
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            found.append(port)
    return dict(zip(wanted, map(str, found), strict=True))
