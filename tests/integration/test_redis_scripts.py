"""The voter's side: the scripts, on a real server and on the one in memory, by one table of calls.

The rule: both give the same answers, but for ids and times. No script looks at a clock but for the time in its answer,
and none lets anything expire.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from coordkit.backends.redis import scripts
from coordkit.backends.redis.layout import UNREADABLE, Record, Reply, record_of, reply_of, verdict_of
from tests.servers.redis import Redis
from tests.simulation.redis_lua import MemoryServer

pytestmark = pytest.mark.backend("redis")

KEY, CONFIG = "coordkit", "60000/3/list"
FAR = str(2**52)
Call = Callable[[str, str, list[str]], Any]  # script, nonce, arguments after the three that all have


class Voter:
    """Calls scripts one after another; each gets an unused id of its own."""

    def __init__(self, call: Callable[[str, list[str]], Any], command: Callable[..., Any]) -> None:
        self._call = call
        self.command = command
        self._number = 0

    def __call__(self, name: str, *arguments: str, config: str = CONFIG) -> Reply:
        self._number += 1
        nonce = f"n{self._number}"
        return reply_of(self._call(name, [nonce, config, f"unused{self._number}", *arguments]), nonce)


def in_memory() -> Voter:
    server = MemoryServer(1, lambda: 1.7e9)

    def call(name: str, arguments: list[str]) -> Any:
        return server.run(name, [KEY.encode()], [each.encode() for each in arguments])

    def command(*arguments: str) -> Any:
        if arguments[0] == "restart":
            server.starts += 1
            return None
        if arguments[0] == "role":
            server.role = arguments[1]
            return None
        return server.call(*(each.encode() for each in arguments))

    return Voter(call, command)


def real(voters: Redis[Any]) -> Voter:
    (member,) = voters.members

    def call(name: str, arguments: list[str]) -> Any:
        hand = voters.hand(member, text=False)
        return hand.eval(scripts.script(name).text, 1, KEY, *arguments)

    def command(*arguments: str) -> Any:
        if arguments[0] == "restart":
            member.restart()
            voters.ready()
            return None
        return voters.hand(member, text=False).execute_command(*arguments)

    return Voter(call, command)


def verdicts(reply: Reply) -> list[Any]:
    return [verdict_of(each) for each in reply.answers]


def vote(
    attempt: str,
    epoch: str,
    *,
    birth: str = "",
    stamp: str = "",
    clock: str = "",
    clock_of: str = "unused0",
    election: str = "e",
) -> tuple[str, ...]:
    return ("vote", birth, election, epoch, attempt, "1000", f"<{attempt} x>", stamp, clock, clock_of)


def renew(
    attempt: str,
    epoch: str,
    beat: str,
    *,
    birth: str = "",
    enrol: str = "1",
    stamp: str = "",
    clock: str = "",
    clock_of: str = "unused0",
    known: str = "",
    word: str = "renewed",
) -> tuple[str, ...]:
    return (
        "renew",
        birth,
        "e",
        epoch,
        attempt,
        beat,
        "1000",
        f"<{attempt}>",
        word,
        enrol,
        stamp,
        clock,
        clock_of,
        known,
    )


def release(attempt: str, epoch: str, beat: str = "999") -> tuple[str, ...]:
    return ("release", "e", epoch, attempt, beat)


# A row: what it shows, and the calls, each with the verdict and the record that it comes to.
# (epoch, floor, attempt, beat, held) of the record; None: there is none.
TABLE: dict[str, list[tuple[tuple[str, ...], str, tuple[int, int, str, int, bool] | None]]] = {
    "a new record has to be above the clock": [
        (vote("a", "7"), "refused", None),
        (vote("a", "7", clock="7"), "refused", None),
        (vote("a", "8", clock="7"), "granted", (8, 7, "a", 0, True)),
    ],
    "a clock counts only in the memory in which it was read": [
        (vote("a", "8", clock="7", clock_of="another"), "refused", None),
        (renew("a", "8", "1", clock="7", clock_of="another"), "refused", None),
        (renew("a", "8", "1", clock="7"), "renewed", (8, 7, "a", 1, True)),
    ],
    "one grant for an epoch": [
        (vote("a", "8", clock="7"), "granted", (8, 7, "a", 0, True)),
        (vote("b", "8", stamp="a.0"), "refused", (8, 7, "a", 0, True)),
        (vote("b", "9", stamp="a.0"), "granted", (9, 8, "b", 0, True)),
    ],
    "the same request once more": [
        (vote("a", "8", clock="7"), "granted", (8, 7, "a", 0, True)),
        (vote("a", "8", clock="7"), "granted", (8, 7, "a", 0, True)),
        (release("a", "8"), "released", (8, 8, "a", 999, False)),
        (vote("a", "8", clock="7"), "refused", (8, 8, "a", 999, False)),
    ],
    "a held seat is granted only to who names its stamp": [
        (vote("a", "8", clock="7"), "granted", (8, 7, "a", 0, True)),
        (vote("b", "9"), "refused", (8, 7, "a", 0, True)),
        (renew("a", "8", "1"), "renewed", (8, 7, "a", 1, True)),
        (vote("b", "9", stamp="a.0"), "refused", (8, 7, "a", 1, True)),
        (vote("b", "9", stamp="a.1"), "granted", (9, 8, "b", 0, True)),
    ],
    "a stamp never comes back": [
        (vote("a", "8", clock="7"), "granted", (8, 7, "a", 0, True)),
        (renew("a", "8", "2"), "renewed", (8, 7, "a", 2, True)),
        (renew("a", "8", "1"), "refused", (8, 7, "a", 2, True)),
        (renew("a", "8", "2"), "refused", (8, 7, "a", 2, True)),
    ],
    "a release frees its own seat": [
        (vote("a", "8", clock="7"), "granted", (8, 7, "a", 0, True)),
        (release("a", "8"), "released", (8, 8, "a", 999, False)),
        (renew("a", "8", "1000"), "refused", (8, 8, "a", 999, False)),
        (vote("b", "8"), "refused", (8, 8, "a", 999, False)),
        (vote("b", "9"), "granted", (9, 8, "b", 0, True)),
    ],
    "a release leaves another's seat alone, but for the floor": [
        (vote("a", "8", clock="7"), "granted", (8, 7, "a", 0, True)),
        (release("b", "12"), "passed", (8, 12, "a", 0, True)),
        (vote("b", "12", stamp="a.0"), "refused", (8, 12, "a", 0, True)),
        (renew("a", "8", "1"), "renewed", (8, 12, "a", 1, True)),
        (vote("c", "13", stamp="a.1"), "granted", (13, 12, "c", 0, True)),
    ],
    "a release where nothing is keeps late votes out, and the clock is needed all the same": [
        (release("a", "8"), "passed", (0, 8, "a", 999, False)),
        (vote("a", "8", clock="7"), "refused", (0, 8, "a", 999, False)),
        (vote("b", "9"), "refused", (0, 8, "a", 999, False)),
        (vote("b", "9", clock="7"), "granted", (9, 8, "b", 0, True)),
    ],
    "a leader takes a seat of a lower epoch": [
        (vote("a", "8", clock="7"), "granted", (8, 7, "a", 0, True)),
        (renew("b", "9", "4", enrol="0"), "refused", (8, 7, "a", 0, True)),
        (renew("b", "9", "4"), "renewed", (9, 8, "b", 4, True)),
    ],
    "a leader takes a free seat of any epoch, and the epoch becomes the floor": [
        (vote("a", "8", clock="7"), "granted", (8, 7, "a", 0, True)),
        (release("a", "8"), "released", (8, 8, "a", 999, False)),
        (renew("b", "5", "4", enrol="0"), "refused", (8, 8, "a", 999, False)),
        (renew("b", "5", "4"), "renewed", (5, 8, "b", 4, True)),
        (vote("c", "8", stamp="b.4"), "refused", (5, 8, "b", 4, True)),
        (vote("c", "9", stamp="b.4"), "granted", (9, 8, "c", 0, True)),
    ],
    "a leader takes a held seat of a higher or equal epoch only by its stamp": [
        (vote("a", "8", clock="7"), "granted", (8, 7, "a", 0, True)),
        (renew("b", "8", "4"), "refused", (8, 7, "a", 0, True)),
        (renew("b", "5", "4", stamp="a.0"), "renewed", (5, 8, "b", 4, True)),
    ],
    "a leader takes what is not there above the clock": [
        (renew("b", "5", "4"), "refused", None),
        (renew("b", "5", "4", clock="7", enrol="0"), "refused", None),
        (renew("b", "5", "4", clock="7"), "renewed", (5, 7, "b", 4, True)),
    ],
    "a record that was taken away is not written again": [
        (renew("b", "5", "4", clock="7", known="unused0"), "gone", None),
        (renew("b", "5", "4", clock="7", known="another"), "renewed", (5, 7, "b", 4, True)),
    ],
    "numbers that Lua counts exactly": [
        (vote("a", str(2**53 - 1), clock=FAR), "granted", (2**53 - 1, 2**52, "a", 0, True)),
        (renew("a", str(2**53 - 1), "999999999999999"), "renewed", (2**53 - 1, 2**52, "a", 999999999999999, True)),
    ],
}


def shown(record: object) -> object:
    if isinstance(record, Record):
        return (record.epoch, record.floor, record.attempt, record.beat, record.held)
    return record


def mark(voter: Voter) -> str:
    """It counts at once; its birth is always the same, for the table."""
    voter.command("HSET", KEY, "marker", f"healthy unused0 {voter('look').memory} {CONFIG}")
    return voter("look").birth


@pytest.fixture(params=["memory", "server"])
def voter(request: pytest.FixtureRequest) -> Voter:
    if request.param == "memory":
        return in_memory()
    return real(request.getfixturevalue("redis_one"))


@pytest.mark.parametrize("row", TABLE)
def test_the_same_calls_have_the_same_answers(row: str, voter: Voter) -> None:
    assert mark(voter) == "unused0"
    for (name, *arguments), verdict, record in TABLE[row]:
        reply = voter(name, *arguments)
        assert reply.standing == "healthy"
        assert [(told, shown(found)) for told, found in verdicts(reply)] == [(verdict, record)], (name, arguments)
        (text,) = voter("look", "e", "0").answers
        assert shown(record_of(text)) == record, "the answer shows what is recorded"


def test_a_voter_without_a_marker_is_unknown_until_its_birth_is_named(voter: Voter) -> None:
    first = voter("look", "e", "1")
    assert (first.standing, first.birth, first.answers) == ("unknown", "unused1", (b"",))
    assert voter("look").birth == "unused1", "it keeps it"
    for birth in ("", "another"):
        assert voter(*vote("a", "8", clock="7", birth=birth)).answers == ()
        assert voter(*renew("a", "8", "1", clock="7", birth=birth)).answers == ()
    assert verdicts(voter(*release("a", "8")))[0][0] == "passed", "what is given up is given up"
    granted = voter(*vote("b", "9", clock="8", clock_of="unused1", birth="unused1"))
    assert (granted.standing, granted.birth) == ("healthy", "unused1")
    assert verdicts(granted)[0][0] == "granted"


def test_a_server_that_was_started_again_is_unknown_and_its_records_vouch_for_nothing(voter: Voter) -> None:
    mark(voter)
    voter(*vote("a", "8", clock="7"))
    memory = voter("look").memory
    voter.command("restart")
    again = voter("look", "e", "0")
    assert again.standing == "unknown"
    assert again.memory != memory
    assert record_of(again.answers[0]) is not None, "its data are there"
    # Somebody ends the quarantine in another election; this one's record is of the old memory all the same.
    assert voter(*vote("x", "9", birth=again.birth, election="other")).standing == "healthy"
    assert verdicts(voter(*vote("b", "9", stamp="a.0")))[0][0] == "refused"
    assert verdicts(voter(*vote("b", "50", clock="50", clock_of=again.birth, stamp="a.0")))[0][0] == "refused"
    late = [vote("b", "51", clock="50"), renew("a", "8", "1", clock="7")]
    assert [verdicts(voter(*each))[0][0] for each in late] == ["refused"] * 2, (
        "by a clock of before that is not above all"
    )
    assert verdicts(voter(*vote("b", "51", clock="50", clock_of=again.birth)))[0][0] == "granted"


def test_what_was_taken_away_is_a_floor(voter: Voter) -> None:
    """Of all elections, for whoever has read an earlier clock."""
    birth = mark(voter)
    assert verdicts(voter(*vote("a", "20", clock="19", clock_of=birth)))[0][0] == "granted"
    (_, shown) = voter("forget", "e", "").answers
    assert voter("forget", "e", "another").answers == (b"moved", shown)
    assert voter("forget", "e", shown.decode()).answers == (b"forgotten", shown)
    assert voter("forget", "e", shown.decode()).answers == (b"none", b"")
    assert voter.command("HGET", KEY, "forgotten") == b"20"
    assert verdicts(voter(*vote("b", "30", clock="20", clock_of=birth)))[0][0] == "refused"
    assert verdicts(voter(*renew("b", "30", "1", clock="20", clock_of=birth)))[0][0] == "refused"
    assert verdicts(voter(*vote("b", "22", clock="21", clock_of=birth)))[0][0] == "granted"
    (_, shown) = voter("forget", "e", "").answers
    voter.command("HSET", KEY, "forgotten", "23")
    voter("forget", "e", shown.decode())
    assert voter.command("HGET", KEY, "forgotten") == b"23", "it never falls"
    assert verdicts(voter(*vote("c", FAR, clock="24", clock_of=birth)))[0][0] == "granted"
    assert voter("forget", "e", "").answers[0] == b"ahead"


def test_an_unknown_voter_keeps_its_agreement(voter: Voter) -> None:
    mark(voter)
    voter.command("restart")
    assert voter("look").standing == "unknown"
    stranger = voter("look", config="60000/3/others")
    assert (stranger.standing, stranger.detail) == ("config", CONFIG)
    assert voter(*vote("a", "8", clock="7", birth=stranger.birth), config="60000/3/others").answers == ()
    assert voter("look").standing == "unknown"


def test_foreign_data_are_left_alone(voter: Voter) -> None:
    mark(voter)
    for text in ("", "x", "9007199254740992 0 a 0 held 1 b v", "8 0 a 0 stolen 1 b v", "8.5 0 a 0 held 1 b v"):
        voter.command("HSET", KEY, "e:e", text)
        for name, *arguments in (vote("a", FAR, clock="7"), renew("a", FAR, "1", clock="7"), release("a", FAR)):
            assert verdicts(voter(name, *arguments)) == [("unreadable", UNREADABLE)]
        assert voter.command("HGET", KEY, "e:e") == text.encode()
    voter.command("HSET", KEY, "marker", "somebody else's")
    foreign = voter(*vote("a", "8", clock="7"))
    assert (foreign.standing, foreign.answers) == ("foreign", ())


def test_new_servers_are_marked_only_while_they_are_empty(voter: Voter) -> None:
    assert voter("init").answers == (b"marked",)
    assert voter("look").standing == "healthy"
    assert voter("init").answers == (b"healthy already",)
    voter.command("HSET", KEY, "e:e", "x")
    voter.command("HDEL", KEY, "marker")
    assert voter("init").answers == (b"not empty",)
    assert voter("look").standing == "unknown"


def test_many_elections_in_one_call(voter: Voter) -> None:
    mark(voter)
    entries = [part for number in range(300) for part in vote(f"a{number}", "8", clock="7", election=f"e{number}")[2:]]
    reply = voter("vote", "", *entries)
    assert [verdict for verdict, _ in verdicts(reply)] == ["granted"] * 300


# -- clocks ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", scripts.NAMES)
def test_no_script_lets_anything_expire_or_looks_at_a_clock_but_in_its_answer(name: str) -> None:
    text = scripts.script(name).text.decode()
    calls = set(re.findall(r"redis\.p?call\('([^']+)'", text))
    assert calls <= {"HGET", "HSET", "HLEN", "HDEL", "DBSIZE", "INFO", "PUBLISH", "PUBSUB", "TIME"}
    assert text.count("redis.call(") + text.count("redis.pcall(") == len(re.findall(r"redis\.p?call\('", text))
    assert text.count("'TIME'") == 1
    assert not re.search(r"EXPIRE|PX|os\.|math\.random|KEEPTTL", text)


@pytest.mark.parametrize("hours", [-100, 100])
@pytest.mark.parametrize("row", TABLE)
def test_no_verdict_depends_on_the_time(row: str, hours: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """TIME is patched in the scripts themselves."""
    whole = scripts.script

    def shifted(name: str) -> scripts.Script:
        old = whole(name)
        assert old.text.count(b"redis.call('TIME')") == 1
        return replace(old, text=old.text.replace(b"redis.call('TIME')", b"{'%d', '5'}" % (1.7e9 + hours * 3600)))

    monkeypatch.setattr("tests.simulation.redis_lua.script", shifted)
    voter = in_memory()
    mark(voter)
    assert voter("look").time == (1_700_000_000 + hours * 3600) * 1_000_000 + 5
    for (name, *arguments), verdict, record in TABLE[row]:
        assert [(told, shown(found)) for told, found in verdicts(voter(name, *arguments))] == [(verdict, record)]
