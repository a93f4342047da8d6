"""The rules of voting, one by one: when a voter may be asked, what it is asked with, and what the answers come to."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordkit.backends.redis.ballot import (
    CLOCKS_APART,
    Ask,
    Count,
    Exhausted,
    Marker,
    Question,
    Rules,
    Seat,
    Short,
    View,
    Wait,
    forgotten,
    holder,
    marked,
    plan,
    question,
    ready_in,
    seated,
    servers,
)
from coordkit.backends.redis.layout import EPOCH_LIMIT, UNREADABLE, Record, Reply
from coordkit.lease import Instant

RULES = Rules(voters=3, max_ttl=60.0, drift=0.01)
CLOCK = 1_700_000_000_000_000
_runs = itertools.count()


def at(seconds: float) -> Instant:
    return Instant(100 + seconds, 200 + seconds, 300 + seconds)


def marker(
    *, healthy: bool = True, birth: str = "b", since: float = 0.0, clock: int = CLOCK, server: str = ""
) -> Marker:
    return Marker(healthy, birth, f"{server or next(_runs)}:replid", at(since), clock, 0.0)


def record(epoch: int = 7, *, attempt: str = "a", beat: int = 3, held: bool = True, floor: int = 0) -> Record:
    return Record(epoch, floor, attempt, beat, held, 10.0, "b", b"{}")


def view(seat: Record | None, *, since: float = 0.0, mark: Marker | None = None) -> View:
    return View(mark or marker(), Seat(seat, at(since)))


HELD, FREE = record(), record(held=False)


def test_a_clock_that_was_too_far_away_is_no_floor_later() -> None:
    """Neither the voter's own nor ours: epochs would jump ahead, and may be used up."""
    wall = CLOCK / 1e6
    far = Reply("healthy", "b", "m:r", CLOCK + round((CLOCKS_APART + 60) * 1e6), "", ())
    near = replace(far, time=CLOCK + 5_000_000)
    strange = marked(None, far, wall, at(0))
    assert strange is not None
    assert strange.apart > CLOCKS_APART
    for old in (None, strange):
        known = marked(old, near, wall, at(1))
        assert known is not None
        assert known.clock == CLOCK + 5_000_000
    again = marked(marked(None, near, wall, at(0)), far, wall, at(1))
    assert again is not None
    assert again.clock == CLOCK + 5_000_000, "what was read before stands"


# -- when a voter may be asked -----------------------------------------------------------------------------


def test_a_free_seat_is_ready() -> None:
    assert ready_in(view(FREE), RULES, at(0)) == 0


@pytest.mark.parametrize(("waited", "left"), [(0.0, 10.2), (10.0, 0.2), (10.2, 0.0), (99.0, 0.0)])
def test_a_held_seat_is_ready_when_its_stamp_was_watched_for_its_ttl_and_the_margin(waited: float, left: float) -> None:
    assert ready_in(view(HELD, since=5.0), RULES, at(5.0 + waited)) == pytest.approx(left)


@pytest.mark.parametrize(("waited", "left"), [(0.0, 61.2), (61.0, 0.2), (61.2, 0.0)])
def test_a_voter_without_memory_is_ready_when_its_birth_was_watched_for_the_quarantine(
    waited: float, left: float
) -> None:
    unknown = view(HELD, mark=marker(healthy=False, since=5.0))
    assert ready_in(unknown, RULES, at(5.0 + waited)) == pytest.approx(left)


def test_a_voter_that_abstains_or_was_not_asked_or_is_not_readable_is_never_ready() -> None:
    assert ready_in(View(None, Seat(FREE, at(0))), RULES, at(999)) is None
    assert ready_in(View(marker(), None), RULES, at(999)) is None
    assert ready_in(View(marker(), Seat(UNREADABLE, at(0))), RULES, at(999)) is None


def test_where_the_clock_has_to_be_the_floor_it_may_not_be_far_from_ours() -> None:
    apart = replace(marker(), apart=CLOCKS_APART + 1)
    assert ready_in(view(None, mark=apart), RULES, at(0)) is None
    assert ready_in(view(FREE, mark=apart), RULES, at(0)) == 0, "elsewhere it does not matter"


def test_a_record_of_another_memory_is_waited_for_by_nobody_and_vouches_for_nothing() -> None:
    other = view(HELD, mark=marker(birth="another"))
    assert forgotten(other)
    assert ready_in(other, RULES, at(0)) == 0
    assert question(other, RULES, at(0)) == Question(clock=str(CLOCK), clock_of="another")


