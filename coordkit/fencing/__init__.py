"""Fences: the resource itself refuses a stale leader.

The rule: a fence needs what its store needs, and nothing is imported before it is asked for. `SQLFence` needs
SQLAlchemy: pip install 'coordkit[sql]'.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from coordkit.errors import BackendNotInstalled
from coordkit.fencing.memory import MemoryFence
from coordkit.model import Fence, FencingToken

if TYPE_CHECKING:
    from coordkit.fencing.sql import SQLFence as SQLFence

__all__ = ["Fence", "FencingToken", "MemoryFence"]  # without SQLFence: `import *` must not need SQLAlchemy


def __getattr__(name: str) -> object:
    if name != "SQLFence":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from coordkit.fencing.sql import SQLFence
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "sqlalchemy":
            raise
        raise BackendNotInstalled("SQLAlchemy is not installed: pip install 'coordkit[sql]'") from error
    return SQLFence
