"""ZooKeeper ensembles for the tests: what any of them can be asked, and one of local processes.

The rule: what a test learns of ZooKeeper it learns from the servers' own words and by their own protocol, never through
coordkit or its client. The harness comes in as the super user, so that nobody's access lists keep it out.
"""

from __future__ import annotations

import base64
import hashlib
import ssl
import time
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote, urlencode

from tests.servers import java
from tests.servers.catalogue import NEWER
from tests.servers.certificates import Certificates
from tests.servers.cluster import POLL_SECONDS, Cluster, M, NotReady, View
from tests.servers.fetch import jars
from tests.servers.links import Links
from tests.servers.local import LocalMember, Place, settle
from tests.servers.ports import Port, address
from tests.servers.zookeeper_peers import Greeting
from tests.servers.zookeeper_wire import NO_NODE, NODE_EXISTS, NOT_EMPTY, Node, NoSession, Refused, Wire
from tests.servers.zookeeper_words import Connection, Mode, Standing, ask, connections, numbers, sessions, standing

STORE_SECONDS = 10.0
PROOF_SECONDS = 2.0
COMING_SECONDS = 1.0
SUPER_USER, SUPER_PASSWORD = "super", "super-secret"
RESERVED = "zookeeper"  # the servers' own node
MAIN = "org.apache.zookeeper.server.quorum.QuorumPeerMain"
# Each word that is asked would be a line in the log.
QUIET = [
    f"-Dorg.slf4j.simpleLogger.log.org.apache.zookeeper.server.{name}=warn"
    for name in ("NIOServerCnxn", "NettyServerCnxn")
]
ROWS = {"": "zookeeper", NEWER: "zookeeper-newer"}


