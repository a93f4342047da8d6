"""ZooKeeper behind users, access lists and certificates: who may, leads; who may not is told at once.

The rule: nobody is shown a password, in no message, log record of any level, `repr` or line on stderr.

The rights that an election needs: create in the chroot for its first candidate and for proclamations (and write, where
an earlier proclamation lies there); create, delete and read on the election's own node.
"""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from kazoo.security import ACL, Id, Permissions

from coordkit import (
    CampaignTimeout,
    LeaderElector,
    LeadershipLost,
    LossReason,
    Misconfigured,
    Rejected,
    Session,
    TermState,
    Unavailable,
)
from coordkit.backends.zookeeper.layout import Place
from coordkit.testing.contract import Running, eventually
from tests.servers.certificates import Certificates, openssl
from tests.servers.zookeeper import ZooKeeper, ZooKeeperCluster
from tests.support.children import took
from tests.support.commands import COMMANDS, OBSERVE, coordkit
from tests.support.failing import MARK, PASSWORD, fails, nothing_revealed, reveals_nothing
from tests.support.together import together
from tests.support.zookeeper_hand import digest_of, hand

__all__ = ["nothing_revealed"]

pytestmark = [
    pytest.mark.backend("zookeeper"),
    pytest.mark.timeout(90),
    pytest.mark.usefixtures("nothing_revealed", "everything_logged"),
]
local = pytest.mark.local_cluster

AT_ONCE = 2.5  # s: on a busy machine
TTL = 3.0
LONG = 30.0  # s: no test waits for such a lease
TAKEOVER = 1.1 * TTL + AT_ONCE
ALICE = ("alice", PASSWORD)
BOB = ("bob", f"{MARK}-of-bob")
Login = tuple[str, str]


@pytest.fixture
def everything_logged(nothing_revealed: None, caplog: pytest.LogCaptureFixture) -> None:
    """Every logger of the process, kazoo's and those of its packages among them, says all that it has to say."""
    caplog.set_level(logging.DEBUG)


def used_by(call: Callable[[LeaderElector], Any], url: str, election: str = "x", ttl: float = TTL) -> Any:
    """What an elector answers that is closed afterwards."""
    elector = LeaderElector(url, election, ttl=ttl)
    try:
        return call(elector)
    finally:
        elector.close()


def opened(url: str) -> None:
    session = Session(url)
    try:
        session.open()
    finally:
        session.close()


def led(elector: LeaderElector) -> TermState:
    with elector.lead(timeout=5.0) as term:
        term.confirm()
        assert elector.candidates() == (term.candidate,)
    return term.state


LOOKING: dict[str, Callable[[LeaderElector], Any]] = {
    "leader": lambda elector: elector.leader(),
    "candidates": lambda elector: elector.candidates(),
    "observe": lambda elector: next(iter(elector.observe())),
}
CONTENDING: dict[str, Callable[[LeaderElector], Any]] = {
    "campaign": lambda elector: elector.campaign(),
    "try_campaign": lambda elector: elector.try_campaign(),
}


def rejected(url: str, asking: Mapping[str, Callable[[LeaderElector], Any]], *says: str) -> None:
    """Each of these is `Rejected` at once, by an elector that was never used and by one that was rejected before."""
    for ask in asking.values():
        with fails(Rejected, *says, within=AT_ONCE):
            used_by(ask, url)
    elector = LeaderElector(url, "x", ttl=TTL)
    for ask in [*asking.values(), *asking.values()]:
        with fails(Rejected, *says, within=AT_ONCE):
            ask(elector)
    elector.close()


# -- users of the scheme `digest`, and access lists ------------------------------------------------------------------


LETTERS = {
    "c": Permissions.CREATE,
    "d": Permissions.DELETE,
    "r": Permissions.READ,
    "w": Permissions.WRITE,
    "a": Permissions.ADMIN,
}


def of(login: Login, letters: str = "cdrwa") -> ACL:
    """An entry of an access list: what this user may do."""
    return allows(Id("digest", digest_of(*login)), letters)


def allows(identity: Id, letters: str) -> ACL:
    return ACL(sum(LETTERS[letter] for letter in letters), identity)


EVERYBODY = Id("world", "anyone")


