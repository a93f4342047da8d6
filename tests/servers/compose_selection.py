"""A plugin for pytest: of all tests, those that can run on the servers of docker-compose.yml.

The rule: a test is chosen by what it says of itself. It has a backend that the file serves, and it does not ask for
members that are processes of this machine (marker `local_cluster`).
"""

from __future__ import annotations

import pytest

BACKENDS = ("etcd",)


@pytest.hookimpl(trylast=True)  # tests/conftest.py has noted the backends by then
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    chosen = [item for item in items if _can_run(item)]
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = chosen


def _can_run(item: pytest.Item) -> bool:
    backend = dict(item.user_properties).get("backend")
    return backend in BACKENDS and item.get_closest_marker("local_cluster") is None
