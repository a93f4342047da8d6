"""Members of etcd that are cut off, killed, paused and restarted under leaders and waiting candidates.

The rule: which member a client uses is learnt from the proxies before the members, and whether a term was prolonged
from its own clock; what a duration of the machine may add is SLACK.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import pytest

from coordkit import LeaderElector, LeaderInfo, LossReason, Term, TermState, Unavailable
from coordkit.testing.contract import Running, eventually
from tests.servers.etcd import Etcd
from tests.servers.proxy import Proxy

pytestmark = [pytest.mark.backend("etcd"), pytest.mark.timeout(100)]

SHORT = 3.0  # ttl of terms that are to be lost
LONG = 8.0  # ttl of terms that are to last
SLACK = 3.0  # s: what an election of etcd, and a busy machine, may add
AT_ONCE = 2.5  # s: with a new connection, and far from any ttl or look of a waiter
# A term that was not resigned costs its lease, which etcd ends within a second, and on old servers its ttl once more.
TAKEOVER = 2 * SHORT * 1.02 + 1.0 + SLACK


class Ways:
    """Proxies before all members, by which one client comes."""

    def __init__(self, cluster: Etcd[Any], stack: ExitStack) -> None:
        self._members = cluster.members
        self._proxies = [stack.enter_context(Proxy(member.host, member.port)) for member in self._members]

    @property
    def url(self) -> str:
        return f"etcd://{','.join(f'{proxy.host}:{proxy.port}' for proxy in self._proxies)}"

    def used(self) -> Any:
        """The member that the client is connected to, once that is one alone."""
        eventually(lambda: len(self._open()) == 1, "one connection")
        (member,) = self._open()
        return member

    def wait_for_another_than(self, member: Any) -> None:
        """Wait until the client has turned to another member."""
        eventually(lambda: any(each is not member for each in self._open()), "another member is used", LONG)

    def _open(self) -> list[Any]:
        pairs = zip(self._members, self._proxies, strict=True)
        return [member for member, proxy in pairs if proxy.open_now]


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def elector(stack: ExitStack) -> Callable[..., LeaderElector]:
    def make(url: str, election: str = "members", *, ttl: float) -> LeaderElector:
        made = LeaderElector(url, election, ttl=ttl)
        stack.callback(made.close)
        return made

    return make


Make = Callable[..., LeaderElector]


def prolonged(*terms: Term, ttl: float) -> None:
    """Wait until these terms have been renewed once more, from now on."""

    def deadlines() -> list[float]:
        return [term.remaining() + time.monotonic() for term in terms]

    before = deadlines()
    eventually(
        lambda: all(now > old + ttl / 12 for old, now in zip(before, deadlines(), strict=True)), "they are renewed", ttl
    )


def waiting(elector: LeaderElector, others: int) -> Running[Term]:
    """A campaign of this elector that waits behind so many."""
    campaign = Running(elector.campaign)
    eventually(lambda: len(elector.candidates()) == others + 1, "it is in the queue", 10.0)
    return campaign


@pytest.mark.parametrize("which", ["the leader", "a follower"])
def test_a_client_of_only_one_member_stops_in_time_when_that_is_cut_off(
    etcd: Etcd[Any], elector: Make, which: str
) -> None:
    member = etcd.leader() if which == "the leader" else etcd.followers()[0]
    old = elector(etcd.url(members=[member]), ttl=SHORT)
    # A member that comes back makes etcd elect a leader anew, perhaps more than once: that must not cost this term.
    new = elector(etcd.url(), ttl=30.0)
    term = old.campaign()
    follower = waiting(new, 1)
    cut_at = time.monotonic()
    member.cut_off()
    assert term.wait_ended(SHORT + SLACK)
    assert time.monotonic() - cut_at <= SHORT + 0.5  # its deadline, and the timer's own rest
    assert (term.state, term.reason) == (TermState.LOST, LossReason.EXPIRED)
    assert not follower.done
    after = follower.result(TAKEOVER)
    assert after.token > term.token
    after.confirm()
    with pytest.raises(Unavailable):
        old.leader(timeout=1.0)
    again = Running(old.campaign)
    member.rejoin()
    etcd.ready()
    eventually(lambda: len(new.candidates()) == 2, "the old leader waits", 10.0)
    after.resign()
    last = again.result(AT_ONCE)
    assert last.token > after.token
    last.resign()


@pytest.mark.parametrize("fault", ["cut_off", "kill", "pause"])
def test_a_client_moves_to_a_healthy_member_without_losing_its_term(
    etcd: Etcd[Any], elector: Make, stack: ExitStack, fault: str
) -> None:
    ways = Ways(etcd, stack)
    term = elector(ways.url, ttl=LONG).campaign()
    used = ways.used()
    getattr(used, fault)()
    ways.wait_for_another_than(used)
    prolonged(term, ttl=LONG)
    term.confirm()
    assert (term.valid, term.state) == (True, TermState.LEADING)
    term.resign()


def killed(members: Sequence[Any]) -> None:
    for member in members[:2]:
        member.kill()


def paused(members: Sequence[Any]) -> None:
    for member in members[:2]:
        member.pause()


def cut_apart(members: Sequence[Any]) -> None:
    for member in members:
        member.cut_off()


@pytest.mark.parametrize("down", [killed, paused, cut_apart])
def test_with_a_majority_down_nobody_leads_after_the_ttl_until_it_is_back(
    etcd: Etcd[Any], elector: Make, down: Callable[[Sequence[Any]], None]
) -> None:
    old, new = elector(etcd.url(), ttl=SHORT), elector(etcd.url(), ttl=SHORT)
    term = old.campaign()
    follower = waiting(new, 1)
    began = time.monotonic()
    down(etcd.members)
    assert term.wait_ended(SHORT + SLACK)
    assert time.monotonic() - began <= SHORT + 0.5
    assert term.reason is LossReason.EXPIRED
    time.sleep(TAKEOVER - SHORT)  # until the next one would lead on healthy members
    assert not follower.done
    with pytest.raises(Unavailable):
        new.leader(timeout=1.0)
    etcd.heal()
    healed = time.monotonic()
    after = follower.result(TAKEOVER)
    print(f"{down.__name__}: led {time.monotonic() - healed:.2f} s after the members were ready")
    assert after.token > term.token
    after.confirm()
    after.resign()


def test_a_term_survives_the_restart_of_every_member(etcd: Etcd[Any], elector: Make) -> None:
    leading = elector(etcd.url(), ttl=LONG)
    waiters = [elector(etcd.url(), ttl=LONG) for _ in range(3)]
    term = leading.campaign()
    campaigns = [waiting(each, number) for number, each in enumerate(waiters, start=1)]
    queue = leading.candidates()
    seen: list[LeaderInfo | None] = []
    first = threading.Event()

    def observe() -> None:
        for state in leading.observe():
            seen.append(state)
            first.set()
            if state is None or state.token > term.token:
                return

    observer = Running(observe)
    assert first.wait(SLACK)
    for member in etcd.members:
        member.restart()
        etcd.ready()
        prolonged(term, ttl=LONG)
    term.confirm()
    assert (term.valid, term.state) == (True, TermState.LEADING)
    assert leading.candidates() == queue
    tokens = [term.token]
    term.resign()
    for campaign in campaigns:
        after = campaign.result(AT_ONCE)
        tokens.append(after.token)
        after.resign()
    assert tokens == sorted(set(tokens))
    observer.result(AT_ONCE)
    told = [state.token for state in seen if state is not None]
    assert told == sorted(told)
    assert told[0] == term.token
    assert None not in seen[: told.count(term.token)]  # no restart looks like a vacancy


@pytest.mark.parametrize("fault", ["kill", "pause", "cut_off"])
def test_a_waiting_candidate_whose_member_goes_gets_its_turn_at_once(
    etcd: Etcd[Any], elector: Make, stack: ExitStack, fault: str
) -> None:
    ways = Ways(etcd, stack)
    waiter = elector(ways.url, ttl=LONG)
    term = elector(etcd.url(), ttl=LONG).campaign()
    campaign = waiting(waiter, 1)
    used = ways.used()
    getattr(used, fault)()
    ways.wait_for_another_than(used)
    prolonged(term, ttl=LONG)
    assert not campaign.done
    resigned = time.monotonic()
    term.resign()
    after = campaign.result(AT_ONCE)
    print(f"{fault}: led {time.monotonic() - resigned:.3f} s after the resign")
    assert after.token > term.token
    after.resign()


def test_a_resignation_while_a_waiting_candidate_is_between_two_members_is_not_missed(
    etcd: Etcd[Any], elector: Make, stack: ExitStack
) -> None:
    ways = Ways(etcd, stack)
    term = elector(etcd.url(), ttl=LONG).campaign()
    campaign = waiting(elector(ways.url, ttl=LONG), 1)
    ways.used().kill()
    term.resign()
    after = campaign.result(AT_ONCE + SLACK)
    assert after.token > term.token
    after.resign()


def test_twenty_terms_of_one_process_survive_the_death_of_the_leader_of_etcd(etcd: Etcd[Any], elector: Make) -> None:
    ttl = 10.0
    terms = [elector(etcd.url(), f"many/{number}", ttl=ttl).campaign() for number in range(20)]
    assert len(etcd.leases()) == 1
    old = etcd.leader()
    old.kill()
    etcd.leader(other_than=old)
    prolonged(*terms, ttl=ttl)
    for term in terms:
        term.confirm()
    assert {term.state for term in terms} == {TermState.LEADING}
    old.start()
    etcd.ready()
    for term in terms:
        term.resign()
