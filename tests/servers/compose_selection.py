"""A plugin for pytest: of all tests, those that can run on the servers of docker-compose.yml.

The rule: a test is chosen by what it says of itself. It has a backend that the file serves, and it does not ask for
members that are processes of this machine (marker `local_cluster`). Those of one backend share its cluster, which each
test finds empty: one worker runs them all, beside those of the others.
"""

from __future__ import annotations

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

BACKENDS = ("etcd", "zookeeper", "redis", "postgresql", "mariadb")


@pytest.hookimpl(trylast=True)  # tests/conftest.py has noted the backends by then
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    chosen = [item for item in items if _can_run(item)]
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    if nameless := [item.nodeid for item in chosen if backends_named_by(item.nodeid) != _backend(item)]:
        raise pytest.UsageError(f"their ids do not name their backend, and no other: {', '.join(nameless)}")
    items[:] = chosen


class OneWorkerPerBackend(LoadScopeScheduling):
    """It is known of a test by its id alone which cluster it uses."""

    def _split_scope(self, nodeid: str) -> str:
        return backends_named_by(nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> OneWorkerPerBackend:
    return OneWorkerPerBackend(config, log)


def backends_named_by(nodeid: str) -> str:
    """The backends that an id names: its parameters, or, where they name none, anything in it.

    A bug that was found in one store, and is looked for in all of them, may have that one's name in its test's.
    """
    _, _, parameters = nodeid.partition("[")
    for text in (parameters, nodeid):
        if named := [backend for backend in BACKENDS if backend in text]:
            return " ".join(named)
    return ""


def _can_run(item: pytest.Item) -> bool:
    return _backend(item) in BACKENDS and item.get_closest_marker("local_cluster") is None


def _backend(item: pytest.Item) -> str:
    return str(dict(item.user_properties).get("backend"))
