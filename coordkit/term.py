"""One period of leadership, as any thread may look at it.

The rule: a term ends exactly once, for exactly one reason, and never comes back. Whoever first sees it over, by
its own clock or by order, ends it; that needs neither the engine nor a lock. Only the engine extends it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NoReturn

from coordkit.clock import Clock
from coordkit.errors import ForkedProcessError, LeadershipLost
from coordkit.lease import Instant, Promise
from coordkit.model import CandidateInfo, FencingToken, LossReason, TermState


@dataclass(frozen=True, slots=True)
class End:
    """How and when, on the local clocks, a term ended."""

    state: TermState  # LOST or RESIGNED
    reason: LossReason | None
    at: Instant  # from here on no check passed, in whatever thread


class Tenure:
    """The state of one term, shared by the engine and the application.

    No lock guards it: `promise` is replaced whole, by the engine alone; the end is set once, by
    `dict.setdefault`, which is atomic. Reading it needs no I/O and no engine.
    """

    __slots__ = (
        "__weakref__",
        "_end",
        "candidate",
        "clock",
        "election",
        "jeopardy",
        "pid",
        "promise",
        "token",
        "ttl",
        "watchers",
        "won_at",
    )

    def __init__(
        self, election: str, candidate: CandidateInfo, token: FencingToken, ttl: float, promise: Promise, clock: Clock
    ) -> None:
        self.election = election
        self.candidate = candidate
        self.token = token
        self.ttl = ttl
        self.promise = promise
        self.clock = clock
        self.pid = os.getpid()
        self.won_at = clock.now()
        self.jeopardy: str | None = None  # why the term is in danger; written by the engine
        self.watchers: list[Callable[[], None]] = []  # called once, on the engine, after the end; the engine's own
        self._end: dict[str, End] = {}

    @property
    def open(self) -> bool:
        """Whether nobody has ended it yet, without looking at the clock: what a forked child inherits as open."""
        return not self._end

    def ended(self) -> End | None:
        """How it ended, or None. Looks at the clock: a term over its deadline is ended by being looked at."""
        end = self._end.get("end")
        if end is not None:
            return self._timed(end)
        now = self.clock.now()
        if self.promise.remaining(now) > 0:
            return None
        return self.end(TermState.LOST, LossReason.EXPIRED, now)

    def end(self, state: TermState, reason: LossReason | None, at: Instant | None = None) -> End:
        """End it, if it has not ended; the first end stands and is returned. A term past its deadline is EXPIRED."""
        now = at or self.clock.now()
        if self.promise.remaining(now) <= 0:
            state, reason = TermState.LOST, LossReason.EXPIRED
        return self._timed(self._end.setdefault("end", End(state, reason, now)))

    def _timed(self, end: End) -> End:
        """The end with a reading taken after it was set: until then a check in another thread could pass."""
        timed = self._end.get("timed")
        if timed is not None:
            return timed
        after = self.clock.now()
        boot = min(after.boot, self.promise.sent.boot + self.promise.span)  # beyond the deadline no check passes
        if boot > end.at.boot:
            end = replace(end, at=after._replace(boot=boot))
        return self._end.setdefault("timed", end)

    def extend(self, promise: Promise, record: Callable[[Instant], object] = lambda at: None) -> bool:
        """Engine only: replace the promise; False if the term was over before the answer came. Never revives.

        `record` is called before anybody can rely on the new promise, with the reading at which the old one stood.
        """
        at = self.clock.now()
        if self.ended() is not None:
            return False
        if promise.sent.boot >= self.promise.sent.boot:  # the newest answer stands, even if it grants less
            record(at)
            self.promise = promise
        # A thread that saw the old deadline pass meanwhile has ended the term: its word stands.
        return self.ended() is None

    def remaining(self) -> float:
        """Seconds left to act: 0.0 once it is over."""
        if self.ended() is not None:
            return 0.0
        return max(0.0, self.promise.remaining(self.clock.now()))

    def state(self) -> tuple[TermState, LossReason | None]:
        """The state and, if lost, the reason; in a forked child always LOST, FORKED."""
        if os.getpid() != self.pid:
            return TermState.LOST, LossReason.FORKED
        end = self.ended()
        if end is not None:
            return end.state, end.reason
        return (TermState.LEADING if self.jeopardy is None else TermState.JEOPARDY), None


class TermView:
    """What the application sees of a term, sync or async: properties that touch neither engine nor lock."""

    __slots__ = ("__weakref__", "_tenure")

    def __init__(self, tenure: Tenure) -> None:
        self._tenure = tenure

    @property
    def election(self) -> str:
        """The election that was won."""
        return self._tenure.election

    @property
    def candidate(self) -> CandidateInfo:
        """Us, as others see us."""
        return self._tenure.candidate

    @property
    def token(self) -> FencingToken:
        """Hand it to the resource with every write; fixed for the term, higher in every later one."""
        return self._tenure.token

    @property
    def state(self) -> TermState:
        """LEADING, JEOPARDY (a renewal has failed; still valid), LOST or RESIGNED."""
        return self._tenure.state()[0]

    @property
    def reason(self) -> LossReason | None:
        """Why it was lost; None while it is not."""
        return self._tenure.state()[1]

    @property
    def valid(self) -> bool:
        """Whether the local clock still allows acting. True is true only now: prefer `ensure(min_remaining)`."""
        return os.getpid() == self._tenure.pid and self._tenure.ended() is None

    def remaining(self) -> float:
        """Seconds left before the program must not act any more; 0.0 when the term is over."""
        return self._tenure.remaining() if os.getpid() == self._tenure.pid else 0.0

    def ensure(self, min_remaining: float = 0.0) -> None:
        """Return if at least `min_remaining` seconds of the lease are left, else raise `LeadershipLost`.

        No I/O and no lock. The danger: a pause can come between this check and the write that it guards; hand
        `token` to the resource, so that it refuses the write of a leader that is late. In a forked child it
        raises `ForkedProcessError`. Too little time left raises, too, but does not end the term.
        """
        tenure = self._tenure
        self._check_process()
        if tenure.ended() is None:
            left = tenure.promise.remaining(tenure.clock.now())
            if left > 0 and left >= min_remaining:
                return
            if left > 0:
                raise LeadershipLost(
                    f"{left:.3f} s of the lease of {self.election!r} are left, {min_remaining:g} s are needed",
                    term=self,
                )
        self._raise_over()

    def _check_process(self) -> None:
        if os.getpid() != self._tenure.pid:
            raise ForkedProcessError(
                f"the term of {self.election!r} belongs to process {self._tenure.pid}, this is its child {os.getpid()}"
            )

    def _lost(self) -> LeadershipLost:
        state, reason = self._tenure.state()
        why = "it was resigned" if state is TermState.RESIGNED else f"reason: {reason.value if reason else 'expired'}"
        return LeadershipLost(f"the term {self.token} is over: {why}", term=self, reason=reason)

    def _raise_over(self) -> NoReturn:
        raise self._lost()

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{type(self).__name__} belongs to its process and cannot be pickled; send its token instead")

    def __repr__(self) -> str:
        state, reason = self._tenure.state()
        tail = f" ({reason.value})" if reason else f", {self.remaining():.3f} s left" if self.valid else ""
        return f"<{type(self).__name__} {self.token} {state.value}{tail}>"
