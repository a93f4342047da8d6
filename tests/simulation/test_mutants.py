"""Each safety rule, patched out of the shipped source, must be missed: a directed schedule breaks without it.

The rules are those of the design; 3 (time and chance are arguments) is kept by the layer test. See `mutants.py`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.simulation.mutants import Copy, Mutant, mutant
from tests.simulation.schedules import SCHEDULES

MEMORY, SQLITE = "backends/memory.py", "backends/sqlite/adapter.py"

MUTANTS = (
    # 1: a promise counts from before it was asked for
    mutant(
        "1",
        "the deadline counts from the reply",
        "a_promise_counts_from_the_request",
        (
            MEMORY,
            """
        sent = self._clock.now()
        mine, first = await self._link.call(lambda: self._store.enter(self.election, self.candidate, self.ttl))
""",
            """
        mine, first = await self._link.call(lambda: self._store.enter(self.election, self.candidate, self.ttl))
        sent = self._clock.now()
""",
        ),
    ),
    mutant(
        "1",
        "a renewed deadline counts from the reply",
        "a_renewed_promise_counts_from_its_request",
        (
            MEMORY,
            """
            Renewed(promise(sent, each.ttl, self.drift))
""",
            """
            Renewed(promise(self._host.clock.now(), each.ttl, self.drift))
""",
        ),
    ),
    mutant(
        "1",
        "the holder has no margin",
        "a_slow_clock_stops_before_a_fast_one_expires",
        (
            "lease.py",
            """
    return ttl * (1 - 2 * drift) - STOP_EARLY
""",
            """
    return ttl
""",
        ),
    ),
    mutant(
        "1",
        "the margin forgets that both clocks drift",
        "a_slow_clock_stops_before_a_fast_one_expires",
        (
            "lease.py",
            """
    return ttl * (1 - 2 * drift) - STOP_EARLY
""",
            """
    return ttl * (1 - drift) - STOP_EARLY
""",
        ),
    ),
    mutant(
        "1",
        "a holder's clock does not see a sleep",
        "a_leader_that_slept_knows_when_it_wakes",
        (
            "lease.py",
            """
    return boot if boot > raw else raw
""",
            """
    return raw
""",
        ),
    ),
    mutant(
        "1",
        "SQLite: the deadline counts from the reply",
        "sqlite_a_promise_counts_from_the_request",
        (
            SQLITE,
            """
        return Grant(self, taken, promise(sent, self.ttl, backend.drift))
""",
            """
        return Grant(self, taken, promise(clock.now(), self.ttl, backend.drift))
""",
        ),
    ),
    mutant(
        "1",
        "SQLite: a renewed deadline counts from the reply",
        "sqlite_a_renewed_promise_counts_from_its_request",
        (
            SQLITE,
            "            Renewed(promise(sent, each.ttl, self.drift)) if alive",
            "            Renewed(promise(self.host.clock.now(), each.ttl, self.drift)) if alive",
        ),
    ),
    mutant(
        "1",
        "a waiter counts a sleep as waiting",
        "sqlite_a_row_of_another_boot_is_waited_for",
        (
            "lease.py",
            """
    mono, raw = now[2] - since[2], now[1] - since[1]
""",
            """
    mono = raw = now[0] - since[0]
""",
        ),
    ),
    mutant(
        "1",
        "a waiter believes the faster of its clocks",
        "sqlite_a_row_of_another_boot_is_waited_for",
        (
            "lease.py",
            """
    return mono if mono < raw else raw
""",
            """
    return mono if mono > raw else raw
""",
        ),
    ),
    mutant(
        "1",
        "a waiter has no margin",
        "sqlite_a_row_of_another_boot_is_waited_for",
        (
            "lease.py",
            """
    return ttl * (1 + 2 * drift)
""",
            """
    return ttl
""",
        ),
    ),
    # 2: loss is a local timer
    mutant(
        "2",
        "a term that is looked at does not look at the clock",
        "a_term_ends_by_the_clock_though_the_engine_hangs",
        (
            "term.py",
            """
        if self.promise.remaining(now) > 0:
""",
            """
        if True:
""",
        ),
    ),
    mutant(
        "2",
        "no timer ends a term",
        "a_loss_is_told_in_time_after_a_sleep",
        (
            "session.py",
            """
            while self._held:
                self._sooner.clear()
""",
            """
            while False:
                self._sooner.clear()
""",
        ),
    ),
    mutant(
        "2",
        "the timer trusts the loop's clock",
        "a_loss_is_told_in_time_after_a_sleep",
        ("session.py", "LONGEST_NAP = 0.25", "LONGEST_NAP = 3600.0"),
    ),
    # 4: unknown is an answer
    mutant(
        "4",
        "unknown extends",
        "an_unknown_renewal_extends_nothing",
        (
            "session.py",
            """
            answers = [Unknown(error)] * len(batch)
""",
            """
            answers = [Renewed(type(each.tenure.promise)(now, each.tenure.promise.span)) for each in batch if error]
