"""What tests need of the machine. The rule: where it is missing a test says so; in CI that is a failure, not a skip."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NoReturn, TypeVar

import pytest

from tests.servers.fetch import Missing

T = TypeVar("T")


def lacking(what: str) -> NoReturn:
    """This test cannot run here."""
    if os.environ.get("CI") == "true":
        pytest.fail(what)
    pytest.skip(what)


def provided(made: Callable[[], T]) -> T:
    """What this makes, if the machine has what it takes."""
    try:
        return made()
    except Missing as missing:
        lacking(str(missing))
