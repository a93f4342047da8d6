"""etcd behind passwords and certificates: who may, leads; who may not is told at once; nobody is shown a password.

The rights that an election needs: readwrite on the prefix `<prefix><election>/`, where the candidates are, and on the
one key `<prefix><election>.coordkit`, the record.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest

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
from tests.servers.certificates import Certificates, openssl
from tests.servers.etcd import Etcd, EtcdCluster
from tests.support.children import took
from tests.support.failing import PASSWORD, fails, later, nothing_revealed, reveals_nothing, until

__all__ = ["nothing_revealed"]

pytestmark = [
    pytest.mark.backend("etcd"),
    pytest.mark.timeout(90),
    pytest.mark.usefixtures("nothing_revealed"),
]
local = pytest.mark.local_cluster
both_tokens = pytest.mark.parametrize("guarded", ["simple", "jwt"], indirect=True)

AT_ONCE = 2.5  # s: a connection, a log-in (etcd makes them slow), a refusal, on a busy machine
TTL = 3.0
BESIDES = 2.0  # s: what etcd needs besides a ttl to end a lease
TOKEN_TTL = 1.0


def used_by(call: Callable[[LeaderElector], Any], url: str, election: str = "x") -> Any:
    """What an elector answers that is closed afterwards."""
    elector = LeaderElector(url, election, ttl=TTL)
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


ASKING: dict[str, Callable[[str], Any]] = {
    "open": opened,
    "leader": lambda url: used_by(lambda elector: elector.leader(), url),
    "candidates": lambda url: used_by(lambda elector: elector.candidates(), url),
    "campaign": lambda url: used_by(lambda elector: elector.campaign(), url),
    "try_campaign": lambda url: used_by(lambda elector: elector.try_campaign(), url),
    "observe": lambda url: used_by(lambda elector: next(iter(elector.observe())), url),
}


# -- users and passwords -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def jwt_keys(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("jwt")
    openssl(folder, "genrsa", "-out", "private.pem", "2048")
    openssl(folder, "rsa", "-in", "private.pem", "-pubout", "-out", "public.pem")
    return f"pub-key={folder}/public.pem,priv-key={folder}/private.pem,sign-method=RS256"


@pytest.fixture(scope="module")
def guarded(
    request: pytest.FixtureRequest, jwt_keys: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[EtcdCluster]:
    """One member that asks for a user, whose tokens live for a second without use; or, as `jwt`, from their making."""
    flags = {
        "simple": [f"--auth-token-ttl={TOKEN_TTL:.0f}", "--bcrypt-cost=4"],
        "jwt": [f"--auth-token=jwt,{jwt_keys},ttl={TOKEN_TTL:g}s"],  # and a log-in takes as long as it does by default
    }
    with EtcdCluster(
        tmp_path_factory.mktemp("guarded"), 1, flags=flags[getattr(request, "param", "simple")]
    ) as cluster:
        cluster.enable_auth()
        yield cluster


@pytest.fixture
def user(guarded: EtcdCluster, request: pytest.FixtureRequest) -> Iterator[str]:
    """A user of this test alone, who may use the election `x` under its own name and nothing else."""
    name = f"user-{abs(hash(request.node.name)) % 10**6}"
    guarded.ctl("user", "add", name, "--interactive=false", input=PASSWORD)
    guarded.ctl("role", "add", name)
    grant(guarded, name)
    guarded.ctl("user", "grant-role", name, name)
    yield name
    guarded.ctl("user", "delete", name)
    guarded.ctl("role", "delete", name)
    until(lambda: not guarded.leases(), 3 * TTL)  # whatever went wrong, nobody keeps a lease alive
    guarded.ctl("del", "", "--prefix")


def grant(cluster: EtcdCluster, user: str, *, record: bool = True) -> None:
    cluster.ctl("role", "grant-permission", user, "readwrite", f"{user}/x/", "--prefix=true")
    if record:
        cluster.ctl("role", "grant-permission", user, "readwrite", f"{user}/x.coordkit")


def revoke(cluster: EtcdCluster, user: str) -> None:
    cluster.ctl("role", "revoke-permission", user, f"{user}/x/", "--prefix=true")
    cluster.ctl("role", "revoke-permission", user, f"{user}/x.coordkit")


def url_of(cluster: EtcdCluster, user: str, password: str = PASSWORD) -> str:
    return cluster.url(user, user=user, password=password)


def transactions(cluster: EtcdCluster) -> float:
    """How many this cluster of one has served so far."""
    name = (
        'grpc_server_handled_total{grpc_code="OK",grpc_method="Txn",grpc_service="etcdserverpb.KV",grpc_type="unary"}'
    )
    return cluster.metrics(cluster.members[0]).get(name, 0.0)


@local
def test_exactly_the_rights_on_entries_and_record_suffice(guarded: EtcdCluster, user: str) -> None:
    first, second, watcher = (LeaderElector(url_of(guarded, user), "x", ttl=TTL) for _ in range(3))
    states = iter(watcher.observe())
    with took(most=20.0):
        assert next(states) is None
        with first.lead(timeout=5.0) as term:
            seen = next(states)
            assert seen is not None
            assert seen.token == term.token
            term.confirm()
            term.proclaim("here")
            found = second.leader()
            assert found is not None
            assert found.metadata == "here"
            waiting = later(lambda: second.campaign(timeout=10.0))
            until(lambda: len(first.candidates()) == 2)
            before = transactions(guarded)
            time.sleep(1.0)  # nothing happens: whoever waits or watches is told, and does not ask
            assert transactions(guarded) - before < 15
        with took(most=AT_ONCE):
            newer = waiting.result(AT_ONCE)
        assert newer.token > term.token
        newer.resign()
    for elector in (first, second, watcher):
        elector.close()


@local
def test_without_the_right_to_the_record_a_campaign_is_rejected(guarded: EtcdCluster, user: str) -> None:
    guarded.ctl("role", "revoke-permission", user, f"{user}/x.coordkit")
    with fails(Rejected, within=AT_ONCE):
        ASKING["campaign"](url_of(guarded, user))
    assert guarded.keys() == []


@local
@both_tokens
def test_a_token_that_ends_ends_no_term_and_keeps_nobody_waiting(guarded: EtcdCluster, user: str) -> None:
    leader, follower, newcomer = (LeaderElector(url_of(guarded, user), "x", ttl=TTL) for _ in range(3))
    term = leader.campaign(timeout=5.0)
    early = later(lambda: follower.campaign(timeout=20.0))
    assert not term.wait_ended(1.5 * TOKEN_TTL)
    # What was opened under a token that is over serves no newcomer; it is told all the same when its turn comes.
    late = later(lambda: newcomer.campaign(timeout=20.0))
    until(lambda: len(leader.candidates()) == 3)
    assert not term.wait_ended(1.5 * TOKEN_TTL)
    term.confirm()
    term.resign()
    with took(most=AT_ONCE):
        second = early.result(AT_ONCE)
    second.resign()
    with took(most=AT_ONCE):
        third = late.result(AT_ONCE)
    third.resign()
    assert int(term.token) < int(second.token) < int(third.token)
    for elector in (leader, follower, newcomer):
        elector.close()


def _same_password_again(cluster: EtcdCluster, user: str) -> None:
    cluster.ctl("user", "passwd", user, "--interactive=false", input=PASSWORD)


def _made_anew(cluster: EtcdCluster, user: str) -> None:
    cluster.ctl("user", "delete", user)
    cluster.ctl("user", "add", user, "--interactive=false", input=PASSWORD)
    cluster.ctl("user", "grant-role", user, user)


def _other_rights(cluster: EtcdCluster, user: str) -> None:
    cluster.ctl("role", "grant-permission", user, "read", "elsewhere")


def _restarted(cluster: EtcdCluster, user: str) -> None:
    cluster.members[0].restart()
    cluster.ready()


@local
@both_tokens
@pytest.mark.parametrize("change", [_same_password_again, _made_anew, _other_rights, _restarted])
def test_a_change_of_users_costs_a_log_in_and_no_term(
    change: Callable[[EtcdCluster, str], None], guarded: EtcdCluster, user: str
) -> None:
    leader, follower, newcomer = (LeaderElector(url_of(guarded, user), "x", ttl=8.0) for _ in range(3))
    term = leader.campaign(timeout=5.0)
    early = later(lambda: follower.campaign(timeout=20.0))
    until(lambda: len(leader.candidates()) == 2)
    change(guarded, user)
    late = later(lambda: newcomer.campaign(timeout=20.0))
    until(lambda: len(leader.candidates()) == 3)
    assert not term.wait_ended(3.0)  # a renewal and more
    term.confirm()
    term.resign()
    for waiting in (early, late):
        with took(most=AT_ONCE):
            waiting.result(AT_ONCE).resign()
    for elector in (leader, follower, newcomer):
        elector.close()


@local
@pytest.mark.parametrize(
    ("wrong", "says"), [("password", "or the password"), ("user", "or the password"), ("none", "names none")]
)
def test_who_is_not_known_is_rejected_at_once(wrong: str, says: str, guarded: EtcdCluster, user: str) -> None:
    urls = {
        "password": url_of(guarded, user, PASSWORD + "x"),
        "user": guarded.url(user, user="nobody", password=PASSWORD),
        "none": guarded.url(user),
    }
    for ask in ASKING.values():
        with fails(Rejected, says, within=AT_ONCE):
            ask(urls[wrong])
    assert guarded.leases() == []


@local
def test_who_has_no_right_to_the_election_is_rejected_at_once(guarded: EtcdCluster, user: str) -> None:
    url = guarded.url("elsewhere", user=user, password=PASSWORD)
    for name, ask in ASKING.items():
        if name == "open":
            ask(url)  # names no election: nothing is asked yet that could be refused
        else:
            with fails(Rejected, "PERMISSION_DENIED", within=AT_ONCE):
                ask(url)
    until(lambda: not guarded.leases(), AT_ONCE)  # revoked, long before a ttl


@local
def test_rejected_campaigns_pile_up_no_leases(guarded: EtcdCluster, user: str) -> None:
    session = Session(guarded.url("elsewhere", user=user, password=PASSWORD)).open()
    elector = LeaderElector(session, "x", ttl=60.0)
    for _ in range(5):
        with fails(Rejected, within=AT_ONCE):
            elector.campaign()
    until(lambda: len(guarded.leases()) <= 1, AT_ONCE)
    session.close()
    until(lambda: not guarded.leases(), AT_ONCE)


def _revoke(cluster: EtcdCluster, user: str) -> None:
    revoke(cluster, user)


def _delete(cluster: EtcdCluster, user: str) -> None:
    cluster.ctl("user", "delete", user)


def _other_password(cluster: EtcdCluster, user: str) -> None:
    cluster.ctl("user", "passwd", user, "--interactive=false", input="another")


@local
@pytest.mark.parametrize("change", [_revoke, _delete, _other_password])
def test_a_leader_that_loses_its_rights_is_over_in_time_and_gives_up_its_seat(
    change: Callable[[EtcdCluster, str], None], guarded: EtcdCluster, user: str
) -> None:
    guarded.ctl("role", "grant-permission", user, "readwrite", "shared/", "--prefix=true")
    elector = LeaderElector(guarded.url("shared", user=user, password=PASSWORD), "x", ttl=TTL)
    other = LeaderElector(guarded.url("shared", user="root", password="root-secret"), "x", ttl=TTL)
    lost: list[LossReason | None] = []
    with took(most=TTL + 1.5 * AT_ONCE), pytest.raises(LeadershipLost) as ended, elector.lead(timeout=5.0) as term:
        term.on_lost(lambda each: lost.append(each.reason))
        if change is _revoke:
            guarded.ctl("role", "revoke-permission", user, "shared/", "--prefix=true")
        else:
            change(guarded, user)
        assert term.wait_ended(TTL + AT_ONCE)
    reveals_nothing(ended.value)
    assert ended.value.reason is LossReason.EXPIRED
    until(lambda: lost == [LossReason.EXPIRED])
    with fails(Rejected, within=AT_ONCE):
        elector.campaign()
    # It lives on, and so does its session; but it keeps the seat no more. (Nobody could mark the record: a second ttl.)
    with took(most=2 * TTL + 3 * BESIDES), other.lead(timeout=2 * TTL + 3 * BESIDES) as newer:
        assert newer.token > term.token
    elector.close()
    other.close()
    if change is _delete:
        guarded.ctl("user", "add", user, "--interactive=false", input=PASSWORD)


def test_a_user_that_nobody_asks_for_is_one_warning(etcd: Etcd[Any], caplog: pytest.LogCaptureFixture) -> None:
    session = Session(etcd.url("nobody-asks", user="somebody", password=PASSWORD))
    electors = [LeaderElector(session, name, ttl=TTL) for name in "ab"]
    with took(most=5.0):
        for elector in electors:
            with elector.lead(timeout=5.0) as term:
                term.confirm()
    session.close()
    told = [record for record in caplog.records if "asks for no password" in record.getMessage()]
    assert len(told) == 1
    assert "'somebody'" in told[0].getMessage()


@local
def test_authentication_that_is_enabled_and_disabled_ends_no_term(tmp_path: Path) -> None:
    with EtcdCluster(tmp_path, 1) as cluster:
        url = cluster.url("p", user="somebody", password=PASSWORD)
        elector, follower = (LeaderElector(url, "x", ttl=4.0) for _ in range(2))
        with took(most=30.0), elector.lead(timeout=5.0) as term:
            waiting = later(lambda: follower.campaign(timeout=20.0))
            cluster.add_user("somebody", PASSWORD, "p/")
            cluster.enable_auth()
            assert not term.wait_ended(2.0)
            term.confirm()
            cluster.disable_auth()
            assert not term.wait_ended(2.0)
            term.confirm()
        with took(most=AT_ONCE):
            waiting.result(AT_ONCE).resign()
        elector.close()
        follower.close()


@local
def test_who_named_no_user_is_over_in_time_when_authentication_is_enabled(tmp_path: Path) -> None:
    with EtcdCluster(tmp_path, 1) as cluster:
        elector = LeaderElector(cluster.url("p"), "x", ttl=TTL)
        term = elector.campaign(timeout=5.0)
        cluster.enable_auth()
        assert term.wait_ended(TTL + AT_ONCE)
        assert term.state is TermState.LOST
        with fails(Rejected, within=AT_ONCE):
            elector.campaign()
        elector.close()


# -- certificates --------------------------------------------------------------------------------------------------


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
def encrypted(ours: Certificates, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdCluster]:
    """One member that speaks TLS alone, and asks for a client's certificate."""
    with EtcdCluster(tmp_path_factory.mktemp("encrypted"), 1, tls=ours) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def expired(ours: Certificates) -> Path:
    """A client's certificate of our authority that is over."""
    return ours.expired()


