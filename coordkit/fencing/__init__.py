"""Fences: the resource itself refuses a stale leader."""

from coordkit.model import Fence, FencingToken

__all__ = ["Fence", "FencingToken"]
