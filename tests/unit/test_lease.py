"""The arithmetic of holding a lease, on numbers alone.

The rule: whatever two clocks do within the drift, the holder has stopped before the waiter starts.
"""

from __future__ import annotations

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from coordkit.errors import ConfigError
from coordkit.lease import (
    DEFAULT_DRIFT,
    SHORTEST_ACTING_TIME,
    STOP_EARLY,
    Instant,
    Promise,
    acting_time,
    call_budget,
    check_timings,
    held_for,
    lag_limit,
    promise,
    renewal_due,
    waited_for,
    waiting_time,
)

ZERO = Instant(0.0, 0.0, 0.0)
readings = st.floats(0, 1e6)
instants = st.builds(Instant, readings, readings, readings)
ttls = st.floats(0.1, 86400)
drifts = st.floats(0, 0.2)


@given(instants, instants)
def test_a_holder_believes_the_faster_of_its_clocks(since: Instant, now: Instant) -> None:
    assert held_for(since, now) == max(now.boot - since.boot, now.raw - since.raw)


@given(instants, instants)
def test_a_waiter_believes_the_slower_of_its_clocks(since: Instant, now: Instant) -> None:
    assert waited_for(since, now) == min(now.mono - since.mono, now.raw - since.raw)


def test_a_suspend_counts_for_the_holder_and_not_for_the_waiter() -> None:
    woken = Instant(boot=3600.0, raw=1.0, mono=1.0)
    assert held_for(ZERO, woken) == 3600.0
    assert waited_for(ZERO, woken) == 1.0


def test_a_steered_clock_hurries_neither() -> None:
    hurried = Instant(boot=1.0, raw=1.0, mono=1.1)
    assert waited_for(ZERO, hurried) == 1.0
    slowed = Instant(boot=0.9, raw=1.0, mono=0.9)
    assert held_for(ZERO, slowed) == 1.0


@given(ttls, drifts, st.floats(-1, 1), st.floats(-1, 1))
@example(10.0, 0.2, 1.0, -1.0)
@example(10.0, 0.2, -1.0, 1.0)
@example(86400.0, DEFAULT_DRIFT, -1.0, 1.0)
def test_the_holder_stops_before_the_waiter_starts(ttl: float, drift: float, holder: float, waiter: float) -> None:
    """For all rates within the drift: the holder counts from the send, the waiter from the same true moment or later.

    A clock of rate r shows r seconds in each true one, so `span` on it lasts span / r.
    """
    slowest_holder = 1 + drift * holder
    fastest_waiter = 1 + drift * waiter
    held_until = acting_time(ttl, drift) / slowest_holder
    waited_until = waiting_time(ttl, drift) / fastest_waiter
    assert held_until + STOP_EARLY / 2 <= waited_until


@given(ttls, drifts, st.floats(0, 30))
def test_a_store_that_expires_by_its_own_clock_is_later_too(ttl: float, drift: float, travel: float) -> None:
    """The store counts the ttl from when the request came, by a clock that may run fast by the drift."""
    expires = travel + ttl / (1 + drift)
    holder_stops = acting_time(ttl, drift) / (1 - drift)
    assert holder_stops <= expires


@given(ttls, drifts)
def test_the_acting_time_is_inside_and_the_waiting_time_outside_the_ttl(ttl: float, drift: float) -> None:
    assert acting_time(ttl, drift) == ttl * (1 - 2 * drift) - STOP_EARLY
    assert acting_time(ttl, drift) < ttl <= waiting_time(ttl, drift)


@given(instants, ttls, drifts, st.floats(0, 1e5))
def test_a_promise_counts_from_the_send(sent: Instant, ttl: float, drift: float, later: float) -> None:
    made = promise(sent, ttl, drift)
    now = Instant(*(reading + later for reading in sent))
    assert made == Promise(sent, acting_time(ttl, drift))
    assert made.remaining(sent) == acting_time(ttl, drift)
    assert made.remaining(now) == pytest.approx(acting_time(ttl, drift) - later, abs=1e-6)


@given(instants, st.floats(0.1, 100), st.floats(0, 200), st.floats(0, 200))
def test_what_is_left_never_grows(sent: Instant, ttl: float, one: float, more: float) -> None:
    made = promise(sent, ttl, DEFAULT_DRIFT)
    earlier = Instant(*(reading + one for reading in sent))
    later = Instant(*(reading + one + more for reading in sent))
    assert made.remaining(later) <= made.remaining(earlier)


def test_a_lease_wants_renewing_a_third_of_its_ttl_after_the_send() -> None:
    made = promise(ZERO, 9.0, DEFAULT_DRIFT)
    assert renewal_due(made, 9.0, ZERO) == 3.0
    assert renewal_due(made, 9.0, Instant(1.0, 2.0, 9.0)) == 1.0
    assert renewal_due(made, 9.0, Instant(8.0, 8.0, 8.0)) == -5.0


@given(ttls, st.floats(-1e3, 1e6))
def test_a_call_gets_a_third_of_the_ttl_or_what_is_left(ttl: float, left: float) -> None:
    budget = call_budget(ttl, left)
    assert 0 <= budget <= ttl / 3
    assert budget == max(0.0, min(ttl / 3, left))


@given(ttls)
def test_three_calls_fit_into_a_lease(ttl: float) -> None:
    assert 3 * call_budget(ttl, ttl) == pytest.approx(ttl)


def test_a_tenth_of_the_ttl_is_too_late_for_the_engine() -> None:
    assert lag_limit(10.0) == 1.0


@given(st.floats(0.001, 0.5), drifts)
def test_timings_are_refused_exactly_where_no_room_is_left(ttl: float, drift: float) -> None:
    if acting_time(ttl, drift) >= SHORTEST_ACTING_TIME:
        check_timings(ttl, drift)
        return
    with pytest.raises(ConfigError, match="leaves no room"):
        check_timings(ttl, drift)


def test_the_refusal_shows_the_arithmetic() -> None:
    with pytest.raises(ConfigError) as caught:
        check_timings(0.05, 0.01)
    said = str(caught.value)
    assert "ttl*(1 - 2*drift) - 0.002 = 0.05*(1 - 2*0.01) - 0.002 = 0.047 s" in said
    assert "at least 0.05 s" in said


@pytest.mark.parametrize("drift", [-0.01, 0.21, float("nan"), float("inf")])
def test_a_drift_outside_its_range_is_refused(drift: float) -> None:
    with pytest.raises(ConfigError, match=r"drift is a fraction from 0 to 0\.2"):
        check_timings(10.0, drift)


@given(ttls, drifts)
def test_what_passes_leaves_time_for_a_renewal(ttl: float, drift: float) -> None:
    """A lease is renewed at ttl/3; with the largest drift that is still inside the acting time."""
    assume(acting_time(ttl, drift) >= SHORTEST_ACTING_TIME)
    check_timings(ttl, drift)
    assert ttl / 3 < acting_time(ttl, drift)
