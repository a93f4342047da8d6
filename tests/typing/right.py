"""What type checkers must understand of the public API: each value has exactly the type that is written here.

The rule: this module is checked, never run.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Any, assert_never, assert_type

from sqlalchemy import Engine, Table, orm
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from coordkit import (
    AsyncLeaderElector,
    AsyncTerm,
    BackendError,
    CampaignTimeout,
    CandidateInfo,
    CoordkitError,
    Fence,
    FencingToken,
    Guarantees,
    LeaderElector,
    LeaderInfo,
    LeadershipLost,
    LossReason,
    Session,
    StaleToken,
    Term,
    TermState,
    retry,
)
from coordkit.fencing import SQLFence, fenced_update

URL = "sqlite:///var/lib/app/leader.db"


class Ledger:
    """A fence of the application's own: it needs no base class."""

    def admit(self, token: FencingToken) -> None:
        print(int(token))


def write(row: str, *, token: FencingToken) -> int:
    return len(row) + token.value


async def write_later(row: str) -> int:
    return len(row)


def the_sync_face() -> None:
    elector = LeaderElector(
        URL, "reports/nightly", ttl=5, label="web-1", metadata="x", eligible=lambda: True, hold=1.0, fences=[Ledger()]
    )
    with elector as term:
        assert_type(term, Term)
    with elector.lead() as term:
        assert_type(term, Term)
    with elector.lead(timeout=3) as term, elector.campaign() as nested:
        assert_type(nested, Term)
    assert_type(elector.lead(), AbstractContextManager[Term])
    assert_type(elector.campaign(timeout=None), Term)
    assert_type(elector.try_campaign(), Term | None)
    assert_type(elector.term, Term | None)
    assert_type(elector.leader(timeout=1.0), LeaderInfo | None)
    assert_type(elector.candidates(), tuple[CandidateInfo, ...])
    assert_type(elector.observe(), Iterator[LeaderInfo | None])
    for state in elector.observe():
        assert_type(state, LeaderInfo | None)

    def work(term: Term) -> list[str]:
        return [term.election]

    assert_type(elector.run(work), list[str])
    assert_type(elector.run(lambda term: term.token), FencingToken)


async def the_async_face() -> None:
    elector = AsyncLeaderElector(URL, "reports/nightly", fences=(Ledger(),))
    async with elector as term:
        assert_type(term, AsyncTerm)
    async with elector.lead(timeout=3.0) as term:
        assert_type(term, AsyncTerm)
    assert_type(elector.lead(), AbstractAsyncContextManager[AsyncTerm])
    assert_type(await elector.campaign(), AsyncTerm)
    assert_type(await elector.try_campaign(), AsyncTerm | None)
    assert_type(elector.term, AsyncTerm | None)
    assert_type(await elector.leader(), LeaderInfo | None)
    assert_type(await elector.candidates(), tuple[CandidateInfo, ...])
    assert_type(elector.observe(), AsyncIterator[LeaderInfo | None])
    async for state in elector.observe():
        assert_type(state, LeaderInfo | None)

    async def work(term: AsyncTerm) -> list[str]:
        await term.confirm()
        return [term.election]

    assert_type(await elector.run(work), list[str])
    await elector.start()
    await elector.close(timeout=1.0)


def a_block_swallows_nothing(elector: LeaderElector) -> int:
    """So what stands after it need not return."""
    with elector.lead() as term:
        return term.token.value


async def an_async_block_swallows_nothing(elector: AsyncLeaderElector) -> int:
    async with elector as term, term:
        return term.token.value


def a_term(term: Term) -> None:
    assert_type(term.election, str)
    assert_type(term.candidate, CandidateInfo)
    assert_type(term.token, FencingToken)
    assert_type(term.state, TermState)
    assert_type(term.reason, LossReason | None)
    assert_type(term.valid, bool)
    assert_type(term.remaining(), float)
    assert_type(term.wait_ended(1.5), bool)
    term.ensure(min_remaining=2)
    term.on_lost(lambda lost: print(lost.token))
    term.on_lost(print)


async def an_async_term(term: AsyncTerm) -> None:
    async def tell(lost: AsyncTerm) -> None:
        print(lost.reason)

    term.ensure()
    term.on_lost(tell)
    assert_type(await term.wait_ended(), bool)
    await term.proclaim("http://here")
    await term.resign()


def sessions() -> None:
    with Session(URL, drift=0.02) as session:
        assert_type(session, Session)
        assert_type(session.guarantees, Guarantees)
        assert_type(session.open(timeout=1), Session)
        LeaderElector(session, "a")
        AsyncLeaderElector(session, "a")


def tokens(term: Term, other: FencingToken) -> None:
    assert_type(int(term.token), int)
    assert_type(str(term.token), str)
    assert_type(term.token < other, bool)
    assert_type(max(term.token, other), FencingToken)
    assert_type(FencingToken.parse("a=1"), FencingToken)
    assert_type(term.token.headers(), dict[str, str])
    fence: Fence = Ledger()
    fence.admit(term.token)


async def policies(term: Term, later: AsyncTerm) -> None:
    assert_type(retry.within(5.0)(write, "row", token=term.token), int)
    assert_type(retry.while_leading(term, min_remaining=1.0)(write, "row", token=term.token), int)
    for attempt in retry.while_leading(term):
        with attempt:
            write("row", token=term.token)
    async for attempt in retry.while_leading_async(later, min_remaining=1.0):
        with attempt:
            assert_type(await write_later("row"), int)
    async for attempt in retry.within_async(5.0):
        with attempt:
            assert_type(await write_later("row"), int)


def errors(elector: LeaderElector) -> None:
    try:
        elector.campaign()
    except BackendError as error:
        assert_type(error.backend, str)
        assert_type(error.operation, str)
    except LeadershipLost as error:
        assert_type(error.reason, LossReason | None)
        assert_type(error.term, Any)
    except StaleToken as error:
        assert_type(error.offered, FencingToken)
    except CampaignTimeout as error:
        timeout: TimeoutError = error
        ours: CoordkitError = error
        print(timeout, ours)


def every_state_and_reason(state: TermState, reason: LossReason) -> str:
    match state:
        case TermState.LEADING | TermState.JEOPARDY:
            return "act"
        case TermState.LOST | TermState.RESIGNED:
            pass
        case _:
            assert_never(state)
    match reason:
        case LossReason.EXPIRED | LossReason.REVOKED | LossReason.CLOSED:
            return "over"
        case LossReason.FORKED | LossReason.ENGINE_DIED | LossReason.INELIGIBLE:
            return "over too"
        case _:
            assert_never(reason)


async def fences_of_databases(
    term: Term, engine: Engine, table: Table, session: orm.Session, theirs: AsyncEngine, other: AsyncSession
) -> None:
    fence = SQLFence(table="fences")
    fence.create(engine)
    assert_type(fence.bind(engine), Fence)
    assert_type(fence.bind(theirs, timeout=2), Fence)
    fence.admit(session, term.token)
    with engine.begin() as connection:
        fence.admit(connection, term.token)
        assert_type(fence.newest(connection, "e"), FencingToken | None)
        fenced_update(connection, table, term.token, key={"id": 7}, values={"state": "sent"}, column="fence")
    async with theirs.begin() as asynchronous:
        await asynchronous.run_sync(fence.create)
        await asynchronous.run_sync(fence.admit, term.token)
        await asynchronous.run_sync(fenced_update, table, term.token, key={"id": 7}, values={})
    assert_type(await other.run_sync(fence.newest, "e"), FencingToken | None)
