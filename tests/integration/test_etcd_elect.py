"""The real `etcdctl elect`, and Go's lock, contend in coordkit's elections; other elections and odd keys are not met.

The rule: what one side does is seen by the means of the other: by what etcdctl prints, by coordkit's public names.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from coordkit import LeaderElector, LossReason, Term
from coordkit.model import encode_election
from coordkit.testing.contract import Running, eventually
from tests.servers.etcd import Etcd
from tests.support.etcdctl import AT_ONCE, Etcdctl

pytestmark = [pytest.mark.backend("etcd"), pytest.mark.timeout(100)]

TTL = 6.0
LOOK_ALIKES = ("a", "ab", "a/b", "a%2Fb", "a.coordkit")
PLACES = [("", "plain"), ("jobs", "plain"), ("", "reports/nightly"), ("jobs/eu", "reports/nightly"), ("", "büro %2F")]


Start = Callable[..., Etcdctl]
Candidate = Callable[..., LeaderElector]


@pytest.fixture
def start(etcd: Etcd[Any]) -> Iterator[Start]:
    with ExitStack() as stack:
        yield lambda *arguments: stack.enter_context(Etcdctl(etcd, *arguments))


@pytest.fixture
def candidate(etcd: Etcd[Any]) -> Iterator[Candidate]:
    """Makes electors, which are closed after the test."""
    made: list[LeaderElector] = []

    def make(election: str, prefix: str = "", **options: Any) -> LeaderElector:
        made.append(LeaderElector(etcd.url(prefix), election, **{"ttl": TTL, **options}))
        return made[-1]

    yield make
    for each in made:
        each.close()


def foreign(prefix: str, election: str) -> str:
    """By which name etcdctl finds an election."""
    return f"{prefix}/{encode_election(election)}" if prefix else encode_election(election)


def queued(etcd: Etcd[Any], name: str, number: int) -> None:
    """Wait until so many keys are in the queue of an election."""
    eventually(lambda: len(etcd.keys(f"{name}/")) == number, f"{number} in the queue of {name}")


def ids(elector: LeaderElector) -> list[str]:
    return [each.id for each in elector.candidates()]


def leads(elector: LeaderElector, term: Term) -> bool:
    leader = elector.leader()
    return leader is not None and (leader.token, leader.candidate.id) == (term.token, term.candidate.id)


# -- both ways round ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("prefix", "election"), PLACES)
def test_etcdctl_leads_and_coordkit_follows(
    prefix: str, election: str, etcd: Etcd[Any], start: Start, candidate: Candidate
) -> None:
    name = foreign(prefix, election)
    etcdctl = start("elect", name, "the proposal of etcdctl")
    key, proposal = etcdctl.line(), etcdctl.line()
    assert proposal == "the proposal of etcdctl"
    assert key.startswith(f"{name}/")
    (stored,) = etcd.keys(f"{name}/")

    elector = candidate(election, prefix)
    assert elector.try_campaign() is None
    leader = elector.leader()
    assert leader is not None
    assert leader.candidate.id == key.rpartition("/")[2] == f"{stored.lease:x}"
    assert leader.metadata == "the proposal of etcdctl"
    assert int(leader.token) == stored.create_revision

    waiting = Running(elector.campaign)
    queued(etcd, name, 2)
    assert ids(elector)[0] == leader.candidate.id
    assert len(ids(elector)) == 2
    assert not waiting.done
    interrupted = time.monotonic()
    etcdctl.end()
    term = waiting.result(AT_ONCE)
    print(f"coordkit leads {time.monotonic() - interrupted:.3f} s after Ctrl-C")
    assert term.token > leader.token
    assert leads(elector, term)
    term.confirm()
    term.resign()
    assert not etcd.keys(f"{name}/")


@pytest.mark.parametrize(("prefix", "election"), PLACES)
def test_coordkit_leads_and_etcdctl_follows(
    prefix: str, election: str, etcd: Etcd[Any], start: Start, candidate: Candidate
) -> None:
    name = foreign(prefix, election)
    elector = candidate(election, prefix)
    term = elector.campaign(timeout=AT_ONCE)
    etcdctl = start("elect", name, "etcdctl's turn")
    queued(etcd, name, 2)
    own, other = etcd.keys(f"{name}/")
    assert own.create_revision == int(term.token)
    assert ids(elector) == [term.candidate.id, f"{other.lease:x}"]
    assert leads(elector, term)
    assert etcdctl.silent

    term.resign()
    resigned = time.monotonic()
    assert etcdctl.line().encode() == other.key
    assert etcdctl.line() == "etcdctl's turn"
    print(f"etcdctl leads {time.monotonic() - resigned:.3f} s after resign")
    leader = elector.leader()
    assert leader is not None
    assert (int(leader.token), leader.metadata) == (other.create_revision, "etcdctl's turn")
    etcdctl.end()
    assert elector.leader() is None
    elector.campaign(timeout=AT_ONCE).resign()


def test_etcdctl_listens_to_coordkits_leaders(etcd: Etcd[Any], start: Start, candidate: Candidate) -> None:
    listening = start("elect", "--listen", "heard")
    first, second = candidate("heard", label="first"), candidate("heard", label="second", metadata="of the second")
    term = first.campaign(timeout=AT_ONCE)
    assert listening.line(10.0) == etcd.keys("heard/")[0].key.decode()
    assert term.candidate.id in listening.line()
    term.proclaim("news of the first")
    assert listening.line().startswith("heard/")
    assert "news of the first" in listening.line()
    waiting = Running(second.campaign)
    queued(etcd, "heard", 2)
    term.resign()
    successor = waiting.result(AT_ONCE)
    assert listening.line() == etcd.keys("heard/")[0].key.decode()
    value = listening.line()
    assert successor.candidate.id in value
    assert "of the second" in value
    successor.resign()
    etcdctl = start("elect", "heard", "now etcdctl")
    etcdctl.line()
    listening.line()
    assert listening.line() == "now etcdctl"


def test_a_mixed_queue_is_served_in_order(etcd: Etcd[Any], start: Start, candidate: Candidate) -> None:
    watching = candidate("mixed")
    contenders: list[Etcdctl | Running[Term]] = []
    for number in range(3):
        contenders.append(Running(candidate("mixed", label=f"c{number}").campaign))
        queued(etcd, "mixed", 2 * number + 1)
        contenders.append(start("elect", "mixed", f"e{number}"))
        queued(etcd, "mixed", 2 * number + 2)
    queue = [key.create_revision for key in etcd.keys("mixed/")]
    labels = [each.label for each in watching.candidates()]
    assert labels == ["c0", "", "c1", "", "c2", ""]
    tokens = []
    for number, contender in enumerate(contenders):
        for later in contenders[number + 1 :]:
            assert later.silent if isinstance(later, Etcdctl) else not later.done
        if isinstance(contender, Etcdctl):
            contender.line()
            assert contender.line() == f"e{number // 2}"
            leave = contender.end
        else:
            term = contender.result(AT_ONCE)
            assert term.candidate.label == f"c{number // 2}"
            leave = term.resign
        leader = watching.leader()
        assert leader is not None
        tokens.append(int(leader.token))
        assert len(ids(watching)) == 6 - number
        leave()
    assert tokens == queue
    assert watching.leader() is None


def test_etcdctls_lock_contends_too(etcd: Etcd[Any], start: Start, candidate: Candidate) -> None:
    elector = candidate("locked")
    lock = start("lock", "locked")
    key = lock.line()
    assert elector.try_campaign() is None
    leader = elector.leader()
    assert leader is not None
    assert f"locked/{leader.candidate.id}" == key
    waiting = Running(elector.campaign)
    queued(etcd, "locked", 2)
    lock.end()
    term = waiting.result(AT_ONCE)
    again = start("lock", "locked")
    queued(etcd, "locked", 2)
    assert again.silent
    term.resign()
    assert again.line().startswith("locked/")


# -- other elections ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "jobs"])
@pytest.mark.parametrize("one", LOOK_ALIKES)
def test_elections_that_look_alike_never_meet(
    one: str, prefix: str, etcd: Etcd[Any], start: Start, candidate: Candidate
) -> None:
    electors = {election: candidate(election, prefix) for election in LOOK_ALIKES}
    others = [election for election in LOOK_ALIKES if election != one]

    etcdctl = start("elect", foreign(prefix, one), "etcdctl")
    etcdctl.line()
    for election in others:
        term = electors[election].try_campaign()
        assert term is not None, f"etcdctl leads {one!r}, so {election!r} is free"
        assert leads(electors[election], term)
        assert ids(electors[election]) == [term.candidate.id]
        term.resign()
    assert electors[one].try_campaign() is None
    eventually(lambda: len(ids(electors[one])) == 1, "who gave up leaves the queue")
    etcdctl.end()

    term = electors[one].campaign(timeout=AT_ONCE)
    for election in others:
        etcdctl = start("elect", foreign(prefix, election), "etcdctl")
        assert etcdctl.line().startswith(f"{foreign(prefix, election)}/"), f"coordkit leads {one!r} alone"
        etcdctl.end()
    assert leads(electors[one], term)
    assert ids(electors[one]) == [term.candidate.id]
    term.resign()


def test_a_foreign_name_with_a_slash_is_none_of_ours(start: Start, candidate: Candidate) -> None:
    """Of `a` alone it is below, where odd keys lie: etcdctl's own `a` would wait for it."""
    etcdctl = start("elect", "a/b", "etcdctl")
    etcdctl.line()
    terms = []
    for election in LOOK_ALIKES:
        elector = candidate(election)
        term = elector.try_campaign()
        assert term is not None
        assert leads(elector, term)
        assert ids(elector) == [term.candidate.id]
        terms.append(term)
    etcdctl.end()
    again = start("elect", "a/b", "again")
    again.line()
    for term in terms:
        term.confirm()
        term.resign()


