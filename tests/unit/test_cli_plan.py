"""When a command is told to stop and when it is killed: arithmetic alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordkit.cli.supervise import Plan, Step, plan
from coordkit.errors import ConfigError
from coordkit.lease import acting_time

TTLS = st.floats(0.01, 365 * 86400.0)
DRIFTS = st.floats(0.0, 0.2)


@pytest.mark.parametrize(
    ("ttl", "stop", "kill", "guard"),
    [
        (0.8, 0.4, 0.3, 0.15),  # the smallest slack and grace
        (2.0, 0.55, 0.3, 0.15),
        (10.0, 1.75, 0.5, 0.25),
        (60.0, 9.5, 2.0, 1.0),  # the largest slack
        (3600.0, 32.0, 2.0, 1.0),  # the largest grace
    ],
)
def test_a_plan(ttl: float, stop: float, kill: float, guard: float) -> None:
    assert plan(ttl, 0.01) == Plan(ttl, pytest.approx(stop), pytest.approx(kill), pytest.approx(guard))


@given(TTLS, DRIFTS)
def test_every_plan_has_its_order_and_leaves_room_for_a_renewal(ttl: float, drift: float) -> None:
    try:
        made = plan(ttl, drift)
    except ConfigError as error:
        assert "s are left for the renewal" in str(error)  # noqa: PT017 - both outcomes are right, each in its place
        assert acting_time(ttl, drift) - ttl / 3 < 0.5 + ttl / 3
        return
    assert 0.15 <= made.guard <= made.kill - 0.15 + 1e-9
    assert made.kill <= made.stop - 0.1 + 1e-9
    assert acting_time(ttl, drift) - ttl / 3 - made.stop >= max(0.1, ttl / 12)


def test_one_failed_renewal_of_ten_seconds_does_not_stop_a_command() -> None:
    """Due after ttl/3, failed after ttl/3 more, sent again after ttl/12 at most: there is still time to answer."""
    assert acting_time(10.0, 0.01) - 10 * (1 / 3 + 1 / 3 + 1 / 12) > plan(10.0, 0.01).stop + 0.5


@pytest.mark.parametrize(("ttl", "drift"), [(0.5, 0.01), (0.77, 0.01), (2.0, 0.2), (0.001, 0.0)])
def test_a_ttl_without_room_is_refused_with_the_arithmetic(ttl: float, drift: float) -> None:
    with pytest.raises(ConfigError) as refused:
        plan(ttl, drift)
    message = str(refused.value)
    assert message.startswith(f"ttl={ttl:g} leaves no room to stop a command in time")
    if (ttl, drift) == (0.5, 0.01):
        assert "0.488 - 0.1667 - 0.4 = -0.07867 s are left for the renewal, and at least 0.1 s are needed" in message


@pytest.mark.parametrize("ttl", [0.78, 1.0, 2.0, 10.0, 3600.0])
def test_these_have_room(ttl: float) -> None:
    assert plan(ttl, 0.01).ttl == ttl


@given(st.floats(-10, 100), st.floats(0.8, 1000))
def test_the_steps_come_in_order_and_on_time(left: float, ttl: float) -> None:
    made = plan(ttl, 0.01)
    expected = Step.KILL if left <= made.kill else Step.STOP if left <= made.stop else Step.GO_ON
    assert made.step(left) is expected
    nap = made.until_next(left)
    assert nap >= 0
    assert (nap == 0) == (left <= made.kill)
    if nap > 0:
        assert made.step(left - nap - 1e-6) is not expected
        assert made.step(left - nap * 0.99) is expected
