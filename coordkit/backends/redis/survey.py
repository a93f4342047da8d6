"""What voters say of themselves when somebody only looks.

The rule: nothing is written. A candidate's scripts would mark a voter that nobody has asked before; these questions do
not, so that what is found is what was there.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Final, TypeVar

from coordkit.backends.contract import Host
from coordkit.backends.redis.layout import UNREADABLE, channel_of, info_of, record_of
from coordkit.backends.redis.voters import Voter
from coordkit.errors import BackendError, OutcomeUnknown, Rejected
from coordkit.waiting import Budget

T = TypeVar("T")
Errors = Mapping[str, BackendError]  # by the voter's name
Ask = Callable[..., Awaitable[object]]  # one command to one voter

SURVEY_SECONDS: Final = 10.0
ANSWER_SECONDS: Final = 2.0  # for one answer of one voter
FIELDS_LOOKED_AT: Final = 5000
_MARKER: Final = re.compile(rb"(healthy|unknown) (\S+) (\S+) (\S+)")


@dataclass(frozen=True, slots=True)
class Marker:
    """What a voter has written down of itself, as it is. `state`: healthy, unknown, none or foreign."""

    state: str
    memory: str = ""  # of the server that wrote it
    agreed: str = ""


@dataclass(frozen=True, slots=True)
class Seen:
    """One voter, as it answered."""

    name: str
    info: Mapping[str, str]
    ahead: float  # s by which its clock is before ours, beyond what asking took; negative: behind
    marker: Marker
    records: int
    forgot: bool  # an operator has taken records away
    others: int  # keys of the database beside its own
    foreign: tuple[str, ...] | None  # fields that are no records of ours; None: this user may not list them
    unlooked: int  # fields that were not looked at
    denied: tuple[str, ...] | None  # commands that a candidate needs and this user may not use; None: not known

    @property
    def memory(self) -> str:
        """Of the server as it runs."""
        return f"{self.info.get('run_id', '')}:{self.info.get('master_replid', '')}"

    def standing(self, config: str) -> str:
        """As its scripts would see it, and `none` or `forgotten` where they would write a new marker."""
        if self.info.get("role") != "master":
            return "replica"
        if self.marker.state in ("none", "foreign"):
            return self.marker.state
        if self.marker.agreed != config:
            return "config"
        return self.marker.state if self.marker.memory == self.memory else "forgotten"


async def survey(
    voters: Sequence[Voter], key: str, host: Host, seconds: float = SURVEY_SECONDS
) -> tuple[Mapping[str, Seen], Errors]:
    """All these voters, by name: what they say, and why others say nothing. It takes `seconds` at the most."""

    async def seen(voter: Voter) -> Seen:
        budget = Budget(host.clock, seconds)

        def ask(*words: str) -> Awaitable[object]:
            return voter.plain(*words, seconds=max(0.001, min(ANSWER_SECONDS, budget.left)))

        return await _seen(voter.name, key, ask, host.clock.wall)

    return await of_each(voters, seen)


def servers_of(seen: Mapping[str, Seen]) -> Mapping[str, Sequence[str]]:
    """The servers that answered, each with the names that lead to it."""
    names: dict[str, list[str]] = {}
    for name, each in seen.items():
        names.setdefault(each.info.get("run_id", name), []).append(name)
    return names


async def of_each(voters: Sequence[Voter], ask: Callable[[Voter], Awaitable[T]]) -> tuple[Mapping[str, T], Errors]:
    """Ask all at once: the answers, and the errors of those that have none."""
    answers: dict[str, T] = {}
    errors: dict[str, BackendError] = {}

    async def asked(voter: Voter) -> None:
        try:
            answers[voter.name] = await ask(voter)
        except BackendError as error:
            errors[voter.name] = error

    await asyncio.gather(*map(asked, voters))
    names = [voter.name for voter in voters]
    return {name: answers[name] for name in names if name in answers}, errors


async def _seen(name: str, key: str, ask: Ask, wall: Callable[[], float]) -> Seen:
    info = info_of(await ask("INFO"))
    before = wall()
    time = _time(await ask("TIME"))
    after = wall()
    marker = _marker(await ask("HGET", key, "marker"))
    fields, foreign = await _fields(key, ask)
    size = await _number(ask, "HLEN", key)
    forgot = await ask("HGET", key, "forgotten") is not None
    keys = await _number(ask, "DBSIZE")
    return Seen(
        name,
        info,
        time - after if time > after else min(0.0, time - before),
        marker,
        max(0, size - (marker.state != "none") - forgot),
        forgot,
        max(0, keys - (size > 0)),
        foreign,
        max(0, size - fields) if foreign is not None else 0,
        await _denied(key, ask),
    )


async def _fields(key: str, ask: Ask) -> tuple[int, tuple[str, ...] | None]:
    """How many fields were looked at, and which of them are not ours."""
    found: dict[bytes, bytes] = {}
    cursor = "0"
    while True:
        try:
            answer = await ask("HSCAN", key, cursor, "COUNT", "500")
        except Rejected:
            return 0, None
        if not (isinstance(answer, list) and len(answer) == 2 and isinstance(answer[1], list)):
            return 0, None
        cursor, pairs = answer[0].decode(), answer[1]
        found |= dict(zip(pairs[::2], pairs[1::2], strict=True))
        if cursor == "0" or len(found) >= FIELDS_LOOKED_AT:
            break
    strange = [name for name, value in found.items() if not _is_ours(name, value)]
    return len(found), tuple(sorted(name.decode(errors="replace") for name in strange))


def _is_ours(name: bytes, value: bytes) -> bool:
    if name == b"forgotten":
        return value.isdigit()
    return name == b"marker" or (name.startswith(b"e:") and value != b"" and record_of(value) is not UNREADABLE)


async def _number(ask: Ask, *words: str) -> int:
    try:
        answer = await ask(*words)
    except Rejected:  # a candidate does not need it
        return 0
    return answer if isinstance(answer, int) else 0


async def _denied(key: str, ask: Ask) -> tuple[str, ...] | None:
    text = (files("coordkit.backends.redis") / "lua" / "rights.lua").read_text()
    try:
        answer = await ask("EVAL", text, "1", key, channel_of(key, "x").decode())
    except Rejected:
        return ("eval",)
    if not isinstance(answer, list):
        return None
    return tuple(each.decode(errors="replace") for each in answer if isinstance(each, bytes))


def _time(answer: object) -> float:
    if not (isinstance(answer, list) and len(answer) == 2 and all(isinstance(each, bytes) for each in answer)):
        raise OutcomeUnknown("an answer without a time", backend="redis")
    return int(answer[0]) + int(answer[1]) / 1e6


def _marker(answer: object) -> Marker:
    if answer is None:
        return Marker("none")
    match = _MARKER.fullmatch(answer) if isinstance(answer, bytes) else None
    if match is None:
        return Marker("foreign")
    state, _, memory, agreed = (each.decode(errors="replace") for each in match.groups())
    return Marker(state, memory, agreed)
