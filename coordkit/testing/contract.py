"""The contract of a backend, as tests: one suite for all of them, your own included.

    class TestMine(SharedBackendContract):                   # or BackendContract, if each process has its own store
        shown_by = {"what `guarantees.survives` says": "test_that_shows_it", ...}

        @pytest.fixture
        def store(self, tmp_path):
            with MyStoreUnderTest(tmp_path) as store:        # a StoreUnderTest
                yield store

The rule: a test speaks of what users rely on, through the public names; only what they cannot see is asked of the
`Backend` itself. A bug found in one backend becomes a test here, so that it is looked for in all of them.
"""

from __future__ import annotations

import asyncio
import importlib
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
import types
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import pytest

from coordkit import (
    AsyncLeaderElector,
    AsyncTerm,
    BackendError,
    CampaignTimeout,
    CandidateInfo,
    ElectorClosed,
    FencingToken,
    LeaderElector,
    LeaderInfo,
    LeadershipLost,
    LossReason,
    Session,
    Term,
    TermState,
)
from coordkit.audit import judge, parse
from coordkit.backends.contract import Backend, Behind, Grant, Lost, Renewed
from coordkit.clock import new_candidate_id, system_clock
from coordkit.engine import current
from coordkit.registry import connect
from coordkit.registry import parse as parse_url

T = TypeVar("T")

SESSIONS = 30  # opened and closed, so that some are closed while something is on its way
SLACK = 8.0  # s: what a busy machine may add to anything that should be over by now

ELECTIONS_THAT_LOOK_ALIKE = ("a", "A", "ab", "a/b", "a%2Fb", "a%252Fb", "a/b/c", "a b", "a-b", "a_b", "b")
NAMES = ("büro/日本語", "crème brûlée", "🗳/🏛", 'it\'s "quoted"; --', "$(true) `x` {y} [z] *?", "%", "x" * 255)


class StoreUnderTest(Protocol):
    """A store that belongs to one test, and what the suite does to it behind the backs of the candidates."""

    def url(self) -> str:
        """The URL under which electors find it."""
        ...

    def entries(self, election: str) -> Sequence[str]:
        """The ids of the candidates that have a living entry in the store, asked without coordkit."""
        ...

    def cut(self) -> None:
        """From now on no claim and no renewal gets through: calls fail or hang."""
        ...

    def heal(self) -> None:
        """They get through again."""
        ...

    def evict(self, election: str) -> None:
        """Take the leader's entry out of the store, as an operator would."""
        ...


class Running(Generic[T]):
    """A call on a thread of its own, and its outcome."""

    def __init__(self, call: Callable[[], T]) -> None:
        self._outcome: SimpleQueue[tuple[T | None, BaseException | None]] = SimpleQueue()

        def run() -> None:
            try:
                self._outcome.put((call(), None))
            except BaseException as error:  # noqa: BLE001 - it is raised where the result is asked for
                self._outcome.put((None, error))

        threading.Thread(target=run, daemon=True).start()

    @property
    def done(self) -> bool:
        """Whether the outcome is there."""
        return not self._outcome.empty()

    def result(self, timeout: float) -> T:
        """What the call returned, or raise what it raised; fail if it takes longer."""
        try:
            value, error = self._outcome.get(timeout=timeout)
        except Empty:
            pytest.fail(f"not done within {timeout:g} s")
        if error is not None:
            raise error
        return value  # type: ignore[return-value]


class RecordingFence:
    """A fence that remembers, and refuses if it is told to."""

    def __init__(self) -> None:
        self.admitted: list[FencingToken] = []
        self.refuses: Exception | None = None

    def admit(self, token: FencingToken) -> None:
        if self.refuses is not None:
            raise self.refuses
        self.admitted.append(token)


def now() -> float:
    """Seconds, from some start."""
    return system_clock().now().mono


def eventually(condition: Callable[[], bool], what: str, within: float = SLACK) -> None:
    """Wait for something in the store, which tells nobody; fail if it does not come."""
    end = now() + within
    while not condition():
        if now() > end:
            pytest.fail(f"not within {within:g} s: {what}")
        time.sleep(0.005)


@types.coroutine
def interrupted_at(work: Coroutine[Any, Any, T], number: int, *, late: bool) -> Generator[Any, Any, tuple[int, T]]:
    """Await `work`, but cancel this task at its wait of that number: before what it waits for has come, or just after.

    Returns how often it has waited, and its result, if it ends before.
    """
    waits = 0
    task = asyncio.current_task()
    assert task is not None
    try:
        wanted = work.send(None)
        while True:
            waits += 1
            if waits == number:
                if late and wanted is not None:
                    wanted.add_done_callback(lambda _: task.cancel())
                else:
                    asyncio.get_running_loop().call_soon(task.cancel)
            try:
                value = yield wanted
            except BaseException as error:  # noqa: BLE001 - handed on, whatever it is
                wanted = work.throw(error)
            else:
                wanted = work.send(value)
    except StopIteration as end:
        return waits, end.value


@types.coroutine
def beside_at(
    work: Coroutine[Any, Any, T], number: int, other: Callable[[], Coroutine[Any, Any, object]]
) -> Generator[Any, Any, tuple[int, T]]:
    """Await `work`, but let `other` run to its end when the wait of that number is over, before `work` goes on.

    Returns how often `work` has waited, and its result.
    """
    waits = 0
    try:
        wanted = work.send(None)
        while True:
            waits += 1
            try:
                value = yield wanted
            except BaseException as error:  # noqa: BLE001 - handed on, whatever it is
                wanted = work.throw(error)
            else:
                if waits == number:
                    yield from other().__await__()
                wanted = work.send(value)
    except StopIteration as end:
        return waits, end.value


