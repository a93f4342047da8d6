"""`coordkit doctor --init`, `--replace` and `--forget` on real voters.

The rule: a leader before and a leader after, and tokens that rise; what is refused has changed nothing. The terms are
judged by their journal.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from coordkit import ConfigError, LeaderElector, Misconfigured
from coordkit.backends.redis import repairs, scripts
from coordkit.backends.redis.target import agreement_of
from coordkit.doctor import examine, mend
from coordkit.findings import Finding, Progress, Question, Verdict
from coordkit.registry import parse
from coordkit.testing.contract import eventually
from tests.servers.proxy import Proxy
from tests.servers.redis import Redis, RedisVoters
from tests.support.children import ROOT
from tests.support.commands import coordkit, environment
from tests.support.examined import of
from tests.support.failing import PASSWORD
from tests.support.judged import judged
from tests.support.voting import fields_of, mark_new

__all__ = ["judged"]

pytestmark = [pytest.mark.backend("redis"), pytest.mark.timeout(110), pytest.mark.usefixtures("judged")]

local = pytest.mark.local_cluster

RIGHTS = "~coordkit &coordkit:* +eval +evalsha +hget +hset +info +time +publish +pubsub +subscribe +unsubscribe"
MAX_TTL = 1.5
TTL = 1.5
BUSY = 10.0  # s: on a busy machine


@contextmanager
def elector_of(url: str, election: str = "x", ttl: float = TTL) -> Iterator[LeaderElector]:
    elector = LeaderElector(url, election, ttl=ttl)
    try:
        yield elector
    finally:
        elector.close()


def token_of(url: str, election: str = "x", timeout: float = BUSY) -> int:
    """A term, from the win to the release."""
    with elector_of(url, election) as elector, elector.lead(timeout=timeout) as term:
        term.confirm()
        return int(term.token)


def mended(url: str, option: str, value: str = "") -> list[Finding]:
    """What a repair comes to, with the operator's word."""
    return [step for step in mend(url, option, value) if isinstance(step, Finding)]


def refused(found: Sequence[Finding]) -> str:
    """Why nothing was done."""
    assert found
    assert {each.verdict for each in found} == {Verdict.FAILED}
    return "; ".join(each.detail for each in found)


def markers(voters: Redis[Any]) -> list[str]:
    """Of each voter: its agreement; empty: it has none."""
    return [fields["marker"].split(" ")[3] if "marker" in fields else "" for fields in fields_of(voters)]


# -- new servers -----------------------------------------------------------------------------------------------------


def test_new_servers_are_marked_on_the_operators_word(redis: Redis[Any]) -> None:
    url = redis.url()  # whose quarantine nobody here waits for
    steps = mend(url, "--init")
    question = next(steps)
    assert isinstance(question, Question)
    assert "60 s" in question.asked
    steps.close()
    assert fields_of(redis) == [{}] * 5, "all are looked at, and the word is asked for, before one is marked"
    done = coordkit(url, "doctor", "--init")
    assert done.returncode not in (0, None)
    assert fields_of(redis) == [{}] * 5, "nobody has given it"
    done = coordkit(url, "doctor", "--init", "--yes", "--json")
    assert done.returncode == 0
    shown = json.loads(done.stdout)
    assert shown["ok"]
    assert [each["detail"] for each in shown["findings"][:5]] == [f"{name}: marked" for name in redis.endpoints]
    assert {each.detail for each in mended(url, "--init")} == {f"{name}: healthy already" for name in redis.endpoints}
    began = time.monotonic()
    token_of(url)
    assert time.monotonic() - began < BUSY
    before = fields_of(redis)
    assert "it is not empty" in refused(mended(url, "--init"))
    assert fields_of(redis) == before


def test_servers_that_candidates_have_asked_may_be_new(redis_three: Redis[Any]) -> None:
    url = redis_three.url()
    with elector_of(url) as elector:
        assert examine(url).ok
        with pytest.raises(TimeoutError):
            elector.campaign(timeout=0.5)
        assert [fields["marker"].split(" ")[0] for fields in fields_of(redis_three)] == ["unknown"] * 3
        assert {each.verdict for each in mended(url, "--init")} == {Verdict.OK}
        elector.campaign(timeout=BUSY).resign()


