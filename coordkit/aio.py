"""The asynchronous face: `async with elector.lead() as term:`.

The rule: a loss reaches the task that entered the block as `asyncio.timeout` would, by one `cancel()` through its own
loop, which leaving the block turns into `LeadershipLost`; a cancellation from outside wins. The engine does all else,
so a loop that the application blocks delays no renewal.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import weakref
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from types import MethodType, TracebackType
from typing import Any, Self, TypeVar, overload

from coordkit.campaign import Patience
from coordkit.engine import EngineDied
from coordkit.errors import ForkedProcessError, LeadershipLost
from coordkit.face import (
    Entering,
    Face,
    ObservationSlot,
    OwnedTerm,
    Slot,
    Ticket,
    address_of,
    check_timeout,
    no_session,
    stop_observation,
)
from coordkit.lease import DEFAULT_TTL, call_budget
from coordkit.model import CandidateInfo, Fence, LeaderInfo, TermState, check_metadata, check_seconds
from coordkit.shared import Session
from coordkit.term import Tenure

R = TypeVar("R")

logger = logging.getLogger("coordkit")


class AsyncTerm(OwnedTerm):
    """As `Term`, for the event loop that won it: `confirm`, `wait_ended`, `proclaim`, `resign` are awaited.

    An async context manager. A loss cancels the task that entered the block, once; leaving raises `LeadershipLost`.
    The danger: tasks that the body created are not cancelled, and a body that blocks its loop is not reached. Check
    `ensure` before every write, and hand `token` to the resource.
    """

    __slots__ = ("_block", "_callbacks", "_loop", "_running", "_told")

    def __init__(self, tenure: Tenure, ticket: Ticket, hold: float, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(tenure, ticket, hold)
        self._loop = loop
        self._callbacks: deque[Callable[[AsyncTerm], object]] = deque()
        self._told = False
        self._running: set[asyncio.Task[None]] = set()
        self._block: _Block | None = None

    async def confirm(self, *, timeout: float | None = None) -> None:
        """Ask the cluster, with a linearizable read, whether this term stands; `LeadershipLost` if it does not.

        `timeout`: default min(ttl/3, what is left). Raises `Unavailable` if no answer comes in time; the term then
        stands until its deadline, as before.
        """
        self.ensure()
        seconds = check_timeout(timeout) or call_budget(self._tenure.ttl, self.remaining())
        slot, tenure = self._ticket.slot, self._tenure
        if not await slot.engine.ask_async(lambda: slot.desk.confirm(tenure, seconds)):
            self._raise_over()
        self.ensure()

    async def proclaim(self, metadata: str) -> None:
        """Publish `metadata` as the leader's, for `leader()` and `observe()`; `LeadershipLost` if the term is over."""
        check_metadata(metadata)
        self.ensure()
        slot, tenure = self._ticket.slot, self._tenure
        seconds = call_budget(tenure.ttl, self.remaining())
        if not await slot.engine.ask_async(lambda: slot.desk.proclaim(tenure, metadata, seconds)):
            self._raise_over()

    def on_lost(self, callback: Callable[[AsyncTerm], object]) -> None:
        """Call `callback(term)` once on the loop that won if this term is lost; never if it is resigned.

        At once if it is lost already. A coroutine function is run as a task. Errors are logged.
        """
        self._check_process()
        self._journal_watch()
        self._callbacks.append(callback)
        if not self._told or self._tenure.ended() is not None:
            weak: weakref.ref[AsyncTerm] = weakref.ref(self)
            _watch_end(self._ticket.slot, self._tenure, self._loop, lambda: _run_callbacks(weak))
            self._told = True

    async def wait_ended(self, timeout: float | None = None) -> bool:
        """Wait until the term is over, lost or resigned; False if `timeout` seconds passed first."""
        limit = None if timeout is None else check_seconds(timeout, "timeout", zero=True)
        self._check_process()
        tenure, slot = self._tenure, self._ticket.slot
        over = asyncio.Event()
        tell = _watch_end(slot, tenure, asyncio.get_running_loop(), over.set)
        try:
            async with asyncio.timeout(limit):
                while tenure.ended() is None:
                    # By the local clock too: it returns by the deadline even if the engine is stuck.
                    try:
                        async with asyncio.timeout(tenure.remaining()):
                            await over.wait()
                    except TimeoutError:
                        continue
        except TimeoutError:
            return tenure.ended() is not None
        finally:
            slot.engine.post(lambda: slot.desk.keeper.unwatch_end(tenure, tell))
        return True

    async def resign(self) -> None:
        """Give up now: over locally at once, then released in the store. Waits for `hold` first. Idempotent.

        Waits at most ttl/3 for the store; after that the engine goes on trying. Call it when the work has stopped:
        a successor may lead before this returns.
        """
        self._check_process()
        await self._give_up(None)

    async def __aenter__(self) -> Self:
        self._open_block()
        self._block = _Block(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if os.getpid() != self._tenure.pid:
                return
            end = self._tenure.ended()  # looked at before anything is awaited: the body is over now
            lost = end is not None and end.state is TermState.LOST
            block, self._block = self._block, None
            self._in_block = False
            if lost and self._loop is asyncio.get_running_loop():
                self._take_callbacks()  # now: the loop may be closed before the engine's call gets to it
            try:
                ours = block.close(error) if block is not None else False
            except RuntimeError:
                await self._give_up(error)
                raise
            if ours:
                await self._give_up(None)
                raise self._lost() from error
            await self._give_up(error)
            if lost and error is None:
                self._raise_over()
            if lost and error is not None:
                self._note_loss(error)
        except BaseException:
            self._leave_if_interrupted()
            raise

    async def _give_up(self, error: BaseException | None) -> None:
        tenure, slot = self._tenure, self._ticket.slot
        release = not self._hold  # what an interrupt leaves standing
        try:
            hold = self._hold_left()
            # Over already, cancelled, exit: the lease keeps the seat for as long as it runs.
            if hold > 0 and tenure.ended() is None and isinstance(error, Exception | None):
                await self.wait_ended(hold)
            release = self._hold_left() <= 0
        finally:
            try:
                self._leave(release=release)
            except BaseException:  # a Ctrl-C: no half of it may be missing
                self._leave(release=release)
                raise
        if release:
            try:
                await slot.engine.ask_async(lambda: slot.desk.wait_released(tenure, tenure.ttl / 3))
            except EngineDied as failure:
                logger.warning("the term %s was not released, its lease runs out: %r", tenure.token, failure)

    def _take_callbacks(self) -> None:
        if self._tenure.state()[0] is not TermState.LOST or not self._callbacks:
            return
        self._journal_notice()
        while self._callbacks:
            callback = self._callbacks.popleft()
            try:
                result = callback(self)
            except Exception:
                logger.exception("on_lost callback of the term %s failed", self.token)
                continue
            if inspect.isawaitable(result):
                task = asyncio.ensure_future(self._awaited(result))
                self._running.add(task)
                task.add_done_callback(self._running.discard)

    def __del__(self) -> None:
        if self._end_dropped():
            try:
                self._loop.call_soon_threadsafe(self._take_callbacks)
            except RuntimeError:
                return  # that loop is closed: nobody listens any more

    async def _awaited(self, result: Awaitable[object]) -> None:
        try:
            await result
        except Exception:
            logger.exception("on_lost callback of the term %s failed", self.token)


def _run_callbacks(weak: weakref.ref[AsyncTerm]) -> None:
    term = weak()
    if term is not None:
        term._take_callbacks()


def _watch_end(
    slot: Slot, tenure: Tenure, loop: asyncio.AbstractEventLoop, call: Callable[[], object]
) -> Callable[[], None]:
    """Call `call` on `loop` after the end of the term; returns what the engine calls, to unwatch by."""

    def tell() -> None:
        try:
            loop.call_soon_threadsafe(call)
        except RuntimeError:  # that loop is closed: nobody listens any more
            slot.engine.log.info("the event loop that won %s was closed before the term ended", tenure.token)

    if slot.engine.dead:
        loop.call_soon(call)
    else:
        slot.engine.post(lambda: slot.desk.keeper.watch_end(tenure, tell))
    return tell


class _Block:
    """One open block: cancels the task that entered it, once, when the term is lost."""

    def __init__(self, term: AsyncTerm) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a block under a term is entered by a task")
        self._task = task
        self._cancelling = task.cancelling()
        self._open = True
        self._cancelled = False
        weak = weakref.ref(self)

        def ended() -> None:
            block = weak()
            if block is not None:
                block._ended(term_lost=tenure.state()[0] is TermState.LOST)

        slot, tenure = term._ticket.slot, term._tenure
        _watch_end(slot, tenure, asyncio.get_running_loop(), ended)

    def _ended(self, *, term_lost: bool) -> None:
        if self._open and term_lost:
            self._cancelled = True
            self._task.cancel()

    def close(self, error: BaseException | None) -> bool:
        """Leave the block; whether `error` is our own cancellation, and nobody else cancelled as well."""
        self._open = False
        if asyncio.current_task() is not self._task:
            raise RuntimeError("a block under a term must be left by the task that entered it")
        if not self._cancelled:
            return False
        return self._task.uncancel() <= self._cancelling and isinstance(error, asyncio.CancelledError)


class _AsyncLead(AbstractAsyncContextManager[AsyncTerm]):
    """`elector.lead()`: campaigns when entered, resigns when left. May be entered again after it was left."""

    def __init__(self, elector: AsyncLeaderElector, timeout: float | None) -> None:
        self._elector = elector
        self._timeout = timeout
        self._term: AsyncTerm | None = None

    async def __aenter__(self) -> AsyncTerm:
        term = await self._elector._campaign(Patience.WAIT, self._timeout, block=True, owner=self)
        assert term is not None  # WAIT has no other answer
        self._term = term
        return term

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        term, self._term = self._term, None
        if term is not None:
            try:
                await term.__aexit__(kind, error, trace)
            except BaseException:
                term._leave_if_interrupted()
                raise


class _Leaving:
    """`__aexit__` of an elector: bound to an owner that lives no longer than the statement. See `Entering`."""

    @overload
    def __get__(self, elector: None, kind: type[AsyncLeaderElector]) -> Callable[..., Coroutine[Any, Any, None]]: ...
    @overload
    def __get__(
        self, elector: AsyncLeaderElector, kind: type[AsyncLeaderElector]
    ) -> Callable[
        [type[BaseException] | None, BaseException | None, TracebackType | None], Coroutine[Any, Any, None]
    ]: ...
    def __get__(
        self, elector: AsyncLeaderElector | None, kind: type[AsyncLeaderElector]
    ) -> Callable[..., Coroutine[Any, Any, None]]:
        if elector is None:
            return _leave_by_hand
        if elector._entered is not None:  # entered by hand, and so it is left
            return MethodType(_leave_by_hand, elector)
        return elector._entering.begin(_AsyncLead(elector, None)).__aexit__


async def _leave_by_hand(
    elector: AsyncLeaderElector,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
) -> None:
    lead, elector._entered = elector._entered, None
    if lead is not None:
        await lead.__aexit__(kind, error, trace)


class AsyncLeaderElector(Face):
    """As `LeaderElector`, awaited: one candidate of one election, at most one campaign or term at a time.

    The arguments are those of `LeaderElector`; `eligible` and the fences' `admit` are plain functions and run on
    threads of their own. The elector may be used from any event loop, one at a time.
    """

    def __init__(
        self,
        target: str | Session,
        election: str,
        *,
        ttl: float = DEFAULT_TTL,
        label: str | None = None,
        metadata: str = "",
        eligible: Callable[[], bool] | None = None,
        hold: float = 0.0,
        fences: Sequence[Fence] = (),
    ) -> None:
        session = target if isinstance(target, Session) else None
        super().__init__(
            session.address if session is not None else address_of(target),
            election,
            ttl=ttl,
            label=label,
            metadata=metadata,
            eligible=eligible,
            hold=hold,
            fences=fences,
            check=session.check if session is not None else no_session,
        )
        self._entering: Entering[_AsyncLead] = Entering()
        self._entered: _AsyncLead | None = None  # of a block that was entered by hand, as AsyncExitStack does
        self._term: Callable[[], AsyncTerm | None] = _no_term
        if session is not None:
            session.adopt(self, self._spec.ttl)

    def __aenter__(self) -> Coroutine[Any, Any, AsyncTerm]:
        # Not a coroutine function: the owner is taken now, before another task of this thread can enter.
        lead = self._entering.take()
        return self._enter_by_hand() if lead is None else lead.__aenter__()

    async def _enter_by_hand(self) -> AsyncTerm:
        lead = _AsyncLead(self, None)
        term = await lead.__aenter__()
        self._entered = lead
        return term

    __aexit__ = _Leaving()

    def lead(self, *, timeout: float | None = None) -> AbstractAsyncContextManager[AsyncTerm]:
        """A block under a term: campaigns when entered, resigns when left; the elector may be entered again.

        On loss the task that entered is cancelled once, and leaving raises `LeadershipLost`; a cancellation from
        outside wins, and so does the body's own exception. `timeout` (s): `CampaignTimeout` if not elected by then.
        """
        return _AsyncLead(self, check_timeout(timeout))

    async def campaign(self, *, timeout: float | None = None) -> AsyncTerm:
        """Contend until elected; the caller resigns. See `LeaderElector.campaign`."""
        term = await self._campaign(Patience.WAIT, check_timeout(timeout), block=False)
        assert term is not None  # WAIT has no other answer
        return term

    async def try_campaign(self) -> AsyncTerm | None:
        """Contend unless somebody else is seen alive during the call. See `LeaderElector.try_campaign`."""
        return await self._campaign(Patience.TRY, None, block=False)

    async def run(self, work: Callable[[AsyncTerm], Coroutine[Any, Any, R]]) -> R:
        """Campaign, await `work(term)`, resign, return its result; after a loss campaign and call it again.

        `work` runs at least once, perhaps several times, never a second time before the first is over. On loss it is
        cancelled. Its own exceptions resign and propagate.
        """
        while True:
            term = None
            try:
                async with self.lead() as term:
                    return await work(term)
            except LeadershipLost as lost:
                if lost.term is None or lost.term is not term:
                    raise

    async def start(self) -> None:
        """Contend in the background until `close()`; then read `.term`. See `LeaderElector.start`."""
        slot = self._reach()
        loop = asyncio.get_running_loop()
        weak = weakref.ref(self)

        def make(tenure: Tenure, ticket: Ticket) -> bool:
            elector = weak()
            if elector is None:
                return False
            term = AsyncTerm(tenure, ticket, elector._spec.hold, loop)
            elector._term = lambda: term
            return True

        await slot.engine.ask_async(lambda: slot.begin(make))

    @property
    def term(self) -> AsyncTerm | None:
        """The term of this elector that is valid by the local clock, or None. No I/O."""
        term = self._term()
        return term if term is not None and term.valid else None

    async def leader(self, *, timeout: float | None = None) -> LeaderInfo | None:
        """Who leads, as the backend tells it; None is a vacancy. See `LeaderElector.leader`."""
        seconds = check_timeout(timeout) or self._read_seconds
        slot = self._reach()
        return await slot.engine.ask_async(lambda: slot.desk.leader(seconds))

    async def candidates(self, *, timeout: float | None = None) -> tuple[CandidateInfo, ...]:
        """The candidates, in queue order where the store has a queue; else the leader alone."""
        seconds = check_timeout(timeout) or self._read_seconds
        slot = self._reach()
        return await slot.engine.ask_async(lambda: slot.desk.candidates(seconds))

    def observe(self) -> AsyncIterator[LeaderInfo | None]:
        """Follow the leaders: the present state first, then the states seen. See `LeaderElector.observe`."""
        return _AsyncObserving(self, self._reach())

    async def close(self, *, timeout: float = 2.0) -> None:
        """End everything of this elector; a term ends locally at once. See `LeaderElector.close`."""
        seconds = check_seconds(timeout, "timeout", zero=True)
        slot = self._end_locally()
        if slot is None:
            return
        try:
            async with asyncio.timeout(seconds):
                await slot.engine.ask_async(slot.closed)
        except (TimeoutError, EngineDied):
            return  # closed locally; what is left in the store is cleaned up behind us, or runs out

    async def _campaign(
        self, patience: Patience, timeout: float | None, *, block: bool, owner: _AsyncLead | None = None
    ) -> AsyncTerm | None:
        slot = self._reach()
        ticket = Ticket(slot, self)  # before anything is sent: dropping it abandons whatever was
        number, weak = ticket.number, weakref.ref(owner or ticket)
        try:
            tenure = await slot.engine.ask_async(
                lambda: slot.campaign(number, patience, timeout, block=block, owner=weak)
            )
            if tenure is None:
                ticket.finish()
                return None
            term = AsyncTerm(tenure, ticket, self._spec.hold, asyncio.get_running_loop())
            if block:
                term._in_block = True
                term._block = _Block(term)
            self._term = weakref.ref(term)
            ticket.delivery.tenure = tenure
            return term
        except BaseException:
            ticket.delivery.tenure = None
            ticket.abandon()
            raise


class _AsyncObserving(AsyncIterator["LeaderInfo | None"]):
    def __init__(self, elector: AsyncLeaderElector, slot: Slot) -> None:
        self._elector = elector  # lives as long as it is followed: dropping it closes it
        self._slot = ObservationSlot(slot)
        self._number = 0
        weakref.finalize(self, stop_observation, self._slot).atexit = False

    async def __anext__(self) -> LeaderInfo | None:
        engine = self._slot.slot.engine
        if engine.pid != os.getpid():
            raise ForkedProcessError("this observation belongs to the parent process; observe anew in the child")
        number, slot = self._number, self._slot
        self._number, state = await engine.ask_async(lambda: slot.after(number))
        return state


def _no_term() -> AsyncTerm | None:
    return None