def lay(zookeeper: ZooKeeper[Any], path: str, *acl: ACL) -> None:
    """A lasting node with this access list."""
    with hand(zookeeper, super_user=True) as operator:
        operator.create(path, b"", acl=list(acl))


def guard(zookeeper: ZooKeeper[Any], path: str, *acl: ACL) -> None:
    """Another access list from now on, for this node and all under it."""
    with hand(zookeeper, super_user=True) as operator:
        for node in zookeeper.nodes(path):
            operator.set_acls(node.path, list(acl))


def lists(zookeeper: ZooKeeper[Any], path: str) -> dict[str, list[ACL]]:
    """The access lists of all nodes under a path."""
    with hand(zookeeper, super_user=True) as operator:
        return {node.path: operator.get_acls(node.path)[0] for node in zookeeper.nodes(path) if node.path != path}


def url_of(zookeeper: ZooKeeper[Any], login: Login | None, chroot: str = "p", **options: str) -> str:
    user, password = login or ("", "")
    return zookeeper.url(chroot, user=user, password=password, **options)


def story(url: str, other_url: str) -> None:
    """All that candidates do, by two of them."""
    first, second = (LeaderElector(each, "x", ttl=LONG) for each in (url, other_url))
    states = iter(second.observe())
    with took(most=4 * AT_ONCE):
        assert next(states) is None
        with first.lead(timeout=5.0) as term:
            seen = Running(lambda: next(states)).result(AT_ONCE)
            assert seen is not None
            assert seen.token == term.token
            term.confirm()
            for text in ("here", "there"):
                term.proclaim(text)
            found = second.leader()
            assert found is not None
            assert found.metadata == "there"
            waiting = Running(lambda: second.campaign(timeout=10.0))
            eventually(lambda: len(first.candidates()) == 2, "two in the queue")
        newer = waiting.result(AT_ONCE)
        newer.proclaim("and here")
        assert newer.token > term.token
        newer.resign()
    for elector in (first, second):
        elector.close()


def test_with_acl_creator_all_nodes_are_the_users_own(zookeeper: ZooKeeper[Any]) -> None:
    lay(zookeeper, "/p", of(ALICE))
    url = url_of(zookeeper, ALICE, acl="creator")
    with LeaderElector(url, "x", ttl=LONG).lead(timeout=5.0) as term:
        term.proclaim("here")
        found = lists(zookeeper, "/p")
        assert len(found) == 3  # the election, its candidate, its proclamation
        assert all(acl == [of(ALICE)] for acl in found.values())
    story(url, url_of(zookeeper, ALICE, acl="creator", drift="0.011"))
    assert [node.path for node in zookeeper.nodes() if node.ephemeral_owner] == []


def test_another_user_is_rejected_at_once_and_leaves_nothing(zookeeper: ZooKeeper[Any]) -> None:
    lay(zookeeper, "/p", of(ALICE))
    strangers = (BOB, ("alice", f"{MARK}-wrong"), None)
    for login in strangers:
        opened(url_of(zookeeper, login))  # nothing was asked yet that could be refused
        rejected(url_of(zookeeper, login), CONTENDING, "NoAuth")
        used_by(lambda elector: elector.leader(), url_of(zookeeper, login))  # nobody: there is no such election
    assert [node.path for node in zookeeper.nodes()] == ["/p"]
    leader = LeaderElector(url_of(zookeeper, ALICE, acl="creator"), "x", ttl=LONG)
    with leader.lead(timeout=5.0) as term:
        before = [node.path for node in zookeeper.nodes()]
        for login in strangers:
            rejected(url_of(zookeeper, login), {**CONTENDING, **LOOKING}, "NoAuth")
        assert [node.path for node in zookeeper.nodes()] == before
        term.confirm()
        assert leader.candidates() == (term.candidate,)
    leader.close()


