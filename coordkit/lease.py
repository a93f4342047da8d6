"""The rules of holding a lease. No I/O, no clock, no threads.

The rule: a promise counts from before it was asked for. Its holder stops early by a margin, on the faster of
its clocks; whoever waits for it to end waits late by the same margin, on the slower of its own. Between the
two lies every clock that drifts by less than `drift`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from coordkit.errors import ConfigError

STOP_EARLY = 0.002  # s: a check and the act it guards are not one instant
RENEWALS_PER_TTL = 3  # renew every ttl/3: two may fail before the lease is in danger
DEFAULT_TTL = 10.0  # s
DEFAULT_DRIFT = 0.01  # clocks of honest machines differ by far less than 1 %
SHORTEST_ACTING_TIME = 0.050  # s: below it a lease is over before its first renewal can return


class Instant(NamedTuple):
    """One reading of the clocks of this machine, in seconds since some start of their own."""

    boot: float  # counts while the machine sleeps
    raw: float  # never steered by a time daemon
    mono: float  # steered, does not count while the machine sleeps


def held_for(since: Instant, now: Instant) -> float:
    """Seconds for which a holder has held: the larger of what its clocks say, so that it stops in time."""
    boot, raw = now[0] - since[0], now[1] - since[1]
    return boot if boot > raw else raw


def waited_for(since: Instant, now: Instant) -> float:
    """Seconds for which a waiter has waited: the smaller of what its clocks say, so that it does not hurry."""
    mono, raw = now[2] - since[2], now[1] - since[1]
    return mono if mono < raw else raw


def acting_time(ttl: float, drift: float) -> float:
    """Seconds after sending the request during which the holder of a lease of `ttl` may act."""
    return ttl * (1 - 2 * drift) - STOP_EARLY


def waiting_time(ttl: float, drift: float) -> float:
    """Seconds that a challenger waits after it last saw a lease of `ttl` move, before the holder is over."""
    return ttl * (1 + 2 * drift)


@dataclass(frozen=True, slots=True)
class Promise:
    """What a backend's answer allows: to act for `span` seconds from `sent`, read before the first byte left."""

    sent: Instant
    span: float

    def remaining(self, now: Instant) -> float:
        """Seconds left to act; zero or less when it is over."""
        return self.span - held_for(self.sent, now)


def promise(sent: Instant, ttl: float, drift: float) -> Promise:
    """The promise of a lease of `ttl` seconds that was asked for at `sent` and granted."""
    return Promise(sent, acting_time(ttl, drift))


def renewal_due(current: Promise, ttl: float, now: Instant, pace: float | None = None) -> float:
    """Seconds until the lease wants renewing: ttl/3 after the newest answered request was sent. May be <= 0.

    `pace`: seconds instead of ttl/3, where the store wants it more often.
    """
    return (ttl / RENEWALS_PER_TTL if pace is None else pace) - held_for(current.sent, now)


def call_budget(ttl: float, remaining: float) -> float:
    """Seconds that one call may take while a lease is held: min(ttl/3, what is left), never negative."""
    return max(0.0, min(ttl / RENEWALS_PER_TTL, remaining))


def lag_limit(ttl: float) -> float:
    """Seconds by which the engine may run late before that alone is jeopardy."""
    return ttl / 10


def check_timings(ttl: float, drift: float) -> None:
    """Refuse timings that leave no room to act, with the arithmetic in the message."""
    if not 0 <= drift <= 0.2:
        raise ConfigError(f"drift is a fraction from 0 to 0.2, not {drift!r}")
    room = acting_time(ttl, drift)
    if room < SHORTEST_ACTING_TIME:
        raise ConfigError(
            f"ttl={ttl:g} leaves no room: ttl*(1 - 2*drift) - {STOP_EARLY:g} = "
            f"{ttl:g}*(1 - 2*{drift:g}) - {STOP_EARLY:g} = {room:.4g} s to act, "
            f"and at least {SHORTEST_ACTING_TIME:g} s are needed"
        )