""",
        ),
    ),
    mutant(
        "4",
        "unknown is a loss",
        "a_lost_answer_ends_nothing",
        (
            "session.py",
            """
            answers = [Unknown(error)] * len(batch)
""",
            """
            answers = [Lost(repr(error))] * len(batch)
""",
        ),
    ),
    # 5: believe only an answer that shows our own entry, live, in first place
    mutant(
        "5",
        "an entry of ours is enough, in whatever place",
        "only_the_first_place_leads",
        (
            MEMORY,
            """
        if mine.token == first.token:
""",
            """
        if mine.token:
""",
        ),
    ),
    mutant(
        "5",
        "a grant is believed however late it comes",
        "a_grant_that_comes_too_late_is_not_counted",
        (
            "campaign.py",
            "        if grant.promise.remaining(self.host.clock.now()) <= 0:",
            "        if not grant.token:",
        ),
    ),
    mutant(
        "5",
        "SQLite: what a row was is believed when it is taken",
        "sqlite_a_row_is_looked_at_again_before_it_is_taken",
        (
            SQLITE,
            """
        row = read(connection, self.election)
        behind = self._behind(row)
        if behind is not None:
            return behind
        if row is not None and self._is_mine(row):
""",
            """
        row = read(connection, self.election)
        if row is not None and self._is_mine(row):
""",
        ),
    ),
    mutant(
        "5",
        "SQLite: a row that has run out is renewed",
        "sqlite_a_lapsed_row_is_not_renewed",
        (
            SQLITE,
            r""""AND epoch = ? AND state = 'held' AND boot_id IS ? AND deadline > ?",""",
            r""""AND epoch = ? AND state = 'held' AND boot_id IS ? AND ? > 0",""",
        ),
    ),
    # 6: stop, then release
    mutant(
        "6",
        "a term that has ended is released though its body runs",
        "a_body_that_runs_keeps_its_lease",
        (
            "session.py",
            """
        needed = max(waiting_time(tenure.ttl, self.backend.drift), tenure.promise.span * (1 + 4 * self.backend.drift))
""",
            """
        needed = 0.0
""",
        ),
    ),
    mutant(
        "6",
        "a win that nobody gets is not given up",
        "a_win_that_nobody_gets_is_released",
        (
            "campaign.py",
            """
            entry.tenure = None
            tenure.end(TermState.RESIGNED, None)
            self.keeper.release(tenure)
""",
            """
            entry.tenure = None
""",
        ),
    ),
    mutant(
        "6",
        "the servers are told first, the term ends second",
        "a_term_is_over_before_it_is_released",
        (
            "session.py",
            """
        self.settle(tenure)
        retiring = self._retiring.pop(tenure, None)
        if retiring is None:
            return self._releasing.get(tenure)
        candidacy, retirement = retiring
        retirement.cancel()
""",
            """
        holding = self._held.pop(tenure, None)
        if holding is None:
            return self._releasing.get(tenure)
        candidacy = holding.grant.candidacy
""",
        ),
        (
            "face.py",
            """
        tenure.end(TermState.RESIGNED, None)
        slot.engine.post(lambda: slot.leave(number, tenure, release=release))
""",
            """
        slot.engine.post(lambda: slot.leave(number, tenure, release=release))
""",
        ),
        (
            "elector.py",
            """
                slot.engine.ask(lambda: slot.desk.wait_released(tenure, tenure.ttl / 3))
""",
            """
                slot.engine.ask(lambda: slot.desk.wait_released(tenure, tenure.ttl / 3))
                tenure.end(TermState.RESIGNED, None)
""",
        ),
    ),
    # 7: idempotent by name
    mutant(
        "7",
        "a clean-up goes by the label",
        "a_late_clean_up_hits_only_its_own",
        (
            MEMORY,
            """
        kept = [row for row in queue if row.candidate.id != candidate_id]
""",
            """
        kept = [row for row in queue if row.candidate.label != candidate_id.partition('@')[0]]
""",
        ),
    ),
    mutant(
        "7",
        "SQLite: a clean-up goes by the election",
        "sqlite_a_release_frees_only_its_own_row",
        (
            SQLITE,
            r""""WHERE election = ? AND holder = ? AND state = 'held'",""",
            r""""WHERE election = ? AND holder <> ? AND state = 'held'",""",
        ),
    ),
    mutant(
        "7",
        "what an unanswered create may have left is forgotten",
        "an_unknown_create_is_cleaned_up",
        (
            "campaign.py",
            """
            self.keeper.clean(entry.candidacy, self.spec.ttl)
""",
            "",
        ),
    ),
    mutant(
        "7",
        "a campaign that is given up forgets its entry",
        "a_campaign_given_up_at_any_moment_leaves_nothing",
        (
            "campaign.py",
            """
            self.keeper.clean(entry.candidacy, self.spec.ttl)