# -- odd keys ----------------------------------------------------------------------------------------------------------


def lay(etcd: Etcd[Any], *keys: str, lease: str = "") -> None:
    """Put keys that are no candidates."""
    for key in keys:
        etcd.ctl("put", key, "odd", *((f"--lease={lease}",) if lease else ()))


def a_lease(etcd: Etcd[Any]) -> str:
    """A new lease, in hex."""
    return etcd.ctl("lease", "grant", "300").split()[1]


def test_odd_keys_in_front_and_between_are_not_counted(etcd: Etcd[Any], start: Start, candidate: Candidate) -> None:
    lease = a_lease(etcd)
    lay(etcd, "odd/", "odd/7", f"odd/{lease}", "odd/x/7", "odd/first")  # some have the look, none has a lease
    lay(etcd, f"odd/0x{lease}", f"odd/{lease}/7", "odd/1", "odd/", lease=lease)
    watching, first, second = (candidate("odd", label=label) for label in ("watching", "first", "second"))
    assert watching.leader() is None
    assert watching.candidates() == ()

    began = time.monotonic()
    term = first.campaign(timeout=AT_ONCE)
    print(f"won behind odd keys within {time.monotonic() - began:.3f} s")
    assert leads(watching, term)
    assert ids(watching) == [term.candidate.id]

    lay(etcd, "odd/between")
    waiting = Running(second.campaign)
    eventually(lambda: len(ids(watching)) == 2, "the second waits")
    lay(etcd, "odd/zzz", lease=lease)
    term.confirm()
    assert not waiting.done
    term.resign()
    term = waiting.result(AT_ONCE)
    assert leads(watching, term)
    term.resign()
    assert watching.leader() is None
    assert len(etcd.keys("odd/")) == 10, "odd keys are left where they are"