def test_an_access_list_that_is_spelt_out_lets_others_look(zookeeper: ZooKeeper[Any]) -> None:
    lay(zookeeper, "/p", of(ALICE), allows(EVERYBODY, "r"))
    spelt = f"digest:{digest_of(*ALICE)}:cdrwa;world:anyone:r"
    leader = LeaderElector(url_of(zookeeper, ALICE, acl=spelt), "x", ttl=LONG)
    with leader.lead(timeout=5.0) as term:
        term.proclaim("here")
        assert all(acl == [of(ALICE), allows(EVERYBODY, "r")] for acl in lists(zookeeper, "/p").values())
        for login in (BOB, None):
            url = url_of(zookeeper, login)
            found = used_by(LOOKING["leader"], url)
            assert (found.token, found.metadata) == (term.token, "here")
            assert used_by(LOOKING["candidates"], url) == (term.candidate,)
            assert used_by(LOOKING["observe"], url) == found
            rejected(url, CONTENDING, "NoAuth")
        term.confirm()
    leader.close()


def test_two_users_who_are_both_named_contend(zookeeper: ZooKeeper[Any]) -> None:
    lay(zookeeper, "/p", of(ALICE), of(BOB))
    both = ";".join(f"digest:{digest_of(*login)}:cdrwa" for login in (ALICE, BOB))
    story(url_of(zookeeper, ALICE, acl=both), url_of(zookeeper, BOB, acl=both))
    story(url_of(zookeeper, BOB, acl=both), url_of(zookeeper, ALICE, acl=both))


def test_exactly_the_rights_that_an_election_needs_suffice(zookeeper: ZooKeeper[Any]) -> None:
    lay(zookeeper, "/p", of(ALICE, "c"))
    url = url_of(zookeeper, ALICE, acl=f"digest:{digest_of(*ALICE)}:cdrw")
    story(url, f"{url}&drift=0.011")


@pytest.mark.parametrize("lacking", ["c", "r"])
def test_a_right_that_is_lacking_on_the_elections_node_is_a_rejection(lacking: str, zookeeper: ZooKeeper[Any]) -> None:
    lay(zookeeper, "/p", of(ALICE))
    lay(zookeeper, Place("/p", "x").path, of(ALICE, "cdrwa".replace(lacking, "")))
    rejected(url_of(zookeeper, ALICE), CONTENDING, "NoAuth")
    eventually(lambda: not [node for node in zookeeper.nodes() if node.ephemeral_owner], "nothing is left", AT_ONCE)


def test_a_chroot_where_nothing_may_be_made_serves_elections_that_are_there(zookeeper: ZooKeeper[Any]) -> None:
    lay(zookeeper, "/p", of(ALICE, "r"))
    lay(zookeeper, Place("/p", "x").path, of(ALICE, "cdr"))
    url = url_of(zookeeper, ALICE, acl="creator")
    elector = LeaderElector(url, "x", ttl=LONG)
    with elector.lead(timeout=5.0) as term:
        with fails(Rejected, "NoAuth", within=AT_ONCE):
            term.proclaim("here")
        term.confirm()
    for ask in CONTENDING.values():
        with fails(Rejected, "NoAuth", within=AT_ONCE):
            used_by(ask, url, "another")
    elector.close()


def test_a_leader_that_may_not_delete_gives_up_its_seat_all_the_same(zookeeper: ZooKeeper[Any]) -> None:
    lay(zookeeper, "/p", of(ALICE), of(BOB))
    lay(zookeeper, Place("/p", "x").path, of(ALICE, "cr"), of(BOB))
    leader = LeaderElector(url_of(zookeeper, ALICE), "x", ttl=TTL)
    successor = LeaderElector(url_of(zookeeper, BOB), "x", ttl=TTL)
    term = leader.campaign(timeout=5.0)
    waiting = Running(lambda: successor.campaign(timeout=2 * TAKEOVER))
    eventually(lambda: len(leader.candidates()) == 2, "two in the queue")
    term.resign()
    with took(most=TAKEOVER):
        waiting.result(TAKEOVER).resign()
    for elector in (leader, successor):  # not before: the end of a session makes room too
        elector.close()