""",
            "",
        ),
    ),
    mutant(
        "7",
        "a clean-up is tried once",
        "a_clean_up_goes_on_until_it_is_done",
        (
            "session.py",
            """
            retry=tenacity.retry_if_exception_type((Unavailable, OutcomeUnknown)),
""",
            """
            retry=tenacity.retry_never,
""",
        ),
        (
            "session.py",
            """
        except (Rejected, Misconfigured) as error:
""",
            """
        except BackendError as error:
""",
        ),
    ),
    # 8: every wait ends
    mutant(
        "8",
        "an open has no timeout",
        "an_open_without_an_answer_is_repeated",
        ("session.py", 'await bounded(self.backend.open(), OPEN_SECONDS, "open")', "await self.backend.open()"),
    ),
    mutant(
        "8",
        "an attempt has no timeout",
        "an_attempt_without_an_answer_is_repeated",
        (
            "campaign.py",
            'await bounded(candidacy.attempt(), spec.ttl / CALLS_PER_TTL, "attempt")',
            "await candidacy.attempt()",
        ),
    ),
    mutant(
        "8",
        "a renewal has no timeout",
        "a_renewal_without_an_answer_is_repeated",
        ("session.py", 'await bounded(call, call_budget(ttl, left), "renew")', "await call"),
    ),
    mutant(
        "8",
        "a release has no timeout",
        "a_clean_up_goes_on_until_it_is_done",
        ("session.py", 'await bounded(candidacy.resign(), ttl / 3, "resign")', "await candidacy.resign()"),
    ),
    mutant(
        "8",
        "a look at the store has no timeout",
        "an_observer_survives_a_lost_answer",
        (MEMORY, "asyncio.timeout(LOOK_SECONDS)", "asyncio.timeout(None)"),
    ),
    mutant(
        "8",
        "a read of an observer has no timeout",
        "an_observer_survives_a_lost_answer",
        (
            "observation.py",
            'await bounded(self._keeper.backend.leader(self._election), self._ttl, "leader")',
            "await self._keeper.backend.leader(self._election)",
        ),
    ),
    # 9: two electors in one process contend like any two
    mutant(
        "9",
        "a process is one candidate",
        "two_electors_of_a_process_contend",
        ("clock.py", ':{chance.getrandbits(64):016x}"', '"'),
    ),
    # 10: a late reply never revives a term
    mutant(
        "10",
        "a renewal that comes late revives",
        "a_late_reply_revives_nothing",
        (
            "term.py",
            """
        if self.ended() is not None:
            return False
""",
            "",
        ),
    ),
    # the engine measures itself
    mutant(
        "engine",
        "lag is not looked at",
        "an_engine_that_runs_late_says_so",
        ("session.py", " and lag > lag_limit(tenure.ttl):", " and lag > tenure.ttl:"),
    ),
    # SQLite: the embedded backend's own
    mutant(
        "SQLite",
        "a deadline on this namespace's clock",
        "sqlite_a_deadline_means_the_same_in_a_time_namespace",
        (
            "clock.py",
            """
    return time.clock_gettime(time.CLOCK_BOOTTIME) - boottime_offset(os.getpid())
""",
            """
    return time.clock_gettime(time.CLOCK_BOOTTIME)
""",
        ),
    ),
    mutant(
        "SQLite",
        "a deadline of another boot is believed",
        "sqlite_a_row_of_another_boot_is_waited_for",
        (SQLITE, "        return left if row.boot_id == self.boot and left <=", "        return left if left <="),
    ),
    mutant(
        "SQLite",
        "the open file is not compared with the path",
        "sqlite_a_replaced_file_is_another_election",
        (
            "backends/sqlite/database.py",
            """
        if self._connection is not None and identity is not None and identity == self.identity:
""",
            """
        if self._connection is not None:
""",
        ),
    ),
    mutant(
        "SQLite",
        "an epoch is given again",
        "sqlite_tokens_rise",
        (
            SQLITE,
            """
            epoch = max(1 if row is None else row.epoch + 1, int(backend.host.clock.wall() * 1e6))
""",
            """
            epoch = max(1, int(backend.host.clock.wall() * 1e6))
""",
        ),
    ),
)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Copy:
    """The package and the schedules as they are shipped, compiled; every schedule holds there."""
    return Copy(tmp_path_factory.mktemp("original") / "copy", "schedules", ("storm",))


def test_an_unpatched_copy_keeps_every_promise(copy: Copy) -> None:
    assert (copy.place / "coordkit" / "lease.py").is_file()


def test_every_rule_has_a_mutant() -> None:
    assert {mutant.rule for mutant in MUTANTS} == {"1", "2", "4", "5", "6", "7", "8", "9", "10", "engine", "SQLite"}
    assert {mutant.schedule for mutant in MUTANTS} <= set(SCHEDULES)


@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_without_the_rule_the_schedule_breaks(mutant: Mutant, copy: Copy, tmp_path: Path) -> None:
    copy.check(mutant, tmp_path / "mutant")
