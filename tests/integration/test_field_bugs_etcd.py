"""Bugs of the field that are tied to etcd, on a real cluster; and what the programs that had them do there.

The rule: as in `test_field_bugs_everywhere.py`. Where the peer is at hand, it plays the same schedule beside us.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from coordkit import LeaderElector, Term
from coordkit.testing.contract import Running, eventually
from tests.integration import field_peer_scenes as peers
from tests.integration import field_scenes as scenes
from tests.integration.field_scenes import BRIEF, ELECTION, LONG, SOON
from tests.servers.etcd import Etcd
from tests.servers.proxy import Proxy
from tests.support.children import Child
from tests.support.etcdctl import Etcdctl
from tests.support.patched import patched

pytestmark = [pytest.mark.backend("etcd"), pytest.mark.timeout(60)]

PREFIX = "field"


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def queue(etcd: Etcd[Any]) -> list[Any]:
    """The keys of the candidates, in the order of election."""
    return etcd.keys(f"{PREFIX}/{ELECTION}/")


def waits(etcd: Etcd[Any], stack: ExitStack, place: int) -> Running[Term]:
    """A candidate of this process, in that place of the queue."""
    elector = stack.enter_context(closing(LeaderElector(etcd.url(PREFIX), ELECTION, ttl=LONG)))
    campaign = Running(elector.campaign)
    eventually(lambda: len(queue(etcd)) == place, f"it is in place {place}")
    return campaign


# -- #11456 ------------------------------------------------------------------------------------------------------------


def led_without_a_lease(etcd: Etcd[Any], stack: ExitStack, env: Mapping[str, str], *, revoked: bool) -> bool:
    """Whether a candidate whose lease died while it waited, and who heard nothing of it, led when its turn had come."""
    first = waits(etcd, stack, 1).result(SOON)
    proxies = [stack.enter_context(Proxy(member.host, member.port)) for member in etcd.members]
    url = f"etcd://{','.join(f'{each.host}:{each.port}' for each in proxies)}/{PREFIX}"
    child = stack.enter_context(Child(scenes.contends, url, LONG if revoked else BRIEF, env=env))
    eventually(lambda: len(queue(etcd)) == 2, "it waits", SOON)
    mine = queue(etcd)[1]
    campaign = waits(etcd, stack, 3)
    for proxy in proxies:
        proxy.cut()
    if revoked:
        etcd.ctl("lease", "revoke", f"{mine.lease:x}")
    eventually(lambda: mine.key not in [each.key for each in queue(etcd)], "its lease is dead", SOON)
    first.resign()
    after = campaign.result(SOON)  # it is the next one, for the one before it is gone
    for proxy in proxies:
        proxy.heal()
    eventually(lambda: len(queue(etcd)) == 2 or not child.quiet(), "it has understood", SOON)
    leads = not child.quiet()
    after.confirm()  # it leads, whoever else thinks so
    after.resign()
    if leads:
        return True
    token = int(child.expect("leads"))
    (key,) = queue(etcd)
    assert token == key.create_revision > int(after.token)
    assert key.lease in etcd.leases()
    child.tell()
    child.expect("resigned")
    return False


@pytest.mark.parametrize("revoked", [True, False], ids=["revoked", "expired"])
def test_etcd_11456_no_phantom_win_after_the_lease_died(etcd: Etcd[Any], stack: ExitStack, revoked: bool) -> None:
    """There a candidate watched those before it, and when they had gone it had won, though its own lease, and its key
    with it, had died while it waited. Here a win is an answer that shows our own key, living, in first place; who is
    not there any more begins anew, at the end of the queue. (etcd #11456; of its kind also #9921, #12334, #19597)
    """
    assert not led_without_a_lease(etcd, stack, {}, revoked=revoked)


def test_etcd_11456_comes_back_where_nobody_looks_at_the_own_key(
    etcd: Etcd[Any], stack: ExitStack, tmp_path: Path
) -> None:
    """A mutant that has won when nobody is before it."""
    mutant = (
        "backends/etcd/adapter.py",
        """
            if standing.mine is None:  # gone while we waited: begin anew
                await self._forget_lease()
                continue
""",
        """
            if standing.mine is None and self._token:
                return Grant(self, self._token, lease.promise)
""",
    )
    assert led_without_a_lease(etcd, stack, patched(tmp_path / "mutant", mutant), revoked=True)


def test_etcd_11456_is_what_etcdctl_lock_does(etcd: Etcd[Any], stack: ExitStack) -> None:
    """The control, on the same schedule: the library's `Lock` waits on without a lease, and returns as if it had the
    lock. Only this program, which then looks for its key, finds that there is none; others go on to their work.
    """
    first = waits(etcd, stack, 1).result(SOON)
    etcdctl = stack.enter_context(Etcdctl(etcd, "lock", f"{PREFIX}/{ELECTION}"))
    eventually(lambda: len(queue(etcd)) == 2, "it waits", SOON)
    mine = queue(etcd)[1]
    campaign = waits(etcd, stack, 3)
    etcd.ctl("lease", "revoke", f"{mine.lease:x}")
    eventually(lambda: len(queue(etcd)) == 2, "its lease is dead", SOON)
    assert etcdctl.silent, "it still waits for the lock"
    first.resign()
    # Its library says "session is expired" where it looks itself: the releases of 3.5 do.
    assert "lock lost on init" in etcdctl.line(SOON)
    campaign.result(SOON).resign()


# -- python-etcd3 #599, see also test_field_bugs_everywhere.py ---------------------------------------------------------


def test_python_etcd3_599_is_what_the_lock_of_etcd3_does(etcd: Etcd[Any]) -> None:
    """The control: its `with` block is entered while another has the lock, as soon as its own limit has run out."""
    member = etcd.members[0]
    with Child(peers.enters_with_etcd3, member.host, member.port) as child:
        assert child.expect("acquired") == "True"
        assert child.expect("inside") == "True False"
        assert child.expect("left") == "True"
