"""From a URL to a backend.

The rule: everything wrong with a URL is said before any I/O, as a `ConfigError` that names what would be right and
never a password.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import parse_qsl, unquote

from coordkit.backends.contract import Backend, Host
from coordkit.errors import BackendNotInstalled, ConfigError
from coordkit.lease import DEFAULT_DRIFT, DEFAULT_TTL
from coordkit.model import Guarantees

Option = Callable[[str], object]

READ_SECONDS = 5.0  # default timeout of a read


@dataclass(frozen=True, slots=True)
class Address:
    """A parsed backend URL. Equal addresses share a session. `repr` and `shown` hide credentials."""

    scheme: str
    hosts: tuple[tuple[str, int | None], ...]
    path: str
    options: tuple[tuple[str, object], ...] = ()
    user: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)

    @property
    def shown(self) -> str:
        """The URL for messages and logs: no credentials, no options."""
        hosts = ",".join(_shown_host(host, port) for host, port in self.hosts)
        return f"{self.scheme}://{hosts}{self.path}"

    def option(self, name: str, default: Any) -> Any:
        """The typed value of an option, or the default."""
        return dict(self.options).get(name, default)

    @property
    def drift(self) -> float:
        """The fraction by which clocks may differ."""
        return float(self.option("drift", DEFAULT_DRIFT))


@dataclass(frozen=True, slots=True)
class Scheme:
    """One URL scheme: which module serves it and which options it takes."""

    # Has `check(address)`, `guarantees(address)`, `connect(address, host) -> Backend`, and, where not every ttl can be
    # granted, `check_ttl(address, ttl)`; where a read may have to wait for a leader, `read_seconds(address, ttl)`.
    module: str
    extra: str = ""  # of `pip install 'coordkit[extra]'`
    packages: tuple[str, ...] = ()  # whose absence means that the extra is missing
    options: Mapping[str, Option] = field(default_factory=dict)
    hosts: bool = True  # the part after `//` names servers
    login: bool = False  # without `hosts`: a user and a password may stand before the path
    ttl_in_key: bool = False  # the store has one timeout per connection; `connect` has the ttl as its third argument
    doctor: str = ""  # the module that has `checks(backend, address, ttl)`, of `coordkit.findings`; "": it has none


def fraction(text: str) -> float:
    """An option that is a fraction from 0 to 0.2."""
    value = number(text)
    if not 0 <= value <= 0.2:
        raise ValueError("a fraction from 0 to 0.2")
    return value


def number(text: str) -> float:
    """An option that is a finite number."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("a finite number")
    return value


def boolean(text: str) -> bool:
    """An option that is `true` or `false`."""
    if text not in ("true", "false"):
        raise ValueError("true or false")
    return text == "true"


def one_of(*words: str) -> Option:
    """An option that is one of these words."""

    def chosen(text: str) -> object:
        if text not in words:
            raise ValueError(f"one of {', '.join(words)}")
        return text

    return chosen


COMMON: Mapping[str, Option] = {"drift": fraction}

_ETCD = Scheme(
    "coordkit.backends.etcd",
    "etcd",
    packages=("etcd3", "grpc", "google", "six"),
    options={"trust_leases": boolean},
    doctor="coordkit.backends.etcd.doctor",
)
_ZOOKEEPER = Scheme(
    "coordkit.backends.zookeeper",
    "zookeeper",
    packages=("kazoo",),
    options={"auth": one_of("digest", "sasl"), "acl": str},
    ttl_in_key=True,
    doctor="coordkit.backends.zookeeper.doctor",
)
_REDIS = Scheme(
    "coordkit.backends.redis",
    "redis",
    packages=("redis",),
    options={"cluster": str, "keyspace": str, "max_ttl": number},
    doctor="coordkit.backends.redis.doctor",
)
_TLS: Mapping[str, Option] = {"ca": str, "cert": str, "key": str, "server_name": str}