@pytest.mark.parametrize("fault", ["key", "record", "forgot", "agreement", "foreign", "replica", "down", "twice"])
def test_none_is_marked_unless_all_are_new(redis_three: Redis[Any], fault: str) -> None:
    url, (one, two, three) = redis_three.url(), redis_three.members
    hand = redis_three.hand(three)
    says = {"key": "not empty", "record": "not empty", "agreement": "has agreed on 60000/3/o", "twice": "one server"}
    says |= {"forgot": "not empty", "foreign": "not ours", "replica": "a replica", "down": f":{three.port}"}
    match fault:
        case "key":
            hand.set("somebody", "else")
        case "record":
            hand.hset("coordkit", "e:x", "1 1 a 1 released 1 b ")
        case "forgot":
            hand.hset("coordkit", "forgotten", "7")
        case "agreement":
            hand.hset("coordkit", "marker", "unknown b m 60000/3/o")
        case "foreign":
            hand.hset("coordkit", "marker", "mine")
        case "replica":
            redis_three.replicaof(three, two)
        case "down":
            three.kill()
        case "twice":
            with Proxy(one.host, one.port) as again:
                told = f"redis+quorum://{one.host}:{one.port},{again.host}:{again.port},{two.host}:{two.port}"
                assert says[fault] in refused(mended(told, "--init"))
    if fault != "twice":
        assert says[fault] in refused(mended(url, "--init"))
    assert fields_of(redis_three.first(2)) == [{}] * 2


# -- another list ----------------------------------------------------------------------------------------------------


class Lists:
    """Four servers: the first three are the old list, and the fourth takes the place of the third."""

    def __init__(self, voters: Redis[Any]) -> None:
        self.voters = voters
        one, two, three, four = self.members = voters.members[:4]
        self.old = voters.url(members=[one, two, three], max_ttl=str(MAX_TTL))
        self.new = voters.url(members=[one, two, four], max_ttl=str(MAX_TTL))
        ends = voters.endpoints
        self.exchange = f"{ends[2]}={ends[3]}"
        self.agreed, self.then = agreement_of(parse(self.old)), agreement_of(parse(self.new))
        mark_new(voters.first(3), self.old)

    @property
    def tags(self) -> list[str]:
        """Of the four: old, new, between, none, other or down."""
        names = {self.agreed: "old", self.then: "new", f"{self.agreed}>{self.then}": "between", "": "none"}
        return [names.get(self._agreed(each), "other") if each.running else "down" for each in self.members]

    def _agreed(self, member: Any) -> str:
        return str(self.voters.hand(member).hget("coordkit", "marker") or "").rpartition(" ")[2]


@pytest.fixture
def lists(redis: Redis[Any]) -> Lists:
    return Lists(redis)


def test_a_voter_is_replaced_and_tokens_rise(lists: Lists) -> None:
    before = token_of(lists.old)
    births = [fields["marker"].split(" ")[:2] for fields in fields_of(lists.voters)[:2]]
    lists.members[2].kill()
    began = time.monotonic()
    done = coordkit(lists.new, "doctor", "--replace", lists.exchange, "--timeout", "1")
    assert time.monotonic() - began >= MAX_TTL
    assert done.returncode == 0, done.stdout + done.stderr
    assert "coordkit: nothing has moved for 0 of 1.53 s" in done.stderr
    assert "2 of 2 voters that stay belong to the new list" in " ".join(done.stdout.split())
    assert "candidates that have the old URL still" in " ".join(done.stdout.split())
    lists.members[2].start()
    lists.voters.ready()
    assert lists.tags == ["new", "new", "old", "none"]
    assert [fields["marker"].split(" ")[:2] for fields in fields_of(lists.voters)[:2]] == births
    with elector_of(lists.old) as elector, pytest.raises(Misconfigured):
        elector.campaign(timeout=BUSY)
    with elector_of(lists.new) as elector:
        began = time.monotonic()
        term = elector.campaign(timeout=BUSY)
        assert int(term.token) > before
        new = lists.voters.hand(lists.members[3])
        eventually(lambda: str(new.hget("coordkit", "e:x")).find(" held ") > 0, "the new voter votes", BUSY)
        assert time.monotonic() - began >= MAX_TTL, "it counts after its quarantine"
        term.confirm()
        lists.members[0].kill()
        time.sleep(TTL)
        term.confirm()
        term.resign()
    lists.members[0].start()
    lists.voters.ready()
    assert [each.verdict for each in mended(lists.new, "--replace", lists.exchange)] == [Verdict.OK], "once more"
    assert lists.tags == ["new", "new", "between", "new"], "now the old one knows, too"


