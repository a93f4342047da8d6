"""Real voters that are killed, paused, set back, emptied, full, busy, or somebody else by now.

The rule: one after another they may all fall under one term, if each has counted again before the next. A majority at a
time ends the term by its own clock, and nobody leads until it is back; whatever was forgotten, tokens rise.
"""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import pytest

from coordkit import CampaignTimeout, LeaderElector, LossReason, Misconfigured, Session, Term, TermState, Unavailable
from coordkit.backends.redis import scripts
from coordkit.backends.redis.voters import Voter
from coordkit.testing.contract import Running, eventually
from tests.integration import redis_cost_scenes
from tests.servers.proxy import Proxy
from tests.servers.redis import Redis
from tests.support import relay
from tests.support.children import Child
from tests.support.judged import judged
from tests.support.relay import Relay
from tests.support.voting import held_by, mark_new

__all__ = ["judged"]

pytestmark = [pytest.mark.backend("redis"), pytest.mark.timeout(110), pytest.mark.usefixtures("judged")]

local = pytest.mark.local_cluster

TTL = 2.0
MAX_TTL = 2.0
QUARANTINE = MAX_TTL * 1.02
BUSY = 4.0  # s: what a busy machine may add

Fault = Callable[[Redis[Any], Any], None]


@contextmanager
def elector_of(url: str, election: str = "x", ttl: float = TTL) -> Iterator[LeaderElector]:
    elector = LeaderElector(url, election, ttl=ttl)
    try:
        yield elector
    finally:
        elector.close()


@pytest.fixture
def url(redis: Redis[Any]) -> str:
    """Five voters that count at once."""
    url = redis.url(max_ttl=str(MAX_TTL))
    mark_new(redis, url)
    return url


def enrolled(voters: Redis[Any], member: Any, term: Term) -> bool:
    """Whether this voter, with the memory that it has now, has recorded this term."""
    hand = voters.hand(member)
    marker, record = hand.hget("coordkit", "marker"), hand.hget("coordkit", "e:x")
    if not isinstance(marker, str) or not isinstance(record, str):
        return False
    state, birth, memory, _ = marker.split(" ")
    _, _, _, _, seat, _, born, value = record.split(" ", 7)
    alive = memory.startswith(hand.info("server")["run_id"])
    return (state, seat, born) == ("healthy", "held", birth) and alive and term.candidate.id in value


def killed(voters: Redis[Any], member: Any) -> None:
    member.kill()
    member.start()
    voters.ready(among=[member])


def paused(_: Redis[Any], member: Any) -> None:
    member.pause()
    time.sleep(TTL / 2)  # so that renewals meet it, here and below
    member.resume()


def set_back(voters: Redis[Any], member: Any) -> None:
    copy = voters.snapshot(member)
    time.sleep(2.0)  # so old are the data
    voters.restore(member, copy)


def wiped(voters: Redis[Any], member: Any) -> None:
    member.kill()
    member.wipe()
    member.start()
    voters.ready(among=[member])


def flushed(voters: Redis[Any], member: Any) -> None:
    voters.flushall(member)


def swapped(voters: Redis[Any], member: Any) -> None:
    voters.swapdb(member)


def demoted(voters: Redis[Any], member: Any) -> None:
    other = next(each for each in voters.members if each is not member)
    voters.replicaof(member, other)
    voters.promote(member)


def full(voters: Redis[Any], member: Any) -> None:
    voters.out_of_memory(member)
    time.sleep(TTL / 2)
    voters.enough_memory(member)


def read_only(voters: Redis[Any], member: Any) -> None:
    voters.read_only(member)
    time.sleep(TTL / 2)
    voters.writable(member)


def busy(voters: Redis[Any], member: Any) -> None:
    voters.busy(member)
    time.sleep(TTL / 2)
    voters.not_busy(member)


def evicting(voters: Redis[Any], member: Any) -> None:
    def looked_at_anew() -> None:  # as it is with each connection
        voters.hand(member).client_kill_filter(_type="normal", skipme=True)

    voters.evicting(member)
    looked_at_anew()
    time.sleep(TTL / 2)
    voters.no_eviction(member)
    looked_at_anew()