_schemes: dict[str, Scheme] = {
    "etcd": _ETCD,
    "etcds": replace(_ETCD, options={**_ETCD.options, **_TLS}),
    "redis": _REDIS,
    "redis+quorum": _REDIS,
    "redis+unix": replace(_REDIS, hosts=False, login=True),
    "rediss": replace(_REDIS, options={**_REDIS.options, **_TLS}),
    "rediss+quorum": replace(_REDIS, options={**_REDIS.options, **_TLS}),
    "memory": Scheme("coordkit.backends.memory", options={"link": str}, doctor="coordkit.backends.memory_doctor"),
    "sqlite": Scheme("coordkit.backends.sqlite", hosts=False, doctor="coordkit.backends.sqlite.doctor"),
    "zookeeper": _ZOOKEEPER,
    "zookeepers": replace(_ZOOKEEPER, options={**_ZOOKEEPER.options, **_TLS}),
}


def register(name: str, scheme: Scheme) -> None:
    """Add a scheme of your own, served by the module that it names.

    The module has `connect(address, host) -> Backend`, which does no I/O, `check(address)`, which raises
    `ConfigError` for an address that it cannot serve, and `guarantees(address) -> Guarantees`. The module `doctor` of
    the scheme, if it names one, has `checks(backend, address, ttl) -> Sequence[Check]` for `coordkit doctor`.
    """
    if not name.replace("+", "").isalnum() or name != name.lower():
        raise ConfigError(f"a scheme is lower-case letters and digits, with '+': {name!r}")
    if name in _schemes and _schemes[name] != scheme:
        raise ConfigError(f"the scheme {name}:// is taken")
    _schemes[name] = scheme


def parse(url: str, more: Mapping[str, object] | None = None) -> Address:
    """The address that a URL and further options name, typed and checked; else `ConfigError`. No I/O."""
    if not isinstance(url, str):
        raise ConfigError(f"a backend is named by a URL, a str, not {type(url).__name__}")
    scheme_name, separator, rest = url.partition("://")
    if not separator:
        raise ConfigError(f"a backend URL reads scheme://..., with a scheme of {_known_schemes()}")
    scheme = _schemes.get(scheme_name)
    if scheme is None:
        raise ConfigError(f"the scheme {scheme_name[:40]!r} is none of {_known_schemes()}")
    rest, _, fragment = rest.partition("#")
    if fragment:
        raise ConfigError("a backend URL has no '#'; write %23 inside a name")
    rest, _, query = rest.partition("?")
    netloc, slash, path = rest.partition("/")
    if any(ord(char) < 32 or ord(char) == 127 for char in url):
        raise ConfigError("a backend URL has no control characters")
    credentials, at, netloc = netloc.rpartition("@")
    user, _, password = credentials.partition(":")
    if scheme.hosts and "@" in path + query:  # what looks like a host may be the end of a password
        raise ConfigError("a '/' or '?' stands before the '@' of a backend URL: percent-encode it, and any later '@'")
    if not scheme.hosts and (netloc or (at and not scheme.login)):
        raise ConfigError(f"{scheme_name}:// names no host: write three slashes, {scheme_name}:///path")
    hosts = _hosts(netloc, scheme_name) if scheme.hosts else ()
    address = Address(
        scheme_name,
        hosts,
        _decoded(slash + path, "path"),
        _options(scheme, scheme_name, query, more or {}),
        _decoded(user, "user") if at else None,
        _decoded(password, "password") if at else None,
    )
    _module(scheme).check(address)
    return address


def connect(address: Address, host: Host, ttl: float = DEFAULT_TTL) -> Backend:
    """The backend at an address, not yet open; `ttl` for a store that has one timeout per connection."""
    scheme = _schemes[address.scheme]
    more = (ttl,) if scheme.ttl_in_key else ()
    backend: Backend = _module(scheme).connect(address, host, *more)
    return backend


