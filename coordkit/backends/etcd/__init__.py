"""Elections in etcd, by leases. See `coordkit.backends.etcd.adapter`."""

from coordkit.backends.etcd.adapter import check, connect, guarantees

__all__ = ["check", "connect", "guarantees"]
