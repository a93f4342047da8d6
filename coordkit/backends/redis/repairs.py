"""What an operator may change in the voters: mark new servers, change one of the list, remove a record.

The rule: all voters are looked at before the first is changed. What takes the place of waiting is the operator's word;
what is waited for is that nothing has moved for `max_ttl`, and each voter compares that itself when it is changed. Each
repair may be broken off at any moment, and repeated.

Why two never lead while the list changes: first a majority of the old list is taken over into an agreement that
belongs to neither list. Nobody can win or renew with the old list any more, and nothing on these voters has moved for
max_ttl, so whoever was elected with it is over. Only when that is on their disks, so that none of them comes back as a
voter of the old list, are they handed to the new list, whose new voter has no memory, and counts after its quarantine
alone. At last the voter that goes is told so: else it could make a majority for candidates that still have the old URL,
together with voters that lose their memory later.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from coordkit.backends.contract import Host
from coordkit.backends.redis.layout import Reply, config_of, reply_of
from coordkit.backends.redis.scripts import script
from coordkit.backends.redis.survey import ANSWER_SECONDS, Errors, Seen, of_each, servers_of, survey
from coordkit.backends.redis.target import agreement_of, key_of, rules_of, targets_of
from coordkit.backends.redis.voters import Voter
from coordkit.errors import BackendError, ConfigError
from coordkit.findings import Finding, Progress, Question, Step, failed, ok, some, warning
from coordkit.lease import Instant, waited_for, waiting_time
from coordkit.model import check_election
from coordkit.registry import Address, parse

LOOKS: Final = 20  # while it is waited that nothing moves
DURABLE_SECONDS: Final = 3.0  # after which an answer is on the disk, with appendfsync everysec too (2 s at the most)
NOTHING_DONE: Final = "nothing was changed"
MEND: Final = "mend that, and repeat"
STOP: Final = "stop all candidates of the old list, and repeat"
Ask = Callable[[Voter, str], Awaitable[Reply]]  # a script's look; given the digest that was watched, its deed


@dataclass(frozen=True, slots=True)
class Bench:
    """The voters of a URL, and what is known of them before anything is asked."""

    voters: Sequence[Voter]
    address: Address
    host: Host

    @property
    def majority(self) -> int:
        """How many voters it takes."""
        return rules_of(self.address).majority

    async def survey(self) -> tuple[Mapping[str, Seen], Errors]:
        """What they say of themselves."""
        return await survey(self.voters, key_of(self.address), self.host)

    async def script(self, voter: Voter, name: str, config: str, *arguments: str) -> Reply:
        """A script's answer to somebody of this agreement."""
        nonce, unused = (f"{self.host.chance.getrandbits(64):016x}" for _ in range(2))
        text = script(name).text.decode()
        words = ("EVAL", text, "1", key_of(self.address), nonce, config, unused, *arguments)
        return reply_of(await voter.plain(*words, seconds=ANSWER_SECONDS), nonce)

    def beside(self, name: str) -> Voter:
        """A voter that the URL does not name, as whom it is asked otherwise the same; the caller closes it."""
        named = targets_of(parse(f"redis://{name}"))[0]
        target = targets_of(replace(self.address, hosts=((named.host, named.port),)))[0]
        return Voter(target, key_of(self.address), "", self.host, lambda *_: None)


def repair(bench: Bench, option: str, value: str) -> AsyncGenerator[Step]:
    """The steps of a repair; `ConfigError` at once for a value that it cannot have."""
    if option == "--init":
        return marked(bench)
    if option == "--forget":
        return forgotten(bench, check_election(value))
    return replaced(bench, *names_of(bench, value))


# --- new servers ---------------------------------------------------------------------------------------------------


async def marked(bench: Bench) -> AsyncGenerator[Step]:
    """Mark all voters as new, so that they count at once."""
    agreed = agreement_of(bench.address)
    seen, errors = await bench.survey()
    reasons = [str(error) for error in errors.values()]
    reasons += [f"{name}: {why}" for name, each in seen.items() if (why := _not_new(each, agreed))]
    reasons += _twins(seen)
    if reasons:
        meaning = f"{NOTHING_DONE}: what is not new may have votes that it has forgotten"
        for reason in reasons:
            yield failed("init", reason, meaning, "mend it, or let the first candidates wait max_ttl")
        return
    yield Question(
        "These servers will be taken for new, and their votes counted at once. If a candidate has run on them within "
        f"the longest ttl ({rules_of(bench.address).max_ttl:g} s), two may lead. Has none"
    )
    answers, errors = await of_each(bench.voters, lambda voter: bench.script(voter, "init", agreed))
    for name, reply in answers.items():
        told = _word(reply)
        if told in ("marked", "healthy already"):
            yield ok("init", f"{name}: {told}", "its vote counts")
        else:
            yield failed("init", f"{name}: {told} {reply.detail}", "it was not marked", "see the finding on markers")
    for error in errors.values():
        yield failed("init", str(error), "it may not be marked", MEND)


