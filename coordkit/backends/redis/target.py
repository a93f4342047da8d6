"""What a URL of Redis says: which voters there are, as whom to ask them, and what all candidates have to agree on.

The rule: everything that is wrong with it is said before any I/O, as a `ConfigError` without secrets.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from coordkit.backends.redis.ballot import Rules
from coordkit.backends.redis.layout import config_of
from coordkit.errors import ConfigError
from coordkit.lease import waiting_time
from coordkit.model import MAX_TTL, Guarantees
from coordkit.registry import Address

PORT: Final = 6379
KEY: Final = "coordkit"
MAX_TTL_DEFAULT: Final = 60.0
MOST_VOTERS: Final = 31


@dataclass(frozen=True, slots=True)
class Target:
    """How to reach one voter."""

    host: str  # or, without a port, the path of a socket
    port: int | None
    db: int = 0
    user: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    tls: bool = False
    ca: str = ""
    cert: str = ""
    key: str = field(default="", repr=False)
    server_name: str = ""

    @property
    def name(self) -> str:
        """For messages, and as part of the list that all agree on."""
        if self.port is None:
            return self.host
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def check(address: Address) -> None:
    """`redis://host:port/db`, `redis+quorum://h1,h2,h3`, with TLS `rediss…`, or `redis+unix:///path`."""
    scheme = address.scheme
    quorum = scheme.endswith("+quorum")
    if scheme != "redis+unix" and not quorum and len(address.hosts) != 1:
        raise ConfigError(f"{scheme}:// names one server; several voters are {scheme}+quorum://h1,h2,h3")
    if len(address.hosts) > MOST_VOTERS:
        raise ConfigError(f"{scheme}:// names at most {MOST_VOTERS} voters")
    if quorum and address.path not in ("", "/", "/0"):
        raise ConfigError(f"{scheme}:// has no path: the voters keep their records in database 0")
    if len({target.name for target in targets_of(address)}) < len(address.hosts):
        raise ConfigError(f"{scheme}:// names a voter twice")
    if bool(address.option("cert", "")) != bool(address.option("key", "")):
        raise ConfigError("the options 'cert' and 'key' go together")
    if address.user and not address.password:
        raise ConfigError(f"{scheme}:// has a user without a password")
    for text in (address.user, address.password, key_of(address), address.option("cluster", "")):
        if text is not None and any("\ud800" <= char <= "\udfff" for char in text):
            raise ConfigError(f"the texts of {scheme}:// must be encodable as UTF-8")
    if not key_of(address):
        raise ConfigError("the option 'keyspace' is the name of a key; it is empty")
    if not address.option("cluster", "unnamed"):
        raise ConfigError("the option 'cluster' is a name; it is empty")
    max_ttl = rules_of(address).max_ttl
    if not 0.1 <= max_ttl <= MAX_TTL:
        raise ConfigError(f"max_ttl is a number of seconds from 0.1 to {MAX_TTL:g}, not {max_ttl:g}")


def check_ttl(address: Address, ttl: float) -> None:
    """The longest lease is part of what the voters agree on: a longer one would outlive the quarantine."""
    max_ttl = rules_of(address).max_ttl
    if ttl > max_ttl:
        raise ConfigError(
            f"ttl={ttl:g} is above max_ttl={max_ttl:g}: a voter that has lost its memory counts again after max_ttl, "
            "and by then every lease has to be over; raise the option max_ttl of all candidates together"
        )


def read_seconds(address: Address, ttl: float) -> float:
    """Nobody expires a record: that its leader is dead is known when it has not moved for its ttl."""
    return waiting_time(ttl, address.drift) + 2.0


def rules_of(address: Address) -> Rules:
    """What all candidates at this address agree on."""
    return Rules(max(1, len(address.hosts)), float(address.option("max_ttl", MAX_TTL_DEFAULT)), address.drift)


def key_of(address: Address) -> str:
    """The one key that a voter has."""
    return str(address.option("keyspace", KEY))


def targets_of(address: Address) -> list[Target]:
    """The voters, in the order of the URL."""
    scheme = address.scheme

    def target(host: str, port: int | None, db: int = 0) -> Target:
        files = (str(address.option(name, "")) for name in ("ca", "cert", "key", "server_name"))
        tls = scheme.startswith("rediss")
        return Target(host, port, db, address.user or None, address.password, tls, *files)

    if scheme == "redis+unix":
        if not address.path.startswith("/") or address.path.endswith("/") or "\0" in address.path:
            raise ConfigError("redis+unix:// reads redis+unix:///path/of/redis.sock")
        return [target(address.path, None)]
    digits = address.path.strip("/")
    if digits and not (digits.isascii() and digits.isdigit() and len(digits) <= 6):
        raise ConfigError(f"the path of {scheme}:// is the number of a database, such as /0")
    return [target(host.lower(), port or PORT, int(digits or 0)) for host, port in address.hosts]


def agreement_of(address: Address) -> str:
    """What is written into every voter's marker: candidates with another one are not counted with us."""
    names = [target.name for target in targets_of(address)]
    return config_of(rules_of(address).max_ttl, names, str(address.option("cluster", "")))


def guarantees(address: Address) -> Guarantees:
    """What the votes of these servers promise."""
    rules = rules_of(address)
    wait = f"{waiting_time(rules.max_ttl, rules.drift):.3g} s (max_ttl={rules.max_ttl:g})"
    lost = f"a voter that lost its memory, or is new, counts for nobody for {wait}"
    several = rules.voters > 2
    return Guarantees(
        backend="redis",
        token="the epoch that a majority has voted for: above every earlier one, and above the clock in microseconds "
        "where earlier ones may be forgotten",
        fifo=False,
        survives=(
            "a candidate that is killed, paused, cut off or dropped",
            *(("any minority of the voters killed, paused, cut off, restarted or wiped, one after another",) * several),
            "a majority of the voters down, or without memory: nobody leads until it is back, and tokens still rise",
            "steps of the clocks of servers",
            "lost, late and repeated messages",
        ),
        not_covered=(
            f"{lost}; a change of the list of voters needs coordkit doctor",
            "two lists of voters under one cluster= name",
            "a server restored with its memory, as a virtual machine is, or databases swapped there and back",
            "tokens, if voters forget the last one until a majority does not know it, and clocks are behind its floor",
            *(() if several else ("a fault of one voter: a majority of so few is all of them",)),
        ),
    )
