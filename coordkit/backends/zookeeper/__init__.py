"""Elections in ZooKeeper, by sequential ephemeral nodes. See `coordkit.backends.zookeeper.adapter`."""

from coordkit.backends.zookeeper.adapter import connect, guarantees
from coordkit.backends.zookeeper.target import check

__all__ = ["check", "connect", "guarantees"]
