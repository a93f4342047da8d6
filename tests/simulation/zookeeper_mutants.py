"""The rules of the ZooKeeper adapter, patched out one by one, each with the schedule that misses it.

The rule: as in `test_mutants.py`, a patch is exact text that occurs once. Rules of the core are there, not here.
"""

from __future__ import annotations

from tests.simulation.mutants import Mutant, mutant

ADAPTER, CLIENT, LAYOUT, LIFELINE, PULSE, WATCHES = (
    f"backends/zookeeper/{name}.py" for name in ("adapter", "client", "layout", "lifeline", "pulse", "watches")
)

MUTANTS: tuple[Mutant, ...] = (
    # until when a session lasts
    mutant(
        "lifeline",
        "a session counts from the greeting",
        "a_new_session_counts_from_its_request",
        (
            CLIENT,
            "self.post(self._on_granted, handler, asked, session,",
            "self.post(self._on_granted, handler, self._host.clock.now(), session,",
        ),
    ),
    mutant(
        "lifeline",
        "an answer counts from when it came",
        "an_answer_counts_from_its_request",
        (CLIENT, "account(sent, now)", "account(now, now)"),
    ),
    mutant(
        "lifeline",
        "a committed write counts alone",
        "a_committed_write_alone_proves_nothing",
        (LIFELINE, "self._prove(asked, sent)", "self._prove(sent, sent)"),
    ),
    mutant(
        "lifeline",
        "a committed write counts alone, for three quarters of the timeout",
        "a_write_that_a_paused_leader_commits_proves_nothing",
        (LIFELINE, "self._prove(asked, sent)", "self._prove(sent, sent)"),
        (LIFELINE, "acting_time(self.timeout, self._drift)", "acting_time(0.75 * self.timeout, self._drift)"),
    ),
    mutant(
        "lifeline",
        "an answer counts with any write after it",
        "a_write_soon_after_an_answer_proves_nothing",
        (LIFELINE, "PING_GAP = 0.27", "PING_GAP = 0.0"),
    ),
    mutant(
        "lifeline",
        "an answer counts with a write a fifth of the timeout later",
        "a_write_soon_after_an_answer_proves_nothing",
        (LIFELINE, "PING_GAP = 0.27", "PING_GAP = 0.2"),
    ),
    mutant(
        "lifeline",
        "one write is enough",
        "a_write_that_overtakes_the_answer_to_a_ping_proves_nothing",
        (LIFELINE, "self._listed.append(Touch(listed.sent, answered))", "self._prove(listed.sent, sent)"),
    ),
    mutant(
        "lifeline",
        "a write counts whenever it is answered",
        "a_write_that_took_long_proves_nothing",
        (LIFELINE, "SOON = 0.25", "SOON = 1000.0"),
    ),
    mutant(
        "lifeline",
        "a read counts as a write",
        "a_server_that_is_cut_off_proves_nothing",
        (CLIENT, "lifeline.committed if writes and not failed else", "lifeline.committed if not failed else"),
    ),
    mutant(
        "lifeline",
        "a greeting counts without a write",
        "a_leader_of_before_that_greets_proves_nothing",
        (LIFELINE, "        if new:\n", "        if asked:\n"),
    ),
    mutant(
        "lifeline",
        "clocks are right",
        "a_slow_clock_stops_before_a_fast_one_ends_the_session",
        (LIFELINE, "acting_time(self.timeout, self._drift)", "acting_time(self.timeout, 0.0)"),
    ),
    mutant(
        "lifeline",
        "the asked timeout counts",
        "a_shorter_timeout_than_asked_counts",
        (CLIENT, "Lifeline(timeout, self._drift)", "Lifeline(self._target.timeout, self._drift)"),
    ),
    mutant(
        "lifeline",
        "a timeout may be shortened",
        "a_session_whose_timeout_is_shortened_is_over",
        (CLIENT, "if timeout < known.timeout:", "if timeout < 0:"),
    ),
    # the end of a session
    mutant(
        "session",
        "a session that is given up says farewell",
        "a_session_that_is_given_up_says_no_farewell",
        (CLIENT, "self.start_over(why, farewell=False)", "self.start_over(why, farewell=True)"),
    ),
    mutant(
        "session",
        "a closed session says farewell under a term",
        "a_session_that_is_closed_under_a_term_says_no_farewell",
        (ADAPTER, "farewell=not self.held", "farewell=True"),
    ),
    mutant(
        "session",
        "a client that says no farewell says it all the same",
        "a_session_that_is_closed_under_a_term_says_no_farewell",
        (CLIENT, "        if not farewell:\n", "        if self._kazoo:\n"),
    ),
    mutant(
        "session",
        "nobody says farewell",
        "a_session_without_a_term_says_farewell",
        (ADAPTER, "farewell=not self.held", "farewell=False"),
    ),
    mutant(
        "session",
        "a win counts on a session that is over",
        "a_win_on_a_session_that_is_over_is_none",
        (ADAPTER, "if session.over or path is None:", "if path is None:"),
    ),
    mutant(
        "session",
        "an old session's end is the new one's",
        "another_session_follows_one_that_was_given_up",
        (
            CLIENT,
            """
        if handler is not self._handler:
            return
        if state == KazooState.CONNECTED:
""",
            """
        if state == KazooState.CONNECTED:
""",
        ),
    ),
    mutant(
        "session",
        "what was let go of is not begun anew",
        "a_process_that_stood_still_comes_back",
        (CLIENT, "            if self._handler.abandoned:", "            if self._closed and self._handler.abandoned:"),
    ),
    # whose node it is
    mutant(
        "node",
        "a node of another session is ours",
        "a_node_of_another_session_is_not_ours",
        (ADAPTER, "if stat.ephemeralOwner != session.number:", "if stat.ephemeralOwner == 0:"),
    ),
    mutant(
        "node",
        "a new session is no new candidacy",
        "a_new_session_is_a_new_candidacy",
        (ADAPTER, "if self._session is not session:", "if self._session is None:"),
    ),
    mutant(
        "node",
        "an unknown create is looked for without a write before",
        "an_unknown_create_is_waited_for",
        (
            ADAPTER,
            """
        await self._client.commit("barrier", lambda transaction: transaction.check(parent, -1), seconds, refusals=True)
""",
            "",
        ),
    ),
    mutant(
        "node",
        "an unknown create is looked for behind a sync",
        "an_unknown_create_is_looked_for_where_writes_commit",
        (
            ADAPTER,
            """
        await self._client.commit("barrier", lambda transaction: transaction.check(parent, -1), seconds, refusals=True)
        entries = await self._backend.standing(self._place, seconds)
""",
            """
        entries = await self._backend.standing(self._place, seconds, sync=True)
""",
        ),
    ),
    mutant(
        "node",
        "an unknown create is looked for behind a sync",
        "an_unknown_create_is_looked_for_where_writes_commit",
        (
            ADAPTER,
            """
        await self._client.commit("barrier", lambda transaction: transaction.check(parent, -1), seconds, refusals=True)
""",
            """
        await self._client.read("barrier", lambda kazoo: kazoo.sync_async(parent), seconds)
""",
        ),
    ),
    mutant(
        "order",
        "who has the same sequence comes by chance",
        "the_order_survives_the_end_of_the_counter",
        (LAYOUT, " or len(set(sequences)) < len(sequences)", ""),
    ),
    mutant(
        "renewal",
        "what is known is not told while an answer is late",
        "what_was_proved_before_an_answer_that_is_late_counts",
        (
            ADAPTER,
            "            return [each.renewed(None) for each in mine]",
            "            return [Unknown() for _ in mine]",
        ),
    ),
    mutant(
        "node",
        "an unknown create is not looked for",
        "an_unknown_create_is_looked_for",
        (
            ADAPTER,
            """
        if self._unknown:
            found = await self._found(session, budget.left)
""",
            """
        if self._unknown and self._name:
            found = await self._found(session, budget.left)
""",
        ),
    ),
    mutant(
        "node",
        "an unknown create is nothing to resign",
        "an_unknown_create_leaves_nothing",
        (
            ADAPTER,
            """
            if self._unknown:
                session = await self._client.ready(READ_SECONDS, "resign")
""",
            """
            if self._unknown and self._name:
                session = await self._client.ready(READ_SECONDS, "resign")
""",
        ),
    ),
    mutant(
        "node",
        "the younger of two is kept",
        "of_two_nodes_the_older_is_kept",
        (ADAPTER, "(_, path), *others = found", "*others, (_, path) = found"),
    ),
    mutant(
        "node",
        "the other of two stays",
        "of_two_nodes_the_older_is_kept",
        (ADAPTER, "for _, other in others:", "for _, other in others[1:]:"),
    ),
    # who is first
    mutant(
        "first",
        "who has a node has won",
        "who_is_not_first_waits",
        (ADAPTER, "self._watch_before(names[: names.index(self._name)], budget)", "self._watch_before([], budget)"),
    ),
    mutant(
        "first",
        "who is not in the list is before it",
        "who_is_not_in_the_list_has_not_won",
        (
            ADAPTER,
            """
            if self._name not in names:
                self._forget()  # gone while we waited: begin anew
                continue
""",
            """
            if self._name not in names:
                names.insert(0, self._name)
""",
        ),
    ),
    mutant(
        "first",
        "sequences are the order",
        "the_order_survives_the_wrap_of_the_counter",
        (ADAPTER, "if not wrapped(entries):", "if entries or not wrapped(entries):"),
    ),
    mutant(
        "first",
        "one sequence of two is an order",
        "the_order_survives_the_end_of_the_counter",
        (LAYOUT, " or len(set(sequences)) < len(sequences)", ""),
    ),
    mutant(
        "first",
        "a node that lasts is a candidate",
        "a_node_made_by_hand_is_no_candidate",
        (ADAPTER, "if stat.ephemeralOwner != 0:  # else", "if True:  # else"),
    ),
    mutant(
        "first",
        "a node that lasts is a leader",
        "a_node_made_by_hand_is_no_candidate",
        (ADAPTER, "if stat.ephemeralOwner == 0:", "if stat.ephemeralOwner < 0:"),
    ),
    mutant(
        "first",
        "whatever has a sequence is a candidate",
        "a_node_of_another_layout_is_no_candidate",
        (LAYOUT, '_ENTRY = re.compile(r"_c_(', '_ENTRY = re.compile(r"(?:.*__lock__)?(?:_c_)?('),
        (LAYOUT, "{12})-latch-(", "{12}|)(?:-latch-)?("),
    ),
    mutant(
        "first",
        "a node that is gone is renewed",
        "a_node_that_is_gone_is_not_renewed",
        (ADAPTER, "elif path in beat.missing:", "elif path in beat.missing and not beat.asked:"),
    ),
    mutant(
        "first",
        "a node that may be gone is renewed unseen",
        "a_node_that_may_be_gone_is_not_renewed_unseen",
        (ADAPTER, "promise.sent.boot <= told.sent.boot or self.suspect:", "promise.sent.boot <= told.sent.boot:"),
    ),
    mutant(
        "first",
        "what was looked at was told",
        "what_was_proved_before_an_answer_that_is_late_counts",
        (
            ADAPTER,
            "known = [each.over() for each in mine]",
            "known = [known if isinstance(known := each.renewed(None), Lost) else None for each in mine]",
        ),
    ),
    mutant(
        "first",
        "a proclamation needs no node",
        "a_late_proclamation_is_none",
        (
            ADAPTER,
            "                    transaction.check(path, -1)\n",
            '                    transaction.check("/", -1)\n',
        ),
    ),
    # waiting, and being told
    mutant(
        "watch",
        "the node before is not watched",
        "a_resignation_is_told_to_who_is_next",
        (
            ADAPTER,
            """
            stat = await self._backend.watches.add("node", path, self._moved, budget.left)
            if stat is None:
                return None""",
            """
            stat = await self._backend.stat(path, budget.left)
            if stat is None:
                return None""",
        ),
    ),
    mutant(
        "watch",
        "a lost connection fires no watch",
        "a_resignation_after_a_reconnection_is_told",
        (ADAPTER, "            self.watches.fire_all()\n", "            pass\n"),
        (
            WATCHES,
            """
        def fired(_: Any) -> None:
            self._client""",
            """
        def fired(event: Any) -> None:
            if event.path is not None:
                self._client""",
        ),
    ),
    mutant(
        "watch",
        "the own node is not watched",
        "a_leader_whose_node_is_deleted_is_told",
        (
            ADAPTER,
            'await self._backend.watches.add("node", path, self._moved, self.ttl / 3)',
            "await self._backend.stat(path, self.ttl / 3)",
        ),
        (
            ADAPTER,
            """
        stat = await self._backend.watches.add("node", path, self._moved, budget.left)
        if stat is None:
            self._forget()""",
            """
        stat = await self._backend.stat(path, budget.left)
        if stat is None:
            self._forget()""",
        ),
    ),
    mutant(
        "watch",
        "a lost connection is nothing to tell",
        "a_lost_connection_is_jeopardy",
        (
            CLIENT,
            """
                self.session.lifeline.disconnected()
            self._tell(connected=False)
        elif""",
            """
                self.session.lifeline.disconnected()
        elif""",
        ),
    ),
    mutant(
        "watch",
        "a server that does not answer is kept",
        "a_server_that_stands_still_is_left",
        (PULSE, "                self._client.leave(str(error))\n", "                pass\n"),
    ),
)