FORGETFUL: tuple[Fault, ...] = (killed, set_back, wiped, flushed, swapped, demoted)
FAULTS: tuple[Fault, ...] = (*FORGETFUL, paused, full, read_only, busy, evicting)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_voters_fall_one_after_another_under_one_term(
    redis: Redis[Any], url: str, fault: Fault, caplog: pytest.LogCaptureFixture
) -> None:
    def missed(member: Any, since: int) -> bool:
        return any(f":{member.port}" in record.getMessage() for record in caplog.records[since:])

    with elector_of(url) as elector:
        term = elector.campaign(timeout=BUSY)
        for member in redis.members:
            eventually(lambda member=member: enrolled(redis, member, term), f"{member.name} votes", 15.0)  # type: ignore[misc]
            before, since = time.monotonic(), len(caplog.records)
            fault(redis, member)
            took = time.monotonic() - before
            eventually(lambda member=member: enrolled(redis, member, term), f"{member.name} votes again", 15.0)  # type: ignore[misc]
            if fault in FORGETFUL:
                assert time.monotonic() - before >= QUARANTINE - took, "who has forgotten counts for nobody for a while"
            assert term.valid, f"{fault.__name__} {member.name}: {term.reason}"
            eventually(lambda told=(member, since): missed(*told), f"{member.name} was missed", BUSY)  # type: ignore[misc]
        term.confirm()
        term.resign()


def all_set_back(voters: Redis[Any], members: Sequence[Any]) -> None:
    copies = [voters.snapshot(member) for member in members]
    time.sleep(2.0)  # so old are the data
    for member, copy in zip(members, copies, strict=True):
        voters.restore(member, copy)


def all_of(fault: Fault) -> Callable[[Redis[Any], Sequence[Any]], None]:
    def at_once(voters: Redis[Any], members: Sequence[Any]) -> None:
        for member in members:
            fault(voters, member)

    return at_once


@pytest.mark.parametrize(
    "fault",
    [  # containers are started so slowly that each would count again before the next one falls
        pytest.param(all_of(killed), id="killed", marks=local),
        pytest.param(all_set_back, id="set_back", marks=local),
        pytest.param(all_of(wiped), id="wiped", marks=local),
        pytest.param(all_of(flushed), id="flushed"),
    ],
)
def test_a_majority_that_forgets_ends_the_term_and_the_next_one_is_higher(
    redis: Redis[Any], url: str, fault: Callable[[Redis[Any], Sequence[Any]], None]
) -> None:
    with elector_of(url) as old, elector_of(f"{url}&drift=0.011") as new:  # a session of its own
        term = old.campaign(timeout=BUSY)
        waiting = Running(new.campaign)
        fault(redis, redis.members[1:4])
        forgot = time.monotonic()
        assert term.wait_ended(TTL + BUSY)
        assert (term.state, term.reason) == (TermState.LOST, LossReason.EXPIRED)
        after = waiting.result(QUARANTINE + TTL + 2 * BUSY)
        assert time.monotonic() - forgot > MAX_TTL - TTL / 2, "not before a majority counts again"
        assert after.token > term.token
        after.confirm()
        after.resign()


def test_with_a_majority_down_nobody_leads_until_it_is_back(redis: Redis[Any], url: str) -> None:
    with elector_of(url) as old, elector_of(f"{url}&drift=0.011") as new:
        term = old.campaign(timeout=BUSY)
        began = time.monotonic()
        for member in redis.members[:3]:
            member.kill()
        assert term.wait_ended(TTL + BUSY)
        assert term.reason is LossReason.EXPIRED
        with pytest.raises(Unavailable) as failed:
            new.leader(timeout=0.5)
        assert redis.members[0].name in str(failed.value) or str(redis.members[0].port) in str(failed.value)
        with pytest.raises(CampaignTimeout):
            new.campaign(timeout=2 * TTL)
        assert time.monotonic() - began > 2 * TTL, "by now another would lead on healthy voters"
        redis.heal()
        after = new.campaign(timeout=QUARANTINE + TTL + 2 * BUSY)
        assert after.token > term.token
        after.resign()