def _not_new(seen: Seen, agreed: str) -> str:
    """Why a server is not to be marked; empty: it is new."""
    standing = seen.standing(agreed)
    if standing == "replica":
        return "it is a replica"
    if standing == "config":
        return f"it has agreed on {seen.marker.agreed}, and this URL says {agreed}"
    if standing == "foreign":
        return "its marker is not ours"
    return "it is not empty" if seen.records or seen.forgot or seen.others else ""


# --- another list --------------------------------------------------------------------------------------------------


def names_of(bench: Bench, value: str) -> tuple[str, str]:
    """The voter that goes, and the one that comes and is in the URL."""
    old, _, new = (_name(part) for part in value.partition("="))
    names = [voter.name for voter in bench.voters]
    if not old or not new:
        raise ConfigError("--replace reads OLD=NEW, two voters as host:port")
    if new not in names or old in names:
        raise ConfigError(f"the URL is that of the new list: it names NEW, and not OLD; it names {', '.join(names)}")
    if bench.address.option("cluster", ""):
        raise ConfigError(
            "with cluster= the list is no part of the agreement, so nothing can be exchanged under a leader: "
            "stop all candidates for max_ttl, and start them with the new URL"
        )
    if len(names) - 1 < bench.majority:
        raise ConfigError(f"of {len(names)} voters no majority is left without {old}: empty all, and use --init")
    return old, new


def _name(text: str) -> str:
    """A voter as it is called in a list."""
    if not text.strip("="):
        return ""
    if set(text) & set("/?@,# "):
        raise ConfigError(f"{text!r} is no host:port")
    return targets_of(parse(f"redis://{text}"))[0].name


async def replaced(bench: Bench, old: str, new: str) -> AsyncGenerator[Step]:
    """Hand the voters that stay from the list with `old` to the one with `new`."""
    names = [voter.name for voter in bench.voters]
    then = agreement_of(bench.address)
    before = config_of(rules_of(bench.address).max_ttl, [old if name == new else name for name in names], "")
    between = f"{before}>{then}"
    staying = [voter for voter in bench.voters if voter.name != new]
    seen, errors = await bench.survey()
    tags = {voter.name: _tag(seen.get(voter.name)) for voter in staying}
    done, half = (sum(tag == each for tag in tags.values()) for each in (then, between))
    absent = {
        name: _absence(name, seen, errors, tag) for name, tag in tags.items() if tag not in (before, between, then)
    }
    reasons = _twins(seen)
    if len(tags) - len(absent) < bench.majority:
        reasons += [*absent.values(), f"{bench.majority} voters of the list with {old} are needed ({before})"]
    if done < bench.majority and (why := _unfit(new, seen, errors, then, begun=done >= bench.majority - 1)):
        reasons.append(why)
    if reasons:
        for reason in reasons:
            yield failed("replace", reason, NOTHING_DONE, MEND)
        return

    leaving = [voter for voter in staying if tags[voter.name] == before]
    waiting = [voter for voter in staying if tags[voter.name] in (before, between)]
    if waiting:

        def leave(voter: Voter, digest: str) -> Awaitable[Reply]:
            return bench.script(voter, "retag", tags[voter.name], between, digest)

        def join(voter: Voter, digest: str) -> Awaitable[Reply]:
            return bench.script(voter, "retag", between, then, digest)

        # Those that have left the old list are watched as well: one that has just been started again may have voted.
        watch = Watch(bench, waiting, leave)
        async for step in watch.steps():
            yield step
        if watch.moved or done + len(watch.digests) < bench.majority:
            for finding in watch.refusals("replace", STOP):
                yield finding
            return
        taken, failures = await watch.done(leaving, leave, "retagged")
        absent |= failures
        half += len(taken)
        if done + half < bench.majority:
            for why in failures.values():
                meaning = "the change of the list has begun: what has left the old list counts for neither"
                yield failed("replace", why, meaning, STOP)
            return
        yield Progress(f"{done + half} of {len(staying)} voters have left the old list; waiting for their disks")
        tags |= dict.fromkeys(taken, between)
        await asyncio.sleep(DURABLE_SECONDS)
        # Who was started again meanwhile has moved: it may have come back as a voter of the old list.
        handed, failures = await watch.done(
            [voter for voter in waiting if tags[voter.name] == between], join, "retagged"
        )
        absent |= failures
        done += len(handed)
    told = f"{done} of {len(staying)} voters that stay belong to the new list, {then}"
    if done < bench.majority:
        for why in (told, *absent.values()):
            yield failed("replace", why, "too few of them: nobody can win", "repeat this")
        return
    gone = await _retired(bench, old, before, between)
    wait = waiting_time(rules_of(bench.address).max_ttl, rules_of(bench.address).drift)
    yield ok(
        "replace", told, f"candidates of the new URL are elected; {new} counts {wait:.3g} s after one has asked it"
    )
    for why in absent.values():
        yield warning("replace", why, "it is not counted", "repeat this when it is back, or empty it")
    if gone:
        meaning = (
            "it belongs to the old list: candidates that have the old URL still could be elected, if others forget"
        )
        yield warning("replace", gone, meaning, f"give all candidates the new URL; repeat this when {old} is back")


