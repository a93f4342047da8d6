"""What the sync and the async face share: checked arguments, the way to the engine, and what becomes of a dropped term.

The rules: nothing happens before first use; every entry has a ticket made before anything is sent, and a ticket that
is dropped before its term was delivered abandons the entry, one dropped afterwards leaves it to its lease; in a forked
child what belongs to the parent is left alone.
"""

from __future__ import annotations

import _thread
import inspect
import itertools
import os
import warnings
import weakref
from collections.abc import Callable, Sequence
from typing import Generic, NoReturn, TypeVar

from coordkit.campaign import Desk, Patience, Spec
from coordkit.engine import Engine, current
from coordkit.errors import ConfigError, ElectorClosed, ForkedProcessError
from coordkit.lease import check_timings, held_for
from coordkit.model import (
    Fence,
    LeaderInfo,
    LossReason,
    TermState,
    check_election,
    check_label,
    check_metadata,
    check_seconds,
)
from coordkit.observation import Observation
from coordkit.registry import Address, check_ttl, parse, read_seconds
from coordkit.term import Tenure, TermView

L = TypeVar("L")

SHORT_TTL = 2.0  # s: below it, a program that is kept from running for a moment loses its term

_numbers = itertools.count(1)


def next_number() -> int:
    """A number for an entry, unique in this process."""
    return next(_numbers)


class Slot:
    """Where the engine of one process keeps the desk of one elector. Its methods run on the engine."""

    def __init__(self, engine: Engine, address: Address, spec: Spec) -> None:
        self.engine = engine
        self.newest: Tenure | None = None  # any thread may end it
        self._address = address
        self._spec = spec
        self._desk: Desk | None = None
        self._closed = False

    @property
    def desk(self) -> Desk:
        """The desk, made on first use."""
        if self._desk is None:
            if self._closed:
                raise ElectorClosed(f"the elector of {self._spec.election!r} is closed")
            self._desk = Desk(self.engine, self.engine.keeper(self._address, self._spec.ttl), self._spec)
        return self._desk

    async def campaign(
        self, number: int, patience: Patience, timeout: float | None, *, block: bool, owner: Callable[[], object]
    ) -> Tenure | None:
        """As `Desk.campaign`; the tenure is known here, so that any thread may end it, before it is delivered."""
        tenure = await self.desk.campaign(number, patience, timeout, block=block, owner=owner)
        self.newest = tenure or self.newest
        return tenure

    async def begin(self, make: Callable[[Tenure, Ticket], bool]) -> None:
        """Contend in the background; `make` makes a term of every win, or says that nobody wants it any more."""
        pending: list[Ticket] = []

        def ticket() -> int:
            pending[:] = [Ticket(self)]
            return pending[0].number

        def install(tenure: Tenure) -> bool:
            wanted = pending.pop()
            self.newest = tenure  # first: from now on `close` can end it
            if not make(tenure, wanted):
                return False
            wanted.delivery.tenure = tenure
            return True

        self.desk.start(ticket, install)

    def leave(self, number: int, tenure: Tenure, *, release: bool) -> None:
        """As `Desk.leave`."""
        self.desk.leave(number, tenure, release=release)

    def close(self) -> None:
        """Close the desk, if there is one, and never make one again."""
        self._closed = True
        if self._desk is not None:
            self._desk.close()

    async def closed(self) -> None:
        """Close, and return when what could be released is released."""
        self.close()
        if self._desk is not None:
            await self._desk.wait_closed()


class Delivery:
    """How far an entry has come on its way to the application; written by the application's side."""

    __slots__ = ("finished", "tenure")

    def __init__(self) -> None:
        self.tenure: Tenure | None = None  # set when the term is handed over
        self.finished = False  # abandoned or left: nothing remains to be done


class Ticket:
    """The application's hold on one entry. When it is garbage, the engine is told.

    An interrupt in a finalizer is swallowed by Python, and the rest of the finalizer with it. So one that has nothing
    to do is taken away, and the engine looks now and then whether the owner of an entry is garbage.
    """

    __slots__ = ("__weakref__", "_elector", "_finalizer", "delivery", "number", "slot")

    def __init__(self, slot: Slot, elector: Face | None = None) -> None:
        self.slot = slot
        self._elector = elector  # lives as long as its term does: dropping it closes it
        self.number = next_number()
        self.delivery = Delivery()
        self._finalizer = weakref.finalize(self, _dropped, slot, self.number, self.delivery)
        self._finalizer.atexit = False

    def abandon(self) -> None:
        """Nobody waits for this entry any more."""
        if not self.delivery.finished:
            self.slot.engine.post(_abandon, self.slot, self.number)
            self.finish()

    def finish(self) -> None:
        """Nothing remains to be done."""
        self.delivery.finished = True
        self._finalizer.detach()


