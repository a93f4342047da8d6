"""A term ends exactly once, for exactly one reason, and never comes back.

The rule: the clock is the test's own, so every deadline is met exactly.
"""

from __future__ import annotations

import copy
import os
import pickle
import threading
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordkit.aio import AsyncTerm
from coordkit.elector import Term
from coordkit.errors import ForkedProcessError, LeadershipLost
from coordkit.lease import Instant, Promise, promise
from coordkit.model import CandidateInfo, FencingToken, LossReason, TermState
from coordkit.term import End, Tenure, TermView

TTL = 10.0
CANDIDATE = CandidateInfo("me", "label", "metadata")
TOKEN = FencingToken("reports/nightly", 42)


class FakeClock:
    """Moves when told to; counts how often it is read."""

    covers_suspend = True

    def __init__(self) -> None:
        self.instant = Instant(1000.0, 1000.0, 1000.0)
        self.readings = 0

    def now(self) -> Instant:
        self.readings += 1
        return self.instant

    def wall(self) -> float:
        return 0.0

    def advance(self, seconds: float) -> None:
        self.instant = Instant(*(reading + seconds for reading in self.instant))


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def tenure(clock: FakeClock) -> Tenure:
    return made(clock)


def made(clock: FakeClock) -> Tenure:
    return Tenure(TOKEN.election, CANDIDATE, TOKEN, TTL, Promise(clock.instant, TTL), clock)


def test_a_fresh_term_leads_until_its_deadline(tenure: Tenure, clock: FakeClock) -> None:
    assert tenure.state() == (TermState.LEADING, None)
    assert tenure.remaining() == TTL
    clock.advance(TTL - 0.5)
    assert tenure.remaining() == 0.5
    assert tenure.ended() is None
    assert tenure.open


def test_at_the_deadline_it_is_lost_by_being_looked_at(tenure: Tenure, clock: FakeClock) -> None:
    clock.advance(TTL)
    assert tenure.open
    assert tenure.ended() == End(TermState.LOST, LossReason.EXPIRED, clock.instant)
    assert not tenure.open
    assert tenure.state() == (TermState.LOST, LossReason.EXPIRED)
    assert tenure.remaining() == 0.0


def test_a_suspend_ends_it(tenure: Tenure, clock: FakeClock) -> None:
    boot, raw, mono = clock.instant
    clock.instant = Instant(boot + TTL, raw, mono)
    assert tenure.state() == (TermState.LOST, LossReason.EXPIRED)


def test_the_first_end_stands(tenure: Tenure, clock: FakeClock) -> None:
    first = tenure.end(TermState.LOST, LossReason.REVOKED)
    clock.advance(1)
    assert tenure.end(TermState.RESIGNED, None) is first
    assert tenure.end(TermState.LOST, LossReason.CLOSED) is first
    clock.advance(TTL)
    assert tenure.ended() is first
    assert tenure.state() == (TermState.LOST, LossReason.REVOKED)


def test_a_term_past_its_deadline_is_expired_whoever_ends_it(tenure: Tenure, clock: FakeClock) -> None:
    clock.advance(TTL)
    assert tenure.end(TermState.RESIGNED, None).reason is LossReason.EXPIRED
    assert tenure.state() == (TermState.LOST, LossReason.EXPIRED)


def test_an_expiry_is_stamped_with_the_reading_that_showed_it(tenure: Tenure, clock: FakeClock) -> None:
    clock.advance(TTL)
    seen = clock.instant
    clock.advance(TTL)
    assert tenure.end(TermState.LOST, LossReason.EXPIRED, seen) == End(TermState.LOST, LossReason.EXPIRED, seen)


def test_an_end_that_was_overtaken_by_a_renewal_is_not_before_a_check_that_passed(
    tenure: Tenure, clock: FakeClock
) -> None:
    """Somebody reads that the term is over, and before he can say so, a renewal comes in and a check passes."""
    clock.advance(TTL)
    seen = clock.instant
    sent = seen._replace(boot=seen.boot - 0.1, mono=seen.mono - 0.1)
    tenure.promise = replace(tenure.promise, sent=sent)
    clock.advance(0.5)
    assert tenure.ended() is None  # the check
    end = tenure.end(TermState.LOST, LossReason.EXPIRED, seen)
    assert end.at.boot == pytest.approx(seen.boot + 0.5)


def test_the_end_on_record_is_not_before_a_check_that_passed(tenure: Tenure, clock: FakeClock) -> None:
    read = clock.now

    def slow() -> Instant:  # whoever ends the term has read its clock, and then waits for the interpreter's lock
        clock.now = read  # type: ignore[method-assign]
        reading = read()
        clock.advance(0.03)
        checked.append(TermView(tenure).valid)
        return reading

    checked: list[bool] = []
    clock.now = slow  # type: ignore[method-assign]
    end = tenure.end(TermState.LOST, LossReason.CLOSED)
    assert checked == [True]
    assert end.at.boot == 1000.03
    clock.advance(1.0)
    assert tenure.ended() is end