# -- what it is asked with ---------------------------------------------------------------------------------


def test_the_stamp_is_named_only_when_it_was_watched_long_enough() -> None:
    assert question(view(HELD), RULES, at(5)) == Question()
    assert question(view(HELD), RULES, at(11)) == Question(stamp="a.3")


def test_the_birth_is_named_only_when_the_quarantine_is_over() -> None:
    unknown = view(None, mark=marker(healthy=False, birth="unknown"))
    assert question(unknown, RULES, at(60)) == Question(clock=str(CLOCK), clock_of="unknown")
    assert question(unknown, RULES, at(62)) == Question(clock=str(CLOCK), clock_of="unknown", birth="unknown")


# -- what to do --------------------------------------------------------------------------------------------


def test_nothing_is_asked_of_less_than_a_majority_of_the_configured_voters() -> None:
    assert plan([view(FREE), View(None, None), View(None, None)], RULES, at(0)) == Short(1)


def test_a_majority_that_will_be_ready_is_waited_for() -> None:
    views = [view(HELD, since=0.0), view(HELD, since=4.0), view(HELD, since=8.0)]
    wait = plan(views, RULES, at(10))
    assert isinstance(wait, Wait)
    assert wait.seconds == pytest.approx(4.2)  # the second of three


def test_an_epoch_is_above_everything_that_was_seen_even_at_voters_that_are_not_ready() -> None:
    views = [view(FREE), view(record(9, held=False, floor=12)), view(record(30), since=0.0)]
    ask = plan(views, RULES, at(1))
    assert isinstance(ask, Ask)
    assert ask.epoch == 31
    assert ask.vacant


def test_a_voter_that_is_not_ready_is_asked_too_but_neither_stamp_nor_birth_is_named_to_it() -> None:
    early = [view(HELD), view(None, mark=marker(healthy=False, birth="unknown"))]
    five = replace(RULES, voters=5)
    assert isinstance(plan([view(FREE), view(FREE), *early, View(None, None)], five, at(1)), Wait)
    ask = plan([view(FREE), view(FREE), view(FREE), *early], five, at(1))
    assert isinstance(ask, Ask)
    assert sorted(ask.questions) == [0, 1, 2, 3, 4]
    assert ask.questions[3] == Question()
    assert ask.questions[4] == Question(clock=str(CLOCK), clock_of="unknown")


def test_an_epoch_is_above_the_clock_where_earlier_ones_may_be_forgotten() -> None:
    ask = plan([view(FREE), view(None), View(None, None)], RULES, at(0))
    assert isinstance(ask, Ask)
    assert ask.epoch == CLOCK + 1


def test_who_is_taken_for_dead_is_told_apart_from_who_has_left() -> None:
    ask = plan([view(HELD), view(HELD), view(FREE)], RULES, at(11))
    assert isinstance(ask, Ask)
    assert not ask.vacant


def test_epochs_end_where_lua_could_not_count_any_more() -> None:
    last = record(EPOCH_LIMIT - 1, held=False)
    assert plan([view(last) for _ in range(3)], RULES, at(0)) == Exhausted()


def test_one_server_behind_two_names_has_one_vote() -> None:
    twice = [view(FREE, mark=marker(server="same")), view(FREE, mark=marker(server="same")), View(None, None)]
    assert plan(twice, RULES, at(0)) == Short(1)
    assert servers(twice, [0, 1]) == {"same"}


# -- who leads ---------------------------------------------------------------------------------------------


def test_who_leads_has_the_seats_of_a_majority_under_one_name() -> None:
    other = record(8, attempt="x")
    assert holder([view(HELD), view(record(beat=4)), view(other)], RULES) is not None
    assert holder([view(HELD), view(FREE), view(other)], RULES) is None
    assert holder([view(HELD), view(HELD, mark=marker(birth="another")), view(None)], RULES) is None
    same = marker(server="same")
    assert holder([view(HELD, mark=same), view(HELD, mark=same), view(None)], RULES) is None


# -- what is seen ------------------------------------------------------------------------------------------