async def _retired(bench: Bench, old: str, before: str, between: str) -> str:
    """Why the voter that goes may belong to the old list still; empty: it does not. Nobody is elected by that list."""
    voter = bench.beside(old)
    try:
        seen, errors = await survey([voter], key_of(bench.address), bench.host, ANSWER_SECONDS)
        if old in errors:
            return str(errors[old])
        if seen[old].marker.agreed != before:
            return ""
        word = _word(await bench.script(voter, "retag", before, between, "*"))
        return "" if word == "retagged" else f"{old}: {word}"
    except BackendError as error:
        return str(error)
    finally:
        await voter.close()


def _tag(seen: Seen | None) -> str:
    if seen is None or seen.info.get("role") != "master":
        return ""
    return seen.marker.agreed


def _absence(name: str, seen: Mapping[str, Seen], errors: Errors, tag: str) -> str:
    """Why a voter that stays cannot be handed over."""
    if name in errors:
        return str(errors[name])
    if seen[name].info.get("role") != "master":
        return f"{name} is a replica"
    state = seen[name].marker.state
    return (
        f"{name} has agreed on {tag}" if tag else f"{name} has {'no marker' if state == 'none' else 'a foreign marker'}"
    )


def _unfit(new: str, seen: Mapping[str, Seen], errors: Errors, then: str, *, begun: bool) -> str:
    """Why the new voter cannot come in; empty: it can. What it may remember of earlier lists must not count."""
    if new in errors:
        return str(errors[new])
    standing = seen[new].standing(then)
    if standing == "replica":
        return f"{new} is a replica"
    if standing == "foreign":
        return f"{new} has a marker that is not ours"
    if standing == "config" or (standing == "healthy" and not begun):
        return f"{new} was a voter before, and what it knows is old: delete its key first"
    return ""


# --- a record ------------------------------------------------------------------------------------------------------


async def forgotten(bench: Bench, election: str) -> AsyncGenerator[Step]:
    """Remove the record of an election in which nobody contends."""
    agreed = agreement_of(bench.address)
    seen, errors = await bench.survey()
    standings = {name: each.standing(agreed) for name, each in seen.items()}
    counted = [
        voter for voter in bench.voters if standings.get(voter.name) in ("healthy", "unknown", "forgotten", "none")
    ]
    absent = [
        f"{name}: {standing}" for name, standing in standings.items() if standing in ("replica", "config", "foreign")
    ]
    absent += [str(error) for error in errors.values()]
    reasons = _twins(seen)
    if len(counted) < bench.majority:
        reasons += [*absent, f"{bench.majority} voters are needed"]
    if reasons:
        for reason in reasons:
            yield failed("forget", reason, NOTHING_DONE, MEND)
        return

    def ask(voter: Voter, digest: str) -> Awaitable[Reply]:
        return bench.script(voter, "forget", agreed, election, digest)

    # A voter that nobody has asked has no record, and a script would mark it.
    asked = [voter for voter in counted if standings[voter.name] != "none"]
    watch = Watch(bench, asked, ask)
    async for step in watch.steps():
        yield step
    if watch.ahead:
        for name in watch.ahead:
            told = f"{name}: the clock has not passed its last token yet"
            meaning = f"tokens would fall: {NOTHING_DONE}"
            yield failed("forget", told, meaning, "wait for that, or give the election another name")
        return
    if watch.moved or len(watch.digests) + len(counted) - len(asked) < bench.majority:
        for finding in watch.refusals("forget", "let the election's candidates end first, and repeat"):
            yield finding
        return
    gone, failures = await watch.done(asked, ask, "forgotten")
    for why in failures.values():
        yield failed("forget", why, "its record may be there", MEND)
    if gone:
        yield ok("forget", f"{election!r}: removed at {some(gone)}", "its next token is above the clock")
    elif not absent and not failures:
        yield ok("forget", f"{election!r}: no voter has a record of it", NOTHING_DONE)
    for why in absent:
        yield warning("forget", why, "it may have that record", "repeat this when it can be counted")


