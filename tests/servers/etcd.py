"""etcd clusters for the tests: what any of them can be asked, and one of local processes.

The rule: what a test learns of etcd it learns from etcd's own programs and pages, never through coordkit.
"""

from __future__ import annotations

import base64
import http.client
import json
import re
import ssl
import subprocess
import time
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from tests.servers.certificates import Certificates
from tests.servers.cluster import POLL_SECONDS, Cluster, M, View
from tests.servers.fetch import program
from tests.servers.links import Links
from tests.servers.local import LocalMember, Place, settle
from tests.servers.ports import Port, address
from tests.servers.processes import Command

VIEW_SECONDS = 1.0
RECONFIGURE_SECONDS = 15.0  # etcd changes its members only after they have been connected for five seconds
ROOT_PASSWORD = "root-secret"


class CtlFailed(Exception):
    """etcdctl failed; the message is what it wrote."""


@dataclass(frozen=True, slots=True)
class Key:
    """One key as it is stored. `lease` is 0 where it has none."""

    key: bytes
    value: bytes
    create_revision: int
    mod_revision: int
    lease: int


class Etcd(Cluster[M]):
    """All that needs no more than the members' addresses."""

    def __init__(self, members: Sequence[M], *, tls: Certificates | None = None) -> None:
        super().__init__(members)
        self.tls = tls
        self._root_password = ""  # known while authentication is enabled
        self._names: dict[int, str] = {}
        self._ssl: ssl.SSLContext | None = None
        self._release = ""  # whose etcdctl is used
        if tls:
            self._ssl = ssl.create_default_context(cafile=str(tls.authority))
            self._ssl.load_cert_chain(tls.client, tls.client_key)

    @abstractmethod
    def replace(self, member: M) -> None:
        """Give a member that is down an empty place in the cluster, and start it; not awaited."""

    # -- where it is -------------------------------------------------------------------------------------

    @property
    def endpoints(self) -> tuple[str, ...]:
        """host:port of each member's client side."""
        return tuple(address(member.host, member.port) for member in self.members)

    @property
    def version(self) -> str:
        """Of the servers, such as 3.4.23; they are all of one."""
        return str(self._ask(self.leader(), "/v3/maintenance/status", {})["version"])

    def url(self, prefix: str = "", *, members: Sequence[M] | None = None, user: str = "", password: str = "") -> str:
        """For coordkit: all members, or these, and where needed the files for TLS."""
        asked = self.members if members is None else members
        hosts = ",".join(address(member.host, member.port) for member in asked)
        login = f"{quote(user, safe='')}:{quote(password, safe='')}@" if user else ""
        path = f"/{prefix.strip('/')}" if prefix else ""
        if self.tls is None:
            return f"etcd://{login}{hosts}{path}"
        files = {"ca": self.tls.authority, "cert": self.tls.client, "key": self.tls.client_key}
        return f"etcds://{login}{hosts}{path}?{urlencode(files)}"

    # -- what it says ------------------------------------------------------------------------------------

    def view(self, member: M) -> View | None:
        """None until the member can answer a linearizable read (its page /health tries one)."""
        try:
            status = self._ask(member, "/v3/maintenance/status", {})
            header = status["header"]
            self._names[int(header["member_id"])] = member.name
            leader = int(status.get("leader", 0))
            if leader not in self._names:
                self._names |= self._listed(member)
            if leader not in self._names or self._ask(member, "/health")["health"] != "true":
                return None
        except (OSError, http.client.HTTPException, ValueError, KeyError):
            # No answer, or that of a server that is about to start or to end.
            return None
        return View(self._names[leader], int(header["raft_term"]))

    def ctl(self, *arguments: str, input: str | None = None, member: M | None = None, timeout: float = 10.0) -> str:  # noqa: A002 - as in subprocess.run
        """Run the real etcdctl on all members, or this one; what it wrote. `CtlFailed` if it failed or took longer."""
        command = self.command(f"--command-timeout={timeout:g}s", *arguments, member=member)
        try:
            done = subprocess.run(
                command.arguments,
                env=command.environment,
                input=input or "",
                capture_output=True,
                text=True,
                timeout=timeout + 2.0,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise CtlFailed(f"etcdctl {' '.join(arguments)}: no end in {timeout + 2.0:g} s") from None
        if done.returncode != 0:
            raise CtlFailed(f"etcdctl {' '.join(arguments)}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def command(self, *arguments: str, member: M | None = None) -> Command:
        """How to start etcdctl oneself, to let it run for long, as `elect` does."""
        endpoints = self.endpoints if member is None else (address(member.host, member.port),)
        flags = [f"--endpoints={','.join(endpoints)}"]
        environment = {"ETCDCTL_API": "3"}
        if self.tls:
            flags += [f"--cacert={self.tls.authority}", f"--cert={self.tls.client}", f"--key={self.tls.client_key}"]
        if self._root_password:
            environment["ETCDCTL_USER"] = f"root:{self._root_password}"
        return Command.of(program("etcdctl", self._release), *flags, *arguments, **environment)

    def metrics(self, member: M) -> dict[str, float]:
        """A member's counters, each under its name with its labels, as they are written: `name{label="x"}`."""
        lines = self._get(member, "/metrics").decode().splitlines()
        return {name: float(number) for name, number in samples(lines)}

    def leases(self) -> list[int]:
        """The ids of all leases that the leader knows."""
        written = self.ctl("lease", "list", "--write-out=json", member=self.leader())
        return sorted(lease["id"] for lease in json.loads(written).get("leases") or ())

    def keys(self, prefix: str = "") -> list[Key]:
        """All keys with this prefix, in the order in which they were created."""
        written = json.loads(self.ctl("get", prefix, "--prefix", "--write-out=json"))
        found = [
            Key(
                base64.b64decode(entry["key"]),
                base64.b64decode(entry.get("value", "")),
                entry["create_revision"],
                entry["mod_revision"],
                entry.get("lease", 0),
            )
            for entry in written.get("kvs", ())
        ]
        return sorted(found, key=lambda key: key.create_revision)

    # -- what can be done to it --------------------------------------------------------------------------

    def clear(self) -> None:
        """No key and no lease is left."""
        for lease in self.leases():
            try:
                self.ctl("lease", "revoke", f"{lease:x}")
            except CtlFailed as failed:
                if "lease not found" not in str(failed):  # it has just run out by itself
                    raise
        self.ctl("del", "", "--prefix")

    def enable_auth(self, *, root_password: str = ROOT_PASSWORD) -> None:
        """From now on only users get in; `ctl` is root."""
        self.ctl("user", "add", "root", "--interactive=false", input=root_password)
        self.ctl("role", "add", "root")
        self.ctl("user", "grant-role", "root", "root")
        self.ctl("auth", "enable")
        self._root_password = root_password

    def add_user(self, user: str, password: str, prefix: str) -> None:
        """A user who may read and write the keys with this prefix, and no others."""
        self.ctl("user", "add", user, "--interactive=false", input=password)
        self.ctl("role", "add", user)
        self.ctl("role", "grant-permission", user, "readwrite", prefix, "--prefix=true")
        self.ctl("user", "grant-role", user, user)

    def disable_auth(self) -> None:
        """Everybody gets in again."""
        self.ctl("auth", "disable")
        self._root_password = ""

    def readmit(self, member: M, peer_url: str) -> None:
        """Remove a wiped member, and add it under a new id: with its old one it would deny what it had promised."""
        through = self.leader(other_than=member)
        (old,) = (number for number, name in self._listed(through).items() if name == member.name)
        self._reconfigure("remove", f"{old:x}", member=through)
        self._reconfigure("add", member.name, f"--peer-urls={peer_url}", member=through)
        del self._names[old]

    def _reconfigure(self, *arguments: str, member: M) -> None:
        deadline = time.monotonic() + RECONFIGURE_SECONDS
        while True:
            try:
                self.ctl("member", *arguments, member=member)
                return
            except CtlFailed as refused:
                if "unhealthy cluster" not in str(refused) or time.monotonic() > deadline:
                    raise
            time.sleep(10 * POLL_SECONDS)

    # -- its pages ---------------------------------------------------------------------------------------

    def _listed(self, member: M) -> dict[int, str]:
        listed = self._ask(member, "/v3/cluster/member/list", {})["members"]
        return {int(entry["ID"]): entry["name"] for entry in listed if entry.get("name")}

    def _ask(self, member: M, path: str, question: Mapping[str, Any] | None = None) -> dict[str, Any]:
        return dict(json.loads(self._get(member, path, None if question is None else json.dumps(question))))

    def _get(self, member: M, path: str, body: str | None = None) -> bytes:
        if self._ssl:
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                member.host, member.port, timeout=VIEW_SECONDS, context=self._ssl
            )
        else:
            connection = http.client.HTTPConnection(member.host, member.port, timeout=VIEW_SECONDS)
        try:
            connection.request("GET" if body is None else "POST", path, body)
            return connection.getresponse().read()
        finally:
            connection.close()


def samples(lines: Sequence[str]) -> list[tuple[str, str]]:
    matches = (re.fullmatch(r"([a-zA-Z_:][\w:]*(?:\{.*\})?) (\S+)(?: \d+)?", line) for line in lines)
    return [(match[1], match[2]) for match in matches if match]


class EtcdCluster(Etcd[LocalMember]):
    """Local processes, with all they write under `folder`. Members are named to each other by proxies.

    `release`: whose programs they are, of those in the catalogue; empty: the machine's.
    `heartbeat` and `election` are etcd's own timings, in seconds. `flags` are added to every member's. `places`: a host
    for each member; without them all run on this one.
    """

    def __init__(
        self,
        folder: Path,
        size: int = 3,
        *,
        tls: Certificates | None = None,
        ipv6: bool = False,
        heartbeat: float = 0.1,
        election: float = 1.0,
        flags: Sequence[str] = (),
        release: str = "",
        places: Sequence[Place] = (),
    ) -> None:
        server = program("etcd", release)
        names = [f"etcd{number}" for number in range(1, size + 1)]
        hosts = [place.host for place in places] or ["::1" if ipv6 else "127.0.0.1"] * size
        clients, peers = ([Port(host) for host in hosts] for _ in range(2))
        self._ports = [*clients, *peers]
        self._links = Links(direct=bool(places))
        proxies = [
            self._links.before(name, host, peer.number) for name, host, peer in zip(names, hosts, peers, strict=True)
        ]
        self._peer_urls = {
            name: f"http://{address(proxy.host, proxy.port)}" for name, proxy in zip(names, proxies, strict=True)
        }
        common = [
            f"--initial-cluster={','.join(f'{name}={url}' for name, url in self._peer_urls.items())}",
            f"--heartbeat-interval={round(heartbeat * 1000)}",
            f"--election-timeout={round(election * 1000)}",
            "--logger=zap",
            "--log-outputs=stderr",
        ]
        if tls:
            common += [
                f"--cert-file={tls.server}",
                f"--key-file={tls.server_key}",
                f"--trusted-ca-file={tls.authority}",
                "--client-cert-auth",
            ]
        members = []
        for name, host, client, peer in zip(names, hosts, clients, peers, strict=True):
            client_url = f"{'https' if tls else 'http'}://{address(host, client.number)}"
            own = [
                f"--name={name}",
                f"--data-dir={folder / name / 'data'}",
                f"--listen-client-urls={client_url}",
                f"--advertise-client-urls={client_url}",
                f"--listen-peer-urls=http://{address(host, peer.number)}",
                f"--initial-advertise-peer-urls={self._peer_urls[name]}",
            ]
            command = Command.of(server, *own, *common, *flags)
            members.append(LocalMember(name, host, client, folder / name, command, self._links))
        settle(members, places)
        super().__init__(members, tls=tls)
        self._release = release

    def upgrade(self, member: LocalMember, release: str) -> None:
        """Stop a member, and start it as a server of this release; not awaited."""
        server = program("etcd", release)
        member.stop()
        member.command = Command.of(server, *member.command.arguments[1:])
        member.start()

    def replace(self, member: LocalMember) -> None:
        member.wipe()
        self.readmit(member, self._peer_urls[member.name])
        arguments = [*member.command.arguments, "--initial-cluster-state=existing"]
        member.command = Command(arguments, member.command.environment)
        member.start()

    def close(self) -> None:
        """End all members at once; their logs and data stay in the folder."""
        for member in self.members:
            member.kill()
        self._links.close()
        for port in self._ports:
            port.close()