def test_a_sighting_goes_on_while_the_stamp_stands_and_begins_anew_when_it_moves() -> None:
    first = seated(None, HELD, at(1))
    again = seated(first, replace(HELD, floor=99), at(5))
    assert (again.since, again.record) == (at(1), replace(HELD, floor=99))
    assert seated(again, record(beat=4), at(6)).since == at(6)
    assert seated(again, replace(HELD, held=False), at(7)).since == at(7)
    assert seated(again, None, at(8)) == Seat(None, at(8))


def test_a_word_has_no_value_and_takes_none_away() -> None:
    first = seated(None, HELD, at(1))
    moved = seated(first, replace(record(beat=4), value=b""), at(2))
    assert isinstance(moved.record, Record)
    assert moved.record.value == HELD.value
    other = seated(first, replace(record(attempt="x"), value=b""), at(2))
    assert isinstance(other.record, Record)
    assert other.record.value == b"", "another's is not taken for it"


def reply(standing: str, *, birth: str = "b", memory: str = "run:replid", time: int = CLOCK) -> Reply:
    return Reply(standing, birth, memory, time, "", ())


def test_a_quarantine_goes_on_while_birth_and_memory_stand_and_begins_anew_when_they_do_not() -> None:
    first = marked(None, reply("unknown"), CLOCK / 1e6, at(1))
    assert first is not None
    later = marked(first, reply("unknown", time=CLOCK + 5_000_000), CLOCK / 1e6, at(6))
    assert later is not None
    assert (later.since, later.clock, later.apart) == (at(1), CLOCK + 5_000_000, 5.0)
    for other in (reply("unknown", birth="c"), reply("unknown", memory="other:replid"), reply("healthy")):
        anew = marked(later, other, CLOCK / 1e6, at(9))
        assert anew is not None
        assert anew.since == at(9)


def test_the_clock_of_a_voter_is_the_later_one_of_its_own_and_ours() -> None:
    behind = marked(None, reply("healthy", time=CLOCK - 7_000_000), CLOCK / 1e6, at(0))
    assert behind is not None
    assert (behind.clock, behind.apart) == (CLOCK, 7.0)


@pytest.mark.parametrize("standing", ["replica", "config", "foreign", "what?"])
def test_a_voter_of_any_other_standing_abstains(standing: str) -> None:
    assert marked(marker(), reply(standing), 0.0, at(0)) is None


# -- what the answers come to ------------------------------------------------------------------------------


def test_a_round_is_won_by_a_strict_majority_of_the_configured_voters() -> None:
    count = Count(Rules(4, 60.0, 0.01), range(4))
    for place in range(2):
        count.heard(place, f"s{place}", granted=True)
    assert not count.won, "half of them is not enough"
    assert not count.over
    count.heard(2, "s2", granted=True)
    assert count.won
    assert count.over


def test_a_server_counts_once_however_often_it_grants() -> None:
    count = Count(RULES, range(3))
    for place in range(3):
        count.heard(place, "same", granted=True)
    assert not count.won


def test_a_round_is_over_when_too_few_are_left_and_lost_only_when_enough_say_that_it_is_anothers() -> None:
    count = Count(RULES, range(3))
    count.heard(0, "s0", granted=True)
    count.silent(1)
    assert not count.over
    count.silent(2)
    assert count.over
    assert not count.won
    assert not count.lost, "silence is no answer"
    gone = Count(RULES, range(3))
    gone.heard(0, "s0", granted=False, gone=True)
    assert not gone.lost
    gone.heard(1, "s1", granted=False, gone=True)
    assert gone.lost


@given(
    size=st.integers(1, 9),
    answers=st.lists(
        st.tuples(st.integers(0, 8), st.sampled_from(["granted", "gone", "refused", "silent"])), max_size=20
    ),
)
def test_whatever_is_answered_no_round_is_won_by_fewer_and_none_both_won_and_lost(
    size: int, answers: list[tuple[int, str]]
) -> None:
    rules = Rules(size, 60.0, 0.0)
    count = Count(rules, range(size))
    first: dict[int, str] = {}
    for place, verdict in answers:
        if place >= size or place in first:
            continue  # a voter answers a request once
        first[place] = verdict
        if verdict == "silent":
            count.silent(place)
        else:
            count.heard(place, f"s{place}", granted=verdict == "granted", gone=verdict == "gone")
    granted = sum(verdict == "granted" for verdict in first.values())
    assert count.won == (2 * granted > size)
    assert not (count.won and count.lost)
    if len(first) == size:
        assert count.over