class ZooKeeper(Cluster[M]):
    """All that needs no more than the members' addresses. `login`: as whom the harness has to come in by SASL."""

    def __init__(
        self,
        members: Sequence[M],
        *,
        tls: Certificates | None = None,
        login: tuple[str, str] | None = None,
    ) -> None:
        super().__init__(members)
        self.tls = tls
        self._login = login
        self._ssl: ssl.SSLContext | None = None
        if tls:
            self._ssl = ssl.create_default_context(cafile=str(tls.authority))
            self._ssl.load_cert_chain(tls.client, tls.client_key)

    @abstractmethod
    def replace(self, member: M) -> None:
        """Give a member that is down an empty place in the ensemble, and start it; not awaited."""

    # -- where it is -------------------------------------------------------------------------------------

    @property
    def endpoints(self) -> tuple[str, ...]:
        """host:port of each member's client side."""
        return tuple(address(member.host, member.port) for member in self.members)

    @property
    def version(self) -> str:
        """Of the servers, such as 3.8.0; they are all of one."""
        found = self.standing(self.leader())
        return found.version if found else ""

    def url(
        self,
        chroot: str = "",
        *,
        members: Sequence[M] | None = None,
        user: str = "",
        password: str = "",
        **options: str,
    ) -> str:
        """For coordkit: all members, or these, more options of its own, and where needed the files for TLS."""
        asked = self.members if members is None else members
        hosts = ",".join(address(member.host, member.port) for member in asked)
        login = f"{quote(user, safe='')}:{quote(password, safe='')}@" if user else ""
        path = f"/{chroot.strip('/')}" if chroot else ""
        if self.tls:
            files = {"ca": self.tls.authority, "cert": self.tls.client, "key": self.tls.client_key}
            options = {name: str(file) for name, file in files.items()} | options
        query = f"?{urlencode(options)}" if options else ""
        return f"zookeeper{'s' if self.tls else ''}://{login}{hosts}{path}{query}"

    # -- what it says ------------------------------------------------------------------------------------

    def view(self, member: M) -> View | None:
        return self.views([member])[member.name]

    def views(self, asked: Sequence[M]) -> dict[str, View | None]:
        """Of a follower: that it follows whoever says that it leads, in the newest epoch. It does not say so itself."""
        told = {member.name: self.standing(member) for member in asked}
        led = _newest_leader(told)
        if led is None:
            others = [member for member in self.members if member.name not in told]
            # Whoever is paused would keep it waiting.
            led = _newest_leader({one.name: self.standing(one) for one in others if one.running and not one.paused})
        return {name: _view(name, said, led) for name, said in told.items()}

    def ready(self, timeout: float = 30.0, *, among: Sequence[M] | None = None) -> M:
        """Beside what is said of every cluster: each of the members has just committed a transaction."""
        asked = self.members if among is None else tuple(among)
        deadline = time.monotonic() + timeout
        while True:
            leader = super().ready(max(0.0, deadline - time.monotonic()), among=asked)
            unproved = [member.name for member in asked if not self._proved(member)]
            if not unproved:
                return leader
            if time.monotonic() > deadline:
                raise NotReady(f"no session after {timeout:g} s: {', '.join(unproved)}\n{self.logs()}")
            time.sleep(POLL_SECONDS)

    def standing(self, member: M) -> Standing | None:
        """What a member is, by its own words; None if it does not answer, or serves nobody."""
        try:
            return standing(self.words(member, "srvr"))
        except OSError:
            return None

    def words(self, member: M, word: str) -> str:
        """A member's answer to a four-letter word; `OSError` if it gives none."""
        return ask(member.host, member.port, word, self._ssl)

    def metrics(self, member: M) -> dict[str, float]:
        """All numbers of `mntr`, without their prefix `zk_`: packets_received, watch_count, proposal_count…

        A question such as this one counts as a connection, and as a packet received.
        """
        return numbers(self.words(member, "mntr"))

    def reset_stats(self, member: M) -> None:
        """Packets and latencies are counted anew."""
        self.words(member, "srst")

    def connections(self, member: M) -> list[Connection]:
        """Which sessions are connected to this member."""
        return [connection for connection in connections(self.words(member, "cons")) if connection.session]

    def sessions(self) -> list[int]:
        """The ids of all sessions that the leader knows."""
        return sorted(sessions(self.words(self.leader(), "dump")))

    def nodes(self, path: str = "/") -> list[Node]:
        """This node and all under it, in the order in which they were created; none if there is none.

        The root and what is the servers' own are left out.
        """
        with self._store() as store:
            store.sync()
            return sorted(_walk(store, path), key=lambda node: node.czxid)

    # -- what can be done to it --------------------------------------------------------------------------

    def put(self, path: str, data: bytes = b"") -> None:
        """Make a lasting node, with those above it where they are missing, or write to the one that there is."""
        with self._store() as store:
            names = path.strip("/").split("/")
            for depth in range(1, len(names) + 1):
                with _tolerated(NODE_EXISTS):
                    store.create("/" + "/".join(names[:depth]), b"")
            store.write(path, data)

    def delete(self, path: str) -> None:
        """This node and all under it; there need be none. It may be done while others create more."""
        with self._store() as store:
            _delete(store, path)

    def clear(self) -> None:
        """No session is left, and no node but the servers' own."""
        for session in self.sessions():
            self.expire(session)
        with self._store() as store:
            for child in store.children("/"):
                if child != RESERVED:
                    _delete(store, f"/{child}")

    def expire(self, session: int, *, member: M | None = None) -> bool:
        """End a session as the servers do when its time is over; False: there is none.

        The same transaction, with the same end for its nodes and watches. A client that is connected sees its
        connection closed, and learns of the expiry when it comes back. Through the leader, or this member.
        """
        deadline = time.monotonic() + STORE_SECONDS
        ended = False
        while True:
            through = self.leader() if member is None else member
            try:
                wire = Wire(through.host, through.port, self._ssl, timeout=STORE_SECONDS, session=session)
                ended = True
                wire.close()
            except NoSession:
                return ended
            except OSError:  # its client came back in between, and this connection had to go: once more
                if time.monotonic() > deadline:
                    raise
            else:
                return True

    # -- within ------------------------------------------------------------------------------------------

    def _proved(self, member: M) -> bool:
        try:
            with Wire(member.host, member.port, self._ssl, timeout=PROOF_SECONDS) as wire:
                self._log_in(wire)
        except (OSError, NoSession):
            return False
        return True

    @contextmanager
    def _store(self) -> Iterator[Wire]:
        """At the leader, as the super user."""
        leader = self.leader()
        with Wire(leader.host, leader.port, self._ssl, timeout=STORE_SECONDS) as wire:
            self._log_in(wire)
            wire.log_in(SUPER_USER, SUPER_PASSWORD)
            yield wire

    def _log_in(self, wire: Wire) -> None:
        if self._login:
            wire.log_in_by_sasl(*self._login)