def _dropped(slot: Slot, number: int, delivery: Delivery) -> None:
    if delivery.finished or os.getpid() != slot.engine.pid:
        return
    tenure = delivery.tenure
    if tenure is None:
        slot.engine.post(_abandon, slot, number)
        return
    open_still = tenure.ended() is None
    tenure.end(TermState.LOST, LossReason.CLOSED)
    slot.engine.post(_drop, slot, number, tenure)
    if open_still:  # last, for a warning may be an exception
        warnings.warn(
            f"the term {tenure.token} was dropped without resign(): it is ended, and its lease runs out",
            ResourceWarning,
            stacklevel=2,
        )


def _abandon(slot: Slot, number: int) -> None:
    if slot._desk is not None:
        slot._desk.abandon(number)


def _drop(slot: Slot, number: int, tenure: Tenure) -> None:
    slot.desk.drop(number, tenure)


class OwnedTerm(TermView):
    """A term in the hands of the application that won it."""

    __slots__ = ("_hold", "_in_block", "_noticed", "_ticket", "_watched")

    def __init__(self, tenure: Tenure, ticket: Ticket, hold: float) -> None:
        super().__init__(tenure)
        self._ticket = ticket
        self._hold = hold
        self._in_block = False
        self._watched = self._noticed = False

    def _hold_left(self) -> float:
        """Seconds for which the seat is still to be kept."""
        tenure = self._tenure
        return max(0.0, self._hold - held_for(tenure.won_at, tenure.clock.now()))

    def _open_block(self) -> None:
        if self._in_block:
            raise RuntimeError(f"a block under the term {self.token} is open already")
        self.ensure()
        if self._tenure.ended() is not None:
            self._raise_over()  # no body begins under a term that is over
        self._in_block = True
        slot, number = self._ticket.slot, self._ticket.number
        slot.engine.post(lambda: slot.desk.enter_block(number))

    def _leave(self, *, release: bool) -> None:
        """Over, here and in the engine. Idempotent: who is interrupted in it calls it again."""
        tenure, ticket = self._tenure, self._ticket
        slot, number = ticket.slot, ticket.number
        tenure.end(TermState.RESIGNED, None)
        slot.engine.post(lambda: slot.leave(number, tenure, release=release))
        ticket.finish()

    def _leave_if_interrupted(self) -> None:
        """The block is being left by an exception: if that kept it from being told, the engine is told now."""
        if not self._ticket.delivery.finished and os.getpid() == self._tenure.pid:
            self._leave(release=not self._hold)

    def _end_dropped(self) -> bool:
        """Dropped without resign(): it ends. Whether there are callbacks to be told, which nothing else keeps alive.

        One that was left, but was lost before, may be dropped before the engine has looked: nobody else tells then.
        """
        if not getattr(self, "_callbacks", None):  # not even made, where a Ctrl-C came in between
            return False
        if os.getpid() != self._tenure.pid:
            return False
        if not self._ticket.delivery.finished:
            self._tenure.end(TermState.LOST, LossReason.CLOSED)
        return True

    def _journal_watch(self) -> None:
        """On record once per term: there are callbacks, which a loss has to be told to."""
        if not self._watched:
            self._watched = True
            self._journal("watched")

    def _journal_notice(self) -> None:
        """On record once per term, though callbacks registered late are started later."""
        if not self._noticed:
            self._noticed = True
            self._journal("notified")

    def _journal(self, event: str) -> None:
        self._ticket.slot.engine.journal.write(
            event, entry=self.candidate.id, election=self.election, token=int(self.token)
        )

    def _note_loss(self, error: BaseException) -> None:
        error.add_note(f"coordkit: {self._lost()}")


class Entering(Generic[L]):
    """The owners of `with elector:` statements that are being entered, by thread.

    Python looks `__exit__` up when a `with` statement begins, and keeps what it found until the statement ends. Bound
    to an owner of its own, that is all that keeps the owner alive: so even if a Ctrl-C falls between the statement
    and the first line of `__exit__`, the owner is garbage then, and the engine finds that nobody has the term.
    """

    def __init__(self) -> None:
        self._owners: dict[int, weakref.ref[L]] = {}

    def begin(self, owner: L) -> L:
        """`__exit__` was looked up."""
        self._owners[_thread.get_ident()] = weakref.ref(owner)
        return owner

    def take(self) -> L | None:
        """`__enter__` is called: the owner made for this statement, if `__exit__` was looked up by one."""
        owner = self._owners.pop(_thread.get_ident(), None)
        return None if owner is None else owner()


