"""A three-node etcd of docker-compose.yml, with the methods that every cluster of the tests has.

The rule: the cluster is found, not made: `python -m tests.servers.compose` brings it up and takes it down. What a
test does to a member is done by the engine: it is paused, killed and started as a container, cut off from the others
by being taken off the network `peers`, and gets a new container with a new volume when its data are to be gone.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from typing import Any

from tests.servers.compose_engine import running_engine
from tests.servers.compose_project import PROJECT_VARIABLE, STANDING_PROJECT, Project
from tests.servers.etcd import Etcd

SERVICES = ("etcd1", "etcd2", "etcd3")
CLIENT_PORT = "2379/tcp"


@dataclass(slots=True, eq=False)
class ComposeMember:
    """One member: a container that publishes a port. What it is doing is asked of the engine, never remembered."""

    project: Project
    name: str
    host: str
    port: int
    container: str  # its id: another one after `wipe`

    @property
    def pid(self) -> int:
        """Of the server, as this machine sees it; `LookupError` while it is not running."""
        state = self._inspected()["State"]
        if not state["Running"]:
            raise LookupError(f"{self.name} is not running")
        return int(state["Pid"])

    @property
    def running(self) -> bool:
        """True of a paused one too."""
        return bool(self._inspected()["State"]["Running"])

    @property
    def paused(self) -> bool:
        return bool(self._inspected()["State"]["Paused"])

    @property
    def peer_url(self) -> str:
        """Where the other members reach it; the name is known on the network `peers` alone."""
        return f"http://{self._alias}:2380"

    def start(self) -> None:
        self._docker("start")

    def stop(self) -> None:
        self.resume()
        self._docker("stop")

    def kill(self) -> None:
        if self.running:
            self._docker("kill")

    def pause(self) -> None:
        if not self.paused:
            self._docker("pause")

    def resume(self) -> None:
        if self.paused:
            self._docker("unpause")

    def restart(self) -> None:
        self.stop()
        self.start()

    def wipe(self) -> None:
        """Its data gone; it is on the network `peers` again. `RuntimeError` while it is running."""
        inspected = self._inspected()
        if inspected["State"]["Running"]:
            raise RuntimeError(f"{self.name} is running")
        variables = {
            "COORDKIT_ETCD_IMAGE": inspected["Config"]["Image"],
            f"COORDKIT_{self.name.upper()}_PORT": str(self.port),
            "COORDKIT_ETCD_CLUSTER_STATE": "existing",
        }
        self._docker("rm", "--volumes")
        self.project.engine.docker("volume", "rm", self.project.volume(self.name))
        self.project.compose("up", "--no-start", "--no-deps", self.name, variables=variables)
        self.container = self.project.container(self.name)
        # docker-compose 1.29 puts a container on all of its networks only when it starts it itself.
        if not self._is_on("clients"):
            self._docker("network", "connect", self.project.network("clients"))
        self.rejoin()

    def cut_off(self) -> None:
        if self._is_on("peers"):
            self._docker("network", "disconnect", self.project.network("peers"))

    def rejoin(self) -> None:
        if not self._is_on("peers"):
            self._docker("network", "connect", "--alias", self._alias, self.project.network("peers"))

    def last_words(self, lines: int = 40) -> str:
        return self.project.engine.log_of(self.container, lines)

    @property
    def _alias(self) -> str:
        return f"{self.name}-peer"

    def _is_on(self, network: str) -> bool:
        joined = self._inspected()["NetworkSettings"]["Networks"]
        return any(name.endswith(f"_{network}") for name in joined)  # of a container that is down it has no ids

    def _docker(self, *command: str) -> None:
        self.project.engine.docker(*command, self.container)

    def _inspected(self) -> dict[str, Any]:
        return _inspect(self.project, self.container)


class ComposeEtcd(Etcd[ComposeMember]):
    """The etcd of a project: of the given one, else of that in COORDKIT_COMPOSE_PROJECT, else of `make compose-up`.

    Raises `NoEngine`, or `LookupError` if the project is not up. One cluster for all who ask: `close` leaves it.
    """

    def __init__(self, project: Project | None = None) -> None:
        if project is None:
            project = Project(running_engine(), os.environ.get(PROJECT_VARIABLE, STANDING_PROJECT))
        super().__init__([_found(project, service) for service in SERVICES])

    def replace(self, member: ComposeMember) -> None:
        """Give a member that is down an empty place in the cluster, and start it; not awaited."""
        member.wipe()
        self.readmit(member, member.peer_url)
        member.start()

    def close(self) -> None:
        """Whoever brought the containers up takes them down."""


def _found(project: Project, service: str) -> ComposeMember:
    """The port is read from the settings of the container, for one that is down publishes nothing."""
    container = project.container(service)
    (binding,) = _inspect(project, container)["HostConfig"]["PortBindings"][CLIENT_PORT]
    return ComposeMember(project, service, binding["HostIp"], int(binding["HostPort"]), container)


def _inspect(project: Project, container: str) -> dict[str, Any]:
    return dict(json.loads(project.engine.docker("inspect", container))[0])


if __name__ == "__main__":
    from tests.servers.compose_run import main

    sys.exit(main(sys.argv[1:]))
