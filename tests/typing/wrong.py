"""Misuse that type checkers must find: each line that is ignored here is an error to mypy and to pyright.

The rule: this module is checked, never run. An error that one of them no longer finds is reported as an ignore
without use, by mypy with its code, by pyright for the line.
"""

# pyright: reportUnnecessaryTypeIgnoreComment=true, reportUnnecessaryComparison=true, reportUnusedExpression=false

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
    LeaderElector(URL, "e", ttl="10")  # type: ignore[arg-type]
    LeaderElector(URL, "e", 10.0)  # type: ignore[call-arg]
    LeaderElector(URL)  # type: ignore[call-arg]
    LeaderElector(5, "e")  # type: ignore[arg-type]
    LeaderElector(URL, "e", eligible=True)  # type: ignore[arg-type]
    LeaderElector(URL, "e", eligible=lambda: "yes")  # type: ignore[arg-type, return-value]
    LeaderElector(URL, "e", fences=[Turnstile()])  # type: ignore[list-item]
    LeaderElector(URL, "e", fences=[Gate()])  # type: ignore[list-item]
    LeaderElector(URL, "e", fences=Turnstile())  # type: ignore[arg-type]
    LeaderElector(URL, "e", metadata=None)  # type: ignore[arg-type]
    LeaderElector(URL, "e", tll=10.0)  # type: ignore[call-arg]
    AsyncLeaderElector(URL, "e", eligible=eligible_later)  # type: ignore[arg-type]
    Session()  # type: ignore[call-arg]
    fence: Fence = Turnstile()  # type: ignore[assignment]
    print(fence)


async def eligible_later() -> bool:
    return True


def using(elector: LeaderElector) -> None:
    elector.lead(5.0)  # type: ignore[call-arg]
    elector.campaign("soon")  # type: ignore[call-arg, arg-type]
    print(elector.try_campaign().token)  # type: ignore[union-attr]
    elector.term.ensure()  # type: ignore[union-attr]
    print(elector.leader().token)  # type: ignore[union-attr]
    elector.run(lambda: 5)  # type: ignore[misc, arg-type]
    elector.run(5)  # type: ignore[arg-type]
    print(elector.observe().token)  # type: ignore[attr-defined]
    elector.term = None  # type: ignore[misc]
    with elector.lead() as term:
        term.token = FencingToken("e", 1)  # type: ignore[misc]
        term.valid()  # type: ignore[operator]
        term.on_lost(lambda: None)  # type: ignore[misc, arg-type]
        term.on_lost(takes_a_number)  # type: ignore[arg-type]
        term.proclaim(5)  # type: ignore[arg-type]
        term.ensure("2")  # type: ignore[arg-type]
        print(term.state == "leading")  # type: ignore[comparison-overlap]
    number: int = elector.run(lambda term: "text")  # type: ignore[assignment]
    print(number)


def takes_a_number(number: int) -> None:
    print(number)


async def waiting(elector: AsyncLeaderElector) -> None:
    print(elector.campaign().token)  # type: ignore[attr-defined]
    elector.campaign()  # type: ignore[unused-coroutine]
    with elector.lead() as term:  # type: ignore[attr-defined]
        print(term)
    with elector as term:  # type: ignore[attr-defined]
        print(term)
    async with LeaderElector(URL, "e").lead() as term:  # type: ignore[attr-defined]
        print(term)
    for state in elector.observe():  # type: ignore[attr-defined]
        print(state)
    async with elector.lead() as term:
        term.resign()  # type: ignore[unused-coroutine]
        print(term.confirm().valid)  # type: ignore[attr-defined]
    await elector.run(in_no_time)  # type: ignore[arg-type]
    sync: Term = await elector.campaign()  # type: ignore[assignment]
    print(sync)


def in_no_time(term: AsyncTerm) -> int:
    return term.token.value


def values(token: FencingToken, candidate: CandidateInfo) -> None:
    token.value = 5  # type: ignore[misc]
    candidate.label = "other"  # type: ignore[misc]
    FencingToken("e", "1")  # type: ignore[arg-type]
    FencingToken("e")  # type: ignore[call-arg]
    token + 1  # type: ignore[operator]
    print(TermState.LEADER)  # type: ignore[attr-defined]
    reason: LossReason = "expired"  # type: ignore[assignment]
    print(reason)