class Face:
    """One elector as its owner sees it: arguments checked in the constructor, inert until first used."""

    def __init__(
        self,
        address: Address,
        election: str,
        *,
        ttl: float,
        label: str | None,
        metadata: str,
        eligible: Callable[[], bool] | None,
        hold: float,
        fences: Sequence[Fence],
        check: Callable[[], None],
    ) -> None:
        seconds = check_seconds(ttl, "ttl")
        check_timings(seconds, address.drift)
        check_ttl(address, seconds)
        if eligible is not None and not callable(eligible):
            raise ConfigError("eligible is a function that takes nothing and returns a bool")
        kept = tuple(fences)
        for fence in kept:
            if not callable(getattr(fence, "admit", None)):
                raise ConfigError(f"a fence has a method admit(token); {type(fence).__name__} has not")
            if inspect.iscoroutinefunction(fence.admit):  # nobody would await it, and it would admit everything
                raise ConfigError(
                    f"a fence's admit is a plain function, run on a thread; {type(fence).__name__}'s is async"
                )
        self._address = address
        self._read_seconds = read_seconds(address, seconds)
        self._spec = Spec(
            check_election(election),
            seconds,
            check_label(label or ""),
            check_metadata(metadata),
            eligible,
            check_seconds(hold, "hold", zero=True),
            kept,
        )
        self._check = check  # of the Session that was passed, if any
        self._slots: dict[
            Engine, Slot
        ] = {}  # one for each engine that it was used with: of the parent, of this process
        self._closed = False

    def _reach(self) -> Slot:
        """The slot in this process's engine, made when first used here."""
        self._check()
        if self._is_closed():
            raise ElectorClosed(f"the elector of {self._spec.election!r} is closed")
        for engine, slot in list(self._slots.items()):
            if engine.pid != os.getpid() and slot.newest is not None and slot.newest.open:
                raise ForkedProcessError(
                    f"this elector has an open term in process {engine.pid}; make another one in the child"
                )
        engine = current()
        existing = self._slots.get(engine)
        if existing is not None:
            return existing
        made = Slot(engine, self._address, self._spec)
        kept = self._slots.setdefault(engine, made)  # atomic: two threads get one slot
        if self._is_closed():  # by a signal or another thread, since it was looked at: that close found no slot
            engine.post(kept.close)
            raise ElectorClosed(f"the elector of {self._spec.election!r} is closed")
        if kept is made:
            weakref.finalize(self, _let_go, made).atexit = False
            if self._spec.ttl < SHORT_TTL:
                engine.log.warning(
                    "ttl=%g s of %r is short: a process that is starved for longer loses its term; use %g s or more",
                    self._spec.ttl,
                    self._spec.election,
                    SHORT_TTL,
                )
        return kept

    def _is_closed(self) -> bool:
        return self._closed

    def _existing(self) -> Slot | None:
        """The slot, if this process has used the elector and the engine lives."""
        for engine, slot in list(self._slots.items()):
            if engine.pid == os.getpid() and not engine.dead:
                return slot
        return None

    def _end_locally(self) -> Slot | None:
        """The first half of `close`: no term of this elector is valid when it returns. No lock, no log."""
        self._closed = True
        slot = self._existing()
        if slot is not None and slot.newest is not None:
            slot.newest.end(TermState.LOST, LossReason.CLOSED)
        return slot

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{type(self).__name__} belongs to its process and cannot be pickled; make one there")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._spec.election!r} at {self._address.shown}>"


def _let_go(slot: Slot) -> None:
    if slot.engine.pid == os.getpid():
        slot.engine.post(slot.close)


def check_timeout(timeout: float | None) -> float | None:
    """None, or a number of seconds > 0."""
    return None if timeout is None else check_seconds(timeout, "timeout")


def address_of(target: object, options: dict[str, object] | None = None) -> Address:
    """The address of a target that is a URL."""
    if not isinstance(target, str):
        raise ConfigError(f"the target is a URL or a Session, not {type(target).__name__}")
    return parse(target, options)


class ObservationSlot:
    """The engine's end of one iterator over the leaders. Its methods run on the engine."""

    def __init__(self, slot: Slot) -> None:
        self.slot = slot
        self._observation: Observation | None = None
        self._stopped = False

    async def after(self, number: int) -> tuple[int, LeaderInfo | None]:
        """As `Observation.after`; starts to follow on first use."""
        if self._observation is None:
            if self._stopped:
                raise ElectorClosed("this observation was closed")
            self._observation = self.slot.desk.observe()
        return await self._observation.after(number)

    def stop(self) -> None:
        """Stop following."""
        self._stopped = True
        if self._observation is not None:
            self._observation.stop()


def stop_observation(slot: ObservationSlot) -> None:
    """The finalizer of an iterator over the leaders."""
    if slot.slot.engine.pid == os.getpid():
        slot.slot.engine.post(slot.stop)


def no_session() -> None:
    """The check of an elector that was given a URL: there is no session to be closed."""