def test_a_majority_that_is_paused_ends_the_term_and_goes_on_without_a_quarantine(redis: Redis[Any]) -> None:
    url = redis.url(max_ttl="60")
    mark_new(redis, url)
    with elector_of(url) as old, elector_of(f"{url}&drift=0.011") as new:
        term = old.campaign(timeout=BUSY)
        waiting = Running(new.campaign)
        for member in redis.members[:3]:
            member.pause()
        assert term.wait_ended(TTL + BUSY)
        assert not waiting.done
        for member in redis.members[:3]:
            member.resume()
        after = waiting.result(2 * TTL + 2 * BUSY)
        assert after.token > term.token
        after.resign()


@pytest.mark.parametrize("fault", [pytest.param(flushed, id="flushed"), pytest.param(wiped, id="wiped", marks=local)])
def test_all_voters_wiped_under_a_leader(redis: Redis[Any], url: str, fault: Fault) -> None:
    """Never two leaders, and tokens still rise, although nobody remembers any."""
    tokens = []
    with elector_of(url) as one, elector_of(f"{url}&drift=0.011") as two:
        for old, new in ((one, two), (two, one)):
            term = old.campaign(timeout=QUARANTINE + TTL + 2 * BUSY)
            tokens.append(term.token)
            waiting = Running(new.campaign)
            for member in redis.members:
                fault(redis, member)
            after = waiting.result(QUARANTINE + TTL + 2 * BUSY)
            assert not term.valid, "two lead"
            tokens.append(after.token)
            after.resign()
    assert tokens == sorted(set(tokens))


def test_new_servers_count_after_the_quarantine_or_on_the_operators_word(redis: Redis[Any]) -> None:
    url = redis.url(max_ttl=str(MAX_TTL))
    with elector_of(url) as elector:
        began = time.monotonic()
        elector.campaign(timeout=QUARANTINE + 2 * BUSY).resign()
        assert time.monotonic() - began >= QUARANTINE
    redis.clear()
    mark_new(redis, url)
    with elector_of(url) as elector:
        began = time.monotonic()
        elector.campaign(timeout=QUARANTINE + 2 * BUSY).resign()
        assert time.monotonic() - began < QUARANTINE


def test_a_flush_in_between_begins_the_quarantine_anew(redis: Redis[Any]) -> None:
    """An absent marker has no identity: only a birth that was watched all the time vouches for anything."""
    seconds = 3.0
    with elector_of(redis.url(max_ttl=str(seconds))) as elector:
        waiting = Running(lambda: elector.campaign(timeout=4 * seconds + 2 * BUSY))
        for _ in range(2):
            eventually(lambda: all(redis.hand(each).hexists("coordkit", "marker") for each in redis.members), "marked")
            time.sleep(seconds / 4)  # of the quarantine, which is in vain
            flushed_at = time.monotonic()
            for member in redis.members:
                redis.flushall(member)
            assert not waiting.done, "the machine was too slow for this test"
        term = waiting.result(4 * seconds + 2 * BUSY)
        assert time.monotonic() - flushed_at >= seconds
        term.resign()


# -- clocks ------------------------------------------------------------------------------------------------


class ShiftedTime:
    """Lets the scripts of these voters see another time: redis-server's own clock cannot be set for one process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: int, members: Sequence[Any]) -> None:
        names: Collection[str] = {f"{member.host}:{member.port}" for member in members}
        real, call = scripts.script, Voter._call
        asked = ""

        def named(voter: Voter, *values: Any) -> None:
            nonlocal asked
            asked = voter.name
            call(voter, *values)

        def shifted(name: str) -> scripts.Script:
            script = real(name)
            if asked not in names:
                return script
            told = b"local micros = time[1] .. "
            assert script.text.count(told) == 1
            text = script.text.replace(told, b"local micros = tostring(tonumber(time[1]) + %d) .. " % seconds)
            return replace(script, text=text, digest=f"{script.digest[:-1]}x")  # unknown to the server: EVAL

        monkeypatch.setattr("coordkit.backends.redis.voters.script", shifted)
        monkeypatch.setattr(Voter, "_call", named)


@pytest.mark.parametrize("hours", [-5, 5])
def test_the_clock_of_a_server_decides_nothing(
    redis: Redis[Any], url: str, hours: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No lease, no takeover and no epoch of a record that is there depends on it."""
    with elector_of(url) as elector:
        first = elector.campaign(timeout=BUSY)
        first.resign()
        ShiftedTime(monkeypatch, hours * 3600, redis.members)
        with elector_of(f"{url}&drift=0.011") as other:
            term = other.campaign(timeout=BUSY)
            assert int(term.token) == int(first.token) + 1
            assert not term.wait_ended(1.5 * TTL), "it is renewed"
            elector.close()
            other.close()
    with elector_of(f"{url}&drift=0.012") as third:
        began = time.monotonic()
        after = third.campaign(timeout=TTL + 2 * BUSY)
        assert int(after.token) == int(term.token) + 1
        assert time.monotonic() - began > TTL / 3
        after.resign()