def test_an_end_before_the_deadline_is_not_told_as_one_after_it(tenure: Tenure, clock: FakeClock) -> None:
    read = clock.now

    def slow() -> Instant:
        reading = read()
        clock.advance(TTL)
        return reading

    clock.now = slow  # type: ignore[method-assign]
    end = tenure.end(TermState.RESIGNED, None)
    assert end.state is TermState.RESIGNED
    assert end.at.boot == tenure.promise.sent.boot + tenure.promise.span


@pytest.mark.parametrize("round_", range(20))
def test_of_many_threads_one_ends_it_and_all_agree(round_: int, clock: FakeClock) -> None:
    tenure = made(clock)
    gate = threading.Barrier(len(LossReason))
    ends: list[End] = []

    def end(reason: LossReason) -> None:
        gate.wait(timeout=30)
        ends.append(tenure.end(TermState.LOST, reason))

    racers = [threading.Thread(target=end, args=(reason,)) for reason in LossReason]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    assert len(ends) == len(LossReason)
    assert all(each is ends[0] for each in ends)
    assert tenure.ended() is ends[0]


# -- extending -------------------------------------------------------------------------------------------


def test_a_renewal_moves_the_deadline(tenure: Tenure, clock: FakeClock) -> None:
    clock.advance(4)
    assert tenure.extend(Promise(clock.instant, TTL))
    assert tenure.remaining() == TTL
    clock.advance(TTL - 1)
    assert tenure.state() == (TermState.LEADING, None)


def test_a_late_reply_never_revives_a_term(tenure: Tenure, clock: FakeClock) -> None:
    clock.advance(4)
    late = Promise(clock.instant, TTL)
    clock.advance(TTL)
    recorded: list[Instant] = []
    assert not tenure.extend(late, recorded.append)
    assert tenure.state() == (TermState.LOST, LossReason.EXPIRED)
    assert (tenure.remaining(), recorded) == (0.0, [])


@pytest.mark.parametrize("state", [TermState.LOST, TermState.RESIGNED])
def test_an_ended_term_is_not_extended(tenure: Tenure, clock: FakeClock, state: TermState) -> None:
    end = tenure.end(state, None)
    assert not tenure.extend(Promise(clock.instant, TTL))
    assert tenure.ended() is end


def test_an_answer_that_overtakes_another_stands(tenure: Tenure, clock: FakeClock) -> None:
    early = Promise(clock.instant, TTL)
    clock.advance(2)
    assert tenure.extend(Promise(clock.instant, TTL))
    assert tenure.extend(early)
    assert tenure.remaining() == TTL


def test_the_newest_answer_stands_even_if_it_grants_less(tenure: Tenure, clock: FakeClock) -> None:
    clock.advance(1)
    assert tenure.extend(Promise(clock.instant, 3.0))
    assert tenure.remaining() == 3.0


def test_a_promise_is_on_record_before_anybody_can_rely_on_it(tenure: Tenure, clock: FakeClock) -> None:
    clock.advance(4)
    seen: list[tuple[Instant, float]] = []
    assert tenure.extend(Promise(clock.instant, TTL), lambda at: seen.append((at, tenure.remaining())))
    assert seen == [(clock.instant, TTL - 4)]


def test_a_deadline_that_was_seen_to_pass_stays_passed(tenure: Tenure, clock: FakeClock) -> None:
    """A thread sees the deadline pass; before it can say so, the engine applies an answer that came in time."""
    in_time = Instant(*(reading + TTL - 1 for reading in clock.instant))
    applied: list[bool] = []

    class SeenToPass(Promise):
        def remaining(self, now: Instant) -> float:
            left = super().remaining(now)
            if left <= 0 and not applied:
                applied.append(True)
                clock.instant = in_time  # where the engine is in its work
                applied[0] = tenure.extend(Promise(in_time, TTL))
                clock.instant = now
            return left

    tenure.promise = SeenToPass(*(getattr(tenure.promise, name) for name in ("sent", "span")))
    clock.advance(TTL)
    assert tenure.remaining() == 0.0
    assert applied == [True]  # the engine could not know
    assert tenure.state() == (TermState.LOST, LossReason.EXPIRED)
    assert not tenure.extend(Promise(clock.instant, TTL))


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("advance"), st.floats(0, TTL * 1.5)),
            st.tuples(st.just("extend"), st.floats(0, TTL * 1.5)),
            st.tuples(st.just("end"), st.sampled_from(LossReason)),
            st.tuples(st.just("resign"), st.none()),
            st.tuples(st.just("look"), st.none()),
        ),
        max_size=30,
    )
)
def test_whatever_happens_it_ends_at_most_once_and_never_comes_back(steps: list[tuple[str, object]]) -> None:
    clock = FakeClock()
    tenure = made(clock)
    first: End | None = None
    for step, value in steps:
        match step, value:
            case "advance", float(seconds):
                clock.advance(seconds)
            case "extend", float(age):
                sent = Instant(*(reading - age for reading in clock.instant))
                extended = tenure.extend(promise(sent, TTL, 0.01))
                assert extended <= (first is None)
            case "end", LossReason() as reason:
                tenure.end(TermState.LOST, reason)
            case "resign", _:
                tenure.end(TermState.RESIGNED, None)
        end = tenure.ended()
        if first is not None:
            assert end is first
        first = end
        assert (tenure.remaining() > 0) == (end is None)


