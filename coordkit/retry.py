"""When to send a call again: tenacity policies, each bounded by a deadline.

The rule: one layer retries each call. A campaign's loop repeats `attempt` and a session's keeper repeats `renew`
by themselves; these policies are for single calls whose repetition is harmless (`open`, reads, `resign`, fences).
Only `Unavailable` and `OutcomeUnknown` are sent again, never `Rejected` or `Misconfigured`, never a
cancellation or a Ctrl-C.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import tenacity

from coordkit.clock import Clock
from coordkit.errors import OutcomeUnknown, Unavailable
from coordkit.lease import waited_for
from coordkit.model import check_seconds

if TYPE_CHECKING:
    from coordkit.term import TermView

REPEATABLE = (Unavailable, OutcomeUnknown)


def within(seconds: float, *, first: float = 0.05, most: float = 2.0) -> tenacity.Retrying:
    """Repeat a synchronous call for at most `seconds`, full jitter between tries, then raise its last error.

    The last wait is not begun if it would end after the deadline. The call itself is not interrupted.
    """
    limit = check_seconds(seconds, "seconds")
    return tenacity.Retrying(stop=tenacity.stop_before_delay(limit), **_policy(first, most))


def within_async(seconds: float, *, first: float = 0.05, most: float = 2.0) -> tenacity.AsyncRetrying:
    """As `within`, for a coroutine function."""
    limit = check_seconds(seconds, "seconds")
    return tenacity.AsyncRetrying(stop=tenacity.stop_before_delay(limit), **_policy(first, most))


def by_clock(clock: Clock, chance: random.Random, seconds: float) -> tenacity.AsyncRetrying:
    """As `within_async`, by the given clock and chance: for the core, whose time and chance are arguments."""
    start = clock.now()

    def out_of_time(state: tenacity.RetryCallState) -> bool:
        return waited_for(start, clock.now()) + state.upcoming_sleep >= seconds

    def nap(state: tenacity.RetryCallState) -> float:
        return jitter(chance, state.attempt_number, first=0.05, most=2.0)

    return tenacity.AsyncRetrying(stop=out_of_time, **{**_policy(0, 0), "wait": nap})


def jitter(chance: random.Random, failures: int, *, first: float, most: float) -> float:
    """Seconds to wait after so many failures: full jitter under a bound that doubles from `first` up to `most`."""
    return chance.uniform(0, min(most, first * 2 ** min(failures, 32)))


def while_leading(
    term: TermView, *, min_remaining: float = 0.0, first: float = 0.05, most: float = 2.0
) -> tenacity.Retrying:
    """Repeat a synchronous call, such as a fenced write, as long as the term leaves time for it.

    Before every try `term.ensure(min_remaining)` is asked, so a lost term raises `LeadershipLost` instead of
    trying again; a wait that would outlast the lease is not begun. The call is not interrupted when the lease
    ends during it: only a fence at the resource covers that.
    """
    return tenacity.Retrying(**_while_leading(term, min_remaining), **_policy(first, most))


def while_leading_async(
    term: TermView, *, min_remaining: float = 0.0, first: float = 0.05, most: float = 2.0
) -> tenacity.AsyncRetrying:
    """As `while_leading`, for a coroutine function."""
    return tenacity.AsyncRetrying(**_while_leading(term, min_remaining), **_policy(first, most))


def _policy(first: float, most: float) -> dict[str, Any]:
    return {
        "retry": tenacity.retry_if_exception_type(REPEATABLE),
        "wait": tenacity.wait_random_exponential(multiplier=first, max=most),
        "reraise": True,
    }


def _while_leading(term: TermView, min_remaining: float) -> dict[str, Any]:
    def still_leading(state: tenacity.RetryCallState) -> None:
        term.ensure(min_remaining)

    def lease_too_short(state: tenacity.RetryCallState) -> bool:
        return term.remaining() <= state.upcoming_sleep + min_remaining

    return {"before": still_leading, "stop": lease_too_short}