@pytest.mark.parametrize("hours", [-5, 5])
def test_a_clock_that_is_hours_away_is_refused_where_it_has_to_be_the_floor(
    redis: Redis[Any], url: str, hours: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ShiftedTime(monkeypatch, hours * 3600, redis.members[:3])
    with elector_of(url) as elector, pytest.raises(Misconfigured) as failed:
        elector.campaign(timeout=BUSY)
    for number, member in enumerate(redis.members):
        told = re.search(rf":{member.port}: its clock is 1[78]\d{{3}} s from ours", str(failed.value))
        assert (told is not None) is (number < 3), "each voter is named, and by how much"
    assert held_by(redis, "x") == []


@pytest.mark.parametrize("hours", [-5, 5])
def test_clocks_of_a_minority_that_are_hours_away_are_no_floor_and_no_obstacle(
    redis: Redis[Any], url: str, hours: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ShiftedTime(monkeypatch, hours * 3600, redis.members[:2])
    with elector_of(url) as elector:
        before = time.time()
        term = elector.campaign(timeout=BUSY)
        assert before <= int(term.token) / 1e6 <= time.time() + 1
        assert not term.wait_ended(TTL), "it is renewed"
        assert not any(redis.hand(member).hexists("coordkit", "e:x") for member in redis.members[:2])
        term.resign()
        after = elector.campaign(timeout=BUSY)
        assert int(after.token) == int(term.token) + 1
        after.resign()


# -- who answers -------------------------------------------------------------------------------------------


def test_one_server_under_two_names_is_refused(redis: Redis[Any]) -> None:
    first, second = redis.members[:2]
    with Proxy(first.host, first.port) as again:
        hosts = f"{first.host}:{first.port},{again.host}:{again.port},{second.host}:{second.port}"
        url = f"redis+quorum://{hosts}?max_ttl={MAX_TTL}"
        with elector_of(url) as elector, pytest.raises(Misconfigured, match="are one server: it has one vote"):
            elector.campaign(timeout=BUSY)


def test_a_name_that_comes_to_lead_to_another_voter_has_no_vote(
    redis: Redis[Any], caplog: pytest.LogCaptureFixture
) -> None:
    first, *between, last = redis.members
    with Relay(last.host, last.port) as way:
        hosts = [*(f"{member.host}:{member.port}" for member in (first, *between)), way.host]
        url = f"redis+quorum://{','.join(hosts)}?max_ttl={MAX_TTL}&cluster=moving"
        mark_new(redis, url)
        with elector_of(url) as elector:
            term = elector.campaign(timeout=BUSY)
            way.lead_to(first.host, first.port)
            told = f"{hosts[0]} and {way.host} are one server: it has one vote"
            eventually(lambda: any(told in record.getMessage() for record in caplog.records), "it is found out", BUSY)
            term.confirm()
            with elector_of(f"{url}&drift=0.011") as other, pytest.raises(Misconfigured, match=told):
                other.campaign(timeout=BUSY)
            for member in between[1:]:
                member.pause()
            assert term.wait_ended(TTL + BUSY), "three names answer, and only two servers"
            for member in between[1:]:
                member.resume()
            way.lead_to(last.host, last.port)
            after = elector.campaign(timeout=TTL + 2 * BUSY)
            assert after.token > term.token
            after.resign()


@pytest.mark.parametrize(
    ("lie", "harmless"),
    [
        (lambda: relay.to_somebody_else, False),
        (relay.Swapped, False),
        (lambda: relay.other_shape, False),
        (lambda: relay.twice, True),  # what comes first is the answer
    ],
    ids=["to somebody else", "swapped", "of another shape", "twice"],
)
def test_answers_that_are_not_those_to_the_request_are_no_votes(
    redis: Redis[Any], lie: Callable[[], relay.Change], harmless: bool
) -> None:
    with ExitStack() as stack:
        ways = [stack.enter_context(Relay(member.host, member.port)) for member in redis.members]
        url = f"redis+quorum://{','.join(way.host for way in ways)}?max_ttl={MAX_TTL}"
        mark_new(redis, url)
        with elector_of(url) as elector:
            for way in ways[:2]:
                way.change = lie()
            term = elector.campaign(timeout=BUSY)
            assert not term.wait_ended(TTL), "it is renewed by the three others"
            term.confirm()
            assert all(way.made > 2 for way in ways[:2]), "who has answered so is hung up on"
            for way in ways[2:]:
                way.change = lie()
            if harmless:
                assert not term.wait_ended(TTL)
                term.resign()
            else:
                assert term.wait_ended(TTL + BUSY)
                with pytest.raises(CampaignTimeout):
                    elector.campaign(timeout=TTL)
            for way in ways:
                way.change = relay.truth
            after = elector.campaign(timeout=TTL + 2 * BUSY)
            assert after.token > term.token
            after.resign()


def test_votes_that_are_told_too_late_count_for_nothing(redis_three: Redis[Any]) -> None:
    with ExitStack() as stack:
        proxies = [stack.enter_context(Proxy(member.host, member.port)) for member in redis_three.members]
        url = f"redis+quorum://{','.join(f'{each.host}:{each.port}' for each in proxies)}?max_ttl={MAX_TTL}"
        mark_new(redis_three, url)
        with elector_of(url) as elector:
            elector.campaign(timeout=BUSY).resign()
            for proxy in proxies:
                proxy.hold_replies(after=b'"label"')  # only a vote, or a renewal, says who it is for
            waiting = Running(lambda: elector.campaign(timeout=TTL + 2 * BUSY))
            for proxy in proxies:
                proxy.wait_for_request()
            eventually(lambda: held_by(redis_three, "x") != [], "the votes are granted")
            epochs = [
                int(str(redis_three.hand(each).hget("coordkit", "e:x")).split()[0]) for each in redis_three.members
            ]
            time.sleep(TTL / 4)  # a voter has an eighth of the ttl
            assert not waiting.done
            for proxy in proxies:
                proxy.release_replies()
            term = waiting.result(TTL + 2 * BUSY)
            assert int(term.token) > max(epochs)
            term.resign()


@local
def test_voters_that_were_down_at_the_election_are_enrolled_and_carry_the_term(redis: Redis[Any], url: str) -> None:
    """Two are down when the leader is elected; when they count again, two others may fall."""
    for member in redis.members[3:]:
        member.kill()
    with elector_of(url) as elector:
        term = elector.campaign(timeout=2 * TTL + BUSY)
        for member in redis.members[3:]:
            member.start()
        redis.ready(among=redis.members[3:])
        for member in redis.members[3:]:
            eventually(lambda member=member: enrolled(redis, member, term), f"{member.name} votes", 15.0)  # type: ignore[misc]
        for member in redis.members[:2]:
            member.kill()
        for _ in range(3):
            assert not term.wait_ended(TTL / 2)
            term.confirm()
        term.resign()


def test_a_voter_that_fell_with_a_higher_epoch_is_not_asked_for_at_every_word(redis: Redis[Any], url: str) -> None:
    """A seat that was lost at one voter is looked after once, not whenever another voter says something."""
    first, *_, last = redis.members
    with elector_of(url, ttl=MAX_TTL) as elector, elector_of(f"{url}&drift=0.011", ttl=MAX_TTL) as other:
        term = elector.campaign(timeout=BUSY)
        waiting = Running(lambda: other.campaign(timeout=60.0))
        eventually(lambda: enrolled(redis, last, term), "it votes")
        text = redis.hand(last).hget("coordkit", "e:x")
        assert isinstance(text, str)
        epoch, floor, _, rest = text.split(" ", 3)
        lost = redis.calls(last)["evalsha"]
        redis.hand(last).hset("coordkit", "e:x", f"{int(epoch) + 1} {floor} stranger {rest}")
        eventually(lambda: redis.calls(last)["evalsha"] > lost, "the leader has seen it")
        last.kill()
        before = redis.calls(first)["evalsha"]
        assert not term.wait_ended(3 * TTL)
        asked = redis.calls(first)["evalsha"] - before
        assert asked <= 3 * 3 + 6, "three renewals per ttl, and the looks of who waits"
        term.resign()
        waiting.result(BUSY).resign()


def test_nobody_is_not_said_to_lead_by_a_minority_of_seats(redis_three: Redis[Any]) -> None:
    """One voter has the leader's seat, one has lost it, one is silent: that is no majority for anything."""
    ttl = 5.0  # longer than a silent voter is waited for
    url = redis_three.url(max_ttl=str(ttl))
    mark_new(redis_three, url)
    with elector_of(url, ttl=ttl) as elector, elector_of(f"{url}&drift=0.011", ttl=ttl) as reader:
        term = elector.campaign(timeout=BUSY)
        assert reader.leader(timeout=BUSY) is not None
        _, second, third = redis_three.members
        redis_three.hand(third).hdel("coordkit", "e:x")
        second.pause()
        try:
            said = reader.leader(timeout=4 * ttl)
        except Unavailable:
            said = None
            assert not term.valid
        assert said is not None or not term.valid
        second.resume()


def test_a_silent_minority_costs_a_new_session_little(redis: Redis[Any], url: str) -> None:
    for member in redis.members[3:]:
        member.pause()
    session = Session(url)
    began = time.monotonic()
    session.open(timeout=BUSY)
    took = time.monotonic() - began
    session.close()
    assert took < 1.0, f"{took:.2f} s"


@pytest.mark.parametrize(
    ("here", "election", "there"), [("/0", "crash", "/1"), ("?keyspace=app", "eu:crash", "?keyspace=app:eu")]
)
def test_who_leads_elsewhere_on_the_same_server_keeps_nobody_waiting(
    redis_one: Redis[Any], here: str, election: str, there: str
) -> None:
    """Databases, and keys of which one begins with the other, share channels. The dead leader here is followed."""
    member = redis_one.members[0]

    def url(path: str, more: str) -> str:
        return f"redis://{member.host}:{member.port}{path}{'&' if '?' in path else '?'}max_ttl=2{more}"

    key = here.partition("=")[2] or "coordkit"
    with (
        Child(redis_cost_scenes.leads, url(there, ""), TTL) as stranger,
        elector_of(url(here, ""), election) as dead,
        elector_of(url(here, "&drift=0.011"), election) as heir,
    ):
        stranger.expect("leads")
        term = dead.campaign(timeout=MAX_TTL + BUSY)
        last_words = redis_one.hand(member).hget(key, f"e:{election}")
        assert isinstance(last_words, str)
        term.resign()
        redis_one.hand(member).hset(key, f"e:{election}", last_words)  # as if it had been killed
        began = time.monotonic()
        heir.campaign(timeout=10 * TTL).resign()
        assert time.monotonic() - began < 2 * TTL + BUSY
        assert stranger.process.poll() is None


def test_a_silent_minority_holds_nobody_up(redis: Redis[Any], url: str) -> None:
    ttl = 8.0
    url = redis.url(max_ttl="8")
    redis.clear()
    mark_new(redis, url)
    with elector_of(url, ttl=ttl) as one, elector_of(f"{url}&drift=0.011", ttl=ttl) as two:
        one.campaign(timeout=BUSY).resign()
        for member in redis.members[3:]:
            member.pause()
        one.campaign(timeout=BUSY).resign()  # finds out who is silent
        two.campaign(timeout=BUSY).resign()
        seconds = []
        for each in itertools.islice(itertools.cycle((one, two)), 6):
            began = time.monotonic()
            term = each.campaign(timeout=BUSY)
            assert each.leader() is not None
            term.confirm()
            term.resign()
            seconds.append(time.monotonic() - began)
        print([round(each, 4) for each in seconds])
        assert sorted(seconds)[2] < ttl / 8, "nobody waits for an answer that does not come"
