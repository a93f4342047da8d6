"""Real clusters for tests, as fixtures.

The rule: one cluster serves all tests of a worker, and each test finds it healthy and empty. What a test breaks is
mended before the next, and where a test fails its report has the servers' last words.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tests.servers import Missing
from tests.servers.catalogue import NEWER
from tests.servers.etcd import Etcd, EtcdCluster

VARIABLE = "COORDKIT_TEST_CLUSTERS"
E = TypeVar("E", bound=Etcd[Any])


@pytest.fixture(scope="session")
def etcd_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd[Any]]:
    """Three members, as processes; as containers with COORDKIT_TEST_CLUSTERS=compose. In the state others left."""
    match os.environ.get(VARIABLE, "local"):
        case "local":
            try:
                made: Etcd[Any] = EtcdCluster(tmp_path_factory.mktemp("etcd"))
            except Missing as missing:
                if os.environ.get("CI") == "true":
                    pytest.fail(str(missing))
                pytest.skip(str(missing))
        case "compose":
            from tests.servers.compose import ComposeEtcd

            made = ComposeEtcd()
        case other:
            pytest.fail(f"{VARIABLE} is 'local' or 'compose', not {other!r}")
    with made as cluster:
        yield cluster


@pytest.fixture(scope="session")
def newer_etcd_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdCluster]:
    """One member, a process, of the newer release. In the state others left."""
    with of_newer_release(tmp_path_factory.mktemp("newer-etcd"), 1) as cluster:
        yield cluster


@pytest.fixture
def etcd(etcd_cluster: Etcd[Any], request: pytest.FixtureRequest) -> Iterator[Etcd[Any]]:
    """The same, healthy and empty before the test and after it."""
    yield from _kept(etcd_cluster, request)


@pytest.fixture
def newer_etcd(newer_etcd_cluster: EtcdCluster, request: pytest.FixtureRequest) -> Iterator[EtcdCluster]:
    """The same, healthy and empty before the test and after it."""
    yield from _kept(newer_etcd_cluster, request)


def of_newer_release(folder: Path, size: int) -> EtcdCluster:
    """A cluster that is not started; the test is skipped where the release cannot be had, and failed in CI."""
    try:
        return EtcdCluster(folder, size, release=NEWER)
    except Missing as missing:
        if os.environ.get("CI") == "true":
            pytest.fail(str(missing))
        pytest.skip(str(missing))


def _kept(cluster: E, request: pytest.FixtureRequest) -> Iterator[E]:
    # An earlier test's clean-up may have failed, and a test may have been ended by its timeout.
    cluster.heal()
    cluster.clear()
    before = request.session.testsfailed
    yield cluster
    if request.session.testsfailed > before:
        print(cluster.logs())
    cluster.heal()
    cluster.clear()
