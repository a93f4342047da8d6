"""The rules of the etcd adapter, patched out one by one, each with the schedule that misses it.

The rule: as in `test_mutants.py`, a patch is exact text that occurs once. Rules of the core are there, not here.
"""

from __future__ import annotations

from tests.simulation.mutants import Mutant, mutant

ADAPTER, CONNECTION, LEASES, REQUESTS, WATCHES = (
    f"backends/etcd/{name}.py" for name in ("adapter", "connection", "leases", "requests", "watches")
)

MUTANTS: tuple[Mutant, ...] = (
    # what a lease promises
    mutant(
        "promise",
        "a lease counts from the reply",
        "a_lease_counts_from_its_request",
        (LEASES, "answer.TTL, promise(sent, answer.TTL", "answer.TTL, promise(self._host.clock.now(), answer.TTL"),
    ),
    mutant(
        "promise",
        "a keepalive counts from the reply",
        "a_renewal_counts_from_its_request",
        (CONNECTION, "Beat(sent, answer.TTL", "Beat(self.host.clock.now(), answer.TTL"),
    ),
    mutant(
        "promise",
        "the asked ttl counts",
        "a_shorter_lease_than_asked_counts",
        (LEASES, "promise(sent, answer.TTL, self._drift)", "promise(sent, ttl, self._drift)"),
    ),
    mutant(
        "promise",
        "a keepalive counts without a read after it",
        "a_member_that_hangs_prolongs_nothing",
        (
            LEASES,
            """
            standing, term = await self._standing(held, seconds=ttl / 9)
""",
            """
            standing = {key: (token, lease.id) for lease, key, token in held}
            term = next((beat.term for beat in beats.values()), 0)
""",
        ),
    ),
    mutant(
        "promise",
        "the read comes before the keepalive",
        "a_read_of_before_proves_nothing",
        (
            LEASES,
            """
            beats = await self.beat(leases.values(), seconds=ttl / 9)
            standing, term = await self._standing(held, seconds=ttl / 9)
""",
            """
            standing, term = await self._standing(held, seconds=ttl / 9)
            beats = await self.beat(leases.values(), seconds=ttl / 9)
""",
        ),
    ),
    mutant(
        "promise",
        "raft terms are not compared",
        "a_leader_of_before_prolongs_nothing",
        (LEASES, "beat.ttl > 0 and beat.before == beat.term == term > 0", "beat.ttl > 0"),
    ),
    mutant(
        "promise",
        "the term of the keepalive's own answer is not compared",
        "a_leader_of_before_prolongs_nothing",
        (
            LEASES,
            "beat.ttl > 0 and beat.before == beat.term == term > 0",
            "beat.ttl > 0 and beat.before in (0, beat.term)",
        ),
    ),
    mutant(
        "promise",
        "the term that the member had reached before is not compared",
        "a_member_that_lagged_behind_prolongs_nothing",
        (LEASES, "beat.before == beat.term == term > 0", "beat.term == term > 0"),
    ),
    mutant(
        "promise",
        "an answer counts a later keepalive",
        "an_answer_of_before_confirms_nothing",
        (
            ADAPTER,
            "lease.confirm(beat, term, self._backend.drift)",
            "lease.confirm(lease.beat, term, self._backend.drift)",
        ),
    ),
    mutant(
        "promise",
        "what is said before a win is not heard",
        "a_win_whose_key_is_gone_is_none",
        (ADAPTER, "if isinstance(answer, Lost):", "if isinstance(answer, str):"),
    ),
    # the record
    mutant(
        "record",
        "a leading record is not waited for",
        "a_revoked_living_lease_is_waited_for",
        (ADAPTER, "        if left > 0:\n", "        if left < 0:\n"),
    ),
    mutant(
        "record",
        "another lease's record is nobody's",
        "a_revoked_living_lease_is_waited_for",
        (
            ADAPTER,
            "not record.leading or (record.lease, record.id) == (first.lease, first.candidate.id):",
            "not record.leading or (record.lease, record.id) != (first.lease, first.candidate.id):",
        ),
    ),
    mutant(
        "record",
        "half a ttl is waited",
        "a_revoked_living_lease_is_waited_for",
        (ADAPTER, "waiting_time(record.ttl, self.drift)", "0.5 * record.ttl"),
    ),
    mutant(
        "record",
        "the record names the asked ttl",
        "a_lease_that_was_rounded_up_is_waited_for",
        (
            ADAPTER,
            "record_value(lease.id, self.candidate.id, lease.ttl, leading=leading)",
            "record_value(lease.id, self.candidate.id, self.ttl, leading=leading)",
        ),
    ),
    mutant(
        "record",
        "no record is written",
        "a_revoked_living_lease_is_waited_for",
        (ADAPTER, "self.records = not trust_leases", "self.records = False"),
    ),
    mutant(
        "record",
        "a claim writes over any record",
        "a_revoked_living_lease_is_waited_for",
        (
            REQUESTS,
            "compare = [self._created(place.entry(lease), token), self._moved_at(place, record_revision)]",
            "compare = [self._created(place.entry(lease), token)]",
        ),
    ),
    mutant(
        "record",
        "a claim needs no first place",
        "a_stranger_who_leads_is_waited_for",
        (
            REQUESTS,
            """
            compare.append(self._none_older(place, token))
""",
            """
            compare.append(self._created(place.entry(lease), token))
""",
        ),
    ),
    mutant(
        "record",
        "a seizure needs no empty election",
        "a_stranger_who_leads_is_waited_for",
        (
            REQUESTS,
            "compare = [self._none_older(place, 0), self._moved_at(place, 0)]",
            "compare = [self._moved_at(place, 0)]",
        ),
    ),
    mutant(
        "record",
        "a claim needs no key",
        "a_record_is_claimed_with_a_key",
        (
            REQUESTS,
            "compare = [self._created(place.entry(lease), token), self._moved_at(place, record_revision)]",
            "compare = [self._moved_at(place, record_revision)]",
        ),
    ),
    mutant(
        "record",
        "what was said of a key holds for the next one",
        "another_key_has_another_place",
        (
            ADAPTER,
            "self._token, self._first, self._acceptable = standing.mine.token, False, 0",
            "self._token = standing.mine.token",
        ),
    ),
    mutant(
        "record",
        "a resignation marks whatever record there is",
        "a_waiter_leaves_the_leaders_record_alone",
        (REQUESTS, "compare=[self._created(key, token), ours],", "compare=[self._created(key, token)],"),
    ),
    mutant(
        "record",
        "a resignation without a key marks whatever record there is",
        "a_waiter_leaves_the_leaders_record_alone",
        (
            REQUESTS,
            "return self.rpc.TxnRequest(compare=[ours], success=[self._put(place.record, resigned)])",
            "return self.rpc.TxnRequest(compare=[], success=[self._put(place.record, resigned)])",
        ),
    ),
    mutant(
        "record",
        "a resignation without a key marks no record",
        "a_leader_whose_key_was_deleted_marks_its_record",
        (
            ADAPTER,
            """
                await self._write(requests.close_record(place, leading, resigned), "resign", READ_SECONDS)
""",
            "",
        ),
    ),
    # whose key it is
    mutant(
        "key",
        "a key of that name is ours",
        "a_key_with_anothers_value_is_not_ours",
        (
            ADAPTER,
            "if standing.mine.candidate.id != self.candidate.id:",
            "if standing.mine.candidate.id == '':",
        ),
    ),
    mutant(
        "key",
        "two candidates share a lease and so a key",
        "two_candidates_of_a_session_contend",
        (LEASES, "and not lease.tainted and key_of(lease.id) not in lease.claims:", "and not lease.tainted:"),
    ),
    mutant(
        "key",
        "a lease with a create under way is kept",
        "a_late_create_leaves_nothing",
        (ADAPTER, "tainted=self._unknown", "tainted=False"),
    ),
    mutant(
        "key",
        "a lease with a create under way is not swept",
        "a_late_create_beside_a_term_is_removed",
        (
            LEASES,
            """
        if tainted:
            self._sweep_from_now_on(lease)
""",
            "\n",
        ),
    ),
    mutant(
        "key",
        "a lease with a create under way is given out",
        "a_lease_with_a_create_under_way_is_nobodys",
        (LEASES, "not lease.gone and not lease.tainted and key_of", "not lease.gone and key_of"),
    ),
    mutant(
        "key",
        "a lease is ours while it is revoked",
        "a_lease_that_is_revoked_is_used_no_more",
        (
            ADAPTER,
            """
            await self._backend.leases.unclaim(lease, self._place.entry(lease.id), tainted=self._unknown)
""",
            """
            self._lease = lease
            await self._backend.leases.unclaim(lease, self._place.entry(lease.id), tainted=self._unknown)
            self._lease = None
""",
        ),
    ),
    mutant(
        "key",
        "a removal takes any key of that name",
        "a_late_removal_hits_only_its_own",
        (
            REQUESTS,
            "return rpc.TxnRequest(compare=[self._created(key, token)], success=[delete])",
            "return rpc.TxnRequest(compare=[], success=[delete])",
        ),
    ),
    mutant(
        "key",
        "a proclamation makes a key",
        "a_late_proclamation_makes_no_entry",
        (
            REQUESTS,
            "return rpc.TxnRequest(compare=[self._created(key, token)], success=[put])",
            "return rpc.TxnRequest(compare=[], success=[put])",
        ),
    ),
    # waiting
    mutant(
        "watch",
        "a watch begins anew with each stream",
        "a_resignation_during_a_cut_is_told_after_it",
        (WATCHES, "start_revision=watch.since, filters", "start_revision=0, filters"),
    ),
    mutant(
        "watch",
        "a stream asks for no leader",
        "a_member_without_a_leader_is_left_at_once",
        (CONNECTION, 'found = (("hasleader", "true"),) if leader else ()', "found: tuple[tuple[str, str], ...] = ()"),
    ),
)