class BackendContract:
    """What every backend keeps. A subclass gives the fixture `store`; see the module."""

    ttl: ClassVar[float] = 2.0  # long enough for the store and for this machine
    shown_by: ClassVar[Mapping[str, str]] = {}
    """For each entry of `guarantees.survives` the test that shows it: a method here, or `module:name`."""

    @pytest.fixture
    def store(self) -> Iterator[StoreUnderTest]:
        """The store under test; the subclass's."""
        raise NotImplementedError("a subclass gives the fixture `store`")

    @pytest.fixture
    def elector(self, store: StoreUnderTest) -> Iterator[Callable[..., LeaderElector]]:
        """Makes electors on the store; they are closed after the test."""
        made: list[LeaderElector] = []

        def make(election: str = "contract", **options: Any) -> LeaderElector:
            made.append(LeaderElector(store.url(), election, **{"ttl": self.ttl, **options}))
            return made[-1]

        yield make
        store.heal()
        for each in made:
            each.close(timeout=SLACK)

    @property
    def lease(self) -> float:
        """Seconds within which a dead leader is followed, on a machine that is not busy."""
        return self.ttl * 1.1

    # --- one leads -------------------------------------------------------------------------------------------

    def test_one_leads_and_others_do_not(self, store: StoreUnderTest, elector: Callable[..., LeaderElector]) -> None:
        leader, second, third = elector(ttl=20.0), elector(ttl=20.0), elector(ttl=20.0)
        with leader.lead(timeout=SLACK) as term:
            assert second.try_campaign() is None
            with pytest.raises(CampaignTimeout):
                third.campaign(timeout=0.2)
            eventually(lambda: list(store.entries("contract")) == [term.candidate.id], "who gave up has left")
            assert term.valid
            assert term.state is TermState.LEADING
        successor = second.try_campaign()
        assert successor is not None
        successor.resign()

    def test_no_body_is_entered_unless_first(
        self, store: StoreUnderTest, elector: Callable[..., LeaderElector]
    ) -> None:
        inside: list[Term] = []
        tokens: list[int] = []
        wrong: list[str] = []

        def contend(candidate: LeaderElector) -> None:
            for _ in range(5):
                with candidate.lead(timeout=4 * SLACK) as term:
                    if inside:
                        wrong.append(f"{term} entered beside {inside}")
                    inside.append(term)
                    if list(store.entries("contract"))[:1] != [term.candidate.id]:
                        wrong.append(f"{term} entered, the store has {store.entries('contract')}")
                    tokens.append(int(term.token))
                    inside.remove(term)

        running = [Running(lambda each=each: contend(each)) for each in [elector(ttl=10.0) for _ in range(4)]]  # type: ignore[misc]
        for each in running:
            each.result(timeout=8 * SLACK)
        assert not wrong
        assert len(tokens) == 20
        assert tokens == sorted(set(tokens)), "tokens rise in the order of the bodies"

    def test_tokens_rise_whether_terms_are_resigned_or_abandoned(self, elector: Callable[..., LeaderElector]) -> None:
        tokens = []
        for resigned in (True, False, True, False, True):
            candidate = elector()
            term = candidate.campaign(timeout=self.lease + SLACK)
            tokens.append(term.token)
            if resigned:
                term.resign()
            else:
                candidate.close()
        assert all(low < high for low, high in itertools.pairwise(tokens)), tokens
        assert {token.election for token in tokens} == {"contract"}

    def test_two_electors_on_one_session_contend(self, store: StoreUnderTest) -> None:
        with Session(store.url()) as session:
            first = LeaderElector(session, "contract", ttl=20.0)
            second = LeaderElector(session, "contract", ttl=20.0)
            term = first.campaign(timeout=SLACK)
            assert second.try_campaign() is None
            term.resign()
            successor = second.campaign(timeout=SLACK)
            assert successor.token > term.token
            successor.resign()

    def test_a_closed_session_leaves_no_task(self, store: StoreUnderTest) -> None:
        loop = current().loop
        before = asyncio.all_tasks(loop)
        for _ in range(SESSIONS):
            with Session(store.url()):
                pass
        eventually(lambda: not asyncio.all_tasks(loop) - before, "what its sessions have started is over")

    def test_all_elections_of_a_session_are_renewed(self, elector: Callable[..., LeaderElector]) -> None:
        terms = [elector(f"many/{number}").campaign(timeout=SLACK) for number in range(20)]
        assert not terms[-1].wait_ended(2 * self.ttl)
        assert all(term.valid for term in terms)
        for term in terms:
            term.resign()

    # --- and then another ------------------------------------------------------------------------------------

    def test_a_resignation_hands_over_at_once(self, elector: Callable[..., LeaderElector]) -> None:
        ttl = 60.0
        term = elector(ttl=ttl).campaign(timeout=SLACK)
        _, running = self.contend(elector, ttl)
        time.sleep(0.2)  # nobody tells when it waits; if it does not yet, this measures its first attempt, no less
        start = now()
        term.resign()
        after = running.result(timeout=ttl)
        assert now() - start < SLACK, "a handover is pushed, far below the ttl"
        assert after.token > term.token
        after.resign()

    def test_a_leader_that_vanishes_is_followed_when_its_lease_has_run_out(
        self, store: StoreUnderTest, elector: Callable[..., LeaderElector]
    ) -> None:
        vanishing = elector()
        term = vanishing.campaign(timeout=SLACK)
        running = Running(elector().campaign)
        left, start = term.remaining(), now()
        token = int(term.token)
        vanishing.close()
        assert not term.valid
        successor = running.result(timeout=self.lease + 2 * SLACK)
        assert now() - start >= left - 0.01, "not before"
        assert now() - start < self.lease + SLACK, "and not much later"
        assert int(term.token) == token < int(successor.token), "a token that is read late is not the successor's"
        successor.resign()
        eventually(lambda: not store.entries("contract"), "nothing is left")

    # --- a lease ---------------------------------------------------------------------------------------------

    def test_renewals_keep_a_term(self, elector: Callable[..., LeaderElector]) -> None:
        leader, other = elector(), elector()
        with leader.lead(timeout=SLACK) as term:
            end = now() + 3 * self.ttl
            while now() < end:
                assert other.try_campaign() is None
                assert not term.wait_ended(self.ttl / 4)
                term.ensure()
                assert 0 < term.remaining() <= self.ttl
            seen = other.leader()
            assert seen is not None
            assert seen.token == term.token

    def test_a_term_that_cannot_be_renewed_ends_by_its_own_clock(
        self, store: StoreUnderTest, elector: Callable[..., LeaderElector]
    ) -> None:
        told: SimpleQueue[Term] = SimpleQueue()
        leader = elector()
        term = leader.campaign(timeout=SLACK)
        term.on_lost(told.put)
        store.cut()
        start = now()
        assert term.wait_ended(self.ttl + SLACK)
        assert now() - start < self.ttl + SLACK / 4
        assert told.get(timeout=SLACK) is term
        assert (term.state, term.reason) == (TermState.LOST, LossReason.EXPIRED)
        with pytest.raises(LeadershipLost):
            term.ensure()
        with pytest.raises(CampaignTimeout):
            elector().campaign(timeout=0.2)
        store.heal()
        successor = elector().campaign(timeout=self.lease + 2 * SLACK)
        assert successor.token > term.token
        # What was under way when it was lost has arrived by now, and has revived nothing.
        assert not term.valid
        assert told.empty(), "on_lost is called once"
        assert not successor.wait_ended(self.ttl)
        successor.resign()

    def test_an_evicted_leader_notices(self, store: StoreUnderTest, elector: Callable[..., LeaderElector]) -> None:
        term = elector().campaign(timeout=SLACK)
        start = now()
        store.evict("contract")
        assert term.wait_ended(self.ttl + SLACK)
        assert now() - start < self.ttl / 2 + SLACK / 4, "at the next renewal, if no hint comes before"
        assert (term.state, term.reason) == (TermState.LOST, LossReason.REVOKED)
        successor = elector().campaign(timeout=self.lease + SLACK)
        assert successor.token > term.token
        successor.resign()

    def test_confirm_asks_the_store(self, store: StoreUnderTest, elector: Callable[..., LeaderElector]) -> None:
        term = elector(ttl=20.0).campaign(timeout=SLACK)
        term.confirm()
        store.evict("contract")
        with pytest.raises(LeadershipLost) as lost:
            term.confirm()
        assert lost.value.term is term
        assert term.reason is LossReason.REVOKED

    # --- leaving nothing behind ------------------------------------------------------------------------------

    def test_resign_is_idempotent_and_leaves_nothing(
        self, store: StoreUnderTest, elector: Callable[..., LeaderElector]
    ) -> None:
        told: list[Term] = []
        candidate = elector(ttl=20.0)
        term = candidate.campaign(timeout=SLACK)
        term.on_lost(told.append)
        assert list(store.entries("contract")) == [term.candidate.id]
        term.resign()
        assert not store.entries("contract")
        term.resign()
        assert (term.state, term.reason) == (TermState.RESIGNED, None)
        assert not term.valid
        assert term.remaining() == 0.0
        again = candidate.campaign(timeout=SLACK)
        term.resign()
        assert list(store.entries("contract")) == [again.candidate.id], "an old term's resign leaves the new one alone"
        assert again.candidate.id != term.candidate.id
        again.resign()
        assert not told

    def test_a_cancelled_campaign_leaves_nothing(self, store: StoreUnderTest) -> None:
        async def main() -> None:
            elector = AsyncLeaderElector(store.url(), "contract", ttl=60.0)
            for delay in (0.0, 0.0, 0.0, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.008, 0.013, 0.02, 0.03):
                task = asyncio.create_task(elector.campaign())
                for _ in range(3):
                    await asyncio.sleep(0)
                await asyncio.sleep(delay)
                task.cancel()
                try:
                    term = await task
                except asyncio.CancelledError:
                    continue
                await term.resign()
            term = await elector.campaign(timeout=2 * SLACK)
            await term.resign()
            await elector.close()

        asyncio.run(main())
        eventually(lambda: not store.entries("contract"), "no entry of a cancelled campaign is left")

    def test_a_campaign_without_answers_leaves_nothing(
        self, store: StoreUnderTest, elector: Callable[..., LeaderElector]
    ) -> None:
        elector(ttl=6.0).campaign(timeout=SLACK).resign()  # connected: only the store is out of reach
        candidate = elector(ttl=6.0)
        store.cut()
        with pytest.raises(CampaignTimeout) as failed:
            candidate.campaign(timeout=2.5)
        assert isinstance(failed.value.__cause__, BackendError), "it says why"
        store.heal()
        elector(ttl=6.0).campaign(timeout=6.0 + SLACK).resign()
        eventually(lambda: not store.entries("contract"), "an entry that may have been made is removed", 2 * SLACK)

    def test_an_attempt_interrupted_at_any_await_leaves_nothing(self, store: StoreUnderTest) -> None:
        async def main(backend: Backend) -> int:
            most = 0
            for late in (False, True):
                for number in itertools.count(1):
                    candidacy = backend.candidacy("contract", candidate("interrupted"), 60.0)
                    try:
                        waits, answer = await asyncio.create_task(
                            _awaited(interrupted_at(candidacy.attempt(), number, late=late))
                        )
                    except asyncio.CancelledError:
                        await candidacy.resign()
                        left = await current().offload(lambda: store.entries("contract"))
                        assert not left, f"interrupted at its wait {number} ({late=})"
                        continue
                    most = max(most, waits)
                    assert isinstance(answer, Grant), "what was interrupted before stands in nobody's way"
                    await candidacy.resign()
                    break
            return most

        assert self.on_backend(store, main) >= 1, "an attempt has awaits at which it can be interrupted"
        assert not store.entries("contract")

    def test_an_attempt_interrupted_at_any_await_and_repeated_wins_for_good(self, store: StoreUnderTest) -> None:
        async def main(backend: Backend) -> None:
            for late in (False, True):
                for number in itertools.count(1):
                    mine = backend.candidacy("contract", candidate("interrupted"), 60.0)
                    finished = False
                    try:
                        await asyncio.create_task(_awaited(interrupted_at(mine.attempt(), number, late=late)))
                        finished = True
                    except asyncio.CancelledError:
                        pass
                    grant = await mine.attempt()
                    assert isinstance(grant, Grant), f"interrupted at its wait {number} ({late=})"
                    (answer,) = await backend.renew([grant])
                    assert isinstance(answer, Renewed)
                    assert len(await current().offload(lambda: store.entries("contract"))) == 1
                    await mine.resign()
                    if finished:
                        break

        self.on_backend(store, main)
        assert not store.entries("contract")

    @pytest.mark.parametrize("evicted", [False, True])
    def test_a_resignation_interrupted_at_any_await_and_repeated_is_done(
        self, evicted: bool, store: StoreUnderTest
    ) -> None:
        async def main(backend: Backend) -> None:
            for late in (False, True):
                for number in itertools.count(1):
                    mine = backend.candidacy("contract", candidate("interrupted"), 60.0)
                    assert isinstance(await mine.attempt(), Grant), "nobody who has resigned is waited for"
                    if evicted:
                        await current().offload(lambda: store.evict("contract"))
                    finished = False
                    try:
                        await asyncio.create_task(_awaited(interrupted_at(mine.resign(), number, late=late)))
                        finished = True
                    except asyncio.CancelledError:
                        await mine.resign()
                    left = await current().offload(lambda: store.entries("contract"))
                    assert not left, f"interrupted at its wait {number} ({late=})"
                    if finished:
                        break
            last = backend.candidacy("contract", candidate("last"), 60.0)
            assert isinstance(await last.attempt(), Grant)
            await last.resign()

        self.on_backend(store, main)

    def test_each_grant_gets_its_own_answer_while_one_of_them_is_resigned(self, store: StoreUnderTest) -> None:
        async def waits_of_a_round(backend: Backend, number: int) -> int:
            leaving, gone, kept = (backend.candidacy(name, candidate(name), 60.0) for name in ("x", "y", "z"))
            grants = [await each.attempt() for each in (leaving, gone, kept)]
            held = [grant for grant in grants if isinstance(grant, Grant)]
            assert held == grants
            await current().offload(lambda: store.evict("y"))
            resigning: list[asyncio.Task[None]] = []

            async def resign() -> None:
                resigning.append(asyncio.create_task(leaving.resign()))
                await asyncio.wait(resigning, timeout=SLACK / 4)  # it may be made to wait for the renewal

            async def renew() -> Sequence[object]:
                return await backend.renew(held)

            waits: int
            waits, answers = await asyncio.create_task(_awaited(beside_at(renew(), number, resign)))
            await asyncio.gather(*resigning)
            assert len(answers) == 3
            assert isinstance(answers[1], Lost), f"resigned at wait {number} of the renewal"
            assert isinstance(answers[2], Renewed), f"resigned at wait {number} of the renewal"
            for each in (leaving, gone, kept):
                await each.resign()
            return waits

        async def main(backend: Backend) -> None:
            for number in itertools.count(1):
                if await waits_of_a_round(backend, number) < number:
                    break

        self.on_backend(store, main)
        assert not any(store.entries(name) for name in ("x", "y", "z"))

    def test_a_late_clean_up_hits_only_its_own_entry(self, store: StoreUnderTest) -> None:
        async def main(backend: Backend) -> None:
            early = backend.candidacy("contract", candidate("early"), 60.0)
            assert isinstance(await early.attempt(), Grant)
            await early.resign()
            late = backend.candidacy("contract", candidate("late"), 60.0)
            grant = await late.attempt()
            assert isinstance(grant, Grant)
            await early.resign()
            (answer,) = await backend.renew([grant])
            assert isinstance(answer, Renewed)
            await late.resign()
            await late.resign()

        self.on_backend(store, main)
        assert not store.entries("contract")

    def test_an_attempt_repeated_is_the_same_entry(self, store: StoreUnderTest) -> None:
        """As after a reply that was lost: the second answer tells of the first entry."""

        async def main(backend: Backend) -> None:
            mine = backend.candidacy("contract", candidate("mine"), 60.0)
            first = await mine.attempt()
            second = await mine.attempt()
            assert isinstance(first, Grant)
            assert isinstance(second, Grant)
            assert second.token == first.token
            other = backend.candidacy("contract", candidate("other"), 60.0)
            behind = await other.attempt()
            assert isinstance(behind, Behind)
            assert behind.alive
            await mine.resign()
            await other.attempt()
            (answer,) = await backend.renew([second])
            assert isinstance(answer, Lost), "what was resigned is not renewed"
            await other.resign()

        self.on_backend(store, main)
        assert not store.entries("contract")

    def test_a_promise_counts_from_before_it_was_asked_for(self, store: StoreUnderTest) -> None:
        async def main(backend: Backend) -> None:
            mine = backend.candidacy("contract", candidate("mine"), 60.0)
            before = current().clock.now()
            grant = await mine.attempt()
            after = current().clock.now()
            assert isinstance(grant, Grant)
            assert before.boot <= grant.promise.sent.boot <= after.boot
            assert grant.promise.span < 60.0 * (1 - backend.drift)
            before = current().clock.now()
            (answer,) = await backend.renew([grant])
            assert isinstance(answer, Renewed)
            assert before.boot <= answer.promise.sent.boot <= current().clock.now().boot
            await mine.resign()

        self.on_backend(store, main)

    # --- names and texts -------------------------------------------------------------------------------------

    def test_elections_whose_names_look_alike_never_meet(
        self, store: StoreUnderTest, elector: Callable[..., LeaderElector]
    ) -> None:
        terms = {name: elector(name, ttl=20.0).campaign(timeout=SLACK) for name in ELECTIONS_THAT_LOOK_ALIKE}
        for name, term in terms.items():
            assert list(store.entries(name)) == [term.candidate.id]
            seen = elector(name).leader()
            assert seen == LeaderInfo(term.candidate, term.token)
        terms.pop("a").resign()
        assert not store.entries("a")
        assert all(list(store.entries(name)) == [term.candidate.id] for name, term in terms.items())
        for term in terms.values():
            term.resign()

    @pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
    def test_any_name_that_is_allowed_is_an_election(
        self, name: str, store: StoreUnderTest, elector: Callable[..., LeaderElector]
    ) -> None:
        with elector(name, ttl=20.0, label=name[:20]).lead(timeout=SLACK) as term:
            assert elector(name).try_campaign() is None
            assert elector(name).leader() == LeaderInfo(term.candidate, term.token)
            assert (term.election, term.candidate.label) == (name, name[:20])
        assert not store.entries(name)

    def test_metadata_of_any_kind_and_size(self, elector: Callable[..., LeaderElector]) -> None:
        for metadata in ("", "é" * 32768, "line\nbreak\ttab \"quotes\" 'single' \\ %s {x} \x01 🗳", "x" * 65536):
            with elector(ttl=20.0, metadata=metadata).lead(timeout=SLACK) as term:
                seen = elector().leader()
                assert seen is not None
                assert seen.candidate.metadata == metadata
                assert seen.metadata == metadata
                term.proclaim(metadata[::-1])
                seen = elector().leader()
                assert seen is not None
                assert seen.metadata == metadata[::-1]

    # --- looking ---------------------------------------------------------------------------------------------

    def test_leader_tells_of_a_vacancy_a_leader_and_a_proclamation(self, elector: Callable[..., LeaderElector]) -> None:
        leader, other = elector(ttl=20.0, label="me", metadata="first"), elector()
        assert other.leader() is None
        term = leader.campaign(timeout=SLACK)
        assert other.leader() == LeaderInfo(term.candidate, term.token, "first")
        assert term.candidate == CandidateInfo(term.candidate.id, "me", "first")
        term.proclaim("second")
        assert other.leader() == LeaderInfo(term.candidate, term.token, "second")
        term.resign()
        assert other.leader() is None
        with pytest.raises(LeadershipLost):
            term.proclaim("third")
        assert other.leader() is None

    def test_a_leader_that_vanished_is_a_vacancy_in_the_end(self, elector: Callable[..., LeaderElector]) -> None:
        vanishing, other = elector(), elector()
        term = vanishing.campaign(timeout=SLACK)
        vanishing.close()
        seen = other.leader()
        assert seen is None or seen.token == term.token
        eventually(lambda: other.leader() is None, "the vacancy is seen", self.lease + SLACK)

    def test_candidates_are_in_the_order_of_election(
        self, store: StoreUnderTest, elector: Callable[..., LeaderElector]
    ) -> None:
        """`guarantees.fifo` says whether there is a queue, whose order is that of arrival; else the leader is alone."""
        fifo = Session(store.url()).guarantees.fifo
        labels = ["first", "second", "third"]
        electors = [elector(ttl=20.0, label=label) for label in labels]
        assert electors[0].candidates() == ()
        term = electors[0].campaign(timeout=SLACK)
        waiting: dict[str, Running[Term]] = {}
        for number, each in enumerate(electors[1:], start=2):
            waiting[labels[number - 1]] = Running(each.campaign)
            if fifo:
                eventually(lambda number=number: len(store.entries("contract")) == number, "it has queued up")  # type: ignore[misc]
        expected = labels if fifo else labels[:1]
        assert [each.label for each in elector().candidates()] == expected
        elected = []
        for _ in range(2):
            term.resign()
            eventually(lambda: any(each.done for each in waiting.values()), "another is elected")
            label = next(label for label, each in waiting.items() if each.done)
            term = waiting.pop(label).result(SLACK)
            elected.append(label)
        assert sorted(elected) == ["second", "third"]
        if fifo:
            assert elected == ["second", "third"]
        term.resign()

    def test_observe_tells_the_present_first_and_then_what_moves(self, elector: Callable[..., LeaderElector]) -> None:
        leader, other = elector(ttl=20.0), elector()
        vacancy = next(other.observe())
        assert vacancy is None
        first = leader.campaign(timeout=SLACK)
        states: SimpleQueue[LeaderInfo | None] = SimpleQueue()
        seen: list[LeaderInfo | None] = []

        def follow() -> None:
            for state in other.observe():
                states.put(state)

        following = Running(follow)

        def until(state: LeaderInfo | None) -> None:
            while not seen or seen[-1] != state:
                seen.append(states.get(timeout=2 * SLACK))

        until(LeaderInfo(first.candidate, first.token))
        assert len(seen) == 1, "the present state comes first"
        first.proclaim("busy")
        until(LeaderInfo(first.candidate, first.token, "busy"))
        first.resign()
        until(None)
        terms = []
        for _ in range(3):
            term = leader.campaign(timeout=SLACK)
            until(LeaderInfo(term.candidate, term.token))
            term.resign()
            terms.append(term)
        until(None)
        tokens = [int(state.token) for state in seen if state is not None]
        assert tokens == sorted(tokens), "tokens never fall"
        assert all(one != two for one, two in itertools.pairwise(seen)), "nothing is told twice in a row"
        other.close()
        with pytest.raises(ElectorClosed):
            following.result(timeout=SLACK)

    # --- conditions ------------------------------------------------------------------------------------------

    def test_hold_keeps_the_seat(self, elector: Callable[..., LeaderElector]) -> None:
        hold = 1.5 * self.ttl
        start = now()
        with elector(hold=hold).lead(timeout=SLACK) as term:
            other = elector()
            assert other.try_campaign() is None
            leaving = Running(term.resign)
            while now() - start < hold - 0.2:
                assert other.try_campaign() is None
                assert not term.wait_ended(0.1)
            leaving.result(timeout=SLACK)
        assert now() - start >= hold - 0.01
        successor = other.campaign(timeout=SLACK)
        assert successor.token > term.token
        successor.resign()

    def test_eligible_is_asked_before_and_after_the_win(
        self, store: StoreUnderTest, elector: Callable[..., LeaderElector]
    ) -> None:
        answers = {"now": False}
        asked: list[bool] = []

        def eligible() -> bool:
            asked.append(bool(store.entries("contract")))
            return answers["now"]

        candidate = elector(ttl=1.5, eligible=eligible)
        with pytest.raises(CampaignTimeout):
            candidate.campaign(timeout=0.3)
        assert not store.entries("contract"), "who is not eligible does not contend"
        running = Running(lambda: candidate.campaign(timeout=2 * SLACK))
        answers["now"] = True
        asked.clear()
        term = running.result(timeout=2 * SLACK)
        assert True in asked, "it is asked again after the win"
        term.resign()

    def test_a_waiter_that_is_not_eligible_any_more_leaves_the_queue(
        self, store: StoreUnderTest, elector: Callable[..., LeaderElector]
    ) -> None:
        answers = {"now": True}
        asked = threading.Event()

        def eligible() -> bool:
            asked.set()
            return answers["now"]

        term = elector(ttl=20.0).campaign(timeout=SLACK)
        running = Running(lambda: elector(ttl=1.5, eligible=eligible).campaign(timeout=2 * SLACK))
        assert asked.wait(SLACK)
        answers["now"] = False
        eventually(lambda: list(store.entries("contract")) == [term.candidate.id], "it has left", 1.5 + SLACK)
        term.resign()
        successor = elector(ttl=20.0).campaign(timeout=SLACK)
        successor.resign()
        answers["now"] = True
        running.result(timeout=2 * SLACK).resign()

    def test_fences_see_the_token_before_the_body(self, elector: Callable[..., LeaderElector]) -> None:
        fence = RecordingFence()
        candidate = elector(ttl=20.0, fences=[fence])

        def newest(term: Term) -> FencingToken:
            assert fence.admitted[-1] == term.token
            return term.token

        with candidate.lead(timeout=SLACK) as term:
            newest(term)
        term = candidate.campaign(timeout=SLACK)
        newest(term)
        term.resign()
        tried = candidate.try_campaign()
        assert tried is not None
        newest(tried)
        tried.resign()
        candidate.run(newest)
        candidate.start()
        eventually(lambda: candidate.term is not None, "it is elected in the background")
        assert candidate.term is not None
        newest(candidate.term)
        assert len(fence.admitted) == 5
        assert fence.admitted == sorted(fence.admitted)

    def test_a_fence_that_refuses_ends_the_term(
        self, store: StoreUnderTest, elector: Callable[..., LeaderElector]
    ) -> None:
        fence = RecordingFence()
        fence.refuses = RuntimeError("the resource is down")
        with pytest.raises(RuntimeError, match="the resource is down"):
            elector(ttl=20.0, fences=[fence]).campaign(timeout=SLACK)
        eventually(lambda: not store.entries("contract"), "the term was released")
        elector(ttl=20.0).campaign(timeout=SLACK).resign()

    def test_try_campaign_gives_up_only_on_a_sign_of_life(self, elector: Callable[..., LeaderElector]) -> None:
        leader, other = elector(), elector()
        term = leader.campaign(timeout=SLACK)
        assert other.try_campaign() is None
        leader.close()
        start = now()
        won: list[Term] = []

        def tried() -> bool:
            found = other.try_campaign()
            if found is not None:
                won.append(found)
            return found is not None

        eventually(tried, "a dead leader is taken over from", self.lease + SLACK)
        assert now() - start < self.lease + SLACK
        assert won[0].token > term.token
        won[0].resign()

    def test_close_under_an_open_block_releases_when_the_body_is_over(
        self, store: StoreUnderTest, elector: Callable[..., LeaderElector]
    ) -> None:
        told = threading.Event()
        leader, waiter = elector(ttl=20.0), elector(ttl=20.0)
        running: list[Running[Term]] = []

        def body(term: Term) -> None:
            term.on_lost(lambda _: told.set())
            running.append(Running(waiter.campaign))
            leader.close(timeout=0.2)
            assert (term.state, term.reason) == (TermState.LOST, LossReason.CLOSED)
            assert told.wait(SLACK)
            assert store.entries("contract")[0] == term.candidate.id, "the body still runs"
            assert not running[0].done
            with pytest.raises(ElectorClosed):
                leader.campaign()

        with pytest.raises(LeadershipLost) as lost:
            lead(leader, body)
        assert lost.value.reason is LossReason.CLOSED
        successor = running[0].result(timeout=SLACK)
        assert successor.token > lost.value.term.token
        successor.resign()

    def test_close_ends_waits(self, store: StoreUnderTest, elector: Callable[..., LeaderElector]) -> None:
        term = elector(ttl=20.0).campaign(timeout=SLACK)
        waiter, running = self.contend(elector, 20.0)
        waiter.close(timeout=SLACK)
        with pytest.raises(ElectorClosed):
            running.result(timeout=SLACK)
        eventually(lambda: list(store.entries("contract")) == [term.candidate.id], "it has left the queue")
        waiter.close()
        term.resign()

    # --- async -----------------------------------------------------------------------------------------------

    def test_the_async_face_leads_hands_over_and_loses(self, store: StoreUnderTest) -> None:
        tokens: list[int] = []

        async def evicted(term: AsyncTerm) -> None:
            tokens.append(int(term.token))
            store.evict("contract")
            try:
                await asyncio.sleep(60.0)  # cut short by the loss
            except asyncio.CancelledError:
                assert term.reason is LossReason.REVOKED
                raise
            pytest.fail("the body was not cancelled")

        async def main() -> None:
            async with async_elector(store, 60.0) as one, async_elector(store, 60.0) as two:
                async with one.lead(timeout=SLACK) as term:
                    tokens.append(int(term.token))
                    assert await two.try_campaign() is None
                    waiting = asyncio.create_task(two.campaign(timeout=60.0))
                    await term.confirm()
                    await term.proclaim("from async")
                    seen = await two.leader()
                    assert seen == LeaderInfo(term.candidate, term.token, "from async")
                    assert (await two.candidates())[0] == term.candidate
                successor = await asyncio.wait_for(waiting, SLACK)
                tokens.append(int(successor.token))
                await successor.resign()
            async with async_elector(store, self.ttl) as one:
                with pytest.raises(LeadershipLost):
                    await lead_async(one, evicted)

        asyncio.run(main())
        assert len(tokens) == 3
        assert tokens == sorted(set(tokens))

    def test_a_cancelled_resignation_frees_the_seat_or_can_be_repeated(self, store: StoreUnderTest) -> None:
        async def main() -> None:
            async with async_elector(store, 60.0) as one, async_elector(store, 60.0) as two:
                for turns in range(4):
                    term = await one.campaign(timeout=SLACK)
                    resigning = asyncio.create_task(term.resign())
                    for _ in range(turns):
                        await asyncio.sleep(0)
                    resigning.cancel()
                    await asyncio.wait({resigning})
                    if term.valid:  # it was cancelled before it began
                        await term.resign()
                    successor = await two.campaign(timeout=SLACK)
                    assert successor.token > term.token
                    await successor.resign()

        asyncio.run(main())
        assert not store.entries("contract")

    # --- what it promises ------------------------------------------------------------------------------------

    def test_guarantees_name_the_backend_and_say_what_they_mean(self, store: StoreUnderTest) -> None:
        with Session(store.url()) as session:
            promised = session.guarantees
        assert promised.backend == store.url().partition(":")[0].partition("+")[0]
        assert promised.token, "tests above see tokens rise; this says why"
        assert isinstance(promised.fifo, bool), "read by test_candidates_are_in_the_order_of_election"
        faults = (*promised.survives, *promised.not_covered)
        assert promised.survives
        assert promised.not_covered
        assert len(set(faults)) == len(faults)
        assert all(faults)

    def test_each_fault_that_is_survived_is_shown_by_a_test(self, store: StoreUnderTest) -> None:
        assert set(self.shown_by) == set(Session(store.url()).guarantees.survives)
        for test in self.shown_by.values():
            module, _, name = test.rpartition(":")
            shown = getattr(importlib.import_module(module), name) if module else getattr(self, name)
            assert callable(shown)

    def contend(self, elector: Callable[..., LeaderElector], ttl: float) -> tuple[LeaderElector, Running[Term]]:
        """An elector, and its campaign on a thread of its own, which has begun."""
        begun = threading.Event()

        def eligible() -> bool:
            begun.set()
            return True

        candidate = elector(ttl=ttl, eligible=eligible)
        running = Running(candidate.campaign)
        assert begun.wait(SLACK)
        return candidate, running

    # --- on the backend itself -------------------------------------------------------------------------------

    def on_backend(self, store: StoreUnderTest, main: Callable[[Backend], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine on the engine with a backend of its own."""
        engine = current()

        async def run() -> T:
            backend = connect(parse_url(store.url()), engine, 60.0)
            await backend.open()
            try:
                return await main(backend)
            finally:
                await backend.close()

        return engine.ask(run, timeout=8 * SLACK)


class SharedBackendContract(BackendContract):
    """What a backend keeps among processes that share its store."""

    def test_a_killed_leader_is_followed(self, store: StoreUnderTest, elector: Callable[..., LeaderElector]) -> None:
        with Child(store.url(), self.ttl) as child:
            token = child.leading()
            assert elector().try_campaign() is None
            start = now()
            child.process.kill()
            successor = elector().campaign(timeout=self.lease + 2 * SLACK)
            assert now() - start < self.lease + SLACK
            assert int(successor.token) > token
            successor.resign()

    def test_a_paused_leader_is_followed_and_knows_when_it_wakes(
        self, store: StoreUnderTest, elector: Callable[..., LeaderElector]
    ) -> None:
        with Child(store.url(), self.ttl) as child:
            token = child.leading()
            os.kill(child.process.pid, signal.SIGSTOP)
            successor = elector().campaign(timeout=self.lease + 2 * SLACK)
            assert int(successor.token) > token
            os.kill(child.process.pid, signal.SIGCONT)
            assert child.line(SLACK) == f"lost {LossReason.EXPIRED.value}"
            assert not successor.wait_ended(self.ttl), "and does not disturb its successor"
            successor.resign()
            assert child.leading(SLACK) > int(successor.token)

    def test_a_leader_in_another_process_hands_over_at_once(
        self, store: StoreUnderTest, elector: Callable[..., LeaderElector]
    ) -> None:
        with Child(store.url(), 60.0) as child:
            child.leading()
            _, running = self.contend(elector, 60.0)
            child.ask_to_end()
            running.result(timeout=2 * SLACK).resign()

    def test_processes_never_lead_beside_each_other(self, store: StoreUnderTest, tmp_path: Path) -> None:
        journal = tmp_path / "journal"
        children = [Child(store.url(), 5.0, 0.02, journal) for _ in range(3)]
        try:
            eventually(lambda: journal.exists() and journal.read_bytes().count(b'"won"') >= 30, "30 terms", 4 * SLACK)
        finally:
            for child in children:
                child.close()
        records, cut = parse(journal.read_bytes())
        report = judge(records, cut=cut)
        assert not report.violations
        assert report.terms >= 30
        assert len({record["pid"] for record in records if record.get("event") == "won"}) > 1, "not one of them alone"


class Child:
    """`coordkit.testing.candidate` in a process of its own."""

    def __init__(self, url: str, ttl: float, seconds: float | None = None, journal: Path | None = None) -> None:
        arguments = [url, "contract", str(ttl), *([] if seconds is None else [str(seconds)])]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "coordkit.testing.candidate", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **({} if journal is None else {"COORDKIT_JOURNAL": str(journal)})},
        )
        self._lines: SimpleQueue[str] = SimpleQueue()
        self._reading = threading.Thread(target=self._read, daemon=True)
        self._reading.start()

    def leading(self, timeout: float = 2 * SLACK) -> int:
        """Wait until it leads; its token."""
        assert self.line(timeout).startswith("candidate ")
        word, _, token = self.line(timeout).partition(" ")
        assert word == "leading"
        return int(token)

    def line(self, timeout: float) -> str:
        """The next line that it prints."""
        try:
            return self._lines.get(timeout=timeout)
        except Empty:
            pytest.fail(f"it has said nothing for {timeout:g} s")

    def ask_to_end(self) -> None:
        """Close its standard input."""
        assert self.process.stdin is not None
        self.process.stdin.close()

    def close(self) -> None:
        """Let it end; kill it if it does not."""
        if self.process.stdin is not None and not self.process.stdin.closed:
            self.process.stdin.close()
        try:
            self.process.wait(timeout=2 * SLACK)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._reading.join(timeout=SLACK)
        assert self.process.stdout is not None
        self.process.stdout.close()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line.rstrip("\n"))

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@asynccontextmanager
async def async_elector(store: StoreUnderTest, ttl: float) -> AsyncIterator[AsyncLeaderElector]:
    """An async elector, closed in the end."""
    elector = AsyncLeaderElector(store.url(), "contract", ttl=ttl)
    try:
        yield elector
    finally:
        await elector.close()


def lead(elector: LeaderElector, body: Callable[[Term], None]) -> None:
    """Run a body under a term, once."""
    with elector.lead(timeout=SLACK) as term:
        body(term)


async def lead_async(elector: AsyncLeaderElector, body: Callable[[AsyncTerm], Coroutine[Any, Any, None]]) -> None:
    """Run a body under a term, once."""
    async with elector.lead(timeout=SLACK) as term:
        await body(term)


def candidate(label: str) -> CandidateInfo:
    """A candidate that no elector has made."""
    return CandidateInfo(new_candidate_id(label, current().chance), label)


async def _awaited(work: Any) -> Any:
    return await work
