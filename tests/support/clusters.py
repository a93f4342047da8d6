"""Real clusters for tests, as fixtures.

The rule: one cluster serves all tests of a worker, and each test finds it healthy and empty. What a test breaks is
mended before the next, and where a test fails its report has the servers' last words.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tests.servers.catalogue import NEWER
from tests.servers.certificates import Certificates
from tests.servers.cluster import Cluster
from tests.servers.compose import (
    SINGLE_VOTER,
    ComposeEtcd,
    ComposeMariaDB,
    ComposePostgreSQL,
    ComposeRedis,
    ComposeZooKeeper,
)
from tests.servers.databases import Database
from tests.servers.etcd import Etcd, EtcdCluster
from tests.servers.mariadb import MariaDBServer
from tests.servers.postgresql import PostgreSQLServer
from tests.servers.redis import Redis, RedisVoters
from tests.servers.zookeeper import ZooKeeper, ZooKeeperCluster
from tests.support.provided import provided

VARIABLE = "COORDKIT_TEST_CLUSTERS"
C = TypeVar("C", bound=Cluster[Any])


@pytest.fixture(scope="session")
def etcd_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd[Any]]:
    """Three members, as processes; as containers with COORDKIT_TEST_CLUSTERS=compose. In the state others left."""
    with _chosen(lambda: EtcdCluster(tmp_path_factory.mktemp("etcd")), ComposeEtcd) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def zookeeper_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ZooKeeper[Any]]:
    """Three members, likewise."""
    with _chosen(lambda: ZooKeeperCluster(tmp_path_factory.mktemp("zookeeper")), ComposeZooKeeper) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def redis_voters(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis[Any]]:
    """Five independent voters, likewise."""
    with _chosen(lambda: RedisVoters(tmp_path_factory.mktemp("redis"), 5), ComposeRedis) as voters:
        yield voters


@pytest.fixture(scope="session")
def redis_single_voter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis[Any]]:
    """One voter beside the five, likewise."""

    def container() -> Redis[Any]:
        return ComposeRedis(services=SINGLE_VOTER)

    with _chosen(lambda: RedisVoters(tmp_path_factory.mktemp("redis"), 1), container) as voter:
        yield voter


@pytest.fixture(scope="session")
def newer_etcd_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdCluster]:
    """One member, a process, of the newer release. In the state others left."""
    with of_newer_release(tmp_path_factory.mktemp("newer-etcd"), 1) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def postgresql_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database[Any]]:
    """One server, likewise."""

    def local() -> Database[Any]:
        return PostgreSQLServer(tmp_path_factory.mktemp("postgresql"))

    with _chosen(local, ComposePostgreSQL) as server:
        yield server


@pytest.fixture(scope="session")
def mariadb_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database[Any]]:
    """One server, likewise."""

    def local() -> Database[Any]:
        return MariaDBServer(tmp_path_factory.mktemp("mariadb"))

    with _chosen(local, ComposeMariaDB) as server:
        yield server


@pytest.fixture
def etcd(etcd_cluster: Etcd[Any], request: pytest.FixtureRequest) -> Iterator[Etcd[Any]]:
    """The same, healthy and empty before the test and after it."""
    yield from _kept(etcd_cluster, request)


@pytest.fixture
def zookeeper(zookeeper_cluster: ZooKeeper[Any], request: pytest.FixtureRequest) -> Iterator[ZooKeeper[Any]]:
    """The same, healthy and empty before the test and after it."""
    yield from _kept(zookeeper_cluster, request)


@pytest.fixture
def redis(redis_voters: Redis[Any], request: pytest.FixtureRequest) -> Iterator[Redis[Any]]:
    """Five voters, healthy and empty before the test and after it."""
    yield from _kept(redis_voters, request)


@pytest.fixture
def redis_three(redis_voters: Redis[Any], request: pytest.FixtureRequest) -> Iterator[Redis[Any]]:
    """The first three of the five, as voters of their own: not for a test that has the five too."""
    with redis_voters.first(3) as three:
        yield from _kept(three, request)


@pytest.fixture
def redis_one(redis_single_voter: Redis[Any], request: pytest.FixtureRequest) -> Iterator[Redis[Any]]:
    """One voter, none of the five, healthy and empty before the test and after it."""
    yield from _kept(redis_single_voter, request)


@pytest.fixture
def postgresql(postgresql_server: Database[Any], request: pytest.FixtureRequest) -> Iterator[Database[Any]]:
    """The same, healthy and empty before the test and after it."""
    yield from _kept(postgresql_server, request)


@pytest.fixture
def mariadb(mariadb_server: Database[Any], request: pytest.FixtureRequest) -> Iterator[Database[Any]]:
    """The same, healthy and empty before the test and after it."""
    yield from _kept(mariadb_server, request)


@pytest.fixture
def newer_etcd(newer_etcd_cluster: EtcdCluster, request: pytest.FixtureRequest) -> Iterator[EtcdCluster]:
    """The same, healthy and empty before the test and after it."""
    yield from _kept(newer_etcd_cluster, request)


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    """Of an authority that nobody else trusts."""
    return Certificates.make(tmp_path / "certificates")


def of_newer_release(folder: Path, size: int) -> EtcdCluster:
    """A cluster that is not started; the test is skipped where the release cannot be had, and failed in CI."""
    return provided(lambda: EtcdCluster(folder, size, release=NEWER))


def zookeeper_of_newer_release(folder: Path, size: int) -> ZooKeeperCluster:
    """The same of ZooKeeper."""
    return provided(lambda: ZooKeeperCluster(folder, size, release=NEWER))


def redis_of_newer_release(folder: Path, size: int) -> RedisVoters:
    """The same of Redis."""
    return provided(lambda: RedisVoters(folder, size, release=NEWER))


def valkey_voters(folder: Path, size: int) -> RedisVoters:
    """The same of Valkey, which only the newer release has."""
    return provided(lambda: RedisVoters(folder, size, server="valkey-server", release=NEWER))


def _chosen(local: Callable[[], C], containers: Callable[[], C]) -> C:
    match os.environ.get(VARIABLE, "local"):
        case "local":
            return provided(local)
        case "compose":
            return containers()
        case other:
            pytest.fail(f"{VARIABLE} is 'local' or 'compose', not {other!r}")


def _kept(cluster: C, request: pytest.FixtureRequest) -> Iterator[C]:
    # An earlier test's clean-up may have failed, and a test may have been ended by its timeout.
    cluster.heal()
    cluster.clear()
    before = request.session.testsfailed
    yield cluster
    if request.session.testsfailed > before:
        print(cluster.logs())
    cluster.heal()
    cluster.clear()
