"""The synchronous face: `with elector.lead() as term:`.

The rule: this module waits; it decides nothing that two processes could disagree about. A wait that is interrupted
returns at once, and the engine cleans up.
"""

from __future__ import annotations

import logging
import os
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from queue import Empty
from types import MethodType, TracebackType
from typing import Self, TypeVar, overload

from coordkit import threads
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
from coordkit.model import (
    CandidateInfo,
    Fence,
    LeaderInfo,
    TermState,
    check_metadata,
    check_seconds,
)
from coordkit.shared import Session
from coordkit.term import Tenure

R = TypeVar("R")

logger = logging.getLogger("coordkit")


class Term(OwnedTerm):
    """One period of leadership, won by `campaign`, `lead` or `start`. Thread-safe. A context manager: leaving resigns.

    Its promise: while `valid`, no other term of this election is valid anywhere, under the conditions that
    `Guarantees` names. The danger: between a check and the write that it guards the process may pause; only a fence
    that sees `token` refuses a write that comes too late.
    """

    __slots__ = ("_callbacks", "_told", "_turn")

    def __init__(self, tenure: Tenure, ticket: Ticket, hold: float) -> None:
        super().__init__(tenure, ticket, hold)
        self._turn = [None]
        self._callbacks: deque[Callable[[Term], object]] = deque()
        self._told = False  # the engine knows that there are callbacks; read and written by registering threads

    def confirm(self, *, timeout: float | None = None) -> None:
        """Ask the cluster, with a linearizable read, whether this term stands; `LeadershipLost` if it does not.

        `timeout`: default min(ttl/3, what is left). Raises `Unavailable` if no answer comes in time; the term then
        stands until its deadline, as before.
        """
        self.ensure()
        seconds = check_timeout(timeout) or call_budget(self._tenure.ttl, self.remaining())
        slot, tenure = self._ticket.slot, self._tenure
        if not slot.engine.ask(lambda: slot.desk.confirm(tenure, seconds)):
            self._raise_over()
        self.ensure()

    def proclaim(self, metadata: str) -> None:
        """Publish `metadata` as the leader's, for `leader()` and `observe()`; `LeadershipLost` if the term is over."""
        check_metadata(metadata)
        self.ensure()
        slot, tenure = self._ticket.slot, self._tenure
        seconds = call_budget(tenure.ttl, self.remaining())
        if not slot.engine.ask(lambda: slot.desk.proclaim(tenure, metadata, seconds)):
            self._raise_over()

    def on_lost(self, callback: Callable[[Term], object]) -> None:
        """Call `callback(term)` once if this term is lost; never if it is resigned. At once if it is lost already.

        Runs on a fresh daemon thread per lost term, callbacks in the order of registration; errors are logged. The
        danger: the thread may start late on a busy machine. What must stop in time checks `ensure` or `remaining`.
        """
        self._check_process()
        self._journal_watch()
        self._callbacks.append(callback)
        if not self._told or self._tenure.ended() is not None:
            slot, tenure = self._ticket.slot, self._tenure
            notify = _loss_notifier(self)
            slot.engine.post(lambda: slot.desk.keeper.watch_end(tenure, notify))
            self._told = True
            if slot.engine.dead:  # perhaps since a moment ago: what was posted may never run
                notify()

    def wait_ended(self, timeout: float | None = None) -> bool:
        """Wait until the term is over, lost or resigned; False if `timeout` seconds passed first.

        Rests on the local clock as well: it returns by the deadline even if the engine is stuck.
        """
        limit = None if timeout is None else check_seconds(timeout, "timeout", zero=True)
        self._check_process()
        tenure, slot = self._tenure, self._ticket.slot
        if tenure.ended() is not None:
            return True
        if slot.engine.here():
            raise RuntimeError("a finalizer that was collected on the engine's thread cannot wait")
        mailbox: threads.Mailbox[None] = threads.Mailbox()

        def tell() -> None:
            mailbox.put(None)

        slot.engine.post(lambda: slot.desk.keeper.watch_end(tenure, tell))
        try:
            started = tenure.clock.now().mono
            while tenure.ended() is None:
                left = tenure.remaining()
                if limit is not None:
                    left = min(left, limit - (tenure.clock.now().mono - started))
                    if left <= 0:
                        return tenure.state()[0] in (TermState.LOST, TermState.RESIGNED)
                try:
                    mailbox.get(timeout=max(left, 0.0))
                except Empty:
                    continue  # the lease may have been renewed meanwhile: the loop looks again
            return True
        finally:
            slot.engine.post(lambda: slot.desk.keeper.unwatch_end(tenure, tell))

    def resign(self) -> None:
        """Give up now: over locally at once, then released in the store. Waits for `hold` first. Idempotent.

        Waits at most ttl/3 for the store; after that the engine goes on trying. Call it when the work has stopped:
        a successor may lead before this returns.
        """
        self._check_process()
        self._give_up(None)

    def __enter__(self) -> Self:
        self._open_block()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if os.getpid() != self._tenure.pid:
                return
            end = self._tenure.ended()  # looked at before anything is waited for: the body is over now
            lost = end is not None and end.state is TermState.LOST
            self._in_block = False
            self._give_up(error)
            if lost and error is None:
                self._raise_over()
            if lost and error is not None:
                self._note_loss(error)
        except BaseException:
            self._leave_if_interrupted()
            raise

    def _give_up(self, error: BaseException | None) -> None:
        tenure, slot = self._tenure, self._ticket.slot
        release = not self._hold  # what an interrupt leaves standing
        try:
            hold = self._hold_left()
            # Over already, Ctrl-C, exit: the lease keeps the seat for as long as it runs.
            cut_short = tenure.ended() is not None or not isinstance(error, Exception | None) or slot.engine.here()
            if hold > 0 and not cut_short:
                self.wait_ended(hold)
            release = self._hold_left() <= 0
        finally:
            try:
                self._leave(release=release)
            except BaseException:  # a Ctrl-C: no half of it may be missing
                self._leave(release=release)
                raise
        if release and not slot.engine.here():
            try:
                slot.engine.ask(lambda: slot.desk.wait_released(tenure, tenure.ttl / 3))
            except EngineDied as failure:
                logger.warning("the term %s was not released, its lease runs out: %r", tenure.token, failure)

    def _start_callbacks(self) -> None:
        if self._callbacks and self._tenure.state()[0] is TermState.LOST:
            self._journal_notice()
            threads.start(self._run_callbacks)

    def _run_callbacks(self) -> None:
        while self._callbacks:
            try:
                turn = self._turn.pop()  # atomic: one thread at a time, so that they run in order
            except IndexError:
                return  # the thread whose turn it is looks again when it gives it back
            while self._callbacks:
                callback = self._callbacks.popleft()
                try:
                    callback(self)
                except BaseException:  # SystemExit ends a callback, not those after it
                    logger.exception("on_lost callback of the term %s failed", self.token)
            self._turn.append(turn)

    def __del__(self) -> None:
        if self._end_dropped():
            try:
                self._start_callbacks()
            except RuntimeError:
                return  # the interpreter is exiting: no thread can be started


