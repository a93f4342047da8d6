"""The voter's side, read from the `.lua` files of this package.

The rule: a script is what `common.lua` says and then what its own file says; its digest names it at the server.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Final

NAMES: Final = ("look", "vote", "renew", "release", "init")


@dataclass(frozen=True, slots=True)
class Script:
    """One script, and the digest by which EVALSHA knows it."""

    name: str
    text: bytes
    digest: str


@cache
def script(name: str) -> Script:
    """The script of that name."""
    folder = files("coordkit.backends.redis") / "lua"
    text = b"\n".join((folder / f"{part}.lua").read_bytes() for part in ("common", name))
    return Script(name, text, hashlib.sha1(text, usedforsecurity=False).hexdigest())
