"""Fixtures for pytest: `pytest_plugins = ["coordkit.testing.fixtures"]` in your conftest.py.

The rule: each test has a store and a world of its own, and leaves nothing behind.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from coordkit.backends import memory
from coordkit.testing.faults import StoreFaults, faults
from coordkit.testing.virtual import World

_numbers = itertools.count(1)


@pytest.fixture
def memory_url() -> Iterator[str]:
    """The URL of a fresh store in this process, gone after the test."""
    name = f"test-{next(_numbers)}"
    yield f"memory://{name}"
    memory.stores.pop(name, None)
    for key in [key for key in memory.links if key[0] == name]:
        memory.links.pop(key, None)


@pytest.fixture
def memory_faults(memory_url: str) -> Iterator[StoreFaults]:
    """The faults of the store and the link of `memory_url`; healed after the test."""
    with faults(memory_url.removeprefix("memory://")) as made:
        yield made


@pytest.fixture
def virtual_world() -> Iterator[World]:
    """A world on virtual time, with seed 0. For other seeds, `with World(seed) as world:`."""
    with World() as world:
        yield world
