"""From candidate to term and back: the engine's side of one elector.

The rules: a win is handed over only after the journal has it, `eligible` has said yes again and every fence has
admitted its token; whoever stops waiting abandons the entry, and the entry is removed from the store by its own id.
Waiting rests on `attempt` and on time; hints only shorten it.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from coordkit.backends.contract import Behind, Candidacy, Confirmed, Grant, Host
from coordkit.clock import new_candidate_id
from coordkit.errors import (
    BackendError,
    CampaignTimeout,
    ElectorBusy,
    ElectorClosed,
    OutcomeUnknown,
    Unavailable,
)
from coordkit.lease import Instant, waited_for
from coordkit.model import CandidateInfo, Fence, FencingToken, LeaderInfo, LossReason, TermState
from coordkit.observation import Observation
from coordkit.retry import by_clock, jitter
from coordkit.session import Keeper
from coordkit.term import Tenure
from coordkit.waiting import bounded, uncancelled

T = TypeVar("T")

CALLS_PER_TTL = 3  # one call of a campaign takes at most ttl/3


class Patience(enum.Enum):
    """How long a campaign goes on behind a living leader."""

    WAIT = "wait"  # until elected, or the caller's timeout
    TRY = "try"  # until somebody else is seen alive


@dataclass(frozen=True, slots=True)
class Spec:
    """What an elector was told in its constructor."""

    election: str
    ttl: float
    label: str
    metadata: str
    eligible: Callable[[], bool] | None
    hold: float
    fences: Sequence[Fence]


def _somebody() -> object:
    """The owner of an entry that is never given up by being garbage."""
    return True


class Entry:
    """One campaign and its term. `ticket` is the number under which the application's side knows it."""

    def __init__(self, ticket: int, owner: Callable[[], object], *, block: bool) -> None:
        self.ticket = ticket
        self.owner = owner  # None: whoever wanted it is garbage, and an interrupt may have kept that from being told
        self.block = block  # a `with` block runs under the term: the elector is busy until it is left
        self.task: asyncio.Task[object] | None = asyncio.current_task()
        self.candidacy: Candidacy | None = None
        self.tenure: Tenure | None = None
        self.failure: BackendError | None = None  # the last one, to be the cause of a timeout


