"""What all tests share: suite and backend of each test for the table, and the servers they need."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests import servers
from tests.expected import BACKENDS, SUITES_PER_BACKEND
from tests.support.provided import provided

pytest_plugins = ("tests.support.clusters", "tests.support.sql")

TESTS = Path(__file__).parent

# How fast an example is made and tried tells of the machine's other work, not of the code.
settings.register_profile("busy-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy-machine")

# A shell starts a background job with SIGINT ignored, nohup with SIGHUP; tests send both, to children too.
for number, usual in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGQUIT, signal.SIG_DFL),
    (signal.SIGHUP, signal.SIG_DFL),
    (signal.SIGTERM, signal.SIG_DFL),
):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, usual)


# Suites of tests that a busy machine can fail. Who passes at a second try is named at the end of the run, and more than
# a few fail it. Never the contract, the simulation or the chaos runs: what they find once in a thousand is the find.
SECOND_TRY = ("integration",)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Note suite and backend of each test; they travel with its report, to the JUnit file too."""
    wrong = []
    for item in items:
        suite = item.path.relative_to(TESTS).parts[0]
        backend = _backend(item)
        if backend and backend not in BACKENDS:
            wrong.append(f"{item.nodeid}: unknown backend {backend!r}; one of {', '.join(BACKENDS)}")
        if not backend and suite in SUITES_PER_BACKEND:
            wrong.append(f"{item.nodeid}: of no backend; mark it @pytest.mark.backend(…)")
        item.user_properties += [("suite", suite), ("backend", backend)]
        if suite in SECOND_TRY and item.get_closest_marker("once") is None:
            item.add_marker(pytest.mark.flaky(reruns=1))
    if wrong:
        raise pytest.UsageError("\n".join(wrong))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Note that a test is tried once more."""
    if getattr(item, "execution_count", 1) > 1:  # of pytest-rerunfailures
        item.user_properties.append(("again", "yes"))


def _backend(item: pytest.Item) -> str:
    """The backend of a test: of its nearest marker, else the part of its parameters' ids that names one."""
    if marker := item.get_closest_marker("backend"):
        return str(marker.args[0])
    callspec = getattr(item, "callspec", None)
    named = [part for part in callspec.id.split("-") if part in BACKENDS] if callspec else []
    return named[0] if named else ""


@pytest.fixture(scope="session")
def faketime() -> Path:
    """libfaketime.so.1, to be preloaded into a process whose wall clock is to step."""
    return provided(lambda: servers.library("libfaketime.so.1"))
