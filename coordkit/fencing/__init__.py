"""Fences: the resource itself refuses a stale leader.

The rule: a fence needs what its store needs, and nothing is imported before it is asked for. What is missing is told
by the name of its extra, such as pip install 'coordkit[sql]'.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Final

from coordkit.errors import BackendNotInstalled
from coordkit.fencing.memory import MemoryFence
from coordkit.fencing.recorded import recorded
from coordkit.model import Fence, FencingToken

if TYPE_CHECKING:
    from coordkit.fencing.asgi import FenceMiddleware as FenceMiddleware
    from coordkit.fencing.etcd import AsyncEtcdFence as AsyncEtcdFence
    from coordkit.fencing.etcd import EtcdFence as EtcdFence
    from coordkit.fencing.file import FileFence as FileFence
    from coordkit.fencing.redis import AsyncRedisFence as AsyncRedisFence
    from coordkit.fencing.redis import RedisFence as RedisFence
    from coordkit.fencing.sql import SQLFence as SQLFence
    from coordkit.fencing.sql_update import fenced_update as fenced_update
    from coordkit.fencing.zookeeper import ZooKeeperFence as ZooKeeperFence

__all__ = [
    "Fence",
    "FencingToken",
    "MemoryFence",
    "recorded",
]  # without the others: `import *` must not need their packages

# name: module, extra, and the packages whose absence means that the extra is missing
_LATER: Final[dict[str, tuple[str, str, tuple[str, ...]]]] = {
    "AsyncEtcdFence": ("etcd", "etcd", ("etcd3", "grpc", "google", "six")),
    "AsyncRedisFence": ("redis", "redis", ("redis",)),
    "EtcdFence": ("etcd", "etcd", ("etcd3", "grpc", "google", "six")),
    "FenceMiddleware": ("asgi", "", ()),
    "FileFence": ("file", "", ()),
    "RedisFence": ("redis", "redis", ("redis",)),
    "SQLFence": ("sql", "sql", ("sqlalchemy",)),
    "ZooKeeperFence": ("zookeeper", "zookeeper", ("kazoo",)),
    "fenced_update": ("sql_update", "sql", ("sqlalchemy",)),
}
_CALLED: Final = {"sqlalchemy": "SQLAlchemy"}


def __getattr__(name: str) -> object:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, extra, packages = _LATER[name]
    try:
        found = importlib.import_module(f"coordkit.fencing.{module}")
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in packages:
            raise
        told = f"{_CALLED.get(missing, missing)} is not installed: pip install 'coordkit[{extra}]'"
        raise BackendNotInstalled(told) from error
    return getattr(found, name)