class Desk:
    """The engine's side of one elector: at most one entry at a time. Lives on the host's loop."""

    def __init__(self, host: Host, keeper: Keeper, spec: Spec) -> None:
        self.host = host
        self.keeper = keeper
        self.spec = spec
        self.closed = False
        self._entry: Entry | None = None
        self._unanswered = False  # `eligible` was asked and has not come back
        self._following: set[Observation] = set()
        self._reading: set[asyncio.Task[Any]] = set()
        self._vacated = asyncio.Event()  # set whenever there is no entry any more
        self._contending: asyncio.Task[None] | None = None
        self._cancelled: asyncio.Task[object] | None = None  # the campaign that `close` interrupted
        self._parted: asyncio.Task[None] | None = None
        self._joined = True
        keeper.join(self, self.close)

    # --- campaigning -----------------------------------------------------------------------------------------

    async def campaign(
        self,
        ticket: int,
        patience: Patience,
        timeout: float | None,
        *,
        block: bool,
        owner: Callable[[], object] = _somebody,
    ) -> Tenure | None:
        """Contend until elected. None (with TRY only): somebody else was seen alive during the call.

        Raises CampaignTimeout, ElectorBusy, ElectorClosed, Rejected, Misconfigured, or what a fence raises.
        Cancelled or failed, it leaves nothing in the store for longer than the clean-up takes.
        """
        self._check_open()
        if self._entry is not None and self._entry.tenure is not None:
            self.keeper.settle(self._entry.tenure)  # its owner may have seen its end before the engine has
        if self._entry is not None:
            self._look_after(self._entry)
        if self._entry is not None:
            raise ElectorBusy(f"this elector of {self.spec.election!r} has a campaign or a term already")
        entry = self._entry = Entry(ticket, owner, block=block)
        scope = asyncio.timeout(timeout)
        try:
            async with scope:
                tenure = await self._elected(entry, patience)
        except TimeoutError as error:
            self._abandon(entry)
            if not scope.expired():
                raise
            cause = entry.failure or error
            raise CampaignTimeout(f"not elected in {self.spec.election!r} within {timeout:g} s") from cause
        except asyncio.CancelledError:
            self._abandon(entry)
            if self.closed:
                raise ElectorClosed(f"the elector of {self.spec.election!r} was closed") from None
            raise
        except BaseException:
            self._abandon(entry)
            raise
        entry.task = None
        if tenure is None:
            self._abandon(entry)
        else:
            self.keeper.watch_end(tenure, lambda: self.ended(ticket))
        return tenure

    def start(self, ticket: Callable[[], int], install: Callable[[Tenure], bool]) -> None:
        """Campaign again and again in the background, until closed or `install` says that nobody wants the term."""
        self._check_open()
        if self._entry is not None or self._contending is not None:
            raise ElectorBusy(f"this elector of {self.spec.election!r} has a campaign or a term already")
        self._contending = self.host.spawn(self._contend(ticket, install), "contend")

    async def _contend(self, ticket: Callable[[], int], install: Callable[[Tenure], bool]) -> None:
        while not self.closed:
            number = ticket()
            try:
                tenure = await self.campaign(number, Patience.WAIT, None, block=False)
            except ElectorClosed:
                return
            except Exception as error:  # noqa: BLE001 - nobody waits here to be told; it is logged and tried again
                self.host.log.error(
                    "contending in %r failed, again in %g s: %r", self.spec.election, self.spec.ttl, error
                )
                await asyncio.sleep(self.spec.ttl)
                continue
            if tenure is None or not install(tenure):
                return
            ended = asyncio.Event()
            self.keeper.watch_end(tenure, ended.set)
            await ended.wait()
            while self._entry is not None:  # a block was opened under it, and is not left yet
                self._vacated.clear()
                await self._vacated.wait()

    async def _elected(self, entry: Entry, patience: Patience) -> Tenure | None:
        started = self.host.clock.now()
        while True:
            label = self.spec.label
            candidate = CandidateInfo(new_candidate_id(label, self.host.chance), label, self.spec.metadata)
            self.host.journal.write("campaign", entry=candidate.id, candidate=label, election=self.spec.election)
            candidacy = self.keeper.backend.candidacy(self.spec.election, candidate, self.spec.ttl)
            answer = await self._first(entry, candidacy, patience, started)
            if answer is None:
                return None
            if isinstance(answer, Grant):
                tenure = await self._take_office(entry, candidate, answer, patience)
                if tenure is not None:
                    return tenure
            else:
                self._leave_queue(entry)
                await self._wait_until_eligible()

    async def _first(
        self, entry: Entry, candidacy: Candidacy, patience: Patience, started: Instant
    ) -> Grant | Behind | None:
        """Attempt until first. None: given up, somebody is alive. Behind: not eligible, leave the queue."""
        spec, clock = self.spec, self.host.clock
        limit = spec.ttl  # with TRY: what the store makes us wait, twice, and one more ballot
        failures = 0
        untouched = True
        warned = started
        while True:
            if not await self._eligible():
                if patience is Patience.TRY:
                    raise CampaignTimeout(f"not eligible to lead {spec.election!r}")
                return Behind(alive=False)
            try:
                await self.keeper.opened()
                untouched = entry.candidacy is None
                entry.candidacy = candidacy  # from here on there may be something to remove
                answer = await bounded(candidacy.attempt(), spec.ttl / CALLS_PER_TTL, "attempt")
            except (Unavailable, OutcomeUnknown) as error:
                if isinstance(error, Unavailable) and untouched:
                    entry.candidacy = None  # nothing was ever sent
                entry.failure, failures = error, failures + 1
                if failures == 1 or waited_for(warned, clock.now()) > spec.ttl:
                    warned = clock.now()
                    self.host.log.warning("campaigning in %r: %r", spec.election, error)
                nap = jitter(self.host.chance, failures, first=spec.ttl / 48, most=spec.ttl / 3)
                self._check_patience(patience, started, limit, entry)
                await asyncio.sleep(nap)
                continue
            failures, entry.failure = 0, None
            if isinstance(answer, Grant):
                return answer
            if patience is Patience.TRY:
                if answer.alive:
                    return None
                limit = max(limit, 2 * (answer.wait or 0.0) + spec.ttl)
                self._check_patience(patience, started, limit, entry)
            await self._wait_for_hint(candidacy, spec.ttl if answer.wait is None else answer.wait)

    def _check_patience(self, patience: Patience, started: Instant, limit: float, entry: Entry) -> None:
        waited = waited_for(started, self.host.clock.now())
        if patience is Patience.TRY and waited > limit:
            raise CampaignTimeout(
                f"nobody else was seen alive in {self.spec.election!r} and we could not win within {waited:.3g} s"
            ) from entry.failure

    async def _wait_for_hint(self, candidacy: Candidacy, seconds: float) -> None:
        """Until an attempt may succeed, or eligibility has changed; at most `seconds`."""
        clock = self.host.clock
        started = clock.now()
        while (left := seconds - waited_for(started, clock.now())) > 0:
            step = left if self.spec.eligible is None else min(left, self.spec.ttl / 3)
            try:
                async with asyncio.timeout(step):
                    await uncancelled(candidacy.changed(), "changed")
                    return
            except TimeoutError:
                if not await self._eligible():
                    return  # the loop above asks again, and leaves the queue
            except BackendError as error:
                self.host.log.info("no hints for %r: %r", self.spec.election, error)
                await asyncio.sleep(min(left, self.spec.ttl / 3))

    async def _take_office(
        self, entry: Entry, candidate: CandidateInfo, grant: Grant, patience: Patience
    ) -> Tenure | None:
        """Journal the win, ask `eligible` again, show the token to the fences. None: it was lost or given up."""
        spec = self.spec
        if grant.promise.remaining(self.host.clock.now()) <= 0:  # the answer came too late: never counted
            self._leave_queue(entry)
            return None
        token = FencingToken(spec.election, grant.token)
        ttl = spec.ttl if grant.ttl is None else grant.ttl
        tenure = Tenure(spec.election, candidate, token, ttl, grant.promise, self.host.clock)
        self.host.journal.write(
            "won",
            entry=candidate.id,
            candidate=spec.label,
            election=spec.election,
            token=int(token),
            ttl=spec.ttl,
            sent=grant.promise.sent.boot,
            deadline=grant.promise.sent.boot + grant.promise.span,
        )
        entry.candidacy, entry.tenure = None, tenure
        self.keeper.hold(tenure, grant, lambda: self._look_after(entry))
        if not await self._eligible():
            tenure.end(TermState.LOST, LossReason.INELIGIBLE)
        for fence in spec.fences:
            if tenure.ended() is None:
                await self._admitted(fence, token)
        if tenure.ended() is None:
            return tenure
        entry.tenure = None
        self.keeper.release(tenure)
        if tenure.state()[1] is LossReason.INELIGIBLE:
            if patience is Patience.TRY:
                raise CampaignTimeout(f"won {spec.election!r}, but not eligible to lead it any more")
            await self._wait_until_eligible()
        return None

    async def _admitted(self, fence: Fence, token: FencingToken) -> None:
        # The keeper renews meanwhile, so a fence that hangs would keep the seat empty for ever: it gets a ttl.
        scope = asyncio.timeout(self.spec.ttl)
        try:
            async with scope:
                await self.host.offload(lambda: fence.admit(token))
        except TimeoutError as error:
            if not scope.expired():
                raise
            raise CampaignTimeout(
                f"a fence did not answer within {self.spec.ttl:g} s: {type(fence).__name__}"
            ) from error

    def _vacate(self) -> None:
        self._entry = None
        self._vacated.set()

    def _leave_queue(self, entry: Entry) -> None:
        if entry.candidacy is not None:
            self.keeper.clean(entry.candidacy, self.spec.ttl)
            entry.candidacy = None

    # --- eligibility -----------------------------------------------------------------------------------------

    async def _eligible(self) -> bool:
        """Ask the application, off the engine; no answer within ttl/3, an exception, or a pending answer is a no."""
        ask = self.spec.eligible
        if ask is None:
            return True
        if self._unanswered:
            self.host.log.warning("eligible() of %r has not come back; taken as no", self.spec.election)
            return False

        def answer() -> bool:
            self._unanswered = True
            try:
                return bool(ask())
            finally:
                self._unanswered = False

        scope = asyncio.timeout(self.spec.ttl / 3)
        try:
            async with scope:
                return await self.host.offload(answer)
        except TimeoutError as error:
            why = f"no answer within {self.spec.ttl / 3:.3g} s" if scope.expired() else repr(error)
        except Exception as error:  # noqa: BLE001 - the application's code may raise anything
            why = repr(error)
        self.host.log.warning("eligible() of %r: %s; taken as no", self.spec.election, why)
        return False

    async def _wait_until_eligible(self) -> None:
        while True:
            await asyncio.sleep(self.spec.ttl / 3)
            if await self._eligible():
                return

    # --- letting go ------------------------------------------------------------------------------------------

    def leave(self, ticket: int, tenure: Tenure, *, release: bool) -> None:
        """The body of a term is over, and the term has ended locally. Without `release` its lease runs out."""
        if self._entry is not None and self._entry.ticket == ticket:
            self._vacate()
        self.keeper.settle(tenure)
        if release:
            self.keeper.release(tenure)
        self._part_if_done()

    async def wait_released(self, tenure: Tenure, seconds: float) -> None:
        """Wait at most `seconds` for the release of a term that was left; the release itself goes on."""
        task = self.keeper.release(tenure)
        if task is not None:
            await asyncio.wait({task}, timeout=seconds)

    def ended(self, ticket: int) -> None:
        """A term without a block has ended: the elector may campaign again."""
        if self._entry is not None and self._entry.ticket == ticket and not self._entry.block:
            self._vacate()
            self._part_if_done()

    def enter_block(self, ticket: int) -> None:
        """A `with` block has been opened on a term that was won without one."""
        if self._entry is not None and self._entry.ticket == ticket:
            self._entry.block = True

    def abandon(self, ticket: int) -> None:
        """Whoever waited for this entry is gone before it was delivered: stop, and remove what it left."""
        if self._entry is not None and self._entry.ticket == ticket:
            self._abandon(self._entry)

    def drop(self, ticket: int, tenure: Tenure) -> None:
        """A delivered term was garbage: its work may still run, so it ends locally and its lease runs out."""
        tenure.end(TermState.LOST, LossReason.CLOSED)
        self.leave(ticket, tenure, release=False)

    def _look_after(self, entry: Entry) -> None:
        """An entry whose owner is garbage is over: nobody will ever leave it."""
        if self._entry is not entry or entry.owner() is not None:
            return
        if entry.task is None and entry.tenure is not None:
            self.drop(entry.ticket, entry.tenure)
        else:
            self._abandon(entry)

    def _abandon(self, entry: Entry) -> None:
        if self._entry is entry:
            self._vacate()
        if entry.task is not None and entry.task is not asyncio.current_task():
            entry.task.cancel()
        entry.task = None
        self._leave_queue(entry)
        if (tenure := entry.tenure) is not None:
            entry.tenure = None
            tenure.end(TermState.RESIGNED, None)
            self.keeper.release(tenure)
        self._part_if_done()

    def close(self) -> asyncio.Task[object] | None:
        """Idempotent. Waiters get `ElectorClosed`; a term ends locally and is not released under an open block.

        Returns the campaign that it has interrupted, which ends soon.
        """
        if self.closed:
            return self._cancelled
        self.closed = True
        if self._contending is not None:
            self._contending.cancel()
        for observation in list(self._following):
            observation.stop()
        for task in list(self._reading):
            task.cancel()
        entry = self._entry
        if entry is not None:
            if entry.task is not None:
                self._cancelled = entry.task
                entry.task.cancel()
            elif entry.tenure is not None:
                entry.tenure.end(TermState.LOST, LossReason.CLOSED)
                self.keeper.settle(entry.tenure)
                self.ended(entry.ticket)
        self._part_if_done()
        return self._cancelled

    async def wait_closed(self) -> None:
        """After `close`: return when what could be released is released and nothing is waited for."""
        if self._cancelled is not None:
            await asyncio.wait({self._cancelled})
        if self._parted is not None:
            await asyncio.shield(self._parted)
        else:  # others use the session, or a block is still open
            await self.keeper.finish()

    def _part_if_done(self) -> None:
        if self.closed and self._joined and self._entry is None and not self._following:
            self._joined = False
            self._parted = self.keeper.part(self)

    def _check_open(self) -> None:
        if self.closed:
            raise ElectorClosed(f"the elector of {self.spec.election!r} is closed")

    # --- questions -------------------------------------------------------------------------------------------

    async def confirm(self, tenure: Tenure, timeout: float) -> bool:
        """Whether the store says that the term stands; raises Unavailable if it does not answer in time."""
        answer = await self._asked(
            timeout, "confirm", lambda: self.keeper.ask(tenure, lambda g: g.candidacy.confirm(g))
        )
        return isinstance(answer, Confirmed)

    async def proclaim(self, tenure: Tenure, metadata: str, timeout: float) -> bool:
        """Publish metadata; False if the term is over."""
        answer = await self._asked(
            timeout, "proclaim", lambda: self.keeper.ask(tenure, lambda g: g.candidacy.proclaim(g, metadata))
        )
        return isinstance(answer, Confirmed)

    async def leader(self, timeout: float) -> LeaderInfo | None:
        """Who leads, as the store tells it."""
        return await self._read(timeout, "leader", lambda: self.keeper.backend.leader(self.spec.election))

    async def candidates(self, timeout: float) -> tuple[CandidateInfo, ...]:
        """The candidates, in queue order where there is a queue."""
        return tuple(
            await self._read(timeout, "candidates", lambda: self.keeper.backend.candidates(self.spec.election))
        )

    async def _read(self, timeout: float, operation: str, question: Callable[[], Awaitable[T]]) -> T:
        """As `_asked`, until `close`."""
        self._check_open()
        task = asyncio.current_task()
        assert task is not None
        self._reading.add(task)
        try:
            return await self._asked(timeout, operation, question)
        except asyncio.CancelledError:
            if self.closed:
                raise ElectorClosed(f"the elector of {self.spec.election!r} was closed") from None
            raise
        finally:
            self._reading.discard(task)

    async def _asked(self, timeout: float, operation: str, question: Callable[[], Awaitable[T]]) -> T:
        last: BackendError | None = None

        async def once() -> T:
            nonlocal last
            try:
                await self.keeper.opened()
                return await uncancelled(question(), operation)
            except BackendError as error:
                last = error
                raise

        try:
            async with asyncio.timeout(timeout):
                return await by_clock(self.host.clock, self.host.chance, timeout)(once)
        except (TimeoutError, OutcomeUnknown, Unavailable) as error:
            if self.closed:
                raise ElectorClosed(f"the elector of {self.spec.election!r} was closed") from error
            why = "" if last is None else f": {last}"
            raise Unavailable(f"no answer to {operation} within {timeout:.3g} s{why}", operation=operation) from error

    def observe(self) -> Observation:
        """Follow the leaders from now on, until stopped or closed."""
        self._check_open()
        observation = Observation(self.host, self.keeper, self.spec.election, self.spec.ttl, self._forget)
        self._following.add(observation)
        return observation

    def _forget(self, observation: Observation) -> None:
        self._following.discard(observation)
        self._part_if_done()
