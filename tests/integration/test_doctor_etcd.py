"""The doctor at real clusters of etcd: healthy ones, members that are down, what is no etcd, keys of others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from coordkit import LeaderElector
from coordkit.doctor import examine
from coordkit.findings import Verdict
from tests.servers.etcd import CtlFailed, Etcd, EtcdCluster
from tests.support.commands import coordkit
from tests.support.examined import of, troubles
from tests.support.failing import MARK, PASSWORD, nothing_revealed
from tests.support.impostors import Impostor, black_hole, garbage, http, nobody, silent

__all__ = ["nothing_revealed"]

pytestmark = [
    pytest.mark.backend("etcd"),
    pytest.mark.timeout(90),
    pytest.mark.usefixtures("nothing_revealed"),
]
local = pytest.mark.local_cluster

SHORT = 3.0  # s, for a check that cannot be made
LOOKS = ["connection", "members", "health", "versions", "leases", "alarms", "ttl", "keys"]


def test_a_cluster_is_well_and_nothing_is_left_in_it(etcd: Etcd[Any]) -> None:
    found = examine(etcd.url("apps"))
    assert [each.check for each in found.findings] == LOOKS
    assert troubles(found) == {}
    assert "3 members" in of(found, "members").detail
    assert etcd.version in of(found, "versions").detail
    assert of(found, "keys").detail == "0 keys under 'apps/': 0 elections, 0 candidates"
    assert (etcd.leases(), etcd.keys()) == ([], [])


def test_elections_are_counted_and_disturbed_by_nothing(etcd: Etcd[Any]) -> None:
    elector = LeaderElector(etcd.url("apps"), "reports/nightly", ttl=10.0)
    with elector.lead(timeout=20.0) as term:
        before = etcd.keys()
        found = examine(etcd.url("apps"))
        assert troubles(found) == {}
        assert of(found, "keys").detail == "2 keys under 'apps/': 1 election, 1 candidate"
        term.confirm()
        assert etcd.keys() == before
    elector.close()


@pytest.mark.parametrize("prefix", ["", "apps"])
def test_keys_that_are_not_of_the_layout_are_told_of(etcd: Etcd[Any], prefix: str) -> None:
    etcd.ctl("put", "apps/foreign", "x")
    etcd.ctl("put", "apps/x/0123", "x")
    found = examine(etcd.url(prefix))
    assert found.ok
    assert troubles(found) == {"keys": Verdict.WARNING}
    assert "2 keys not of the layout: 'apps/foreign', 'apps/x/0123'" in of(found, "keys").detail


def test_a_record_of_somebody_else_is_a_failure(etcd: Etcd[Any]) -> None:
    etcd.ctl("put", "apps/x.coordkit", "mine")
    found = examine(etcd.url("apps"))
    assert troubles(found) == {"keys": Verdict.FAILED}
    assert "the records of x hold something else" in of(found, "keys").detail


def test_trusted_leases_are_warned_of(etcd: Etcd[Any]) -> None:
    found = examine(etcd.url("apps") + "?trust_leases=true")
    assert found.ok
    assert troubles(found) == {"leases": Verdict.WARNING}


@pytest.mark.parametrize(("ttl", "says"), [(1.0, "becomes 2 s"), (2.0, "may take a term"), (5.0, "may take a term")])
def test_a_ttl_below_what_is_granted_or_wise_is_warned_of(etcd: Etcd[Any], ttl: float, says: str) -> None:
    found = examine(etcd.url("apps"), ttl=ttl)
    assert troubles(found) == {"ttl": Verdict.WARNING}
    assert says in of(found, "ttl").meaning
    assert etcd.leases() == []


def test_a_url_that_does_not_name_all_members_is_warned_of(etcd: Etcd[Any]) -> None:
    found = examine(etcd.url("apps", members=etcd.members[:1]))
    assert found.ok
    assert troubles(found)["members"] is Verdict.WARNING
    assert "the URL names 1" in of(found, "members").detail


@local
def test_versions_are_asked_of_members_that_the_url_does_not_name(etcd: Etcd[Any]) -> None:
    found = examine(etcd.url("apps", members=etcd.members[:1]))
    assert of(found, "versions").detail == f"{etcd.version} (3)"


def test_a_member_that_is_down_is_warned_of(etcd: Etcd[Any]) -> None:
    down = etcd.followers()[0]
    down.kill()
    found = examine(etcd.url("apps"))
    assert found.ok
    assert troubles(found) == {"health": Verdict.WARNING}
    assert "2 of 3 endpoints" in of(found, "health").detail
    assert f":{down.port} (" in of(found, "health").detail
    assert of(found, "health").meaning == "if one more fails, nobody leads"


def test_a_member_that_is_paused_is_warned_of(etcd: Etcd[Any]) -> None:
    etcd.followers()[0].pause()
    found = examine(etcd.url("apps"))
    assert found.ok
    assert troubles(found) == {"health": Verdict.WARNING}


def test_without_a_majority_it_is_a_failure_and_all_that_can_be_told_is_told(etcd: Etcd[Any]) -> None:
    for member in etcd.followers():
        member.kill()
    found = examine(etcd.url("apps"))
    assert not found.ok
    wrong = troubles(found)
    assert (wrong["connection"], wrong["health"]) == (Verdict.FAILED, Verdict.FAILED)
    assert {wrong[name] for name in ("members", "alarms", "ttl", "keys")} == {Verdict.UNCHECKED}
    assert "(1)" in of(found, "versions").detail
    assert of(found, "leases").verdict is Verdict.OK


@pytest.mark.parametrize("serve", [http, garbage, silent], ids=lambda serve: serve.__name__)
def test_what_is_no_etcd_is_a_failure(serve: Any) -> None:
    with Impostor(serve) as impostor:
        found = examine(f"etcd://{impostor.host}", timeout=SHORT)
    assert not found.ok
    assert troubles(found)["connection"] is Verdict.FAILED
    assert troubles(found)["health"] is Verdict.FAILED
    assert troubles(found)["ttl"] is Verdict.UNCHECKED


def test_a_port_where_nobody_listens_is_a_failure_at_once() -> None:
    with nobody() as host:
        done = coordkit(f"etcd://user:{MARK}@{host}", "doctor", timeout=30.0)
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.startswith(f"etcd://{host}\n")
    assert "could not be looked at" in done.stdout


def test_a_black_hole_is_a_failure_in_time() -> None:
    with black_hole() as host:
        found = examine(f"etcd://{host}", timeout=SHORT)
    assert troubles(found)["connection"] is Verdict.FAILED


@local
def test_a_single_member_is_warned_of(tmp_path: Path) -> None:
    with EtcdCluster(tmp_path, 1) as single:
        found = examine(single.url("apps"))
    assert found.ok
    assert troubles(found) == {"members": Verdict.WARNING}


@local
def test_two_members_are_no_better_than_one(tmp_path: Path) -> None:
    with EtcdCluster(tmp_path, 2) as pair:
        found = examine(pair.url("apps"))
    assert troubles(found) == {"members": Verdict.WARNING}
    assert of(found, "members").meaning == "no more may be down than of 1: 0"


@local
def test_a_full_cluster_is_a_failure(tmp_path: Path) -> None:
    with EtcdCluster(tmp_path, 1, flags=["--quota-backend-bytes=200000"]) as cluster:
        with pytest.raises(CtlFailed, match="space exceeded"):
            for number in range(1000):
                cluster.ctl("put", f"fill-{number}", "x" * 20_000)
        found = examine(cluster.url("apps"))
        assert troubles(found)["alarms"] is Verdict.FAILED
        assert troubles(found)["ttl"] is Verdict.FAILED
        assert "NOSPACE, by 1 member" in of(found, "alarms").detail
        assert of(found, "connection").verdict is Verdict.OK


# -- users ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdCluster]:
    """One member that asks for a user; `app` may write under apps/, and `one` in the election x there alone."""
    with EtcdCluster(tmp_path_factory.mktemp("guarded"), 1, flags=["--bcrypt-cost=4"]) as cluster:
        cluster.enable_auth()
        cluster.add_user("app", PASSWORD, "apps/")
        cluster.add_user("one", PASSWORD, "apps/x/")
        yield cluster


@local
def test_a_user_with_all_rights_is_well(guarded: EtcdCluster) -> None:
    done = coordkit(guarded.url("apps", user="app", password=PASSWORD), "doctor", "--json")
    assert done.returncode == 0
    assert "\"readwrite under 'apps/'\"" in done.stdout
    assert '"unchecked"' not in done.stdout


@local
def test_a_wrong_password_is_a_failure_and_is_shown_to_nobody(guarded: EtcdCluster) -> None:
    for more in ((), ("--json",)):
        done = coordkit(guarded.url("apps", user="app", password=f"{MARK}-wrong"), "doctor", *more)
        assert done.returncode == 1
        assert "etcd refuses the user 'app' or the password" in " ".join(done.stdout.split())


@local
def test_no_user_where_one_is_asked_for_is_a_failure(guarded: EtcdCluster) -> None:
    found = examine(guarded.url("apps"))
    assert "asks for a user and a password" in of(found, "connection").detail
    assert not found.ok


@local
def test_a_user_with_rights_in_one_election_is_warned_of(guarded: EtcdCluster) -> None:
    found = examine(guarded.url("apps", user="one", password=PASSWORD))
    assert found.ok
    assert troubles(found) == {
        "members": Verdict.WARNING,
        "rights": Verdict.WARNING,
        "keys": Verdict.UNCHECKED,
    }