def test_a_leader_that_loses_its_rights_is_over_in_time_and_gives_up_its_seat(zookeeper: ZooKeeper[Any]) -> None:
    lay(zookeeper, "/p", of(ALICE), of(BOB))
    both = ";".join(f"digest:{digest_of(*login)}:cdrwa" for login in (ALICE, BOB))
    elector = LeaderElector(url_of(zookeeper, ALICE, acl=both), "x", ttl=TTL)
    other = LeaderElector(url_of(zookeeper, BOB, acl=both), "x", ttl=TTL)
    with took(most=TTL + AT_ONCE), pytest.raises(LeadershipLost) as ended, elector.lead(timeout=5.0) as term:
        guard(zookeeper, "/p", of(BOB))
        assert term.wait_ended(TTL + AT_ONCE)
    reveals_nothing(ended.value)
    assert ended.value.reason is LossReason.EXPIRED
    for ask in (elector.campaign, elector.leader, elector.candidates):
        with fails(Rejected, "NoAuth", within=AT_ONCE):
            ask()
    with took(most=TAKEOVER + TTL), other.lead(timeout=TAKEOVER + TTL) as newer:
        assert newer.token > term.token
    elector.close()
    other.close()


def test_a_candidate_that_loses_its_rights_while_it_waits_stands_in_nobodys_way(zookeeper: ZooKeeper[Any]) -> None:
    lay(zookeeper, "/p", of(ALICE), of(BOB))
    both = ";".join(f"digest:{digest_of(*login)}:cdrwa" for login in (ALICE, BOB))
    first = LeaderElector(url_of(zookeeper, BOB, acl=both), "x", ttl=LONG)
    second = LeaderElector(url_of(zookeeper, ALICE, acl=both), "x", ttl=TTL)
    term = first.campaign(timeout=5.0)
    waiting = Running(second.campaign)
    eventually(lambda: len(first.candidates()) == 2, "two in the queue")
    guard(zookeeper, "/p", of(BOB))
    term.confirm()
    term.resign()
    with fails(Rejected, "NoAuth", within=TAKEOVER):  # the servers may not tell it of what it may not read
        waiting.result(TAKEOVER)
    with took(most=TAKEOVER), first.lead(timeout=TAKEOVER):
        pass
    first.close()
    second.close()


def test_no_repr_and_no_command_shows_a_password(zookeeper: ZooKeeper[Any]) -> None:
    lay(zookeeper, "/p", of(ALICE))
    url = url_of(zookeeper, ALICE, acl="creator")
    session = Session(url).open()
    elector = LeaderElector(session, "x", ttl=TTL)
    with elector.lead(timeout=5.0) as term:
        shown = [repr(each) for each in (session, session.address, elector, term, term.candidate, elector.leader())]
        assert all(MARK not in text and "alice" not in text for text in shown)
        outside = {"leader": ("leader", "x"), "candidates": ("candidates", "x"), "run": ("run", "x", "--", "true")}
        for login in (BOB, ("alice", f"{MARK}-wrong"), None):
            stranger = url_of(zookeeper, login)
            runs = {name: partial(coordkit, stranger, *command) for name, command in outside.items()}
            for done in together({**runs, "observe": partial(coordkit, stranger, *OBSERVE)}).values():
                assert (done.returncode, done.stdout) == (78, "")
                assert "NoAuth" in done.stderr.splitlines()[-1]
    session.close()


# -- users by SASL ---------------------------------------------------------------------------------------------------


USERS = {"alice": f"{MARK}%:/?#[]@'\"\\+&=", "bob": f"{MARK}-of-bob", "dora": f"{MARK} ä", "emil": f"{MARK} 日本"}


@pytest.fixture(scope="module")
def lobby(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ZooKeeperCluster]:
    """One server that knows users by SASL, and lets strangers in."""
    with ZooKeeperCluster(tmp_path_factory.mktemp("lobby"), 1, users=USERS) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def members_only(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ZooKeeperCluster]:
    """One server that lets nobody in who has not logged in by SASL."""
    folder = tmp_path_factory.mktemp("members-only")
    with ZooKeeperCluster(folder, 1, users=USERS, sasl_required=True) as cluster:
        cluster.put("/p")
        yield cluster


@pytest.fixture
def club(lobby: ZooKeeperCluster, request: pytest.FixtureRequest) -> Iterator[ZooKeeperCluster]:
    """The same, with an empty chroot that is everybody's."""
    lobby.put("/p")
    yield lobby
    lobby.clear()


def sasl(cluster: ZooKeeperCluster, user: str, password: str | None = None, **options: str) -> str:
    return url_of(cluster, (user, USERS.get(user, "") if password is None else password), auth="sasl", **options)