# --- waiting -------------------------------------------------------------------------------------------------------


class Watch:
    """Voters on which nothing may move for max_ttl. Each says what it has by a digest."""

    def __init__(self, bench: Bench, voters: Sequence[Voter], ask: Ask) -> None:
        self.moved: list[str] = []
        self.ahead: list[str] = []  # of those, whose tokens would fall
        self.digests: dict[str, str] = {}  # of those that are watched, when they were first seen
        self._bench = bench
        self._voters = voters
        self._ask = ask
        self._since: Instant = bench.host.clock.now()
        self._errors: dict[str, str] = {}

    async def steps(self) -> AsyncGenerator[Step]:
        """Look until the time is over, or something has moved."""
        rules, clock = rules_of(self._bench.address), self._bench.host.clock
        wait = waiting_time(rules.max_ttl, rules.drift)
        await self._look(first=True)
        self._since = clock.now()
        while any(self.digests.values()) and not (self.moved or self.ahead):
            waited = waited_for(self._since, clock.now())
            if waited >= wait:
                return
            yield Progress(f"nothing has moved for {waited:.0f} of {wait:.3g} s")
            await asyncio.sleep(min(wait - waited, max(0.05, wait / LOOKS)))
            await self._look(first=False)

    async def _look(self, *, first: bool) -> None:
        answers, errors = await of_each(self._voters, lambda voter: self._ask(voter, ""))
        for name, reply in answers.items():
            shown = _digest(reply)
            if first and shown is not None:
                self.digests[name] = shown
                if _word(reply) == "ahead":
                    self.ahead.append(name)
            elif first:
                self._errors[name] = f"{name} cannot be counted: {reply.standing} {reply.detail}".strip()
            elif name in self.digests and shown != self.digests[name]:
                self.moved.append(name)
        for name, error in errors.items():  # it is asked again, and in the end compares by itself
            if first:
                self._errors[name] = str(error)

    async def done(self, voters: Sequence[Voter], ask: Ask, word: str) -> tuple[list[str], dict[str, str]]:
        """Change these, as they were watched; where it was done, and why not elsewhere."""
        watched = [voter for voter in voters if self.digests.get(voter.name)]
        answers, errors = await of_each(watched, lambda voter: ask(voter, self.digests[voter.name]))
        done = [name for name, reply in answers.items() if _word(reply) == word]
        failures = {name: str(error) for name, error in errors.items()}
        failures |= {name: f"{name} has moved at the last moment" for name in answers if name not in done}
        return done, failures | self._errors

    def refusals(self, check: str, remedy: str) -> Sequence[Finding]:
        """What has moved, or was not there."""
        moved = [f"a record at {name} has moved, or it was started again" for name in self.moved]
        if moved:
            return [failed(check, told, NOTHING_DONE, remedy) for told in moved]
        return [failed(check, told, NOTHING_DONE, MEND) for told in self._errors.values()]


def _word(reply: Reply) -> str:
    """The first word of an answer, or how the voter stands that gives none."""
    word = reply.answers[0] if reply.answers else reply.standing.encode()
    return word.decode(errors="replace") if isinstance(word, bytes) else ""


def _digest(reply: Reply) -> str | None:
    """What was shown; empty: there is nothing to change. None: it gives no answer."""
    shown = reply.answers[1] if len(reply.answers) == 2 else None
    return shown.decode(errors="replace") if isinstance(shown, bytes) else None


def _twins(seen: Mapping[str, Seen]) -> list[str]:
    """What is said of servers that have two names."""
    return [f"{' and '.join(each)} are one server" for each in servers_of(seen).values() if len(each) > 1]
