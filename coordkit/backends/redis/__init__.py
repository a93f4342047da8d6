"""Elections by the votes of independent Redis servers. See `coordkit.backends.redis.adapter`."""

from coordkit.backends.redis.adapter import connect
from coordkit.backends.redis.target import check, check_ttl, guarantees, read_seconds

__all__ = ["check", "check_ttl", "connect", "guarantees", "read_seconds"]