def tls_url(host: str, options: Mapping[str, object], *, login: bool = True) -> str:
    """With a password to be kept quiet, even where nobody will ask for it."""
    user = f"somebody:{quote(PASSWORD, safe='')}@" if login else ""
    return f"etcds://{user}{host}/tls?{urlencode(options)}"


@local
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "LOCALHOST"])
def test_a_client_with_a_certificate_leads(host: str, encrypted: EtcdCluster, ours: Certificates) -> None:
    url = tls_url(f"{host}:{encrypted.members[0].port}", ours.of_a_client, login=False)
    with took(most=5.0):
        assert used_by(_led, url) is TermState.RESIGNED


def _led(elector: LeaderElector) -> TermState:
    with elector.lead(timeout=5.0) as term:
        term.confirm()
    return term.state


@local
def test_a_name_that_is_not_in_the_certificate_can_be_overridden(encrypted: EtcdCluster, ours: Certificates) -> None:
    host = encrypted.endpoints[0]
    with took(most=5.0):
        opened(tls_url(host, {**ours.of_a_client, "server_name": "localhost"}, login=False))
    with fails(Unavailable, host, within=AT_ONCE):
        opened(tls_url(host, {**ours.of_a_client, "server_name": "elsewhere.example"}))


@local
def test_tls_passwords_and_ipv6_together(ours: Certificates, tmp_path: Path) -> None:
    with EtcdCluster(tmp_path, 1, tls=ours, ipv6=True) as cluster:
        assert cluster.endpoints[0].startswith("[::1]:")
        cluster.enable_auth()
        cluster.add_user("somebody", PASSWORD, "p/")
        url = cluster.url("p", user="somebody", password=PASSWORD)
        with took(most=5.0):
            assert used_by(_led, url) is TermState.RESIGNED
        with fails(Rejected, within=AT_ONCE):
            opened(cluster.url("p", user="somebody", password=PASSWORD + "x"))
        with fails(Unavailable, cluster.endpoints[0], within=AT_ONCE):
            opened(f"etcd://{cluster.endpoints[0]}")