def test_a_list_in_use_is_not_changed_and_its_leader_goes_on(lists: Lists) -> None:
    with elector_of(lists.old) as elector, elector.lead(timeout=BUSY) as term:
        told = refused(mended(lists.new, "--replace", lists.exchange))
        assert "has moved" in told
        assert lists.tags[:3] == ["old"] * 3
        term.confirm()
    assert token_of(lists.old) > int(term.token)


def test_it_may_be_broken_off_anywhere_and_repeated(lists: Lists) -> None:
    before = token_of(lists.old)
    command = [sys.executable, "-m", "coordkit", "doctor", "--replace", lists.exchange]
    running = subprocess.Popen(command, env=environment(lists.new), cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert running.stderr is not None
    assert "nothing has moved for" in running.stderr.readline()
    running.send_signal(signal.SIGINT)
    assert running.wait(BUSY) == 130
    assert "Traceback" not in running.stderr.read()
    running.stderr.close()
    assert lists.tags[:3] == ["old"] * 3
    steps = mend(lists.new, "--replace", lists.exchange)
    told = [next(steps)]
    while not (isinstance(told[-1], Progress) and "left the old list" in told[-1].told):
        told.append(next(steps))
    steps.close()
    assert lists.tags == ["between", "between", "old", "none"]
    for url in (lists.old, lists.new):  # neither list elects anybody in between
        with elector_of(url) as elector, pytest.raises(Misconfigured):
            elector.campaign(timeout=BUSY)
    assert [each.verdict for each in mended(lists.new, "--replace", lists.exchange)] == [Verdict.OK]
    assert lists.tags[:2] == ["new", "new"]
    assert token_of(lists.new) > before


def test_whoever_leads_at_the_last_moment_keeps_the_list_as_it_is(
    lists: Lists, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The voters compare by themselves: the looks before are hints."""
    token_of(lists.old)
    real, led = repairs.Watch.done, []

    async def late(self: Any, *arguments: Any) -> Any:
        hand = lists.voters.hand(lists.members[1])
        record = str(hand.hget("coordkit", "e:x")).split(" ")
        record[3] = str(int(record[3]) + 1)
        led.append(hand.hset("coordkit", "e:x", " ".join(record)))
        return await real(self, *arguments)

    monkeypatch.setattr(repairs.Watch, "done", late)
    assert "has moved at the last moment" in refused(mended(lists.new, "--replace", lists.exchange))
    assert led
    assert lists.tags[:3] == ["between", "old", "old"]
    monkeypatch.undo()
    with elector_of(lists.new) as elector, pytest.raises(Misconfigured):  # who has left the old list is not yet here
        elector.campaign(timeout=BUSY)
    with elector_of(lists.old) as elector, elector.lead(timeout=BUSY) as term:
        time.sleep(2 * MAX_TTL)  # by now the new voter would count
        with elector_of(lists.new) as other, pytest.raises(Misconfigured):
            other.campaign(timeout=BUSY)
        term.confirm()
    assert mended(lists.new, "--replace", lists.exchange)[0].verdict is Verdict.OK


@local
def test_a_voter_that_loses_the_last_second_makes_no_majority_for_the_old_list(lists: Lists, tmp_path: Path) -> None:
    """With the voter that goes, which runs on, it would: two lead then, by two lists."""
    before, one = token_of(lists.old), lists.members[0]
    one.copy_data(tmp_path / "copy")
    assert [each.verdict for each in mended(lists.new, "--replace", lists.exchange)] == [Verdict.OK]
    assert lists.tags == ["new", "new", "between", "none"]
    set_back(lists, one, tmp_path / "copy")
    assert lists.tags == ["old", "new", "between", "none"]
    with elector_of(lists.new) as elector, elector.lead(timeout=BUSY) as term:
        assert int(term.token) > before
        with elector_of(lists.old) as other, pytest.raises(Misconfigured):
            other.campaign(timeout=BUSY)
        term.confirm()


@local
def test_a_voter_that_comes_back_with_the_old_list_is_not_handed_over(lists: Lists, tmp_path: Path) -> None:
    """It is waited until what a majority has agreed on is on its disks."""
    before, one = token_of(lists.old), lists.members[0]
    one.copy_data(tmp_path / "copy")
    steps = mend(lists.new, "--replace", lists.exchange)
    while "waiting for their disks" not in str(next(steps)):
        pass
    set_back(lists, one, tmp_path / "copy")
    assert "1 of 2 voters that stay" in refused([step for step in steps if isinstance(step, Finding)])
    assert lists.tags == ["old", "new", "old", "none"]
    assert token_of(lists.old) > before, "what is left of the old list goes on"
    assert [each.verdict for each in mended(lists.new, "--replace", lists.exchange)] == [Verdict.OK]
    assert lists.tags == ["new", "new", "between", "none"]


def set_back(lists: Lists, member: Any, folder: Path) -> None:
    """It comes back with the data of that copy."""
    member.kill()
    member.put_data(folder)
    member.start()
    lists.voters.ready()


@local
def test_a_voter_that_was_away_is_brought_in_later(redis: Redis[Any], tmp_path: Path) -> None:
    four = redis.members[3]
    with RedisVoters(tmp_path, 1) as beside:
        (spare,) = beside.endpoints
        old = redis.url(max_ttl=str(MAX_TTL))
        mark_new(redis, old)
        before = token_of(old)
        hosts = ",".join((*redis.endpoints[:4], spare))
        new = f"redis+quorum://{hosts}?max_ttl={MAX_TTL}"
        four.kill()
        found = mended(new, "--replace", f"{redis.endpoints[4]}={spare}")
        assert [each.verdict for each in found] == [Verdict.OK, Verdict.WARNING]
        assert f":{four.port}" in found[1].detail
        four.start()
        redis.ready(among=[four])
        assert token_of(new, timeout=2 * BUSY) > before
        assert [each.verdict for each in mended(new, "--replace", f"{redis.endpoints[4]}={spare}")] == [Verdict.OK]
        assert len(set(markers(redis)[:4])) == 1


@pytest.mark.parametrize("state", ["healthy", "unknown", "of the new list", "foreign", "replica", "down"])
def test_a_new_voter_that_may_remember_other_times_is_refused(lists: Lists, state: str) -> None:
    token_of(lists.old)
    new = lists.members[3]
    hand = lists.voters.hand(new)
    memory = f"{hand.info('server')['run_id']}:{hand.info('replication')['master_replid']}"
    says = {"foreign": "not ours", "replica": "a replica", "down": f":{new.port}"}.get(state, "was a voter before")
    match state:
        case "foreign":
            hand.hset("coordkit", "marker", "mine")
        case "replica":
            lists.voters.replicaof(new, lists.members[0])
        case "down":
            new.kill()
        case "of the new list":
            hand.hset("coordkit", "marker", f"healthy b {memory} {lists.then}")
        case _:
            hand.hset("coordkit", "marker", f"{state} b {memory} 1500/3/others")
    assert says in refused(mended(lists.new, "--replace", lists.exchange))
    assert lists.tags[:3] == ["old"] * 3
    if new.running and state != "replica":
        lists.voters.flushall(new)
        assert [each.verdict for each in mended(lists.new, "--replace", lists.exchange)] == [Verdict.OK]


def test_a_new_voter_counts_already_only_if_it_was_elected_by(lists: Lists) -> None:
    """Broken off between the two that stay, the new list has a majority; before the first of them it has none."""
    token_of(lists.old)
    hands = [lists.voters.hand(member) for member in lists.members]
    words = [str(hand.hget("coordkit", "marker")).split(" ") for hand in hands]
    for hand, word in zip(hands[:2], words, strict=False):
        hand.hset("coordkit", "marker", " ".join([*word[:3], f"{lists.agreed}>{lists.then}"]))
    memory = f"{hands[3].info('server')['run_id']}:{hands[3].info('replication')['master_replid']}"
    hands[3].hset("coordkit", "marker", f"healthy b {memory} {lists.then}")
    assert "was a voter before" in refused(mended(lists.new, "--replace", lists.exchange))
    assert lists.tags == ["between", "between", "old", "new"]
    hands[0].hset("coordkit", "marker", " ".join([*words[0][:3], lists.then]))
    before = token_of(lists.new)
    assert [each.verdict for each in mended(lists.new, "--replace", lists.exchange)] == [Verdict.OK]
    assert lists.tags == ["new", "new", "between", "new"]
    assert token_of(lists.new) > before


def test_what_is_not_the_old_list_is_refused(lists: Lists) -> None:
    wrong = f"{lists.voters.endpoints[4]}={lists.voters.endpoints[3]}"  # that one was never a voter
    assert "has agreed on 1500/3/" in refused(mended(lists.new, "--replace", wrong))
    lists.members[0].kill()
    assert "2 voters of the list with" in refused(mended(lists.new, "--replace", lists.exchange))
    assert lists.tags[:3] == ["down", "old", "old"]


@pytest.mark.parametrize("fault", ["restart", "flush"])
def test_a_voter_that_forgets_while_it_is_watched_has_moved(lists: Lists, fault: str) -> None:
    token_of(lists.old)
    steps = mend(lists.new, "--replace", lists.exchange)
    assert isinstance(next(steps), Progress)
    if fault == "restart":
        lists.members[0].restart()
        lists.voters.ready()
    else:
        lists.voters.flushall(lists.members[0])
    assert "was started again" in refused([step for step in steps if isinstance(step, Finding)])
    assert "between" not in lists.tags
    assert "new" not in lists.tags


MISTAKES = [
    ("redis+quorum://a,b,c", "--replace", "c", "reads OLD=NEW"),
    ("redis+quorum://a,b,c", "--replace", "=c", "reads OLD=NEW"),
    ("redis+quorum://a,b,c", "--replace", "a=c", "names NEW, and not OLD"),
    ("redis+quorum://a,b,c", "--replace", "d=e", "names NEW, and not OLD"),
    ("redis+quorum://a,b,c", "--replace", "x@d=c", "is no host:port"),
    ("redis+quorum://a,b,c", "--replace", "d:99999=c", "no number from 1 to 65535"),
    ("redis+quorum://a,b,c?cluster=n", "--replace", "d=c", "no part of the agreement"),
    ("redis+quorum://a,b", "--replace", "d=b", "no majority is left"),
    ("redis://a", "--replace", "d=a", "no majority is left"),
    ("redis://a", "--forget", "", "has 1 to 255 bytes"),
    ("redis://a", "--forget", "a//b", "segments"),
]


@pytest.mark.parametrize(("url", "option", "value", "says"), MISTAKES)
def test_a_mistake_is_told_before_anything_is_asked(url: str, option: str, value: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        mended(url, option, value)


# -- a record --------------------------------------------------------------------------------------------------------


@pytest.fixture
def three(redis_three: Redis[Any]) -> str:
    """The URL of three voters that count at once."""
    url = redis_three.url(max_ttl=str(MAX_TTL))
    mark_new(redis_three, url)
    return url


def recorded(voters: Redis[Any], election: str = "x") -> list[bool]:
    return [f"e:{election}" in fields for fields in fields_of(voters)]


def test_a_record_is_forgotten_and_tokens_rise(redis_three: Redis[Any], three: str) -> None:
    before, other = token_of(three), token_of(three, "other")
    began = time.monotonic()
    done = coordkit(three, "doctor", "--forget", "x", "--json", "--timeout", "1")
    assert time.monotonic() - began >= MAX_TTL
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["findings"][0]["detail"] == f"'x': removed at {', '.join(redis_three.endpoints)}"
    assert recorded(redis_three) == [False] * 3
    assert recorded(redis_three, "other") == [True] * 3
    assert "no voter has a record" in mended(three, "--forget", "x")[0].detail
    assert of(examine(three), "records").detail == "1 election"
    assert token_of(three) > before
    assert token_of(three, "other") > other


def test_a_record_whose_token_the_clock_has_not_passed_stays(redis_three: Redis[Any], three: str) -> None:
    token_of(three)
    for voter in redis_three.members:  # as a candidate whose clock is half an hour ahead leaves it
        hand = redis_three.hand(voter)
        record = str(hand.hget("coordkit", "e:x")).split(" ")
        record[0] = str(int(record[0]) + 1_800_000_000)
        hand.hset("coordkit", "e:x", " ".join(record))
    before = token_of(three)
    assert "the clock has not passed its last token yet" in refused(mended(three, "--forget", "x"))
    assert recorded(redis_three) == [True] * 3
    assert token_of(three) == before + 1


def test_a_record_that_moves_is_not_forgotten_and_its_leader_goes_on(redis_three: Redis[Any], three: str) -> None:
    with elector_of(three) as elector, elector.lead(timeout=BUSY) as term:
        assert "has moved" in refused(mended(three, "--forget", "x"))
        assert recorded(redis_three) == [True] * 3
        term.confirm()
        assert mended(three, "--forget", "another")[0].verdict is Verdict.OK, "others are looked at by themselves"
        term.confirm()


def test_a_record_of_the_dead_or_of_others_is_forgotten(redis_three: Redis[Any], three: str) -> None:
    for voter in redis_three.members:
        redis_three.hand(voter).hset("coordkit", "e:x", "somebody else's")
    redis_three.members[0].kill()
    found = mended(three, "--forget", "x")
    assert [each.verdict for each in found] == [Verdict.OK, Verdict.WARNING]
    redis_three.members[0].start()
    redis_three.ready()
    assert recorded(redis_three) == [True, False, False]
    token_of(three)


def test_a_record_is_not_forgotten_without_a_majority_or_with_another_url(redis_three: Redis[Any], three: str) -> None:
    token_of(three)
    assert "config" in refused(mended(redis_three.url(max_ttl="2"), "--forget", "x"))
    for member in redis_three.members[:2]:
        member.kill()
    assert "2 voters are needed" in refused(mended(three, "--forget", "x"))
    (fields,) = [redis_three.hand(redis_three.members[2]).hkeys("coordkit")]
    assert "e:x" in fields


@pytest.mark.parametrize(
    ("option", "value", "needed"),
    [("--init", "", "+hlen +dbsize"), ("--replace", "", "+hgetall"), ("--forget", "x", "+hdel")],
)
def test_rights(redis: Redis[Any], option: str, value: str, needed: str) -> None:
    """Those of a candidate and what is named; without that, who asks is told so."""
    lists = Lists(redis)
    login = {"user": "app", "password": PASSWORD, "max_ttl": str(MAX_TTL)}
    if option == "--init":
        for voter in redis.members:
            redis.flushall(voter)
    else:
        token_of(lists.old)
    url = redis.url(members=[*redis.members[:2], redis.members[3 if option == "--replace" else 2]], **login)
    for rights, verdict in ((RIGHTS, Verdict.FAILED), (f"{RIGHTS} {needed}", Verdict.OK)):
        redis.add_user("app", PASSWORD, rights)
        found = mended(url, option, value or lists.exchange)
        assert {each.verdict for each in found} == {verdict}
        denied = re.search(
            "NoPerm|NOPERM|permission|can't run this command", found[0].detail
        )  # its words are Redis' own
        assert (denied is not None) == (verdict is Verdict.FAILED), found


# -- scripts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["retag", "forget"])
def test_no_script_lets_anything_expire_or_looks_at_a_clock_but_in_its_answer(name: str) -> None:
    text = scripts.script(name).text.decode()
    calls = set(re.findall(r"redis\.p?call\('([^']+)'", text))
    assert calls <= {"HGET", "HGETALL", "HSET", "HDEL", "INFO", "PUBLISH", "PUBSUB", "TIME"}
    assert text.count("'TIME'") == 1