def _loss_notifier(term: Term) -> Callable[[], None]:
    """What the engine calls at the end of a term. It holds the term weakly: a term nobody has is not kept alive."""
    weak = weakref.ref(term)

    def notify() -> None:
        kept = weak()
        if kept is not None:
            kept._start_callbacks()

    return notify


class _Lead(AbstractContextManager[Term]):
    """`elector.lead()`: campaigns when entered, resigns when left. May be entered again after it was left."""

    def __init__(self, elector: LeaderElector, timeout: float | None) -> None:
        self._elector = elector
        self._timeout = timeout
        self._term: Term | None = None

    def __enter__(self) -> Term:
        term = self._elector._campaign(Patience.WAIT, self._timeout, block=True, owner=self)
        assert term is not None  # WAIT has no other answer
        self._term = term
        return term

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        term, self._term = self._term, None
        if term is not None:
            try:
                term.__exit__(kind, error, trace)
            except BaseException:
                term._leave_if_interrupted()
                raise


class _Leaving:
    """`__exit__` of an elector: bound to an owner that lives no longer than the `with` statement. See `Entering`."""

    @overload
    def __get__(self, elector: None, kind: type[LeaderElector]) -> Callable[..., None]: ...
    @overload
    def __get__(
        self, elector: LeaderElector, kind: type[LeaderElector]
    ) -> Callable[[type[BaseException] | None, BaseException | None, TracebackType | None], None]: ...
    def __get__(self, elector: LeaderElector | None, kind: type[LeaderElector]) -> Callable[..., None]:
        if elector is None:
            return _leave_by_hand
        if elector._entered is not None:  # entered by hand, and so it is left
            return MethodType(_leave_by_hand, elector)
        return elector._entering.begin(_Lead(elector, None)).__exit__


