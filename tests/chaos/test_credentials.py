"""A leader whose credentials are taken away while it leads, and given back.

The rule: its term ends by its deadline at the latest, for a reason that its journal names; its next campaign is
`Rejected`; who still may, leads. Nobody is shown a password. With its credentials back it leads again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from kazoo.security import ACL, Id, Permissions

from tests.servers.etcd import ROOT_PASSWORD, EtcdCluster
from tests.servers.redis import Redis
from tests.servers.zookeeper import ZooKeeper
from tests.support.contest import ELECTION, Contest, measured, nothing_left, now, spans_of, stays_quiet
from tests.support.failing import MARK
from tests.support.voting import held_by, mark_new
from tests.support.zookeeper_hand import digest_of, hand

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(90)]

TTL = 3.0
ALICE, BOB = ("alice", f"{MARK}-alice"), ("bob", f"{MARK}-bob")


def ends_and_leads_again(
    folder: Path,
    urls: Sequence[str],
    *,
    watched: str,
    revoke: Callable[[], object],
    restore: Callable[[], object],
    takeover: float,
    left: Callable[[], object],
) -> None:
    """`urls`: of who loses its credentials, and of who keeps them. `watched`: our own."""
    mine, others = urls
    with Contest(folder, watched, ttl=TTL) as contest:
        leader = contest.candidate(mine)
        token = leader.leads()
        other = contest.candidate(others)
        revoke()
        revoked = now()
        assert leader.lost() == "expired"
        assert leader.until("fails") == ["Rejected"]
        after = other.leads()
        assert leader.writes_late(token) == "refused"
        restore()
        other.child.tell("leave")
        again = leader.leads()
        assert other.child.exit_code() == 0, other.child.errors
        leader.child.tell("leave")
        assert leader.child.exit_code() == 0, leader.child.errors
        nothing_left(left)
        report = contest.report()
        old, new, newest = spans_of(report, token, after, again)
        measured("the term ended", revoked, old.until, TTL, slack=0.5)
        measured("another led", revoked, new.since, takeover)
        assert old.until <= new.since
        assert token < after < again
        assert newest.reason is None
        details = [str(record["detail"]) for record in old.records if record["event"] == "jeopardy"]
        print(*details, sep="\n")
        # The first reason for which a term is in danger is on file; on a busy machine that may be the machine.
        assert any("Rejected" in detail for detail in details) or all(map(busy, details)), details
        shown = [contest.journal.read_text(encoding="ascii"), leader.child.errors, other.child.errors]
        assert not any(MARK in text for text in shown)


def busy(detail: str) -> bool:
    """Whether a renewal was late, or its answer: nobody refused it."""
    return "the engine ran" in detail or "OutcomeUnknown" in detail


# -- etcd --------------------------------------------------------------------------------------------------------

# A keepalive needs no right, so the lease lives on until the term has ended. Nobody may mark the record then: where
# leases are not trusted the next one waits the ttl once more.
ETCD_TAKEOVER = 3 * TTL + 1.0


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[EtcdCluster]:
    """Three members that will ask for a user."""
    with EtcdCluster(tmp_path / "etcd", flags=["--bcrypt-cost=4"]) as cluster:
        yield cluster


def admit(cluster: EtcdCluster, login: tuple[str, str]) -> None:
    cluster.ctl("user", "add", login[0], "--interactive=false", input=login[1])
    cluster.ctl("user", "grant-role", login[0], "contends")


@pytest.mark.local_cluster
@pytest.mark.backend("etcd")
@pytest.mark.parametrize("what", ["role revoked", "user deleted", "authentication enabled"])
def test_etcd(guarded: EtcdCluster, tmp_path: Path, what: str) -> None:
    guarded.ctl("role", "add", "contends")
    guarded.ctl("role", "grant-permission", "contends", "readwrite", "p/", "--prefix=true")
    for login in (ALICE, BOB):
        admit(guarded, login)
    root = guarded.url("p", user="root", password=ROOT_PASSWORD)
    if what != "authentication enabled":
        guarded.enable_auth()
    mine, bobs = (guarded.url("p", user=user, password=password) for user, password in (ALICE, BOB))
    revoke: Callable[[], object]
    restore: Callable[[], object]
    match what:
        case "role revoked":
            revoke = lambda: guarded.ctl("user", "revoke-role", "alice", "contends")  # noqa: E731 - one word each
            restore = lambda: guarded.ctl("user", "grant-role", "alice", "contends")  # noqa: E731
        case "user deleted":
            revoke = lambda: guarded.ctl("user", "delete", "alice")  # noqa: E731
            restore = lambda: admit(guarded, ALICE)  # noqa: E731
        case _:
            mine = guarded.url("p")
            revoke, restore = guarded.enable_auth, guarded.disable_auth
    ends_and_leads_again(
        tmp_path,
        (mine, bobs),
        watched=root,
        revoke=revoke,
        restore=restore,
        takeover=ETCD_TAKEOVER,
        left=guarded.leases,
    )


# -- ZooKeeper ---------------------------------------------------------------------------------------------------


def guard(zookeeper: ZooKeeper[Any], *logins: tuple[str, str]) -> None:
    """From now on these may do everything to the election's node and all under it, and nobody else anything."""
    listed = [ACL(Permissions.ALL, Id("digest", digest_of(*login))) for login in logins]
    with hand(zookeeper, super_user=True) as operator:
        operator.ensure_path(f"/p/{ELECTION}")
        for node in zookeeper.nodes("/p"):
            operator.set_acls(node.path, listed)


