"""`sqlite:///path/file.db`: elections among the processes of one machine, through one file."""

from coordkit.backends.sqlite.adapter import check, connect, guarantees

__all__ = ["check", "connect", "guarantees"]
