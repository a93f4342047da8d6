"""What there is to look at in the voters of a URL: each of them, and what they come to together.

The rule: they are asked once, by plain commands that change nothing, and every check judges the same answers. What is
wrong at a minority is a warning, for that voter is not counted; where it leaves no majority, it is a failure.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from typing import Final

from coordkit.backends.contract import Backend
from coordkit.backends.redis import repairs
from coordkit.backends.redis.adapter import RedisBackend
from coordkit.backends.redis.ballot import CLOCKS_APART
from coordkit.backends.redis.survey import Errors, Seen, servers_of, survey
from coordkit.backends.redis.target import agreement_of, key_of, rules_of
from coordkit.backends.redis.voters import Voter
from coordkit.findings import Check, Finding, Step, count, failed, ok, some, spare, unchecked, warning
from coordkit.lease import waiting_time
from coordkit.registry import Address

REPAIRS: Final = ("--init", "--replace", "--forget")
CLOCK_SECONDS: Final = 1.0  # from there on it is told
OLDEST_TRIED: Final = (6, 0)
ONLY_FASTER: Final = frozenset({"publish", "pubsub", "subscribe", "unsubscribe"})
Look = Callable[[float], Awaitable[Sequence[Finding]]]
Why = Mapping[str, str]  # by a voter's name: what is wrong with it


def checks(backend: Backend, address: Address, ttl: float) -> Sequence[Check]:
    """Each thing that an election relies on, the voters' answers first."""
    assert isinstance(backend, RedisBackend)
    voters = Voters(backend, address)
    return [
        Check("voters", voters.voters),
        Check("number", voters.number),
        *(
            Check(name, voters.judging(name, judge))
            for name, judge in (
                ("servers", voters.servers),
                ("version", voters.version),
                ("role", voters.role),
                ("eviction", voters.eviction),
                ("persistence", voters.persistence),
                ("clock", voters.clock),
                ("rights", voters.rights),
                ("markers", voters.markers),
                ("records", voters.records),
                ("majority", voters.majority),
            )
        ),
    ]


def repair(backend: Backend, address: Address, option: str, value: str) -> AsyncGenerator[Step]:
    """The steps of a repair; `ConfigError` at once for a value that it cannot have."""
    assert isinstance(backend, RedisBackend)
    return repairs.repair(repairs.Bench(_voters(backend), address, backend.electorate.host), option, value)


def _voters(backend: RedisBackend) -> Sequence[Voter]:
    return [voter for voter in backend.electorate.voters if isinstance(voter, Voter)]


