"""The keeper: renews all that a session holds, ends it in time, and cleans up after it.

The rules: losing is a local timer that needs no reply; an unknown outcome neither extends nor ends a term; a term is
given up locally first and released in the store second; only a term whose body has ended is released, any other
lease runs out first. Whatever a failed or abandoned call may have left in the store is looked for until it is gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import tenacity

from coordkit.backends.contract import (
    Backend,
    Candidacy,
    Confirmed,
    Grant,
    Host,
    Lost,
    Renewed,
    Unknown,
)
from coordkit.errors import BackendError, Misconfigured, OutcomeUnknown, Rejected, Unavailable
from coordkit.lease import (
    Instant,
    call_budget,
    held_for,
    lag_limit,
    renewal_due,
    waited_for,
    waiting_time,
)
from coordkit.model import LossReason, TermState
from coordkit.retry import jitter
from coordkit.term import End, Tenure
from coordkit.waiting import being_cancelled, bounded, uncancelled, until

OPEN_SECONDS = 5.0  # one try to open a backend
CLOSE_SECONDS = 2.0  # how long a closing session waits for releases under way; then their leases run out
LONGEST_NAP = 0.25  # s: asyncio's timers do not see a suspend, so the clocks are read again at least this often
SHORTEST_NAP = 0.0005
HINT_NAP = 0.1  # s, at least, between two renewals that hints ask for

Closing = Callable[[], asyncio.Task[object] | None]  # ends what a user does; the task, if any, that has yet to end


@dataclass(slots=True)
class Holding:
    """A term that is renewed. Owned by the keeper's loop."""

    tenure: Tenure
    grant: Grant
    watch: asyncio.Task[None] | None = None
    suspect: bool = False  # a hint says that the entry is gone: renew now, to be sure
    look_after: Callable[[], None] = lambda: None  # ends the term if nobody has it any more

    def due(self, now: Instant) -> float:
        """Seconds until it wants renewing; may be <= 0."""
        return renewal_due(self.tenure.promise, self.tenure.ttl, now, self.grant.pace)


