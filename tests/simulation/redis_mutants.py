"""The rules of epoch voting, patched out one by one, each with the schedule that misses it.

The rule: as in `test_mutants.py`, a patch is exact text that occurs once, in Python or in Lua. Rules of the core are
there, not here.
"""

from __future__ import annotations

from tests.simulation.mutants import Mutant, mutant

BALLOT, CANDIDACY, SIGHTS, ELECTORATE, ADAPTER, REPAIRS = (
    f"backends/redis/{name}.py" for name in ("ballot", "candidacy", "sights", "electorate", "adapter", "repairs")
)
COMMON, VOTE, RENEW, RELEASE, RETAG = (
    f"backends/redis/lua/{name}.lua" for name in ("common", "vote", "renew", "release", "retag")
)

MUTANTS: tuple[Mutant, ...] = (
    # no clock of a server decides
    mutant(
        "observation",
        "a held seat is asked for at once",
        "a_held_seat_is_asked_for_only_after_its_ttl",
        (BALLOT, "return waiting_time(record.ttl, rules.drift) - waited_for(seat.since, now)", "return 0.0"),
    ),
    mutant(
        "observation",
        "a seat is granted to who does not name its stamp",
        "a_quarantine_that_was_watched_says_nothing_of_a_seat",
        (VOTE, "if old.held and old.attempt .. '.' .. old.beat_digits ~= stamp then", "if false then"),
    ),
    mutant(
        "observation",
        "a stamp is named by who has watched the quarantine alone",
        "a_quarantine_that_was_watched_says_nothing_of_a_seat",
        (
            BALLOT,
            "record.held and runs_for(view.seat, record, rules, now) <= 0\n",
            "ready_in(view, rules, now) == 0.0\n",
        ),
    ),
    mutant(
        "observation",
        "no drift is reckoned with",
        "who_waits_waits_long_enough_for_any_clock",
        (BALLOT, "return waiting_time(record.ttl, rules.drift) -", "return waiting_time(record.ttl, 0.0) -"),
        (CANDIDACY, "span = promise(sent, self.ttl, electorate.rules.drift)", "span = promise(sent, self.ttl, 0.0)"),
    ),
    mutant(
        "deadline",
        "a win counts from the reply",
        "a_win_counts_from_before_it_was_asked_for",
        (CANDIDACY, "span = promise(sent, self.ttl", "span = promise(self._host.clock.now(), self.ttl"),
    ),
    mutant(
        "deadline",
        "a renewal counts from the reply",
        "a_renewal_counts_from_before_it_was_asked_for",
        (CANDIDACY, "promised = promise(self._sent,", "promised = promise(self._electorate.host.clock.now(),"),
    ),
    mutant(
        "stamp",
        "a renewal that comes twice puts the old stamp back",
        "a_stamp_does_not_come_back",
        (RENEW, " or old.beat >= number(beat) then", " then"),
    ),
    # majorities
    mutant(
        "majority",
        "half of the voters are enough",
        "half_of_the_voters_are_not_enough",
        (BALLOT, "return self.voters // 2 + 1", "return (self.voters + 1) // 2"),
    ),
    mutant(
        "majority",
        "one server under two names is counted twice",
        "one_server_under_two_names_has_one_vote",
        (BALLOT, "return {marker.server for place in places", "return {str(place) for place in places"),
        (BALLOT, "self._servers.add(server)", "self._servers.add(str(place))"),
        (SIGHTS, "and problem is None and other.server == marker.server:", "and False:"),
    ),
    mutant(
        "majority",
        "an answer counts for a later round, too",
        "a_round_is_decided_by_its_own_answers",
        (
            CANDIDACY,
            "        self._count = Count(electorate.rules, electorate.places if won is not None else ())\n",
            '        self._count = candidacy.__dict__.setdefault("c", Count(electorate.rules, electorate.places))\n',
        ),
    ),
    # epochs
    mutant(
        "epochs",
        "an epoch is granted twice",
        "an_epoch_is_granted_once",
        (VOTE, "if number(epoch) <= number(floor) then", "if number(epoch) < number(floor) then"),
    ),
    mutant(
        "epochs",
        "the attempts of a candidate have one name",
        "an_attempt_has_a_name_of_its_own",
        (CANDIDACY, 'attempt = f"{self._host.chance.getrandbits(96):024x}"', "attempt = self.candidate.id"),
    ),
    mutant(
        "giving back",
        "a release frees the seat of another",
        "a_release_leaves_the_seats_of_others_alone",
        (RELEASE, "state = (mine or not old.held) and 'released' or 'held'", "state = 'released'"),
    ),
    mutant(
        "enrolment",
        "what a leader takes loses its epoch",
        "what_a_leader_takes_keeps_its_epoch_as_the_floor",
        (RENEW, "            floor = old.highest\n", "            floor = '0'\n"),
    ),
    mutant(
        "enrolment",
        "a leader takes free seats after its deadline",
        "what_is_over_is_not_renewed",
        (CANDIDACY, 'enrols = "1" if won.promise.remaining(sent) > 0 else "0"', 'enrols = "1"'),
    ),
    # leaving
    mutant(
        "giving back",
        "a late renewal takes the seat that was given back",
        "a_late_renewal_does_not_take_the_seat_again",
        (RENEW, "if not old.held or old.epoch ~= number(epoch) or old.beat >= number(beat) then", "if false then"),
    ),
    mutant(
        "giving back",
        "a release writes nothing where nothing is",
        "a_late_vote_does_not_take_the_seat_of_who_has_left",
        (RELEASE, "    if not old then\n", "    if not old then\n        do return 'passed', '' end\n"),
    ),
    # memory
    mutant(
        "memory",
        "a server that was started again is believed",
        "a_voter_that_was_started_again_may_have_forgotten",
        (COMMON, "elseif run ~= memory then", "elseif not text then"),
    ),
    mutant(
        "memory",
        "no quarantine",
        "a_voter_that_has_forgotten_counts_after_the_quarantine",
        (
            BALLOT,
            "return max(0.0, waiting_time(rules.max_ttl, rules.drift) - waited_for(marker.since, now))",
            "return 0.0",
        ),
    ),
    mutant(
        "memory",
        "an absent marker has no identity",
        "a_quarantine_is_of_one_birth",
        (
            COMMON,
            "        birth = unused\n        mark('unknown')\n",
            "        birth = 'some'\n        mark('unknown')\n",
        ),
    ),
    mutant(
        "memory",
        "no clock is the floor",
        "tokens_rise_although_everything_was_forgotten",
        (BALLOT, "str(view.marker.clock) if by_clock", '"0" if by_clock'),
    ),
    mutant(
        "memory",
        "a vote is given by a clock of before",
        "a_clock_that_was_read_before_a_voter_forgot_is_no_floor_afterwards",
        (VOTE, "if not is_floor(clock, clock_of) then", "if not number(clock) then"),
    ),
    mutant(
        "memory",
        "a seat is taken by a clock of before",
        "a_late_renewal_brings_no_clock_of_before",
        (RENEW, "or not is_floor(clock, clock_of) then", "or not number(clock) then"),
    ),
    mutant(
        "memory",
        "what was taken away is no floor",
        "a_late_vote_finds_what_was_taken_away",
        (COMMON, "read_at > (gone and number(gone) or 0)", "read_at >= 0"),
    ),
    mutant(
        "memory",
        "the end of a quarantine vouches for all records",
        "the_end_of_a_quarantine_vouches_for_no_older_record",
        (VOTE, "if old and old.birth == birth then", "if old then"),
        (BALLOT, "record.birth == view.marker.birth)", "record.birth != '-')"),
    ),
    mutant(
        "enrolment",
        "a voter that was down at the election stays unknown",
        "a_voter_that_was_down_at_the_election_is_enrolled",
        (CANDIDACY, "asked = Question() if known.marker is None", "asked = Question() if view.seat is None"),
    ),
    mutant(
        "words",
        "words of another memory are believed",
        "words_of_another_memory_are_nobodys",
        (SIGHTS, "return marker is not None and marker.birth == record.birth", "return True"),
    ),
    mutant(
        "words",
        "an answer that was under way for longer than a subscription lasted is enough",
        "what_was_missed_between_two_subscriptions_is_looked_for",
        (
            ELECTORATE,
            "still = heard_by is not None and heard_by is self",
            "still = heard_by is not None and None is not self",
        ),
    ),
    mutant(
        "words",
        "an answer that was overtaken is believed",
        "an_answer_that_is_overtaken_by_a_word_is_old",
        (
            BALLOT,
            "record.highest < seen.highest or (record.attempt == seen.attempt and record.beat < seen.beat)",
            "False",
        ),
    ),
    mutant(
        "who leads",
        "that none is seen to lead is enough",
        "nobody_is_said_to_lead_only_if_a_majority_says_so",
        (ADAPTER, "if left == 0:", "if left == 0 or record is None:"),
    ),
    mutant(
        "who leads",
        "old sightings tell who leads",
        "what_was_seen_before_is_no_news_of_who_leads",
        (ADAPTER, "view if place in heard or now[place] is not first[place] else", "view if True else"),
    ),
    mutant(
        "deadline",
        "a win that was told to nobody is renewed when it is over",
        "what_is_over_does_not_come_back_by_an_attempt",
        (
            CANDIDACY,
            "answer = await self._renewed_alone() if self.leads() else None",
            "answer = await self._renewed_alone()",
        ),
        (CANDIDACY, "if isinstance(answer, Renewed) and self.leads():", "if isinstance(answer, Renewed):"),
    ),
    mutant(
        "memory",
        "a voter that has forgotten has forgotten its agreement, too",
        "a_voter_that_has_forgotten_keeps_its_agreement",
        (COMMON, "elseif text and agreed ~= config then", "elseif run == memory and agreed ~= config then"),
    ),
    # another list
    mutant(
        "lists",
        "a list is changed under a leader",
        "no_list_is_changed_under_a_leader",
        (
            REPAIRS,
            "        wait = waiting_time(rules.max_ttl, rules.drift)\n        await",
            "        wait = 0.0\n        await",
        ),
    ),
    mutant(
        "lists",
        "a voter joins the new list before a majority has left the old one",
        "a_voter_that_has_left_a_list_is_in_none_until_a_majority_has",
        (REPAIRS, 'between = f"{before}>{then}"', "between = then"),
    ),
    mutant(
        "lists",
        "a voter that changes its list forgets",
        "a_voter_is_replaced_when_nobody_leads",
        (RETAG, "        mark(standing)\n", "        birth = unused\n        mark('unknown')\n"),
    ),
)
