"""Independent Redis servers for the tests, voters: what any of them can be asked, what can be done to each, and some
of local processes.

The rule: what a test learns of Redis it learns from the servers themselves by redis-py's plain client, never through
coordkit. The harness comes in as a user of its own, so that nobody's passwords and rights keep it out. No voter is told
of another, so nobody leads: a View names nobody.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar
from urllib.parse import quote, urlencode

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.servers.certificates import Certificates
from tests.servers.cluster import POLL_SECONDS, Cluster, Member, NotReady, View
from tests.servers.fetch import program
from tests.servers.links import Links
from tests.servers.local import LocalMember, Place, settle
from tests.servers.ports import Port, address
from tests.servers.processes import Command

VIEW_SECONDS = 1.0
HAND_SECONDS = 10.0
CHANGE_SECONDS = 10.0
HARNESS, HARNESS_PASSWORD = "harness", "harness-secret"
BUSY_AFTER = 5000  # ms, Redis's own: from then on a script that runs is told to all who ask
# What every voter is started with, be it a process or a container. What was answered is on the disk.
FLAGS = (
    *("--save", ""),
    *("--appendonly", "yes"),
    *("--appendfsync", "always"),
    *("--auto-aof-rewrite-percentage", "0"),  # so a copy of the data is whole at any moment
    *("--repl-diskless-sync-delay", "0"),
    *("--protected-mode", "no"),
    *("--user", HARNESS, "on", f">{HARNESS_PASSWORD}", "~*", "&*", "+@all"),
    *("--masteruser", HARNESS, "--masterauth", HARNESS_PASSWORD),
)
# What `heal` sets; a server that is started again has them too.
HEALTHY = {"maxmemory": "0", "maxmemory-policy": "noeviction", "min-replicas-to-write": "0"}


class Voter(Member, Protocol):
    """A member of which a copy of the data can be kept."""

    @property
    def unix_socket(self) -> str:
        """The path of its socket; empty if it is reached by host and port."""
        ...

    @property
    def peer_address(self) -> tuple[str, int]:
        """Where the other members find it."""
        ...

    def copy_data(self, folder: Path) -> None:
        """A copy of its data as they are, in a folder that is not there yet; it may be running."""
        ...

    def put_data(self, folder: Path) -> None:
        """Put a copy in the place of its data; `RuntimeError` while it is running."""
        ...


V = TypeVar("V", bound=Voter)


class Redis(Cluster[V]):
    """All that needs no more than the members' addresses. `close` leaves the servers to whoever started them.

    What is done to a running server by a command, its users and passwords among it, is over once it is started again.
    """

    def __init__(self, members: Sequence[V], *, tls: Certificates | None = None) -> None:
        super().__init__(members)
        self.tls = tls
        self._hands: dict[tuple[object, ...], redis.Redis] = {}
        self._busy: dict[str, redis.connection.AbstractConnection] = {}
        self._users: set[str] = set()
        self._copies: tempfile.TemporaryDirectory[str] | None = None
        self._copied = 0

    def first(self, size: int) -> Redis[V]:
        """So many of the members, as voters of their own."""
        return Redis(self.members[:size], tls=self.tls)

    def close(self) -> None:
        for connection in self._busy.values():
            connection.disconnect()
        for hand in self._hands.values():
            hand.close()
        self._busy.clear()
        self._hands.clear()
        if self._copies:
            self._copies.cleanup()
            self._copies = None

    # -- where it is -------------------------------------------------------------------------------------

    @property
    def endpoints(self) -> tuple[str, ...]:
        """host:port of each member."""
        return tuple(address(member.host, member.port) for member in self.members)

    @property
    def version(self) -> str:
        """Of the servers, such as 7.0.15, Valkey's own such as 8.1.1; they are all of one."""
        told = self.hand(self.members[0]).info("server")
        return str(told.get("valkey_version", told["redis_version"]))

    def url(
        self,
        database: str = "",
        *,
        members: Sequence[V] | None = None,
        user: str = "",
        password: str = "",
        **options: str,
    ) -> str:
        """For coordkit: all members, or these, more options of its own, and where needed the files for TLS.

        One member is `redis://`, by its unix socket `redis+unix://`; more are `redis+quorum://`.
        """
        asked = self.members if members is None else tuple(members)
        login = f"{quote(user, safe='')}:{quote(password, safe='')}@" if user or password else ""
        path = f"/{database}" if database else ""
        kind = "+quorum" if len(asked) > 1 else ""
        hosts = ",".join(address(member.host, member.port) for member in asked)
        if asked[0].unix_socket:
            if database or len(asked) > 1:
                raise ValueError("redis+unix:// names one voter and no database")
            kind, hosts, path = "+unix", "", quote(asked[0].unix_socket)
        if self.tls:
            files = {"ca": self.tls.authority, "cert": self.tls.client, "key": self.tls.client_key}
            options = {name: str(file) for name, file in files.items()} | options
        query = f"?{urlencode(options)}" if options else ""
        return f"redis{'s' if self.tls else ''}{kind}://{login}{hosts}{path}{query}"

    # -- what it says ------------------------------------------------------------------------------------

    def hand(
        self,
        member: V,
        *,
        database: int = 0,
        user: str = HARNESS,
        password: str = HARNESS_PASSWORD,
        text: bool = True,
        timeout: float = HAND_SECONDS,
    ) -> redis.Redis:
        """A client of this member, which sends nothing twice; kept for the next who asks, closed with the cluster.

        As the harness, whom nothing keeps out, or as this user; nobody in particular: both empty. `text`: what it reads
        is decoded.
        """
        key = (member.host, member.port, database, user, password, text, timeout)
        if key not in self._hands:
            self._hands[key] = redis.Redis(
                **self._way_to(member),
                db=database,
                username=user or None,
                password=password or None,
                decode_responses=text,
                socket_timeout=timeout,
                socket_connect_timeout=timeout,
                retry=Retry(NoBackoff(), 0),
                protocol=2,
            )
        return self._hands[key]

    def view(self, member: V) -> View | None:
        return View("", 0) if self._says(member) == "PONG" else None

    def metrics(self, member: V) -> dict[str, float]:
        """All numbers of INFO: total_commands_processed, total_reads_processed, connected_clients, aof_enabled…

        A question such as this one counts as a command. What a script calls counts too.
        """
        told = self.hand(member).info("everything")
        return {name: float(value) for name, value in told.items() if isinstance(value, int | float)}

    def calls(self, member: V) -> Counter[str]:
        """How often each command was called, by clients and by scripts, such as `evalsha` and `config|get`."""
        told: Mapping[str, Any] = self.hand(member).info("commandstats")
        return Counter({name.removeprefix("cmdstat_"): int(counted["calls"]) for name, counted in told.items()})

    def reset_stats(self, member: V) -> None:
        """Commands and reads are counted anew."""
        self.hand(member).config_resetstat()

    # -- what can be done to all -------------------------------------------------------------------------

    def clear(self) -> None:
        """No key is left, and no script."""
        for member in self.members:
            with self.hand(member).pipeline(transaction=False) as commands:
                commands.flushall()
                commands.script_flush()
                commands.execute()

    def add_user(self, user: str, password: str, rules: str) -> None:
        """A user who may do what these ACL rules say, such as `~coordkit:* &coordkit:* +@all`."""
        self._users.add(user)
        for member in self.members:
            self.hand(member).execute_command("ACL", "SETUSER", user, "reset", "on", f">{password}", *rules.split())

    def require_password(self, password: str) -> None:
        """Whoever gives no name has to give this password; without one: nothing is asked of them."""
        for member in self.members:
            self.hand(member).config_set("requirepass", password)

    def heal(self) -> None:
        """Beside what is said of every cluster: what the methods here have done is undone, but for data and wiping."""
        for name in list(self._busy):
            member = self.member(name)
            member.resume()
            if member.running:
                self.not_busy(member)
            else:
                self._busy.pop(name).disconnect()
        super().heal()
        for member in self.members:
            self._mend(member)
        self._users.clear()
        # A later test counts the connections of coordkit.
        for key in [key for key in self._hands if HARNESS not in key]:
            self._hands.pop(key).close()

    # -- what can be done to one -------------------------------------------------------------------------

    def snapshot(self, member: V) -> Path:
        """A copy of a member's data as they are now, to be given to `restore`; the member goes on."""
        if self._copies is None:
            self._copies = tempfile.TemporaryDirectory(prefix="coordkit-redis-")
        self._copied += 1
        folder = Path(self._copies.name, f"{member.name}-{self._copied}")
        member.copy_data(folder)
        return folder

    def restore(self, member: V, snapshot: Path) -> None:
        """Stop a member, put back the data of that moment, and start it; ready when this returns."""
        member.stop()
        member.put_data(snapshot)
        member.start()
        self.ready(among=[member])

    def flushall(self, member: V) -> None:
        """No key of any database is left; the server goes on, and so do its run_id and its scripts."""
        self.hand(member).flushall()

    def swapdb(self, member: V, one: int = 0, other: int = 1) -> None:
        """Who reads the one database finds the other."""
        self.hand(member).swapdb(one, other)

    def replicaof(self, member: V, other: V) -> None:
        """Make a member a replica of another: its data go, and it denies writes. It has them all when this returns."""
        host, port = other.peer_address
        self.hand(member).replicaof(host, str(port))
        self._until(member, lambda hand: hand.info("replication").get("master_link_status") == "up")

    def promote(self, member: V) -> None:
        """Make a replica a primary, with the data that it has."""
        self.hand(member).replicaof("NO", "ONE")

    def out_of_memory(self, member: V) -> None:
        """Writes are denied: OOM."""
        self.hand(member).config_set("maxmemory", 1)

    def enough_memory(self, member: V) -> None:
        """The end of `out_of_memory`."""
        self.hand(member).config_set("maxmemory", 0)

    def read_only(self, member: V) -> None:
        """Writes are denied: NOREPLICAS."""
        self.hand(member).config_set("min-replicas-to-write", 1)

    def writable(self, member: V) -> None:
        """The end of `read_only`."""
        self.hand(member).config_set("min-replicas-to-write", 0)

    def evicting(self, member: V) -> None:
        """It may drop any key when memory is short."""
        self.hand(member).config_set("maxmemory-policy", "allkeys-lru")

    def no_eviction(self, member: V) -> None:
        """The end of `evicting`."""
        self.hand(member).config_set("maxmemory-policy", "noeviction")

    def busy(self, member: V) -> None:
        """A script runs that never ends: everything is denied, BUSY, when this returns. `stop` would not be heard."""
        self.hand(member).config_set("lua-time-limit", 1)
        connection = self.hand(member).connection_pool.make_connection()
        self._busy[member.name] = connection
        connection.connect()
        connection.send_command("EVAL", "while true do end", 0)
        self._await(member, lambda: self._says(member) == "BUSY")

    def not_busy(self, member: V) -> None:
        """The end of `busy`."""
        self.hand(member).script_kill()
        self._await(member, lambda: self._says(member) == "PONG")
        self._busy.pop(member.name).disconnect()
        self.hand(member).config_set("lua-time-limit", BUSY_AFTER)

    # -- within ------------------------------------------------------------------------------------------

    def _way_to(self, member: V) -> dict[str, Any]:
        if member.unix_socket:
            return {"unix_socket_path": member.unix_socket}
        way: dict[str, Any] = {"host": member.host, "port": member.port}
        if self.tls:
            files = {"ca_certs": self.tls.authority, "certfile": self.tls.client, "keyfile": self.tls.client_key}
            way |= {"ssl": True} | {f"ssl_{name}": str(file) for name, file in files.items()}
        return way

    def _says(self, member: V) -> str:
        """PONG, or the code of the error that a ping is answered with; empty if there is no answer."""
        try:
            self.hand(member, timeout=VIEW_SECONDS).ping()
        except redis.BusyLoadingError:
            return "LOADING"
        except (OSError, redis.ConnectionError, redis.TimeoutError):
            return ""
        except redis.ResponseError as refused:
            return str(refused).partition(" ")[0]
        return "PONG"

    def _mend(self, member: V) -> None:
        hand = self.hand(member)
        if hand.role()[0] != "master":
            self.promote(member)
        with hand.pipeline(transaction=False) as commands:
            for name, value in HEALTHY.items():
                commands.config_set(name, value)
            commands.config_set("requirepass", "")
            for user in self._users:
                commands.execute_command("ACL", "DELUSER", user)
            commands.execute()

    def _until(self, member: V, condition: Callable[[redis.Redis], bool]) -> None:
        self._await(member, lambda: condition(self.hand(member)))

    def _await(self, member: V, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + CHANGE_SECONDS
        while not condition():
            if time.monotonic() > deadline:
                raise NotReady(f"{member.name} is not as it should after {CHANGE_SECONDS:g} s\n{member.last_words()}")
            time.sleep(POLL_SECONDS)


class LocalVoter(LocalMember):
    """A voter that is a process. Others reach it, as its replicas, through a proxy, which is made when it is wanted."""

    unix_socket = ""
    _peer: tuple[str, int] | None = None

    @property
    def peer_address(self) -> tuple[str, int]:
        if self._peer is None:
            proxy = self._links.before(self.name, self.host, self.port)
            self._peer = proxy.host, proxy.port
        return self._peer

    def start(self) -> None:
        self.data.mkdir(parents=True, exist_ok=True)
        super().start()

    def copy_data(self, folder: Path) -> None:
        shutil.copytree(self.data, folder)

    def put_data(self, folder: Path) -> None:
        self.wipe()
        shutil.copytree(folder, self.data)


class RedisVoters(Redis[LocalVoter]):
    """Local processes, with all they write under `folder`. They are independent: each is a primary.

    `unix`: by unix sockets alone. `server`, `release`: the program, redis-server or valkey-server, and whose it is, of
    those in the catalogue; empty: the machine's. `flags` are added to every server's, such as `--maxclients`, `9`.
    `places`: a host for each; without them all run on this one.
    """

    def __init__(
        self,
        folder: Path,
        size: int,
        *,
        tls: Certificates | None = None,
        ipv6: bool = False,
        unix: bool = False,
        server: str = "redis-server",
        release: str = "",
        flags: Sequence[str] = (),
        places: Sequence[Place] = (),
    ) -> None:
        found = program(server, release)
        hosts = [place.host for place in places] or ["::1" if ipv6 else "127.0.0.1"] * size
        self._links = Links(direct=bool(places))
        self._ports = [Port(host) for host in hosts]
        # A socket's path has room for a hundred bytes.
        self._sockets = tempfile.TemporaryDirectory(prefix="redis-") if unix else None
        members = []
        for number, (host, port) in enumerate(zip(hosts, self._ports, strict=True), start=1):
            name = f"redis{number}"
            own = ["--dir", str(folder / name / "data"), "--bind", host]
            socket = f"{self._sockets.name}/{number}" if self._sockets else ""
            if socket:
                own += ["--port", "0", "--unixsocket", socket]
            elif tls:
                own += ["--port", "0", "--tls-port", str(port.number), *_tls_flags(tls)]
            else:
                own += ["--port", str(port.number)]
            command = Command.of(found, *own, *FLAGS, *flags)
            member = LocalVoter(name, host, port, folder / name, command, self._links)
            member.unix_socket = socket
            members.append(member)
        settle(members, places)
        super().__init__(members, tls=tls)

    def close(self) -> None:
        """End all members at once; their logs and data stay in the folder."""
        super().close()
        for member in self.members:
            member.kill()
        self._links.close()
        for port in self._ports:
            port.close()
        if self._sockets:
            self._sockets.cleanup()


def _tls_flags(tls: Certificates) -> list[str]:
    return [
        *("--tls-cert-file", str(tls.server), "--tls-key-file", str(tls.server_key)),
        *("--tls-ca-cert-file", str(tls.authority), "--tls-auth-clients", "yes", "--tls-replication", "yes"),
    ]