@pytest.mark.backend("zookeeper")
def test_zookeeper(zookeeper: ZooKeeper[Any], tmp_path: Path) -> None:
    guard(zookeeper, ALICE, BOB)
    both = ";".join(f"digest:{digest_of(*login)}:cdrwa" for login in (ALICE, BOB))
    mine, bobs = (zookeeper.url("p", user=user, password=password, acl=both) for user, password in (ALICE, BOB))
    ends_and_leads_again(
        tmp_path,
        (mine, bobs),
        watched=bobs,
        revoke=lambda: guard(zookeeper, BOB),
        restore=lambda: guard(zookeeper, ALICE, BOB),
        takeover=2 * TTL + 1.0,  # it gives up its session once its term has ended
        left=lambda: [node for node in zookeeper.nodes("/p") if node.ephemeral_owner],
    )


# -- Redis -------------------------------------------------------------------------------------------------------

RIGHTS = "~coordkit &coordkit:* +@all"


def hang_up(redis: Redis[Any], user: str) -> None:
    """End the connections of this user at all voters."""
    for member in redis.members:
        redis.hand(member).execute_command("CLIENT", "KILL", "USER", user)


@contextmanager
def urls_of(redis: Redis[Any]) -> Iterator[tuple[str, str]]:
    for user, password in (ALICE, BOB):
        redis.add_user(user, password, RIGHTS)
    mine, bobs = (redis.url(user=user, password=password) for user, password in (ALICE, BOB))
    mark_new(redis, mine)
    yield mine, bobs


@pytest.mark.backend("redis")
@pytest.mark.parametrize("what", ["user off", "rights removed"])
def test_redis(redis: Redis[Any], tmp_path: Path, what: str) -> None:
    def revoke() -> None:
        for member in redis.members:
            word = "off" if what == "user off" else "-@all"
            redis.hand(member).execute_command("ACL", "SETUSER", "alice", word)
        if what == "user off":
            hang_up(redis, "alice")  # who is in stays in

    with urls_of(redis) as urls:
        ends_and_leads_again(
            tmp_path,
            urls,
            watched=urls[1],
            revoke=revoke,
            restore=lambda: redis.add_user(*ALICE, RIGHTS),
            takeover=TTL + 1.5,
            left=lambda: held_by(redis, ELECTION),
        )


@pytest.mark.backend("redis")
def test_connections_that_redis_ends_end_no_term(redis: Redis[Any], tmp_path: Path) -> None:
    """CLIENT KILL, again and again; and a minority that lets it in no more."""
    with urls_of(redis) as (mine, bobs), Contest(tmp_path, bobs, ttl=TTL) as contest:
        leader = contest.candidate(mine)
        token = leader.leads()
        other = contest.candidate(bobs)
        for member in redis.members[:2]:
            redis.hand(member).execute_command("ACL", "SETUSER", "alice", "off")
        for _ in range(6):
            hang_up(redis, "alice")
            stays_quiet(TTL / 4, other)
        assert leader.count("lost") == 0
        contest.all_leave()
        nothing_left(lambda: held_by(redis, ELECTION))
        assert spans_of(contest.report(), token)[0].renewals > 2
