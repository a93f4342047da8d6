"""What docs/faults.md says beside the numbers of a run: directed tests, and what is not survived.

The rule: a row names a test file that exists, and what that file asserts.
"""

from __future__ import annotations

from typing import Final

Row = tuple[str, str, str]

DIRECTED: Final[tuple[Row, ...]] = (
    (
        "the leader with a minority of the servers, cut off from the others (namespaces, nftables)",
        "it is over by its own clock before the other side elects; its late write is refused; one leader after healing",
        "tests/chaos/test_partitions_etcd.py, test_partitions_zookeeper.py, test_partitions_redis.py",
    ),
    (
        "one way cut: only the replies, or only the requests, of the leader are lost",
        "it ends by its own clock, whatever the store believes; nobody leads twice",
        "tests/chaos/test_partitions_etcd.py, test_partitions_zookeeper.py, test_partitions_redis.py",
    ),
    (
        "the leader of the servers cut off from its followers, wholly or one way",
        "the term is held or ends honestly; no majority, no leader; recovery after healing",
        "tests/chaos/test_partitions_etcd.py, test_partitions_zookeeper.py",
    ),
    (
        "a member taken off its network (docker network disconnect under compose)",
        "one leader, rising tokens",
        "tests/integration/test_disconnected.py",
    ),
    (
        "members restarted in turn, removed, added",
        "terms are held at least once, end honestly else; tokens rise",
        "tests/chaos/test_membership.py",
    ),
    (
        "full disks: of a minority, of all servers, of the candidate",
        "a minority costs no term; with all full nobody leads; all is well once there is room",
        "tests/chaos/test_disk_full.py",
    ),
    (
        "credentials or rights revoked while leading",
        "the term ends by its deadline, on_lost once, the next campaign is rejected without a secret in the error",
        "tests/chaos/test_credentials.py",
    ),
    (
        "a leader stopped between its check and its write, on every store",
        "the late write is refused; the same program without the fence writes a stale value in the same run",
        "tests/integration/test_fence_zombie.py",
    ),
    (
        "a leader of etcd that was stopped revokes living leases",
        "the successor waits until the old leader must be over; without the record two lead",
        "tests/chaos/test_etcd_revocation.py",
    ),
    (
        "processes killed in a database transaction, interleaved tokens",
        "tokens never fall, nothing accepted is lost, no lock is left",
        "tests/integration/test_sqlfence_failures.py",
    ),
    (
        "the server that a ZooKeeper client talks to is cut off right after a write",
        "the term ends before the node can vanish",
        "tests/integration/test_zookeeper_session.py",
    ),
    (
        "replies lost exactly while an entry is made",
        "one entry or none, no orphan",
        "tests/integration/test_etcd_orphans.py, test_zookeeper_orphans.py, test_redis_orphans.py",
    ),
    (
        "voters of Redis wiped, rolled back, swapped, read-only, out of memory: one after another, a majority at once",
        "the term goes on with a minority, ends honestly without a majority; tokens still rise",
        "tests/integration/test_redis_voters.py",
    ),
)

NOT_SURVIVED: Final = """
- **A pause of the machine that its own clocks do not count**, such as a virtual machine that is copied or restored. The
  old leader believes in its term. Only a fence helps.
- **A store restored from a backup, or made anew.** Revisions, zxids and epochs may fall, and the tokens with them.
  Raise the fences by hand (`coordkit fence raise`).
- **etcd with `trust_leases=true`**, where a member may be stopped and go on: two may lead for a moment.
- **Redis: a majority of the voters forgets at once** while every clock is behind the one that was the floor of the last
  token. There are never two leaders, but a token may fall. Of three voters one is enough, if another was down when that
  leader won. Synchronised clocks, or five voters, make it rare; nothing else depends on them.
- **Redis: a server that does not know that it has forgotten**, such as a virtual machine restored with its memory.
- **One or two voters of Redis, one server of etcd or ZooKeeper** survive no fault of a server: nobody leads then.
- **ZooKeeper that grants sessions of less than two ticks**, or servers whose limits differ: a term may be lost.
- **Apache Curator or etcdctl in the same election**: they believe what they were last told, not a clock.
- **SQLite**: the machine, and its disk, are one point of failure. A file on a network is refused.
- **A resource without a fence**: a leader that is stopped in the middle of a write may end it late, on any store.
- **Someone with the rights of a candidate who lies.**
"""