@local
@pytest.mark.parametrize("user", USERS)
def test_a_user_who_logs_in_by_sasl_leads(user: str, club: ZooKeeperCluster) -> None:
    with took(most=AT_ONCE):
        assert used_by(led, sasl(club, user)) is TermState.RESIGNED


@local
def test_what_a_user_of_sasl_makes_can_be_its_own(club: ZooKeeperCluster) -> None:
    for acl in ("creator", "sasl:alice:cdrwa"):
        leader = LeaderElector(sasl(club, "alice", acl=acl), "x", ttl=LONG)
        with leader.lead(timeout=5.0) as term:
            term.proclaim("here")
            mine = allows(Id("sasl", "alice"), "cdrwa")
            assert all(found == [mine] for found in lists(club, "/p").values())
            for url in (sasl(club, "bob"), club.url("p")):
                rejected(url, {**CONTENDING, **LOOKING}, "NoAuth")
        leader.close()
        club.delete("/p/x")
        club.delete("/p/x%proclaimed")


@local
@pytest.mark.parametrize(("user", "password"), [("alice", f"{MARK}-wrong"), ("nobody", f"{MARK}-x"), ("alice", "")])
def test_who_is_not_known_by_sasl_is_rejected_at_once_and_again(
    user: str, password: str, club: ZooKeeperCluster
) -> None:
    url = sasl(club, user, password)
    for _ in range(2):
        with fails(Rejected, within=AT_ONCE):
            opened(url)
    rejected(url, {**CONTENDING, **LOOKING})
    assert club.nodes("/p")[1:] == []


@local
def test_where_sasl_is_required_others_are_rejected_at_once(members_only: ZooKeeperCluster) -> None:
    assert used_by(led, sasl(members_only, "alice")) is TermState.RESIGNED
    for url in (
        members_only.url("p"),
        url_of(members_only, ("alice", USERS["alice"])),  # by `digest`, which is no log-in
        sasl(members_only, "alice", f"{MARK}-wrong"),
        sasl(members_only, "nobody", f"{MARK}-x"),
    ):
        with fails(Rejected, within=AT_ONCE):
            opened(url)
        rejected(url, {**CONTENDING, **LOOKING})
    assert used_by(led, sasl(members_only, "alice")) is TermState.RESIGNED


@local
def test_who_is_rejected_by_sasl_ends_a_command_by_78(members_only: ZooKeeperCluster) -> None:
    def run(url: str, command: Sequence[str]) -> None:
        with took(most=25.0):  # ten interpreters start at once
            done = coordkit(url, *command)
        assert (done.returncode, done.stdout) == (78, "")

    urls = {"wrong": sasl(members_only, "alice", f"{MARK}-wrong"), "none": members_only.url("p")}
    commands = {**COMMANDS, "observe": OBSERVE}
    together(
        {
            f"{who} {name}": partial(run, url, command)
            for (who, url), (name, command) in itertools.product(urls.items(), commands.items())
        }
    )


# -- certificates ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("certificates")


@pytest.fixture(scope="module")
def ours(folder: Path) -> Certificates:
    return Certificates.make(folder / "ours")


@pytest.fixture(scope="module")
def foreign(folder: Path) -> Certificates:
    return Certificates.make(folder / "foreign")


@pytest.fixture(scope="module")
def encrypted(ours: Certificates, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ZooKeeperCluster]:
    """One server on IPv4 that speaks TLS alone, and asks for a client's certificate."""
    with ZooKeeperCluster(tmp_path_factory.mktemp("encrypted"), 1, tls=ours) as cluster:
        cluster.put("/p")
        yield cluster


@pytest.fixture(scope="module")
def expired(ours: Certificates) -> Path:
    """A client's certificate of our authority that is over."""
    return ours.expired()


def tls_url(host: str, options: Mapping[str, object], *, login: bool = True) -> str:
    """With a password to be kept quiet, even where nobody will ask for it."""
    user = f"somebody:{quote(PASSWORD, safe='')}@" if login else ""
    return f"zookeepers://{user}{host}/p?{urlencode(options)}"