class Voters:
    """The voters of one URL, being looked at."""

    def __init__(self, backend: RedisBackend, address: Address) -> None:
        self._host = backend.electorate.host
        self._voters = _voters(backend)
        self._key = key_of(address)
        self._config = agreement_of(address)
        self._rules = rules_of(address)
        self._wait = waiting_time(self._rules.max_ttl, self._rules.drift)
        self._asked: tuple[Mapping[str, Seen], Errors] | None = None

    async def _answers(self, seconds: float) -> tuple[Mapping[str, Seen], Errors]:
        if self._asked is None:
            self._asked = await survey(self._voters, self._key, self._host, 0.9 * seconds)
        return self._asked

    def judging(self, name: str, judge: Callable[[Mapping[str, Seen]], Sequence[Finding]]) -> Look:
        """A check that judges what the voters have answered."""

        async def look(seconds: float) -> Sequence[Finding]:
            seen, _ = await self._answers(seconds)
            return judge(seen) if seen else [unchecked(name, "no voter answers")]

        return look

    # --- of each ---------------------------------------------------------------------------------------------

    async def voters(self, seconds: float) -> Sequence[Finding]:
        """Which voters answer, and to this user."""
        seen, errors = await self._answers(seconds)
        told = f"{len(seen)} of {len(seen) + len(errors)} answer"
        if not errors:
            return [ok("voters", told, "each of them can be asked for its vote")]
        told += "; not " + "; ".join(_short(name, str(error)) for name, error in errors.items())
        return [self._weighed("voters", told, len(errors), "start them, or correct the URL, the network or the user")]

    async def number(self, _: float) -> Sequence[Finding]:
        """How many voters the URL names."""
        number = self._rules.voters
        told = f"the URL names {count(number, 'voter')}, {self._rules.majority} are a majority"
        if number == 1:
            meaning = "while it is down, and for max_ttl after each start of it, nobody can win or renew"
            return [warning("number", told, meaning, "name three independent servers, if that must not happen")]
        if number % 2 == 0:
            meaning = f"no more may be down than of {number - 1}: {(number - 1) // 2}"
            return [warning("number", told, meaning, "take one away, or add one")]
        return [ok("number", told, f"{(number - 1) // 2} may be down, or without memory")]

    def servers(self, seen: Mapping[str, Seen]) -> Sequence[Finding]:
        """Whether one server is behind two names."""
        names = servers_of(seen)
        twice = [" and ".join(each) for each in names.values() if len(each) > 1]
        if twice:
            told = f"one server is behind {some(twice)}"
            meaning = "coordkit refuses to elect here: one server has one vote"
            return [failed("servers", told, meaning, "name each server once")]
        return [ok("servers", f"{count(len(names), 'server')}", "each has a vote of its own")]

    def version(self, seen: Mapping[str, Seen]) -> Sequence[Finding]:
        """What they run."""
        versions = {name: _version(each.info) for name, each in seen.items()}
        told = ", ".join(
            f"{version} ({list(versions.values()).count(version)})" for version in sorted(set(versions.values()))
        )
        old = [version for version in sorted(set(versions.values())) if _numbers(version) < OLDEST_TRIED]
        if old:
            meaning = "coordkit was never tried on it"
            return [warning("version", told, meaning, f"replace {some(old)} by Redis from 6.0 on, or Valkey")]
        return [ok("version", told, "they know all that the scripts use")]

    def role(self, seen: Mapping[str, Seen]) -> Sequence[Finding]:
        """Whether each is a primary of its own, which writes what it grants."""
        found = []
        if replicas := {name: "a replica" for name, each in seen.items() if each.info.get("role") != "master"}:
            remedy = "name the primary, or make it one: REPLICAOF NO ONE"
            found.append(self._finding("role", replicas, remedy))
        if members := {name: "part of a Redis Cluster" for name, each in seen.items() if _on(each, "cluster_enabled")}:
            told = _told(members)
            meaning = "a cluster moves keys and promotes replicas, and after each such change the voter has no memory"
            found.append(warning("role", told, meaning, "take servers of their own, with cluster-enabled no"))
        shy = {
            name: "takes writes only while it has enough replicas"
            for name, each in seen.items()
            if each.info.get("min_slaves_good_slaves") == "0"
        }
        if shy:
            found.append(self._finding("role", shy, "set min-replicas-to-write to 0"))
        return found or [ok("role", "independent primaries", "what is granted is written at once")]

    def eviction(self, seen: Mapping[str, Seen]) -> Sequence[Finding]:
        """Whether keys are thrown away, or writes refused, when memory is short."""
        bad = {name: why for name, each in seen.items() if (why := _memory(each.info))}
        if bad:
            return [self._finding("eviction", bad, "set maxmemory-policy noeviction, and maxmemory high enough")]
        limited = [name for name, each in seen.items() if each.info.get("maxmemory", "0") != "0"]
        told = f"no eviction; maxmemory is set at {some(limited)}" if limited else "no eviction, no maxmemory"
        return [ok("eviction", told, "records stay until they are overwritten")]

    def persistence(self, seen: Mapping[str, Seen]) -> Sequence[Finding]:
        """What a restart costs; whether writes are refused because the disk does not take them."""
        bad = {
            name: "the last write to its disk failed"
            for name, each in seen.items()
            if "err" in (each.info.get("aof_last_write_status"), each.info.get("rdb_last_bgsave_status"))
        }
        if bad:
            return [self._finding("persistence", bad, "mend the disk: such a server refuses writes (MISCONF)")]
        cost = f"a restart costs its vote for {self._wait:.3g} s"
        volatile = [name for name, each in seen.items() if not _on(each, "aof_enabled")]
        if volatile:
            told = f"no append-only file at {some(volatile)}"
            meaning = f"{cost}, and loses epochs: then tokens rise by the clocks alone"
            return [warning("persistence", told, meaning, "set appendonly yes")]
        return [ok("persistence", "append-only files", f"{cost}, and no epoch")]

    def clock(self, seen: Mapping[str, Seen]) -> Sequence[Finding]:
        """How far each clock is from this machine's, beyond what asking took."""
        far = {name: each.ahead for name, each in seen.items() if abs(each.ahead) >= CLOCK_SECONDS}
        if refused := {name: _apart(ahead) for name, ahead in far.items() if abs(ahead) > CLOCKS_APART}:
            told = _told(refused)
            meaning = f"more than {CLOCKS_APART:g} s apart, it has no vote in an election that it has no record of"
            remedy = "set the clocks, and keep them by NTP"
            few = self._enough(len(refused))
            return [(warning if few else failed)("clock", told, meaning, remedy)]
        if far:
            told = _told({name: _apart(ahead) for name, ahead in far.items()})
            meaning = "nothing but the first token after a loss of memory depends on it"
            return [warning("clock", told, meaning, "set the clocks, and keep them by NTP")]
        return [ok("clock", f"within {CLOCK_SECONDS:g} s of this machine's", "tokens rise after a loss of memory, too")]

    def rights(self, seen: Mapping[str, Seen]) -> Sequence[Finding]:
        """Whether the user of the URL may do what a candidate does."""
        denied = {name: each.denied for name, each in seen.items() if each.denied}
        lacks = {
            name: "denies " + ", ".join(words)
            for name, each in denied.items()
            if (words := [word for word in each if word not in ONLY_FASTER])
        }
        remedy = "grant this user what docs/redis-epoch-voting.md lists"
        if lacks:
            return [self._finding("rights", lacks, remedy)]
        if denied:
            told = _told({name: "denies " + ", ".join(each) for name, each in denied.items()})
            return [warning("rights", told, "hand-overs are not heard, and found out late", remedy)]
        if any(each.denied is None for each in seen.values()):
            return [unchecked("rights", "servers before Redis 7.0 cannot tell what a user may do")]
        return [ok("rights", "all that a candidate does", "this user can lead")]

    def markers(self, seen: Mapping[str, Seen]) -> Sequence[Finding]:
        """Whether each voter can be counted, and with whom it has agreed."""
        standings = {name: each.standing(self._config) for name, each in seen.items()}
        found = []
        config = {name: seen[name].marker.agreed for name, each in standings.items() if each == "config"}
        if config:
            told = (
                f"{_told({name: f'agreed on {each}' for name, each in config.items()})}; this URL says {self._config}"
            )
            told += " (max_ttl in ms/voters/list)"
            remedy = (
                "let all candidates have one URL; after a change of the list: coordkit doctor --replace OLD=NEW URL"
            )
            found.append(self._weighed("markers", told, len(config), remedy))
        foreign = {name: "has a marker that is not ours" for name, each in standings.items() if each == "foreign"}
        if foreign:
            found.append(self._finding("markers", foreign, "choose another keyspace=, or delete the key"))
        words = {
            "none": "was never asked",
            "forgotten": "has lost its memory",
            "unknown": "is new or has lost its memory",
        }
        waits = {name: words[each] for name, each in standings.items() if each in words}
        if waits:
            meaning = f"it counts for nobody until a candidate has watched it for {self._wait:.3g} s"
            remedy = "wait; if all servers are new and no candidate ran: coordkit doctor --init URL"
            found.append(warning("markers", _told(waits), meaning, remedy))
        healthy = list(standings.values()).count("healthy")
        return found or [ok("markers", f"{healthy} healthy, agreed on {self._config}", "their votes count")]

    def records(self, seen: Mapping[str, Seen]) -> Sequence[Finding]:
        """How many elections are recorded, and what is not ours."""
        if any(each.foreign is None for each in seen.values()):
            return [unchecked("records", "this user may not list them (HSCAN)")]
        found = []
        if strange := {name: each.foreign for name, each in seen.items() if each.foreign}:
            told = "; ".join(f"{name}: {some([repr(each) for each in fields], 3)}" for name, fields in strange.items())
            meaning = "in an election with such a record that voter abstains"
            remedy = "find out who writes there, and: coordkit doctor --forget NAME URL"
            few = self._enough(len(strange))
            found.append((warning if few else failed)("records", f"not ours: {told}", meaning, remedy))
        shared = {name: count(each.others, "other key") for name, each in seen.items() if each.others}
        most = max(each.records for each in seen.values())
        told = f"{count(most, 'election')}"
        told += f"; beside other keys at {some(list(shared))}" if shared else ""
        missed = max(each.unlooked for each in seen.values())
        told += f"; {missed} were not looked at" if missed else ""
        return found or [ok("records", told, "all of them are of the layout")]

    # --- together --------------------------------------------------------------------------------------------

    def majority(self, seen: Mapping[str, Seen]) -> Sequence[Finding]:
        """How many can be counted now, all taken together."""
        able = {
            each.info.get("run_id", name): each.standing(self._config)
            for name, each in seen.items()
            if each.standing(self._config) not in ("replica", "config", "foreign")
            and not _memory(each.info)
            and abs(each.ahead) <= CLOCKS_APART
        }
        healthy = list(able.values()).count("healthy")
        told = f"{healthy} of {self._rules.voters} voters count now"
        told += f", {len(able) - healthy} more after {self._wait:.3g} s" if len(able) > healthy else ""
        if healthy == self._rules.voters:
            return [ok("majority", told, "votes are granted")]
        remedy = "mend what the findings above name"
        if healthy >= self._rules.majority:
            return [warning("majority", told, spare(healthy - self._rules.majority), remedy)]
        if len(able) >= self._rules.majority:
            meaning = f"the first win takes {self._wait:.3g} s"
            return [warning("majority", told, meaning, "wait, or see the finding on markers")]
        return [failed("majority", told, "nobody can win or renew", remedy)]

    # --- within ----------------------------------------------------------------------------------------------

    def _enough(self, bad: int) -> bool:
        return self._rules.voters - bad >= self._rules.majority

    def _finding(self, check: str, bad: Why, remedy: str) -> Finding:
        return self._weighed(check, _told(bad), len(bad), remedy)

    def _weighed(self, check: str, told: str, bad: int, remedy: str) -> Finding:
        """So many voters abstain for this reason."""
        left = self._rules.voters - bad - self._rules.majority
        if left >= 0:
            return warning(check, told, f"these voters are not counted: {spare(left)}", remedy)
        return failed(check, told, "too few voters can be counted: nobody can win or renew", remedy)


def _memory(info: Mapping[str, str]) -> str:
    """Why this server does not keep what it grants; empty: it does."""
    policy = info.get("maxmemory_policy", "")
    if policy.startswith("allkeys-"):
        return f"throws keys away when memory is short (maxmemory-policy {policy})"
    most = int(info.get("maxmemory", "0"))
    return "refuses writes: maxmemory is used up (OOM)" if 0 < most <= int(info.get("used_memory", "0")) else ""


def _version(info: Mapping[str, str]) -> str:
    if "valkey_version" in info:
        return f"Valkey {info['valkey_version']}"
    return f"Redis {info.get('redis_version', '?')}"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:2])


def _on(seen: Seen, name: str) -> bool:
    return seen.info.get(name) == "1"


def _apart(ahead: float) -> str:
    return f"{abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} this machine"


def _told(bad: Why) -> str:
    """`a, b: why; c: why not`."""
    reasons: dict[str, list[str]] = {}
    for name, why in bad.items():
        reasons.setdefault(why, []).append(name)
    return "; ".join(f"{some(names)}: {why}" for why, names in reasons.items())


def _short(name: str, text: str) -> str:
    text = text if text.startswith(name) else f"{name}: {text}"
    return text if len(text) <= 120 else text[:117] + "..."