def test_jeopardy_is_still_valid(tenure: Tenure) -> None:
    tenure.jeopardy = "a renewal failed"
    assert tenure.state() == (TermState.JEOPARDY, None)
    assert TermView(tenure).valid
    tenure.end(TermState.RESIGNED, None)
    assert tenure.state() == (TermState.RESIGNED, None)


# -- the view --------------------------------------------------------------------------------------------


def test_a_view_tells_what_was_won(tenure: Tenure) -> None:
    view = TermView(tenure)
    assert (view.election, view.candidate, view.token) == ("reports/nightly", CANDIDATE, TOKEN)
    assert (view.state, view.reason, view.valid, view.remaining()) == (TermState.LEADING, None, True, TTL)


def test_ensure_asks_for_time_and_does_not_end_a_term_that_lacks_it(tenure: Tenure, clock: FakeClock) -> None:
    view = TermView(tenure)
    view.ensure()
    view.ensure(min_remaining=TTL)
    clock.advance(TTL - 1)
    with pytest.raises(LeadershipLost, match=r"1\.000 s of the lease of 'reports/nightly' are left, 2 s") as caught:
        view.ensure(min_remaining=2.0)
    assert caught.value.term is view
    assert view.valid


def test_ensure_raises_what_ended_the_term(tenure: Tenure, clock: FakeClock) -> None:
    view = TermView(tenure)
    clock.advance(TTL)
    with pytest.raises(LeadershipLost, match="reports/nightly=42 is over: reason: expired") as caught:
        view.ensure()
    assert (caught.value.term, caught.value.reason) == (view, LossReason.EXPIRED)


def test_ensure_after_resigning_says_so(tenure: Tenure) -> None:
    tenure.end(TermState.RESIGNED, None)
    with pytest.raises(LeadershipLost, match="it was resigned") as caught:
        TermView(tenure).ensure()
    assert caught.value.reason is None


def test_looking_touches_nothing_but_the_clock(tenure: Tenure, clock: FakeClock) -> None:
    """`ensure` stands in inner loops: two readings at the most."""
    view = TermView(tenure)
    clock.readings = 0
    view.ensure(1.0)
    assert clock.readings <= 2


def test_every_raised_loss_is_an_exception_of_its_own(tenure: Tenure) -> None:
    view = TermView(tenure)
    tenure.end(TermState.LOST, LossReason.CLOSED)
    found = []
    for _ in range(2):
        with pytest.raises(LeadershipLost) as caught:
            view.ensure()
        found.append(caught.value)
    assert found[0] is not found[1]


@pytest.mark.parametrize(
    ("end", "shown"),
    [
        (None, "<TermView reports/nightly=42 leading, 10.000 s left>"),
        ((TermState.RESIGNED, None), "<TermView reports/nightly=42 resigned>"),
        ((TermState.LOST, LossReason.ENGINE_DIED), "<TermView reports/nightly=42 lost (engine-died)>"),
    ],
)
def test_repr(tenure: Tenure, end: tuple[TermState, LossReason | None] | None, shown: str) -> None:
    if end is not None:
        tenure.end(*end)
    assert repr(TermView(tenure)) == shown


# -- another process -------------------------------------------------------------------------------------


def test_in_a_forked_child_it_is_over_and_says_so(tenure: Tenure, monkeypatch: pytest.MonkeyPatch) -> None:
    view = TermView(tenure)
    child = os.getpid() + 1
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: child)
        assert (view.state, view.reason) == (TermState.LOST, LossReason.FORKED)
        assert not view.valid
        assert view.remaining() == 0.0
        with pytest.raises(ForkedProcessError, match=f"process {child - 1}, this is its child {child}"):
            view.ensure()
        assert "lost (forked)" in repr(view)
    assert view.valid  # the parent's term stands


@pytest.mark.parametrize("carry", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_term_is_not_picklable_and_not_copied(tenure: Tenure, carry: Callable[[object], object]) -> None:
    with pytest.raises(TypeError, match="TermView belongs to its process and cannot be pickled"):
        carry(TermView(tenure))
    assert TermView.__reduce__ is Term.__reduce__ is AsyncTerm.__reduce__