@local
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "LOCALHOST"])
def test_a_client_with_a_certificate_leads(host: str, encrypted: ZooKeeperCluster, ours: Certificates) -> None:
    url = tls_url(f"{host}:{encrypted.members[0].port}", ours.of_a_client, login=False)
    with took(most=AT_ONCE):
        assert used_by(led, url) is TermState.RESIGNED


@local
def test_with_acl_creator_a_certificate_is_a_creator(encrypted: ZooKeeperCluster, ours: Certificates) -> None:
    url = tls_url(encrypted.endpoints[0], {**ours.of_a_client, "acl": "creator"}, login=False)
    elector = LeaderElector(url, "mine", ttl=LONG)
    with elector.lead(timeout=5.0) as term:
        (listed,) = used_by(LOOKING["candidates"], url, "mine")
        assert listed == term.candidate
    elector.close()


@local
def test_a_name_that_is_not_in_the_certificate_can_be_overridden(
    encrypted: ZooKeeperCluster, ours: Certificates
) -> None:
    host = encrypted.endpoints[0]
    with took(most=AT_ONCE):
        opened(tls_url(host, {**ours.of_a_client, "server_name": "localhost"}, login=False))
    with fails(Unavailable, host, "certificate", within=5.5):
        opened(tls_url(host, {**ours.of_a_client, "server_name": "elsewhere.example"}))


@local
def test_tls_a_password_and_ipv6_together(ours: Certificates, tmp_path: Path) -> None:
    with ZooKeeperCluster(tmp_path, 1, tls=ours, ipv6=True) as cluster:
        assert cluster.endpoints[0].startswith("[::1]:")
        cluster.put("/p")
        url = url_of(cluster, ALICE, acl=f"digest:{digest_of(*ALICE)}:cdrwa")
        assert used_by(led, url) is TermState.RESIGNED
        rejected(url_of(cluster, BOB), {**CONTENDING, "candidates": LOOKING["candidates"]}, "NoAuth")


@local
def test_ipv6(tmp_path: Path) -> None:
    with ZooKeeperCluster(tmp_path, 1, ipv6=True) as cluster:
        cluster.put("/p")
        (member,) = cluster.members
        for host in ("[::1]", "[0:0:0:0:0:0:0:1]"):
            assert used_by(led, f"zookeeper://{host}:{member.port}/p") is TermState.RESIGNED
        assert used_by(led, f"zookeeper://127.0.0.1:{member.port},[::1]:{member.port}/p") is TermState.RESIGNED


@local
def test_a_handshake_that_fails_is_told_in_time(
    encrypted: ZooKeeperCluster, ours: Certificates, foreign: Certificates, expired: Path
) -> None:
    host = encrypted.endpoints[0]

    def fail(options: Mapping[str, object], *says: str) -> None:
        url = tls_url(host, options)
        with fails(Unavailable, host, *says, within=6.0):
            opened(url)
        with fails(Unavailable, within=2.0):
            used_by(lambda elector: elector.leader(timeout=1.0), url)
        with fails(CampaignTimeout, within=2.0) as ended:
            used_by(lambda elector: elector.campaign(timeout=1.0), url)
        assert isinstance(ended.value.__cause__, Unavailable)
        assert host in str(ended.value.__cause__)

    ca, client = {"ca": ours.authority}, {"cert": ours.client, "key": ours.client_key}
    together(
        {
            "other authority": partial(fail, {**client, "ca": foreign.authority}, "certificate"),
            "no authority": partial(fail, client, "certificate"),
            "foreign client": partial(fail, {**foreign.of_a_client, **ca}),
            "no client": partial(fail, ca),
            "expired client": partial(fail, {**ours.of_a_client, "cert": expired}),
        }
    )


@local
def test_plain_against_tls_and_tls_against_plain(
    encrypted: ZooKeeperCluster, ours: Certificates, zookeeper: ZooKeeper[Any]
) -> None:
    plain = f"zookeeper://somebody:{quote(PASSWORD, safe='')}@{encrypted.endpoints[0]}/p"
    zookeeper.put("/p")

    def to_tls() -> None:
        with pytest.raises((Misconfigured, Unavailable), match=encrypted.endpoints[0]) as ended, took(most=6.0):
            opened(plain)
        reveals_nothing(ended.value)

    def to_plain() -> None:
        with fails(Unavailable, zookeeper.endpoints[0], within=6.0):
            opened(tls_url(zookeeper.endpoints[0], ours.of_a_client))

    together({"plain": to_tls, "tls": to_plain})


