"""The clusters of docker-compose.yml, with the methods that every cluster of the tests has.

The rule: the cluster is found, not made: `python -m tests.servers.compose` brings it up and takes it down. What a
test does to a member is done by the engine: it is paused, killed and started as a container, cut off from the others
by being taken off the network `peers`, and gets a new container with a new volume when its data are to be gone.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import digits
from typing import Any, TypeVar

from tests.servers.compose_engine import running_engine
from tests.servers.compose_project import PEERS_VARIABLE, PROJECT_VARIABLE, STANDING_PROJECT, Project
from tests.servers.etcd import Etcd
from tests.servers.mariadb import MariaDB
from tests.servers.postgresql import PostgreSQL
from tests.servers.redis import Redis
from tests.servers.zookeeper import ZooKeeper

ETCD = ("etcd1", "etcd2", "etcd3")
ZOOKEEPER = ("zookeeper1", "zookeeper2", "zookeeper3")
VOTERS = ("redis1", "redis2", "redis3", "redis4", "redis5")
SINGLE_VOTER = ("redis",)
DATABASES = ("postgresql", "mariadb")
# The last number of the address on the network `peers`, for those that must not get another one.
FIXED_HOSTS = {"zookeeper1": 101, "zookeeper2": 102, "zookeeper3": 103}
VOTERS_DATA = "/data"
# What the file has to be told of a member that comes back without its data.
RETURNING = {"COORDKIT_ETCD_CLUSTER_STATE": "existing"}


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
    def peer_name(self) -> str:
        """Where the other members find it; known on the network `peers` alone."""
        return f"{self.name}-peer"

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
            f"COORDKIT_{self.name.rstrip(digits).upper()}_IMAGE": inspected["Config"]["Image"],
            f"COORDKIT_{self.name.upper()}_PORT": str(self.port),
            PEERS_VARIABLE: self.project.peers(),
            **RETURNING,
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
            host = FIXED_HOSTS.get(self.name)
            fixed = ("--ip", f"{self.project.peers()}.{host}") if host else ()
            self._docker("network", "connect", "--alias", self.peer_name, *fixed, self.project.network("peers"))

    def last_words(self, lines: int = 40) -> str:
        return self.project.engine.log_of(self.container, lines)

    def _is_on(self, network: str) -> bool:
        joined = self._inspected()["NetworkSettings"]["Networks"]
        return any(name.endswith(f"_{network}") for name in joined)  # of a container that is down it has no ids

    def _docker(self, *command: str) -> None:
        self.project.engine.docker(*command, self.container)

    def _inspected(self) -> dict[str, Any]:
        return _inspect(self.project, self.container)


class ComposeVoter(ComposeMember):
    """A Redis server."""

    unix_socket = ""

    @property
    def peer_address(self) -> tuple[str, int]:
        return self.peer_name, 6379

    def copy_data(self, folder: Path) -> None:
        folder.mkdir()
        self.project.engine.docker("cp", f"{self.container}:{VOTERS_DATA}/.", str(folder))

    def put_data(self, folder: Path) -> None:
        self.wipe()
        self.project.engine.docker("cp", f"{folder}/.", f"{self.container}:{VOTERS_DATA}")


E = TypeVar("E", bound=ComposeMember)


class ComposeEtcd(Etcd[ComposeMember]):
    """The etcd of a project: of the given one, else of that in COORDKIT_COMPOSE_PROJECT, else of `make compose-up`.

    Raises `NoEngine`, or `LookupError` if the project is not up. One cluster for all who ask: `close` leaves it.
    """

    def __init__(self, project: Project | None = None) -> None:
        super().__init__(_members(project, ETCD))

    def replace(self, member: ComposeMember) -> None:
        """Give a member that is down an empty place in the cluster, and start it; not awaited."""
        member.wipe()
        self.readmit(member, f"http://{member.peer_name}:2380")
        member.start()

    def close(self) -> None:
        """Whoever brought the containers up takes them down."""


class ComposeZooKeeper(ZooKeeper[ComposeMember]):
    """The ZooKeeper of a project, found as `ComposeEtcd` is."""

    def __init__(self, project: Project | None = None) -> None:
        super().__init__(_members(project, ZOOKEEPER))

    def replace(self, member: ComposeMember) -> None:
        """Give a member that is down an empty place in the ensemble, and start it; not awaited."""
        member.wipe()
        member.start()

    def close(self) -> None:
        """Whoever brought the containers up takes them down."""


class ComposeRedis(Redis[ComposeVoter]):
    """The voters of a project, found as `ComposeEtcd` is: the five, or those of other services."""

    def __init__(self, project: Project | None = None, services: Sequence[str] = VOTERS) -> None:
        super().__init__(_members(project, services, ComposeVoter))


class ComposePostgreSQL(PostgreSQL[ComposeMember]):
    """The PostgreSQL of a project, found as `ComposeEtcd` is. Its data go with its container: it is not to be wiped."""

    def __init__(self, project: Project | None = None) -> None:
        super().__init__(_members(project, ["postgresql"]))

    def close(self) -> None:
        """Whoever brought the containers up takes them down."""


class ComposeMariaDB(MariaDB[ComposeMember]):
    """The MariaDB of a project, likewise. It knows no users: everybody may do anything."""

    def __init__(self, project: Project | None = None) -> None:
        super().__init__(_members(project, ["mariadb"]))

    def close(self) -> None:
        """Whoever brought the containers up takes them down."""


def _members(project: Project | None, services: Sequence[str], kind: type[E] = ComposeMember) -> list[E]:
    if project is None:
        project = Project(running_engine(), os.environ.get(PROJECT_VARIABLE, STANDING_PROJECT))
    return [_found(project, service, kind) for service in services]


def _found(project: Project, service: str, kind: type[E]) -> E:
    """The port is read from the settings of the container, for one that is down publishes nothing."""
    container = project.container(service)
    ((binding,),) = _inspect(project, container)["HostConfig"]["PortBindings"].values()
    return kind(project, service, binding["HostIp"], int(binding["HostPort"]), container)


def _inspect(project: Project, container: str) -> dict[str, Any]:
    return dict(json.loads(project.engine.docker("inspect", container))[0])


if __name__ == "__main__":
    from tests.servers.compose_run import main

    sys.exit(main(sys.argv[1:]))