class Keeper:
    """One session: a backend, shared by the elections that use it, and the terms held on it.

    Lives on the host's loop; only `end_all` may be called from another thread.
    """

    def __init__(
        self,
        host: Host,
        backend: Backend,
        *,
        on_unused: Callable[[Keeper], object],
        on_closed: Callable[[Keeper], object] = lambda _: None,
    ) -> None:
        self.host = host
        self.backend = backend
        self._on_unused = on_unused  # the last user has parted
        self._on_closed = on_closed  # and all that it left is released, or given up
        self._users: dict[object, Closing] = {}  # how to close each of them, at exit
        self._opened = False
        self._closing: asyncio.Task[None] | None = None
        self._opening: asyncio.Task[BackendError | None] | None = None
        self._held: dict[Tenure, Holding] = {}
        self._rounds: dict[float, asyncio.Event] = {}  # by ttl: set to wake the loop that renews them
        self._deadlines: asyncio.Task[None] | None = None
        self._sooner = asyncio.Event()
        self._cleaning: set[asyncio.Task[None]] = set()
        self._retiring: dict[Tenure, tuple[Candidacy, asyncio.Task[None]]] = {}
        self._releasing: dict[Tenure, asyncio.Task[None]] = {}
        self._loops: set[asyncio.Task[None]] = set()

    # --- opening and closing ---------------------------------------------------------------------------------

    async def opened(self) -> None:
        """Return when the backend is open; all who wait share one try, and each gets an exception of its own."""
        if self._opened:
            return
        if self._opening is None:
            self._opening = self.host.spawn(self._open(), "open")
        opening = self._opening
        try:
            error = await asyncio.shield(opening)
        except asyncio.CancelledError:
            if opening.cancelled() and not being_cancelled():
                raise Unavailable("the session is being closed", operation="open") from None
            raise
        if error is not None:
            raise type(error)(str(error), backend=error.backend, operation=error.operation) from error

    async def open_once(self, seconds: float) -> None:
        """As `opened`, with a timeout: `Unavailable`."""
        try:
            async with asyncio.timeout(seconds):
                await self.opened()
        except TimeoutError as error:
            raise Unavailable(f"not open within {seconds:g} s", operation="open") from error

    async def _open(self) -> BackendError | None:
        try:
            await bounded(self.backend.open(), OPEN_SECONDS, "open")
        except OutcomeUnknown as error:  # opening changes nothing in the store
            return Unavailable(str(error), backend=error.backend, operation="open")
        except BackendError as error:
            return error
        except Exception as error:  # noqa: BLE001 - a fault of the adapter: all who wait are told, each by its own
            return Misconfigured(f"the backend could not be opened: {error!r}", operation="open")
        else:
            self._opened = True
            return None
        finally:
            self._opening = None

    def join(self, user: object, close: Closing) -> None:
        """One more elector uses this session; `close` ends what it does, when the process exits, or begins to."""
        self._users[user] = close

    def part(self, user: object) -> asyncio.Task[None] | None:
        """An elector uses it no more; the last one closes it. Returns the closing, which may be awaited."""
        self._users.pop(user, None)
        if self._users:
            return None
        self._on_unused(self)
        self._closing = self.host.spawn(self._close(), "close")
        return self._closing

    async def _close(self) -> None:
        try:
            await self._let_go()
        finally:
            self._on_closed(self)

    async def _let_go(self) -> None:
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self.finish()
        except TimeoutError:
            self.host.log.warning("a session was closed with releases unfinished; those leases run out")
        for cleaning in list(self._cleaning):
            cleaning.cancel()
        for _, retirement in list(self._retiring.values()):
            retirement.cancel()
        self._retiring.clear()  # those leases run out
        for loop in list(self._loops):
            loop.cancel()
        if self._opening is not None:
            self._opening.cancel()
        await self.backend.close()

    async def exit(self) -> None:
        """The process exits: end everything, release what may be released, leave the queues."""
        campaigns = [task for close in list(self._users.values()) if (task := close()) is not None]
        if campaigns:  # each leaves its queue when its cancellation comes through
            await asyncio.wait(campaigns)
        await self.finish()
        if self._closing is not None:  # the store is told that its leases are needed no more
            await asyncio.shield(self._closing)

    async def finish(self) -> None:
        """Settle what has ended and wait for the releases under way. Leaves other leases to run out."""
        self.settle_ended()
        while self._cleaning:
            await asyncio.wait(self._cleaning)

    # --- holding ---------------------------------------------------------------------------------------------

    def hold(self, tenure: Tenure, grant: Grant, look_after: Callable[[], None] = lambda: None) -> None:
        """Renew this term from now on, and end it at its deadline at the latest.

        `look_after` is called every now and then, and may end it.
        """
        holding = self._held[tenure] = Holding(tenure, grant, look_after=look_after)
        holding.watch = self.host.spawn(self._watch(holding), "revocations")
        if tenure.ttl not in self._rounds:
            wake = self._rounds[tenure.ttl] = asyncio.Event()
            self._loop(self._renew_all(tenure.ttl, wake), "renewals")
        now = self.host.clock.now()
        if holding.due(now) < tenure.ttl / 4:  # the win was slow, or the pace is quick: do not oversleep
            self._rounds[tenure.ttl].set()
        if self._deadlines is None:
            self._deadlines = self._loop(self._end_in_time(), "deadlines")
        if tenure.promise.remaining(now) < LONGEST_NAP:
            self._sooner.set()

    def settle(self, tenure: Tenure) -> End | None:
        """Carry out the end of a term that has ended: journal it, tell its watchers, let its lease run out."""
        end = tenure.ended()
        if end is None or (holding := self._held.pop(tenure, None)) is None:
            return end
        if holding.watch is not None:
            holding.watch.cancel()
        self._guarded(lambda: self._record_end(tenure, end))
        retirement = self.host.spawn(self._retire(tenure, holding.grant.candidacy), "retirement")
        self._retiring[tenure] = (holding.grant.candidacy, retirement)
        self._tell_watchers(tenure)
        return end

    def settle_ended(self) -> None:
        """Settle every term that has ended, by whatever thread."""
        for tenure in list(self._held):
            self.settle(tenure)

    def watch_end(self, tenure: Tenure, call: Callable[[], None]) -> None:
        """Call `call` once on the loop after the term has ended and its end is carried out."""
        if self.settle(tenure) is None or tenure in self._held:
            tenure.watchers.append(call)
        else:
            call()

    def unwatch_end(self, tenure: Tenure, call: Callable[[], None]) -> None:
        """Forget a watcher that `watch_end` took."""
        if call in tenure.watchers:
            tenure.watchers.remove(call)

    def end_all(self) -> None:
        """End all terms locally. Any thread may call it: it only sets each term's end."""
        for tenure in list(self._held):
            tenure.end(TermState.LOST, LossReason.CLOSED)

    def engine_died(self) -> None:
        """Nothing will be renewed any more: every term is lost now, and whoever waits for it is told."""
        for tenure, _ in list(self._held.items()):
            end = tenure.end(TermState.LOST, LossReason.ENGINE_DIED)
            self._guarded(lambda end=end, tenure=tenure: self._record_end(tenure, end))  # type: ignore[misc]
            self._tell_watchers(tenure)
        self._held.clear()

    def _record_end(self, tenure: Tenure, end: End) -> None:
        fields = {"entry": tenure.candidate.id, "election": tenure.election, "token": int(tenure.token)}
        if end.state is TermState.RESIGNED:
            self.host.journal.write("resigned", **fields, at=end.at.boot)
            return
        reason = (end.reason or LossReason.EXPIRED).value
        self.host.journal.write("lost", **fields, at=end.at.boot, reason=reason)
        ordered = end.reason in (LossReason.CLOSED, LossReason.INELIGIBLE)  # by the application itself
        tell = self.host.log.info if ordered else self.host.log.warning
        tell("the term %s is lost: %s", tenure.token, reason)

    def _tell_watchers(self, tenure: Tenure) -> None:
        watchers, tenure.watchers = tenure.watchers, []
        for call in watchers:
            self._guarded(call)

    def _guarded(self, call: Callable[[], object]) -> None:
        """One watcher, or the journal, must not keep the end of a term from all others."""
        try:
            call()
        except Exception as error:  # noqa: BLE001 - whatever it was, the loops go on
            self.host.log.error("at the end of a term: %r", error)

    async def _watch(self, holding: Holding) -> None:
        while True:
            try:
                await uncancelled(holding.grant.candidacy.revoked(), "revoked")
            except BackendError as error:
                self.host.log.info("no hints that the term %s is over: %r", holding.tenure.token, error)
                await asyncio.sleep(holding.tenure.ttl / 3)
                continue
            holding.suspect = True
            self._wake_round(holding.tenure.ttl)
            # One look per hint: the renewal clears `suspect`, or ends the term and with it this task.
            while holding.suspect:
                await asyncio.sleep(min(HINT_NAP, holding.tenure.ttl / 12))

    # --- the two loops ---------------------------------------------------------------------------------------

    async def _renew_all(self, ttl: float, wake: asyncio.Event) -> None:
        clock = self.host.clock
        try:
            while held := [holding for tenure, holding in self._held.items() if tenure.ttl == ttl]:
                wake.clear()
                now = clock.now()
                due = [(each.due(now), each) for each in held]
                first = min(0.0 if each.suspect else seconds for seconds, each in due)
                if first > 0:
                    await until(wake, first)
                    continue
                # Those due soon go along, so that the elections of a session come to be renewed together.
                batch = [each for seconds, each in due if each.suspect or seconds <= ttl / 12]
                certain = await self._renew(batch, ttl)
                # Where an answer was unknown, or moved nothing: not at once again.
                now = clock.now()
                if not certain or any(each.due(now) <= 0 for each in batch):
                    await until(wake, self.host.chance.uniform(ttl / 48, ttl / 12))  # but for a hint
        finally:
            self._rounds.pop(ttl, None)

    async def _renew(self, batch: list[Holding], ttl: float) -> bool:
        """Renew a batch and apply the answers; False if one of them is unknown."""
        now = self.host.clock.now()
        left = max(each.tenure.promise.remaining(now) for each in batch)  # an answer too late for one is ignored
        answers: list[Renewed | Lost | Unknown]
        try:
            call = self.backend.renew([each.grant for each in batch])
            answers = list(await bounded(call, call_budget(ttl, left), "renew"))
            if len(answers) != len(batch):
                raise OutcomeUnknown(f"{len(answers)} answers to {len(batch)} renewals", operation="renew")
        except Exception as error:  # noqa: BLE001 - a timeout, a failure, or a fault of the adapter: nothing was learnt
            answers = [Unknown(error)] * len(batch)
        for holding, answer in zip(batch, answers, strict=True):
            holding.suspect = False
            try:
                self._apply(holding.tenure, answer)
            except Exception as error:  # noqa: BLE001 - one term's trouble must not keep the others from their answers
                self.host.log.error("a renewal of %s was not applied: %r", holding.tenure.token, error)
        return not any(isinstance(answer, Unknown) for answer in answers)

    def _apply(self, tenure: Tenure, answer: Renewed | Lost | Unknown) -> None:
        match answer:
            case Renewed():
                self._extend(tenure, answer)
            case Lost():
                self._revoke(tenure, answer)
            case Unknown():
                self._endanger(tenure, f"a renewal failed: {answer.cause!r}")

    def _extend(self, tenure: Tenure, renewed: Renewed) -> None:
        sent, span = renewed.promise.sent.boot, renewed.promise.span

        def record(at: Instant) -> None:
            self.host.journal.write(
                "renewed",
                entry=tenure.candidate.id,
                election=tenure.election,
                token=int(tenure.token),
                at=at.boot,
                sent=sent,
                deadline=sent + span,
            )

        if not tenure.extend(renewed.promise, record):
            self.settle(tenure)
            return
        if tenure.jeopardy is not None:
            self.host.log.info("the term %s is out of danger", tenure.token)
            tenure.jeopardy = None

    def _revoke(self, tenure: Tenure, lost: Lost) -> None:
        if self.settle(tenure) is not None:  # it was resigned while the question was under way
            return
        tenure.end(TermState.LOST, LossReason.REVOKED)
        self.host.log.warning("the backend says that the term %s is over: %s", tenure.token, lost.detail)
        self.settle(tenure)

    def _endanger(self, tenure: Tenure, detail: str) -> None:
        if self.settle(tenure) is not None:
            return
        if tenure.jeopardy is None:
            self.host.log.warning(
                "the term %s is in jeopardy with %.3f s left: %s", tenure.token, tenure.remaining(), detail
            )
            self.host.journal.write(
                "jeopardy",
                entry=tenure.candidate.id,
                election=tenure.election,
                token=int(tenure.token),
                detail=detail,
            )
        tenure.jeopardy = detail

    async def _end_in_time(self) -> None:
        clock = self.host.clock
        try:
            while self._held:
                self._sooner.clear()
                now = clock.now()
                left = min(tenure.promise.remaining(now) for tenure in self._held)
                nap = min(LONGEST_NAP, max(SHORTEST_NAP, left))
                interrupted = await until(self._sooner, nap)
                lag = 0.0 if interrupted else held_for(now, clock.now()) - nap
                for tenure, holding in list(self._held.items()):
                    self._guarded(holding.look_after)
                    if self.settle(tenure) is None and lag > lag_limit(tenure.ttl):
                        self._endanger(tenure, f"the engine ran {lag:.3f} s late")
                        self._renew_soon(tenure)
        finally:
            self._deadlines = None

    def _renew_soon(self, tenure: Tenure) -> None:
        # A late engine has lost time that others count: make it up, and so leave jeopardy by an answer.
        if (holding := self._held.get(tenure)) is not None:
            holding.suspect = True
            self._wake_round(tenure.ttl)

    def _wake_round(self, ttl: float) -> None:
        if (wake := self._rounds.get(ttl)) is not None:
            wake.set()

    def _loop(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = self.host.spawn(work, name)
        self._loops.add(task)
        task.add_done_callback(self._loops.discard)
        return task

    # --- asking and letting go -------------------------------------------------------------------------------

    async def ask(
        self, tenure: Tenure, question: Callable[[Grant], Awaitable[Confirmed | Lost]]
    ) -> Confirmed | Lost | None:
        """Put a question about a held term to its candidacy; None if the term is over already."""
        holding = self._held.get(tenure)
        if holding is None or tenure.ended() is not None:
            return None
        answer = await question(holding.grant)
        if isinstance(answer, Lost):
            self._revoke(tenure, answer)
        return answer

    def release(self, tenure: Tenure) -> asyncio.Task[None] | None:
        """The body of an ended term is over: remove its entry from the store now, and keep trying until it is gone."""
        self.settle(tenure)
        retiring = self._retiring.pop(tenure, None)
        if retiring is None:
            return self._releasing.get(tenure)
        candidacy, retirement = retiring
        retirement.cancel()
        task = self._releasing[tenure] = self.clean(candidacy, tenure.ttl)
        task.add_done_callback(lambda _: self._releasing.pop(tenure, None))
        return task

    async def _retire(self, tenure: Tenure, candidacy: Candidacy) -> None:
        # The body may still run, so nothing is released before the lease has run out by a waiter's count.
        # Where the store rounds a ttl up, what was promised is longer than what was asked for.
        needed = max(waiting_time(tenure.ttl, self.backend.drift), tenure.promise.span * (1 + 4 * self.backend.drift))
        while (left := needed - waited_for(tenure.promise.sent, self.host.clock.now())) > 0:
            await asyncio.sleep(left)
        self._retiring.pop(tenure, None)
        self.clean(candidacy, tenure.ttl)

    def clean(self, candidacy: Candidacy, ttl: float) -> asyncio.Task[None]:
        """Remove what this candidacy has, or may have, in the store. The task ends when it is gone."""
        task = self.host.spawn(self._clean(candidacy, ttl), "clean-up")
        self._cleaning.add(task)
        task.add_done_callback(self._cleaning.discard)
        return task

    async def _clean(self, candidacy: Candidacy, ttl: float) -> None:
        warned = self.host.clock.now()

        def warn(state: tenacity.RetryCallState) -> None:
            nonlocal warned
            now = self.host.clock.now()
            if state.attempt_number == 1 or waited_for(warned, now) > ttl:
                warned = now
                failure = state.outcome.exception() if state.outcome else None
                self.host.log.warning("an entry could not be removed yet: %r", failure)

        tries = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type((Unavailable, OutcomeUnknown)),
            wait=lambda state: jitter(self.host.chance, state.attempt_number, first=ttl / 48, most=ttl / 3),
            before_sleep=warn,
            reraise=True,
        )
        try:
            async for attempt in tries:
                with attempt:
                    await bounded(candidacy.resign(), ttl / 3, "resign")
        except (Rejected, Misconfigured) as error:
            self.host.log.error("an entry is left to its lease: %r", error)