@pytest.fixture(scope="module")
def bad(folder: Path, ours: Certificates) -> dict[str, Path]:
    """Files that cannot serve."""
    found = {"missing": folder / "missing", "directory": folder}
    contents = {
        "empty": b"",
        "garbled": b"-----BEGIN CERTIFICATE-----\nMIIB\xff\xfe\n-----END CERTIFICATE-----\n",
        "cut": ours.client.read_bytes()[:200],
        "text": b"somebody forgot to write this\n",
    }
    for name, content in contents.items():
        found[name] = folder / f"{name}.pem"
        found[name].write_bytes(content)
    openssl(
        folder, "ec", "-in", str(ours.client_key), "-aes256", "-passout", "pass:hidden", "-out", "with-password.pem"
    )
    found["with password"] = folder / "with-password.pem"
    return found


@local
@pytest.mark.parametrize("option", ["ca", "cert", "key"])
def test_a_file_that_cannot_serve_is_named_at_once(option: str, bad: dict[str, Path], ours: Certificates) -> None:
    # Nobody is asked: it makes no difference that nobody is there.
    for name in ("missing", "directory", "empty", "garbled", "cut", "text"):
        url = tls_url("127.0.0.1:1", {**ours.of_a_client, option: bad[name]})
        with fails(Misconfigured, str(bad[name]), within=AT_ONCE):
            opened(url)
        for ask in (CONTENDING["campaign"], LOOKING["leader"]):
            with fails(Misconfigured, str(bad[name]), within=AT_ONCE):
                used_by(ask, url)


@local
def test_a_key_that_does_not_fit_or_has_a_password_is_named_at_once(
    bad: dict[str, Path], ours: Certificates, foreign: Certificates
) -> None:
    swapped = {"ca": ours.authority, "cert": ours.client_key, "key": ours.client}
    for options in (
        {**ours.of_a_client, "key": foreign.client_key},
        {**ours.of_a_client, "key": bad["with password"]},
        swapped,
    ):
        with fails(Misconfigured, str(options["key"]), within=AT_ONCE):
            opened(tls_url("127.0.0.1:1", options))


@local
def test_a_file_that_may_not_be_read_is_named_at_once(folder: Path, ours: Certificates) -> None:
    if os.geteuid() == 0:  # root may read everything: a file of another kind stands for it
        locked = Path("/proc/self/mem")
    else:
        locked = folder / "locked.pem"
        locked.write_bytes(ours.client_key.read_bytes())
        locked.chmod(0)
    with fails(Misconfigured, str(locked), within=AT_ONCE):
        opened(tls_url("127.0.0.1:1", {**ours.of_a_client, "key": locked}))


@local
def test_a_file_that_is_gone_when_a_connection_is_made_anew_ends_no_program(
    ours: Certificates, folder: Path, tmp_path: Path
) -> None:
    """Whoever replaces certificates may leave a moment without one."""
    copy = folder / "copy-of-authority.pem"
    copy.write_bytes(ours.authority.read_bytes())
    with ZooKeeperCluster(tmp_path, 1, tls=ours) as cluster, ExitStack() as stack:
        cluster.put("/p")
        url = tls_url(cluster.endpoints[0], {**ours.of_a_client, "ca": copy}, login=False)
        elector, other = (LeaderElector(each, "x", ttl=TTL) for each in (url, cluster.url("p")))
        for each in (elector, other):
            stack.callback(each.close)
        term = elector.campaign(timeout=5.0)
        copy.unlink()
        cluster.members[0].restart()
        cluster.ready()
        assert term.wait_ended(TTL + AT_ONCE)
        assert term.state is TermState.LOST
        with fails(Misconfigured, str(copy), within=AT_ONCE):
            elector.campaign()
        copy.write_bytes(ours.authority.read_bytes())
        with took(most=TAKEOVER + AT_ONCE), elector.lead(timeout=TAKEOVER + AT_ONCE) as newer:
            assert newer.token > term.token
