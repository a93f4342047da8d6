"""What a URL of ZooKeeper says: where to connect to, as whom, and who may do what with the nodes that are made.

The rule: everything that is wrong with it is said before any I/O, as a `ConfigError` without secrets.
"""

from __future__ import annotations

import functools
import ssl
from collections.abc import Callable
from typing import Any, Final

from kazoo.security import ACL, OPEN_ACL_UNSAFE, Id, Permissions

from coordkit.backends import pem
from coordkit.backends.zookeeper.client import Target
from coordkit.backends.zookeeper.layout import refused
from coordkit.errors import ConfigError
from coordkit.registry import Address

PORT: Final = 2181

_PERMISSIONS: Final = {
    "c": Permissions.CREATE,
    "d": Permissions.DELETE,
    "r": Permissions.READ,
    "w": Permissions.WRITE,
    "a": Permissions.ADMIN,
}


def acl_of(text: str) -> list[Any]:
    """What the option `acl` says: `open`, `creator`, or `scheme:id:perms` separated by `;`. Raises `ValueError`."""
    if text == "open":
        return list(OPEN_ACL_UNSAFE)
    found = []
    for each in ["auth::cdrwa"] if text == "creator" else text.split(";"):
        scheme, colon, rest = each.partition(":")
        identity, second, letters = rest.rpartition(":")
        if not (scheme and colon and second and letters) or not set(letters) <= set(_PERMISSIONS) or " " in each:
            raise ValueError(
                "'open', 'creator', or scheme:id:perms with perms of 'cdrwa', separated by ';' (write + as %2B)"
            )
        permissions = functools.reduce(int.__or__, (_PERMISSIONS[letter] for letter in letters))
        found.append(ACL(permissions, Id(scheme, identity)))
    if not any(set("cdrw") <= set(each.rpartition(":")[2]) for each in text.split(";")) and text != "creator":
        raise ValueError(
            "somebody has to have all of 'cdrw': a candidate makes, reads and deletes nodes, and writes one"
        )
    return found


def check(address: Address) -> None:
    """`zookeeper://host:port,host:port/chroot`; with TLS `zookeepers://`, whose certificate and key go together."""
    scheme = address.scheme
    if address.user is not None and (not address.user or address.password is None):
        raise ConfigError(f"{scheme}:// has a user and a password, or neither")
    if bool(address.option("cert", "")) != bool(address.option("key", "")):
        raise ConfigError("the options 'cert' and 'key' go together")
    if address.user is None and address.option("auth", "") and address.option("auth", "") != "none":
        raise ConfigError("the option 'auth' needs a user and a password in the URL")
    if address.user is None and address.option("acl", "open") == "creator" and not address.option("cert", ""):
        raise ConfigError("acl=creator needs somebody to be the creator: a user and a password, or a certificate")
    try:
        acl_of(address.option("acl", "open"))
    except ValueError as error:
        raise ConfigError(f"the option 'acl' of {scheme}:// is not valid: {error}") from None
    for text in (address.user, address.password):
        if text is not None and any("\ud800" <= char <= "\udfff" for char in text):
            raise ConfigError(f"the user and the password of {scheme}:// must be encodable as UTF-8")
    path = address.path.rstrip("/")
    segments = path.split("/")[1:]
    if segments and segments[0] == "zookeeper":
        raise ConfigError(f"the chroot of {scheme}:// is under /zookeeper, which is the servers' own")
    if any(segment in ("", ".", "..") for segment in segments) or any(map(refused, path)):
        raise ConfigError(f"the chroot of {scheme}:// is a path of ZooKeeper, such as /services/elections")


def target_of(address: Address, ttl: float) -> Target:
    """Where to connect to; `ttl` is the timeout that the session asks for."""
    hosts = tuple(
        f"[{name}]:{port or PORT}" if ":" in name else f"{name}:{port or PORT}" for name, port in address.hosts
    )
    files = [address.option(name, "") for name in ("ca", "cert", "key")]
    context: Callable[[], ssl.SSLContext] | None = None
    if address.scheme == "zookeepers":
        context = functools.partial(pem.context, *files, backend="zookeeper")
    return Target(
        hosts,
        ttl,
        context,
        address.option("server_name", ""),
        address.user,
        address.password,
        address.option("auth", "digest") == "sasl",
    )


def chroot_of(address: Address) -> str:
    """Under which node all elections lie; empty: the root."""
    return address.path.rstrip("/")
