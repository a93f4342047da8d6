"""Tests that need what only root may do. The rule: they say what is lacking; in CI that is a failure, not a skip."""

from __future__ import annotations

from typing import NoReturn

from tests.support import provided


def lacking(what: str) -> NoReturn:
    """This test cannot run here."""
    provided.lacking(f"not allowed here: {what}")
