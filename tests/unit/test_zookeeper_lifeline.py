"""Until when a ZooKeeper session is promised, against a leader, a follower and a client whose messages take any time.

The rule: whatever the delays, the clocks and the moment at which a server dies, nobody is promised a session for longer
than the leader keeps it. And where nothing goes wrong, the promise keeps up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from coordkit.backends.zookeeper.lifeline import GRAIN, PING_GAP, SOON, Lifeline
from coordkit.lease import Instant, acting_time

TIMEOUT = 10.0
ROUNDING = 1e-6


def at(seconds: float, rate: float = 1.0) -> Instant:
    """A reading of clocks that go at this rate."""
    return Instant(100 + rate * seconds, 200 + rate * seconds, 300 + rate * seconds)


def end_of(lifeline: Lifeline, rate: float = 1.0) -> float:
    """When the promise is over, in true time; -inf if there is none."""
    promise = lifeline.promise()
    return float("-inf") if promise is None else (promise.sent.boot + promise.span - 100) / rate


def full(since: float) -> float:
    """When a promise is over that counts from this moment, without drift."""
    return since + acting_time(TIMEOUT, 0.0)


def line(asked: float = 0.0, *, new: bool = True) -> Lifeline:
    """A session without drift, connected."""
    made = Lifeline(TIMEOUT, 0.0)
    made.connected(at(asked), new=new)
    return made


# -- each rule ---------------------------------------------------------------------------------------------


def test_nothing_is_promised_before_a_connection() -> None:
    assert Lifeline(TIMEOUT, 0.0).promise() is None


def test_a_new_session_counts_from_its_request() -> None:
    assert end_of(line(3.0)) == pytest.approx(full(3.0))


def test_the_drift_shortens_it() -> None:
    lifeline = Lifeline(TIMEOUT, 0.05)
    lifeline.connected(at(3.0), new=True)
    assert end_of(lifeline) == pytest.approx(3.0 + acting_time(TIMEOUT, 0.05))


def test_a_session_taken_up_again_counts_from_there_once_a_write_commits() -> None:
    lifeline = line(3.0, new=False)
    assert lifeline.promise() is None
    lifeline.touched(at(3.1), at(3.2))
    assert lifeline.promise() is None
    lifeline.committed(at(3.3), at(3.4))
    assert end_of(lifeline) == pytest.approx(full(3.0))


def test_a_write_of_before_the_connection_proves_nothing() -> None:
    """It was put into the queue while there was none: when it was sent, nobody knows."""
    lifeline = line(3.0, new=False)
    lifeline.committed(at(2.9), at(3.4))
    assert lifeline.promise() is None


def test_a_write_alone_proves_nothing_more() -> None:
    lifeline = line()
    lifeline.committed(at(5.0), at(5.1))
    assert end_of(lifeline) == pytest.approx(full(0.0))


def test_an_answer_counts_after_a_gap_a_write_and_another() -> None:
    lifeline, gap = line(), PING_GAP * TIMEOUT + 0.01
    lifeline.touched(at(1.0), at(1.1))
    lifeline.committed(at(1.1 + gap), at(1.2 + gap))
    assert end_of(lifeline) == pytest.approx(full(0.0))
    lifeline.committed(at(1.4 + gap), at(1.5 + gap))
    assert end_of(lifeline) == pytest.approx(full(1.0))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (lambda gap: (at(1.0 + gap), at(1.2 + gap)), lambda gap: (at(1.3 + gap), at(1.4 + gap))),  # too early
        (lambda gap: (at(1.1 + gap), at(1.3 + gap)), lambda gap: (at(1.2 + gap), at(1.4 + gap))),  # both at once
        (
            lambda gap: (at(1.1 + gap), at(1.2 + gap + SOON * TIMEOUT)),  # the first took long
            lambda gap: (at(1.3 + gap + SOON * TIMEOUT), at(1.4 + gap + SOON * TIMEOUT)),
        ),
        (
            lambda gap: (at(1.1 + gap), at(1.2 + gap)),
            lambda gap: (at(1.3 + gap), at(1.4 + gap + SOON * TIMEOUT)),  # the second took long
        ),
    ],
    ids=["too-early", "both-at-once", "the-first-took-long", "the-second-took-long"],
)
def test_otherwise_it_does_not(
    first: Callable[[float], tuple[Instant, Instant]], second: Callable[[float], tuple[Instant, Instant]]
) -> None:
    lifeline, gap = line(), PING_GAP * TIMEOUT + 0.01
    lifeline.touched(at(1.0), at(1.1))
    lifeline.committed(*first(gap))
    lifeline.committed(*second(gap))
    assert end_of(lifeline) == pytest.approx(full(0.0))


@pytest.mark.parametrize("again", [False, True], ids=["disconnected", "connected-again"])
def test_answers_of_another_connection_prove_nothing(again: bool) -> None:
    lifeline, gap = line(), PING_GAP * TIMEOUT + 0.01
    lifeline.touched(at(1.0), at(1.1))
    lifeline.committed(at(1.1 + gap), at(1.2 + gap))
    lifeline.disconnected()
    assert end_of(lifeline) == pytest.approx(full(0.0)), "what was proved stays"
    if again:
        lifeline.connected(at(0.5), new=False)  # before the answers, so that the connection itself proves less
    lifeline.committed(at(1.3 + gap), at(1.4 + gap))
    lifeline.committed(at(1.5 + gap), at(1.6 + gap))
    assert end_of(lifeline) == pytest.approx(full(0.5 if again else 0.0))


def test_of_answers_that_come_fast_few_are_remembered() -> None:
    """However many there are, an answer of long ago is not needed, and one of every hundredth of the timeout is."""
    lifeline = line()
    for number in range(10_000):
        lifeline.touched(at(number / 1000), at(number / 1000))
    assert len(lifeline._touches) <= PING_GAP / GRAIN + 2
    lifeline.committed(at(10.0), at(10.01))
    lifeline.committed(at(10.2), at(10.21))
    assert end_of(lifeline) == pytest.approx(full(10 - PING_GAP * TIMEOUT), abs=1.01 * GRAIN * TIMEOUT)


@given(pace=st.floats(0.02, 0.2), delay=st.floats(0.0, 0.02))
@example(pace=0.1, delay=0.0)
def test_where_nothing_goes_wrong_the_promise_keeps_up(pace: float, delay: float) -> None:
    """Writes alone, at this pace: the one before those that a gap and an answer need is proved."""
    lifeline, step, wait = line(), pace * TIMEOUT, delay * TIMEOUT
    needed = PING_GAP * TIMEOUT + 2 * wait + 3 * step + GRAIN * TIMEOUT
    now = 0.0
    for _ in range(60):
        lifeline.committed(at(now), at(now + wait))
        assert end_of(lifeline) >= full(max(0.0, now - needed)) - ROUNDING
        now += max(step, wait)


# -- an ensemble -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ask:
    """What the client asks next: so long after the answer before, and how long each of its ways takes."""

    after: float
    write: bool
    to_follower: float
    to_leader: float
    back: float
    to_client: float


@dataclass(frozen=True, slots=True)
class Course:
    """A course of events. Times in timeouts; `rates` of the clocks of the client and of the leader."""

    asks: list[Ask]
    first_ping: float
    pings: list[tuple[float, float]]  # how long each takes to the follower, and its answer to the leader
    rates: tuple[float, float]
    drift: float


delays = st.sampled_from([0.0] * 6 + [0.001, 0.02, 0.1, 0.24, 0.3])  # most are short, or nothing comes to a good end
asks = st.builds(
    Ask,
    st.sampled_from([0.01, 0.01, 0.05, 0.1, 0.21, PING_GAP + 0.001]),
    st.sampled_from([False, True, True]),
    *[delays] * 4,
)


@st.composite
def courses(draw: st.DrawFn) -> Course:
    drift = draw(st.sampled_from([0.0, 0.01, 0.05, 0.2]))
    rate = st.sampled_from([1 - drift, 1.0, 1 + drift])
    return Course(
        draw(st.lists(asks, min_size=1, max_size=8)),
        draw(st.sampled_from([0.001, 0.05, 0.1, 0.2, 0.25])),
        draw(st.lists(st.tuples(delays, delays), min_size=1, max_size=8)),
        (draw(rate), draw(rate)),
        drift,
    )


class Way:
    """One direction of a connection: nothing overtakes."""

    def __init__(self) -> None:
        self._until = 0.0

    def carry(self, sent: float, seconds: float) -> float:
        """When it arrives."""
        self._until = max(self._until, sent + seconds)
        return self._until


def moments(course: Course) -> Iterator[tuple[float, float]]:
    """After each answer: when the promise is over, and when the leader ends the session if the follower dies now.

    What is under way is lost then. All that happens is known beforehand but for the order on the ways between the
    servers, so it goes by the time at which something is put on one of them.
    """
    ours, theirs = course.rates
    lifeline = Lifeline(TIMEOUT, course.drift)
    lifeline.connected(at(0.0, ours), new=True)
    heard = 0.0
    up, down = Way(), Way()  # between follower and leader
    listed: list[float] = []  # when the follower has heard of us, since it last answered a ping
    answers: list[float] = []  # to pings: when they arrive
    every = 0.25 * TIMEOUT / theirs
    next_ping, number = course.first_ping * TIMEOUT / theirs, 0
    under_way: list[tuple[float, float]] = []  # pings: when they come to the follower, how long the answer takes

    def leader_until(time: float) -> None:
        """All pings that are sent by then."""
        nonlocal next_ping, number
        while next_ping <= time:
            there, back = course.pings[number % len(course.pings)]
            under_way.append((down.carry(next_ping, there * TIMEOUT), back * TIMEOUT))
            next_ping, number = next_ping + every, number + 1

    def follower_until(time: float) -> None:
        """All pings that have come by then are answered."""
        leader_until(time)
        while under_way and under_way[0][0] <= time:
            came, back = under_way.pop(0)
            arrives = up.carry(came, back)
            if any(each <= came for each in listed):
                answers.append(arrives)
                listed[:] = [each for each in listed if each > came]

    now = 0.0
    for ask in course.asks:
        sent = now + ask.after * TIMEOUT
        came = sent + ask.to_follower * TIMEOUT
        follower_until(came)
        listed.append(came)
        done = came
        if ask.write:
            commits = up.carry(came, ask.to_leader * TIMEOUT)
            # What the follower does until then may put more on the way up, but only behind it.
            leader_until(commits)
            done = down.carry(commits, ask.back * TIMEOUT)
        now = done + ask.to_client * TIMEOUT
        follower_until(done)
        account = lifeline.committed if ask.write else lifeline.touched
        account(at(sent, ours), at(now, ours))
        follower_until(now)
        heard = max([heard, *(arrives for arrives in answers if arrives <= now)])
        yield end_of(lifeline, ours), heard + TIMEOUT / theirs


@settings(max_examples=400)
@given(courses())
def test_nobody_is_promised_more_than_the_leader_keeps(course: Course) -> None:
    for promised, kept in moments(course):
        assert promised <= kept + ROUNDING


def test_the_ensemble_can_tell() -> None:
    """Of a rule that believes a committed write alone the same judge thinks otherwise."""
    course = Course([Ask(0.2, True, 0.0, 0.0, 0.0, 0.0)], 0.25, [(0.0, 0.0)], (1.0, 1.0), 0.0)
    ((promised, kept),) = moments(course)
    assert promised <= kept
    assert full(0.2 * TIMEOUT) > kept