def test_odd_keys_that_come_and_go_wake_nobody_wrongly(etcd: Etcd[Any], start: Start, candidate: Candidate) -> None:
    elector = candidate("odd")
    lay(etcd, "odd/first")
    etcdctl_behind = start("elect", "odd", "waits for the odd key, as Go does")
    queued(etcd, "odd", 2)
    assert elector.try_campaign() is None, "by the layout etcdctl is first"
    waiting = Running(elector.campaign)
    queued(etcd, "odd", 3)
    etcd.ctl("del", "odd/first")
    etcdctl_behind.line()
    assert not waiting.done
    etcdctl_behind.end()
    waiting.result(AT_ONCE).resign()


# -- keys that are deleted ---------------------------------------------------------------------------------------------


def test_a_foreign_key_deleted_by_hand_makes_room(etcd: Etcd[Any], start: Start, candidate: Candidate) -> None:
    elector = candidate("deleted")
    leading = start("elect", "deleted", "leads")
    key = leading.line()
    start("elect", "deleted", "between")
    queued(etcd, "deleted", 2)
    waiting = Running(elector.campaign)
    queued(etcd, "deleted", 3)
    etcd.ctl("del", etcd.keys("deleted/")[1].key.decode())  # the one before ours: still not our turn
    eventually(lambda: len(ids(elector)) == 2, "the one between is gone")
    assert not waiting.done
    etcd.ctl("del", key)
    term = waiting.result(AT_ONCE)
    assert leads(elector, term)
    term.resign()


def test_our_keys_deleted_by_hand(etcd: Etcd[Any], start: Start, candidate: Candidate) -> None:
    """A leader's: its term is over at once. A waiter's: it stands in line anew, at the end."""
    first, second = candidate("ours", label="first"), candidate("ours", label="second")
    term = first.campaign(timeout=AT_ONCE)
    waiting = Running(second.campaign)
    queued(etcd, "ours", 2)
    etcdctl = start("elect", "ours", "third")
    queued(etcd, "ours", 3)
    waiters = etcd.keys("ours/")[1]
    etcd.ctl("del", waiters.key.decode())
    eventually(lambda: [each.label for each in first.candidates()] == ["first", "", "second"], "it is the last now")
    etcd.ctl("del", etcd.keys("ours/")[0].key.decode())
    assert term.wait_ended(AT_ONCE)
    assert term.reason is LossReason.REVOKED
    etcdctl.line()
    assert not waiting.done
    etcdctl.end()
    waiting.result(2 * TTL + AT_ONCE).resign()
