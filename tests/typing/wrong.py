"""Misuse that type checkers must find: each line is an error to both, unless it names only one.

The rule: this module is checked, never run. An error that is no longer found is reported as an ignore without use.
"""
# pyright: reportUnnecessaryTypeIgnoreComment=true, enableTypeIgnoreComments=false, reportUnusedCoroutine=true
# pyright: reportUnusedExpression=false

from __future__ import annotations

from coordkit import (
    AsyncLeaderElector,
    AsyncTerm,
    CandidateInfo,
    Fence,
    FencingToken,
    LeaderElector,
    LossReason,
    Session,
    Term,
    TermState,
)

URL = "sqlite:///var/lib/app/leader.db"


class Turnstile:
    """No fence: its method has another name."""

    def let_in(self, token: FencingToken) -> None:
        print(token)


class Gate:
    """No fence: it takes a number."""

    def admit(self, token: int) -> None:
        print(token)


def making() -> None:
    LeaderElector(URL, "e", ttl="10")
    LeaderElector(URL, "e", 10.0)
    LeaderElector(URL)
    LeaderElector(5, "e")
    LeaderElector(URL, "e", eligible=True)
    LeaderElector(URL, "e", eligible=lambda: "yes")
    LeaderElector(URL, "e", fences=[Turnstile()])
    LeaderElector(URL, "e", fences=[Gate()])
    LeaderElector(URL, "e", fences=Turnstile())
    LeaderElector(URL, "e", metadata=None)
    LeaderElector(URL, "e", tll=10.0)
    AsyncLeaderElector(URL, "e", eligible=eligible_later)
    Session()
    fence: Fence = Turnstile()
    print(fence)


async def eligible_later() -> bool:
    return True


def using(elector: LeaderElector) -> None:
    elector.lead(5.0)
    elector.campaign("soon")
    elector.try_campaign().token
    elector.term.ensure()
    elector.leader().token
    elector.run(lambda: 5)
    elector.run(5)
    elector.observe().token
    elector.term = None
    with elector.lead() as term:
        term.token = FencingToken("e", 1)
        term.valid()
        term.on_lost(lambda: None)
        term.on_lost(takes_a_number)
        term.proclaim(5)
        term.ensure("2")
        term.state == "leading"
    number: int = elector.run(lambda term: "text")
    print(number)


def takes_a_number(number: int) -> None:
    print(number)


async def waiting(elector: AsyncLeaderElector) -> None:
    elector.campaign().token
    elector.campaign()
    with elector.lead() as term:
        print(term)
    with elector as term:
        print(term)
    async with LeaderElector(URL, "e").lead() as term:
        print(term)
    for state in elector.observe():
        print(state)
    async with elector.lead() as term:
        term.resign()
        term.confirm().valid
    await elector.run(in_no_time)
    sync: Term = await elector.campaign()
    print(sync)


def in_no_time(term: AsyncTerm) -> int:
    return term.token.value


def values(token: FencingToken, candidate: CandidateInfo) -> None:
    token.value = 5
    candidate.label = "other"
    FencingToken("e", "1")
    FencingToken("e")
    token < 5
    token + 1
    TermState.LEADER
    reason: LossReason = "expired"
    print(reason)