def _leave_by_hand(
    elector: LeaderElector,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
) -> None:
    lead, elector._entered = elector._entered, None
    if lead is not None:
        lead.__exit__(kind, error, trace)


class LeaderElector(Face):
    """One candidate of one election: at most one campaign or term at a time. Thread-safe. Inert until first used.

    `target`: a backend URL (`sqlite:///var/lib/app/leader.db`) or a `Session`. `election`: the name contended for.
    `ttl` (s): a dead leader's lease runs out after about this long; renewed every ttl/3. `label`: the application's
    name for this candidate. `metadata`: text that others see with the leader. `eligible`: asked off the engine before
    every attempt, again after the win, and every ttl/3 while waiting; False leaves the queue. `hold` (s): the seat is
    kept for at least that long after the win. `fences`: each one's `admit(token)` runs, on a thread of its own, before
    the term is handed over.

    Raises `ConfigError` before any I/O. Not picklable; a forked child starts afresh, unless a term is open.

    The danger: a leader that pauses does not know it. See `Term`, and give `term.token` to what you write to.
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
        self._entering: Entering[_Lead] = Entering()
        self._entered: _Lead | None = None  # of a block that was entered by hand, as ExitStack does
        self._term: Callable[[], Term | None] = _no_term
        if session is not None:
            session.adopt(self, self._spec.ttl)

    def __enter__(self) -> Term:
        lead = self._entering.take()
        if lead is not None:
            return lead.__enter__()
        lead = _Lead(self, None)
        term = lead.__enter__()
        self._entered = lead
        return term

    __exit__ = _Leaving()

    def lead(self, *, timeout: float | None = None) -> AbstractContextManager[Term]:
        """A block under a term: campaigns when entered, resigns when left; the elector may be entered again.

        The body's exception always wins; a body that returns although its term was lost raises `LeadershipLost`.
        `timeout` (s): `CampaignTimeout` if not elected by then. In a forked child leaving it does nothing.
        """
        return _Lead(self, check_timeout(timeout))

    def campaign(self, *, timeout: float | None = None) -> Term:
        """Contend until elected; the caller resigns. A backend that is down is tried again, with a warning each ttl.

        Raises CampaignTimeout, ElectorBusy, ElectorClosed, Rejected, Misconfigured, or what a fence raised.
        The danger: a term that is dropped without `resign()` keeps the seat until its lease has run out.
        """
        term = self._campaign(Patience.WAIT, check_timeout(timeout), block=False)
        assert term is not None  # WAIT has no other answer
        return term

    def try_campaign(self) -> Term | None:
        """Contend unless somebody else is seen alive: None says that a leader lived during this call.

        With no sign of life it goes on until it has won, or until everything that the store makes it wait for has
        run out: then `CampaignTimeout`, with the backend's last error as the cause, if there was one. So a process
        that never lives for a ttl still takes over after a crash.
        """
        return self._campaign(Patience.TRY, None, block=False)

    def run(self, work: Callable[[Term], R]) -> R:
        """Campaign, call `work(term)`, resign, return its result; after a loss campaign and call it again.

        `work` runs at least once, perhaps several times, never a second time before the first has returned. Its own
        exceptions resign and propagate. It must end soon after the loss by itself: watch `term`.
        """
        while True:
            term = None
            try:
                with self.lead() as term:
                    return work(term)
            except LeadershipLost as lost:
                if lost.term is None or lost.term is not term:
                    raise

    def start(self) -> None:
        """Contend in the background until `close()`; then read `.term`, which changes from None to a term and back.

        A failure that `campaign` would raise is logged, and tried again after a ttl. Returns at once.
        """
        slot = self._reach()
        weak = weakref.ref(self)

        def make(tenure: Tenure, ticket: Ticket) -> bool:
            elector = weak()
            if elector is None:
                return False
            term = Term(tenure, ticket, elector._spec.hold)
            elector._term = lambda: term
            return True

        slot.engine.ask(lambda: slot.begin(make))

    @property
    def term(self) -> Term | None:
        """The term of this elector that is valid by the local clock, or None. No I/O."""
        term = self._term()
        return term if term is not None and term.valid else None

    def leader(self, *, timeout: float | None = None) -> LeaderInfo | None:
        """Who leads, as the backend tells it; None is a vacancy. Already old when it arrives: never act on it.

        `timeout`: default 5 s; on Redis, where nobody expires the record of a dead leader, at least a ttl and 2 s.
        Raises `Unavailable` if no answer comes in time.
        """
        seconds = check_timeout(timeout) or self._read_seconds
        slot = self._reach()
        return slot.engine.ask(lambda: slot.desk.leader(seconds))

    def candidates(self, *, timeout: float | None = None) -> tuple[CandidateInfo, ...]:
        """The candidates, in queue order where the store has a queue; else the leader alone.

        `timeout`: default 5 s; on Redis, where nobody expires the record of a dead leader, at least a ttl and 2 s.
        Raises `Unavailable` if no answer comes in time.
        """
        seconds = check_timeout(timeout) or self._read_seconds
        slot = self._reach()
        return slot.engine.ask(lambda: slot.desk.candidates(seconds))

    def observe(self) -> Iterator[LeaderInfo | None]:
        """Follow the leaders: the present state first, then the states seen; None is a vacancy.

        Some states may be skipped; tokens never fall. Backend failures are retried with a warning; it ends by
        `ElectorClosed`, `Rejected` or `Misconfigured`.
        """
        return _Observing(self, self._reach())

    def close(self, *, timeout: float = 2.0) -> None:
        """End everything of this elector. Idempotent, from any thread, safe in a signal handler.

        A term ends locally at once (`on_lost` fires); it is released only when its block is left, else its lease runs
        out. Waiters get `ElectorClosed`. Waits at most `timeout` seconds for the store. For SIGTERM: `close()`, then
        `sys.exit()`, which unwinds the block and so hands over at once.
        """
        seconds = check_seconds(timeout, "timeout", zero=True)
        slot = self._end_locally()
        if slot is None:
            return

        slot.engine.post(slot.close)
        try:
            slot.engine.ask(slot.closed, seconds)
        except (TimeoutError, EngineDied):
            return  # closed locally; what is left in the store is cleaned up behind us, or runs out

    def _campaign(
        self, patience: Patience, timeout: float | None, *, block: bool, owner: _Lead | None = None
    ) -> Term | None:
        slot = self._reach()
        ticket = Ticket(slot, self)  # before anything is sent: dropping it abandons whatever was
        number, weak = ticket.number, weakref.ref(owner or ticket)
        try:
            tenure = slot.engine.ask(lambda: slot.campaign(number, patience, timeout, block=block, owner=weak))
            if tenure is None:
                ticket.finish()
                return None
            term = Term(tenure, ticket, self._spec.hold)
            if block:
                term._in_block = True
            self._term = weakref.ref(term)
            ticket.delivery.tenure = tenure
            return term
        except BaseException:
            ticket.delivery.tenure = None
            ticket.abandon()
            raise


class _Observing(Iterator["LeaderInfo | None"]):
    def __init__(self, elector: LeaderElector, slot: Slot) -> None:
        self._elector = elector  # lives as long as it is followed: dropping it closes it
        self._slot = ObservationSlot(slot)
        self._number = 0
        weakref.finalize(self, stop_observation, self._slot).atexit = False

    def __next__(self) -> LeaderInfo | None:
        engine = self._slot.slot.engine
        if engine.pid != os.getpid():
            raise ForkedProcessError("this observation belongs to the parent process; observe anew in the child")
        number, slot = self._number, self._slot
        self._number, state = engine.ask(lambda: slot.after(number))
        return state


def _no_term() -> Term | None:
    return None
