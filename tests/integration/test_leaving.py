"""An interrupt at the worst instruction of entering or leaving: the seat is given back and the elector is free.

The rule: the instruction is chosen here, by a patch that raises KeyboardInterrupt in it; `test_interrupts` leaves the
choice to chance.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from coordkit import AsyncLeaderElector, CoordkitError, LeaderElector, LossReason, Term, TermState
from coordkit.engine import Engine
from coordkit.face import Slot, Ticket
from coordkit.term import Tenure, TermView

pytestmark = pytest.mark.backend("memory")

LONG = 20.0  # s: what is due at once, on a busy machine
TTL = 30.0  # s: a lease that runs out is no way out here


@pytest.fixture
def url(request: pytest.FixtureRequest) -> str:
    return f"memory://leaving-{request.node.name.replace('[', '-').replace(']', '')}"


@pytest.fixture
def elector(url: str) -> Iterator[LeaderElector]:
    made = LeaderElector(url, "e", ttl=TTL)
    yield made
    made.close()


def interrupt_once(monkeypatch: pytest.MonkeyPatch, where: type, name: str, *, after: bool) -> list[str]:
    """The first call of a method ends in KeyboardInterrupt, before or after it did its work. Returns what struck."""
    struck: list[str] = []
    method: Callable[..., Any] = getattr(where, name)

    def interrupted(self: Any, *values: Any, **named: Any) -> Any:
        if struck:
            return method(self, *values, **named)
        struck.append(name)
        if after:
            method(self, *values, **named)
        raise KeyboardInterrupt

    monkeypatch.setattr(where, name, interrupted)
    return struck


STEPS = [
    (Tenure, "ended"),
    (Tenure, "end"),
    (Engine, "post"),
    (Ticket, "finish"),
    (Term, "_give_up"),
    (Term, "_leave"),
    (Term, "_hold_left"),
    (Term, "__exit__"),
]


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(("where", "name"), STEPS, ids=[f"{where.__name__}.{name}" for where, name in STEPS])
def test_ctrl_c_while_leaving_a_block(
    where: type, name: str, after: bool, elector: LeaderElector, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt), elector.lead() as term:
        struck = interrupt_once(patch, where, name, after=after)
    assert struck
    assert not term.valid
    assert term.state is TermState.RESIGNED
    with LeaderElector(url, "e", ttl=TTL).lead(timeout=LONG) as next_term:
        assert next_term.token > term.token
    with elector.lead(timeout=LONG):
        assert elector.term is not None


@pytest.mark.parametrize(("where", "name"), [(Engine, "post"), (Ticket, "finish"), (Tenure, "end")])
def test_ctrl_c_in_resign_does_no_half_of_it(
    where: type, name: str, elector: LeaderElector, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    term = elector.campaign()
    with monkeypatch.context() as patch:
        interrupt_once(patch, where, name, after=False)
        with pytest.raises(KeyboardInterrupt):
            term.resign()
    assert term.state is TermState.RESIGNED
    with elector.lead(timeout=LONG):
        assert elector.term is not None


@pytest.mark.parametrize(("where", "name"), [(Engine, "post"), (Ticket, "finish"), (Tenure, "end")])
def test_an_async_block_interrupted_while_it_is_left(
    where: type, name: str, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        elector = AsyncLeaderElector(url, "e", ttl=TTL)
        with monkeypatch.context() as patch:
            try:
                async with elector.lead() as term:
                    struck = interrupt_once(patch, where, name, after=False)
            except KeyboardInterrupt:
                assert struck
        assert term.state is TermState.RESIGNED
        async with elector.lead(timeout=LONG):
            assert elector.term is not None
        await elector.close()

    asyncio.run(main())


def test_a_block_whose_context_manager_is_thrown_away_is_over(elector: LeaderElector, url: str) -> None:
    """What a Ctrl-C at the first instruction of `__exit__` leaves: a term in a variable, and nobody to leave it."""
    told: list[Term] = []
    block = elector.lead()
    term = block.__enter__()
    term.on_lost(told.append)
    del block
    gc.collect()
    assert term.wait_ended(LONG)
    assert (term.state, term.reason) == (TermState.LOST, LossReason.CLOSED)
    again = LeaderElector(url, "e", ttl=TTL).try_campaign()
    assert again is None, "released, though its work may still run"
    with pytest.raises(CoordkitError):  # CampaignTimeout, not ElectorBusy: it contends, behind its own old lease
        elector.campaign(timeout=0.2)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(("where", "name"), [(Engine, "post"), (Term, "__init__")], ids=["post", "term"])
def test_ctrl_c_while_a_campaign_is_sent_or_delivered(
    where: type, name: str, after: bool, elector: LeaderElector, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    elector.leader()  # the engine runs
    with monkeypatch.context() as patch:
        struck = interrupt_once(patch, where, name, after=after)
        with pytest.raises(KeyboardInterrupt):
            elector.campaign(timeout=LONG)
        assert struck
    gc.collect()
    with LeaderElector(url, "e", ttl=TTL).lead(timeout=LONG):
        pass
    with elector.lead(timeout=LONG):
        assert elector.term is not None


def test_an_interrupted_finalizer_is_made_good(
    elector: LeaderElector, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python swallows what a finalizer raises: the term was dropped, and nobody told the engine."""
    told: list[int] = []

    def interrupted(_slot: Slot, number: int, _delivery: object) -> None:
        told.append(number)

    monkeypatch.setattr("coordkit.face._dropped", interrupted)
    term = elector.campaign()
    candidate = term.candidate.id
    del term
    gc.collect()
    assert told, "the finalizer has not run"
    with pytest.raises(CoordkitError) as caught:  # the elector is free at once; its old lease is left to run out
        elector.campaign(timeout=0.2)
    assert "has a campaign or a term already" not in str(caught.value)
    assert elector.leader() is not None
    assert elector.leader().candidate.id == candidate  # type: ignore[union-attr]


def test_a_term_keeps_its_elector(url: str) -> None:
    term = LeaderElector(url, "e", ttl=TTL).campaign()
    gc.collect()
    assert not term.wait_ended(0.6)
    term.confirm()
    term.resign()
    assert term.state is TermState.RESIGNED


def test_a_term_that_was_never_finished_is_dropped_in_silence(capfd: pytest.CaptureFixture[str]) -> None:
    half = Term.__new__(Term)
    assert isinstance(half, TermView)
    del half
    gc.collect()
    assert capfd.readouterr().err == ""
