"""The policies end in time and never send again what must not be sent again.

The rule: time is the test's own; a policy that waited for real would be caught by taking long.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import tenacity
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import coordkit
from coordkit import retry
from coordkit.errors import (
    BackendError,
    ConfigError,
    CoordkitError,
    LeadershipLost,
    Misconfigured,
    OutcomeUnknown,
    Rejected,
    StaleToken,
    Unavailable,
)
from coordkit.lease import Instant, promise
from coordkit.model import CandidateInfo, FencingToken, LossReason, TermState
from coordkit.term import Tenure, TermView

NEVER: list[BaseException] = [
    Rejected("no"),
    Misconfigured("no"),
    BackendError("no"),
    ConfigError("no"),
    LeadershipLost("no"),
    StaleToken(FencingToken("a", 1), FencingToken("a", 2)),
    CoordkitError("no"),
    ValueError("no"),
    asyncio.CancelledError(),
    KeyboardInterrupt(),
    SystemExit(1),
]


class VirtualTime:
    """A clock that only `sleep` and the test move."""

    covers_suspend = True

    def __init__(self) -> None:
        self.time = 100.0
        self.naps: list[float] = []

    def now(self) -> Instant:
        return Instant(self.time, self.time, self.time)

    def wall(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.naps.append(seconds)
        self.time += seconds

    async def sleep_async(self, seconds: float) -> None:
        self.sleep(seconds)


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> VirtualTime:
    """What tenacity takes for the time in this test."""
    virtual = VirtualTime()
    monkeypatch.setattr(tenacity, "time", SimpleNamespace(monotonic=lambda: virtual.time))
    return virtual


Caller = Callable[[Callable[[], object]], Any]


def caller(policy: tenacity.Retrying | tenacity.AsyncRetrying, time: VirtualTime) -> Caller:
    """Call a function under a policy, sync or async, in virtual time."""
    if not isinstance(policy, tenacity.AsyncRetrying):
        policy.sleep = time.sleep
        return policy
    policy.sleep = time.sleep_async

    async def called(function: Callable[[], object]) -> object:
        async def work() -> object:
            return function()

        return await policy(work)

    def run(function: Callable[[], object]) -> object:
        # Driven by hand: nothing here truly waits, and a loop would treat a KeyboardInterrupt as its own.
        driven = called(function)
        try:
            driven.send(None)
        except StopIteration as done:
            return done.value
        raise AssertionError("the policy waited for something real")

    return run


def leading_term(time: VirtualTime, ttl: float = 10.0) -> TermView:
    granted = promise(time.now(), ttl, 0.0)
    return TermView(Tenure("a", CandidateInfo("me"), FencingToken("a", 1), ttl, granted, time))


POLICIES: dict[str, Callable[[VirtualTime], tenacity.Retrying | tenacity.AsyncRetrying]] = {
    "within": lambda time: retry.within(5.0),
    "within_async": lambda time: retry.within_async(5.0),
    "by_clock": lambda time: retry.by_clock(time, random.Random(1), 5.0),
    "while_leading": lambda time: retry.while_leading(leading_term(time, 5.0)),
    "while_leading_async": lambda time: retry.while_leading_async(leading_term(time, 5.0)),
}


@pytest.fixture(params=POLICIES)
def call(request: pytest.FixtureRequest, time: VirtualTime) -> Caller:
    """Each policy in turn, bounded by about 5 s."""
    return caller(POLICIES[request.param](time), time)


def failing(errors: Iterator[BaseException]) -> Callable[[], str]:
    def work() -> str:
        for error in errors:
            raise error
        return "done"

    return work


def test_the_policies_are_public() -> None:
    assert coordkit.retry is retry


@pytest.mark.parametrize("kind", [Unavailable, OutcomeUnknown])
def test_what_may_be_sent_again_is_sent_again(call: Caller, kind: type[BackendError], time: VirtualTime) -> None:
    assert call(failing(iter([kind("down"), kind("down")]))) == "done"
    assert len(time.naps) == 2


@pytest.mark.parametrize("error", NEVER, ids=lambda error: type(error).__name__)
def test_what_must_not_be_sent_again_is_not(call: Caller, error: BaseException, time: VirtualTime) -> None:
    tried = []

    def work() -> None:
        tried.append(1)
        raise error

    with pytest.raises(type(error)) as caught:
        call(work)
    assert caught.value is error
    assert (tried, time.naps) == ([1], [])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50, deadline=None)
@given(costs=st.lists(st.floats(0, 3), max_size=20))
def test_every_policy_is_bounded_and_raises_the_last_error_itself(costs: list[float], time: VirtualTime) -> None:
    for make in POLICIES.values():
        began = time.time
        errors: list[Unavailable] = []
        cost = iter(costs)

        def work(cost: Iterator[float] = cost, errors: list[Unavailable] = errors) -> None:
            time.time += next(cost, 0.0)
            errors.append(Unavailable(f"try {len(errors)}"))
            raise errors[-1]

        time.naps.clear()
        with pytest.raises((Unavailable, LeadershipLost)) as caught:
            caller(make(time), time)(work)
        if isinstance(caught.value, Unavailable):
            assert caught.value is errors[-1]
        assert sum(time.naps) <= 5.0  # no wait is begun that would end after the deadline
        assert time.time - began <= 5.0 + max(costs, default=0.0)  # a call itself is not interrupted


def test_waits_are_random_and_grow_up_to_a_limit(time: VirtualTime) -> None:
    policy = retry.within(1000.0, first=1.0, most=8.0)
    with pytest.raises(Unavailable):
        caller(policy, time)(failing(iter(lambda: Unavailable("down"), None)))
    assert len({round(nap, 6) for nap in time.naps}) > len(time.naps) // 2
    assert max(time.naps) <= 8.0
    assert max(time.naps) > 4.0


@given(st.integers(0, 10**6), st.floats(0.001, 10), st.floats(0.001, 60), st.integers())
def test_jitter_stays_under_a_bound_that_doubles(failures: int, first: float, most: float, seed: int) -> None:
    """For any number of failures: a backend that is down for a month is still asked again."""
    nap = retry.jitter(random.Random(seed), failures, first=first, most=most)
    assert 0 <= nap <= min(most, first * 2.0 ** min(failures, 64))


@pytest.mark.parametrize("seconds", [0, -1, float("inf"), float("nan"), "5", None])
def test_an_unbounded_policy_cannot_be_made(seconds: Any) -> None:
    for make in (retry.within, retry.within_async):
        with pytest.raises(ConfigError):
            make(seconds)


# -- while_leading ---------------------------------------------------------------------------------------


@pytest.fixture(params=[retry.while_leading, retry.while_leading_async], ids=["sync", "async"])
def leading(request: pytest.FixtureRequest) -> Callable[..., tenacity.Retrying | tenacity.AsyncRetrying]:
    make: Callable[..., tenacity.Retrying | tenacity.AsyncRetrying] = request.param
    return make


def test_a_lost_term_is_asked_before_the_first_try(leading: Any, time: VirtualTime) -> None:
    term = leading_term(time)
    term._tenure.end(TermState.LOST, LossReason.REVOKED)
    tried: list[int] = []
    with pytest.raises(LeadershipLost) as caught:
        caller(leading(term), time)(lambda: tried.append(1))
    assert (tried, caught.value.reason) == ([], LossReason.REVOKED)


def test_a_term_lost_between_two_tries_stops_them(leading: Any, time: VirtualTime) -> None:
    term = leading_term(time)
    tried = []

    def work() -> None:
        tried.append(1)
        term._tenure.end(TermState.LOST, LossReason.REVOKED)
        raise Unavailable("down")

    with pytest.raises((LeadershipLost, Unavailable)):
        caller(leading(term), time)(work)
    assert tried == [1]


def test_a_wait_that_would_outlast_the_lease_is_not_begun(leading: Any, time: VirtualTime) -> None:
    term = leading_term(time)
    time.time += term.remaining() - 1e-9
    with pytest.raises(Unavailable):
        caller(leading(term, first=10.0, most=10.0), time)(failing(iter([Unavailable("down")])))
    assert time.naps == []


def test_each_try_keeps_the_time_that_was_asked_for(leading: Any, time: VirtualTime) -> None:
    term = leading_term(time, 10.0)
    left = []

    def work() -> None:
        left.append(term.remaining())
        time.time += 0.5
        raise OutcomeUnknown("late")

    with pytest.raises((OutcomeUnknown, LeadershipLost)):
        caller(leading(term, min_remaining=4.0), time)(work)
    assert len(left) > 1
    assert min(left) >= 4.0
    time.time += 10.0
    assert not term.valid


def test_too_little_time_left_raises_without_ending_the_term(leading: Any, time: VirtualTime) -> None:
    term = leading_term(time, 10.0)
    with pytest.raises(LeadershipLost):
        caller(leading(term, min_remaining=11.0), time)(lambda: None)
    assert term.valid