def _newest_leader(told: Mapping[str, Standing | None]) -> View | None:
    """An older one that is cut off may not know yet that its time is over."""
    views = [View(name, said.epoch) for name, said in told.items() if said and said.mode is Mode.LEADER]
    return max(views, key=lambda view: view.term, default=None)


def _view(name: str, said: Standing | None, led: View | None) -> View | None:
    if said is None:
        return None
    if said.mode in (Mode.LEADER, Mode.STANDALONE):
        return View(name, said.epoch)
    return led if said.mode is Mode.FOLLOWER else None


def _walk(store: Wire, path: str) -> Iterator[Node]:
    with _tolerated(NO_NODE):  # it is gone by now
        if path == "/":
            children = [f"/{child}" for child in store.children(path) if child != RESERVED]
        else:
            yield store.node(path)
            children = [f"{path}/{child}" for child in store.children(path)]
        for child in children:
            yield from _walk(store, child)


def _delete(store: Wire, path: str) -> None:
    while True:
        with _tolerated(NO_NODE):
            for child in store.children(path):
                _delete(store, f"{path}/{child}")
        try:
            with _tolerated(NO_NODE):
                store.delete(path)
        except Refused as refused:
            if refused.code != NOT_EMPTY:
                raise
        else:
            return


@contextmanager
def _tolerated(code: int) -> Iterator[None]:
    try:
        yield
    except Refused as refused:
        if refused.code != code:
            raise


def super_digest() -> str:
    """What a server is told of the super user."""
    login = f"{SUPER_USER}:{SUPER_PASSWORD}"
    hashed = hashlib.sha1(login.encode(), usedforsecurity=False).digest()
    return f"{SUPER_USER}:{base64.b64encode(hashed).decode()}"


class NumberedMember(LocalMember):
    """A member that knows its number by a file among its data, so that it is written again after a `wipe`."""

    number = 0

    def start(self) -> None:
        if not self.running:
            self.data.mkdir(parents=True, exist_ok=True)
            (self.data / "myid").write_text(f"{self.number}\n", encoding="ascii")
        super().start()


class ZooKeeperCluster(ZooKeeper[LocalMember]):
    """Local processes, with all they write under `folder`. Members are named to each other by proxies.

    All times are in seconds. `tick`: ZooKeeper's unit, of which half is between two pings. `sync`: after so long
    without a word a follower leaves its leader, and a leader gives up that has no majority; `init`: likewise while they
    join. `min_session`, `max_session`: the bounds of what a client may ask for; two ticks and a minute if not told.
    `users`: by name, the passwords of those who may log in by SASL; `sasl_required`: nobody else is let in, and the
    harness is the first of them. `lines` are added to every member's zoo.cfg, `flags` to those of its Java. `release`:
    whose servers they are, of those in the catalogue; empty: the machine's. `places`: a host for each member; without
    them all run on this one.
    """

    def __init__(
        self,
        folder: Path,
        size: int = 3,
        *,
        tls: Certificates | None = None,
        ipv6: bool = False,
        tick: float = 0.2,
        sync: float = 1.6,
        init: float = 10.0,
        min_session: float | None = None,
        max_session: float = 60.0,
        users: Mapping[str, str] | None = None,
        sasl_required: bool = False,
        lines: Sequence[str] = (),
        flags: Sequence[str] = (),
        release: str = "",
        places: Sequence[Place] = (),
    ) -> None:
        class_path = jars(ROWS[release])
        numbered = {number: f"zookeeper{number}" for number in range(1, size + 1)}
        hosts = [place.host for place in places] or ["::1" if ipv6 else "127.0.0.1"] * size
        clients = [Port(host) for host in hosts]
        self._links = Links(direct=bool(places))
        peers = _Peers(numbered, hosts, self._links)
        self._ports = [*clients, *peers.ports]
        folder.mkdir(parents=True, exist_ok=True)
        common = [
            f"tickTime={round(tick * 1000)}",
            f"initLimit={max(1, round(init / tick))}",
            f"syncLimit={max(1, round(sync / tick))}",
            f"minSessionTimeout={round((2 * tick if min_session is None else min_session) * 1000)}",
            f"maxSessionTimeout={round(max_session * 1000)}",
            "maxClientCnxns=0",  # all clients have one address
            "admin.enableServer=false",
            "4lw.commands.whitelist=*",
            "forceSync=no",  # what the kernel has outlives a kill
            "preAllocSize=1024",
            "fastleader.maxNotificationInterval=1000",  # ms: for so long a member that comes back waits for an answer
            "jmx.log4j.disable=true",
            f"DigestAuthenticationProvider.superDigest={super_digest()}",
            *(_tls_lines(folder, tls) if tls else ()),
        ]
        jvm = [*QUIET, *flags]
        if users:
            jvm.append(f"-Djava.security.auth.login.config={_logins(folder, users)}")
            common.append("authProvider.1=org.apache.zookeeper.server.auth.SASLAuthenticationProvider")
            if sasl_required:
                common.append("sessionRequireClientSASLAuth=true")
        members = []
        for (number, name), host, client in zip(numbered.items(), hosts, clients, strict=True):
            place = folder / name
            own = [
                f"dataDir={place / 'data'}",
                f"{'secureClientPort' if tls else 'clientPort'}={client.number}",
                f"{'secureClientPortAddress' if tls else 'clientPortAddress'}={host}",
                *(peers.lines_for(number) if size > 1 else ()),
            ]
            command = java.command(MAIN, class_path, str(place / "zoo.cfg"), flags=jvm)
            member = NumberedMember(name, host, client, place, command, self._links)
            member.number = number
            (place / "zoo.cfg").write_text("\n".join([*common, *own, *lines, ""]), encoding="utf-8")
            members.append(member)
        settle(members, places)
        super().__init__(members, tls=tls, login=next(iter(users.items())) if users and sasl_required else None)

    def replace(self, member: LocalMember) -> None:
        member.wipe()
        member.start()

    def close(self) -> None:
        """End all members at once; their logs and data stay in the folder."""
        for member in self.members:
            member.kill()
        self._links.close()
        for port in self._ports:
            port.close()