def doctor(address: Address) -> Any:
    """The module that knows what to look at in the backend at an address; None if there is none."""
    name = _schemes[address.scheme].doctor
    try:
        return importlib.import_module(name) if name else None
    except ModuleNotFoundError as error:
        raise ConfigError(f"the checks of {address.scheme}:// cannot be loaded: {error}") from error


def one_ttl(address: Address) -> bool:
    """Whether all electors of one session have the same ttl, for the store has one timeout per connection."""
    return _schemes[address.scheme].ttl_in_key


def check_ttl(address: Address, ttl: float) -> None:
    """Refuse a ttl that this store cannot grant, as a `ConfigError`; most can grant any."""
    check = getattr(_module(_schemes[address.scheme]), "check_ttl", None)
    if check is not None:
        check(address, ttl)


def read_seconds(address: Address, ttl: float) -> float:
    """How long a read may take that names no timeout: longer where the store cannot tell the living from the dead."""
    own = getattr(_module(_schemes[address.scheme]), "read_seconds", None)
    return READ_SECONDS if own is None else max(READ_SECONDS, float(own(address, ttl)))


def sharing_key(address: Address, ttl: float) -> tuple[object, ...]:
    """Electors with equal keys share one session."""
    return (address, ttl if one_ttl(address) else None)


def _module(scheme: Scheme) -> Any:
    try:
        return importlib.import_module(scheme.module)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in scheme.packages:
            raise
        raise BackendNotInstalled(f"{missing} is not installed: pip install 'coordkit[{scheme.extra}]'") from error


def guarantees(address: Address) -> Guarantees:
    """What the backend at an address promises, as far as it is known before connecting."""
    promised: Guarantees = _module(_schemes[address.scheme]).guarantees(address)
    return promised


def _options(scheme: Scheme, name: str, query: str, more: Mapping[str, object]) -> tuple[tuple[str, object], ...]:
    known = {**COMMON, **scheme.options}
    found: dict[str, object] = {}
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query), errors="strict")
    except ValueError:
        raise ConfigError("the options of a backend URL read ?name=value&name=value") from None
    for option, text in [*pairs, *((option, _as_text(value)) for option, value in more.items())]:
        if option not in known:
            raise ConfigError(f"{name}:// has no option {option[:40]!r}; it has {', '.join(sorted(known))}")
        if option in found:
            raise ConfigError(f"the option {option!r} is given twice")
        try:
            found[option] = known[option](text)
        except ValueError as error:
            raise ConfigError(f"the option {option!r} of {name}:// is not valid: {error}") from None
    return tuple(sorted(found.items()))


def _as_text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _hosts(netloc: str, scheme: str) -> tuple[tuple[str, int | None], ...]:
    hosts = tuple(_host(part, scheme) for part in netloc.split(","))
    if len(set(hosts)) != len(hosts):
        raise ConfigError(f"{scheme}:// names a host twice")
    return hosts


def _host(text: str, scheme: str) -> tuple[str, int | None]:
    if text.startswith("["):
        name, bracket, tail = text[1:].partition("]")
        if not bracket or (tail and not tail.startswith(":")):
            raise ConfigError(f"{scheme}:// has a malformed IPv6 host; it reads [::1]:port")
        port = tail[1:]
    else:
        name, _, port = text.partition(":")
        if ":" in port:
            raise ConfigError(f"{scheme}:// has a malformed host; an IPv6 address reads [::1]:port")
    if not name or name.strip() != name:
        raise ConfigError(f"{scheme}:// names an empty host")
    if not port:
        return name, None
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and 1 <= int(port) <= 65535):
        raise ConfigError(f"{scheme}:// has a port that is no number from 1 to 65535")
    return name, int(port)


def _decoded(text: str, what: str) -> str:
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise ConfigError(f"the {what} of a backend URL is not percent-encoded UTF-8") from None


def _shown_host(host: str, port: int | None) -> str:
    name = f"[{host}]" if ":" in host else host
    return name if port is None else f"{name}:{port}"


def _known_schemes() -> str:
    return ", ".join(f"{name}://" for name in sorted(_schemes))