def _other_authority(ours: Certificates, foreign: Certificates, expired: Path) -> dict[str, object]:
    return {**ours.of_a_client, "ca": foreign.authority}


def _no_authority(ours: Certificates, foreign: Certificates, expired: Path) -> dict[str, object]:
    return {"cert": ours.client, "key": ours.client_key}


def _foreign_client(ours: Certificates, foreign: Certificates, expired: Path) -> dict[str, object]:
    return {**foreign.of_a_client, "ca": ours.authority}


def _no_client(ours: Certificates, foreign: Certificates, expired: Path) -> dict[str, object]:
    return {"ca": ours.authority}


def _expired_client(ours: Certificates, foreign: Certificates, expired: Path) -> dict[str, object]:
    return {**ours.of_a_client, "cert": expired}


@local
@pytest.mark.parametrize("options", [_other_authority, _no_authority, _foreign_client, _no_client, _expired_client])
def test_a_handshake_that_fails_is_told_in_time(
    options: Callable[..., dict[str, object]],
    encrypted: EtcdCluster,
    ours: Certificates,
    foreign: Certificates,
    expired: Path,
) -> None:
    host = encrypted.endpoints[0]
    url = tls_url(host, options(ours, foreign, expired))
    with fails(Unavailable, "over TLS", host, within=AT_ONCE):
        opened(url)
    with fails(Unavailable, host, within=2.0):
        used_by(lambda elector: elector.leader(timeout=1.0), url)
    with fails(CampaignTimeout, within=2.0) as ended:
        used_by(lambda elector: elector.campaign(timeout=1.0), url)
    assert isinstance(ended.value.__cause__, Unavailable)
    assert host in str(ended.value.__cause__)


@local
def test_tls_against_plain_and_plain_against_tls(encrypted: EtcdCluster, ours: Certificates, tmp_path: Path) -> None:
    plain = f"etcd://somebody:{quote(PASSWORD, safe='')}@{encrypted.endpoints[0]}"
    with fails(Unavailable, encrypted.endpoints[0], within=AT_ONCE):
        opened(plain)
    with EtcdCluster(tmp_path, 1) as cluster, fails(Unavailable, "over TLS", cluster.endpoints[0], within=AT_ONCE):
        opened(tls_url(cluster.endpoints[0], ours.of_a_client))


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
@pytest.mark.parametrize("name", ["missing", "directory", "empty", "garbled", "cut", "text"])
def test_a_file_that_cannot_serve_is_named_at_once(
    name: str, option: str, bad: dict[str, Path], ours: Certificates
) -> None:
    # Nobody is asked: it makes no difference that nobody is there.
    url = tls_url("127.0.0.1:1", {**ours.of_a_client, option: bad[name]})
    for asking in ("open", "campaign", "leader"):
        with fails(Misconfigured, str(bad[name]), within=AT_ONCE):
            ASKING[asking](url)


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