class _Peers:
    """The two ports of each member for the others: for what a leader has to say, and for elections."""

    def __init__(self, numbered: Mapping[int, str], hosts: Sequence[str], links: Links) -> None:
        self._hosts = {
            number: f"[{host}]" if ":" in host else host for number, host in zip(numbered, hosts, strict=True)
        }
        self._own: dict[int, tuple[int, int]] = {}
        self._proxies: dict[int, tuple[int, int]] = {}
        self.ports: list[Port] = []
        led_around: dict[int, int] = {}
        greeting = Greeting(led_around)
        for (number, name), host in zip(numbered.items(), hosts, strict=True):
            quorum, election = Port(host), Port(host)
            # Whoever is elected listens a moment later; its followers come again when they are refused.
            to_quorum = links.before(name, host, quorum.number, patience=COMING_SECONDS)
            to_election = links.before(name, host, election.number, opening=greeting)
            self._own[number] = quorum.number, election.number
            self._proxies[number] = to_quorum.port, to_election.port
            led_around[election.number] = to_election.port
            self.ports += [quorum, election]

    def lines_for(self, member: int) -> list[str]:
        """A member is told its own ports, where it listens, and the proxies of the others."""
        ports = self._proxies | {member: self._own[member]}
        return [
            f"server.{number}={self._hosts[number]}:{quorum}:{election}" for number, (quorum, election) in ports.items()
        ]


def _tls_lines(folder: Path, tls: Certificates) -> list[str]:
    """For clients alone. ZooKeeper wants a key and its certificate in one file."""
    store = folder / "server.pem"
    store.write_bytes(tls.server_key.read_bytes() + tls.server.read_bytes())
    return [
        "serverCnxnFactory=org.apache.zookeeper.server.NettyServerCnxnFactory",
        f"ssl.keyStore.location={store}",
        "ssl.keyStore.type=PEM",
        f"ssl.trustStore.location={tls.authority}",
        "ssl.trustStore.type=PEM",
        "ssl.clientAuth=need",
    ]


def _logins(folder: Path, users: Mapping[str, str]) -> Path:
    quoted = {name: password.replace("\\", r"\\").replace('"', r"\"") for name, password in users.items()}
    listed = "".join(f'\n  user_{name}="{password}"' for name, password in quoted.items())
    path = folder / "jaas.conf"
    path.write_text(
        f"Server {{\n  org.apache.zookeeper.server.auth.DigestLoginModule required{listed};\n}};\n", encoding="utf-8"
    )
    return path
