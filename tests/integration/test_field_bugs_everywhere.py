"""Bugs that election and lock libraries had in the field, looked for here: those that are not tied to one store.

The rule: a test plays the schedule of the report on the real store, is named by project and number, and has a mutant
that brings the bug back. `docs/field-bugs.md` has the list.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from coordkit import LeaderElector, Term
from tests.integration import field_scenes as scenes
from tests.integration import test_run
from tests.integration.field_scenes import ELECTION, LONG, SOON
from tests.integration.test_run import Place, wait_for
from tests.support.children import Child
from tests.support.patched import Patch, patched
from tests.support.ways import STORES, Ways, ways_to

pytestmark = pytest.mark.timeout(60)

place = test_run.place  # a place for `coordkit run`, where nothing may live on after the test


@pytest.fixture(params=STORES)
def ways(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ways]:
    with ways_to(request.param, request, tmp_path) as made:
        yield made


@pytest.fixture
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ways]:
    with ways_to("sqlite", request, tmp_path) as made:
        yield made


@contextmanager
def leading(url: str) -> Iterator[Term]:
    """A leader of this process, who stays until the term is resigned, or the block is left."""
    elector = LeaderElector(url, ELECTION, ttl=LONG)
    term = elector.campaign(timeout=SOON)
    try:
        yield term
    finally:
        term.resign()
        elector.close()


Env = Mapping[str, str]


# -- python-etcd3 #599 -------------------------------------------------------------------------------------------------


def entered_behind_a_leader(ways: Ways, env: Env) -> str:
    """What the first way into a body said that did not refuse while somebody else led; empty if all did."""
    with leading(ways.url(0)) as term, Child(scenes.enters, ways.url(1), env=env) as child:
        told = child.line()
        if told != "entered":
            return told
        assert child.quiet(), "who has no patience to lose waits outside"
        term.resign()
        assert int(child.expect("inside")) > int(term.token)
        child.expect("left")
    return ""


def test_python_etcd3_599_no_body_is_entered_without_the_lock(ways: Ways) -> None:
    """There a `with` block was entered although the lock belonged to another: the wait for it had run out, by a limit
    of its own and not the one that was asked for, and nobody looked at the answer. Here whoever is not elected in
    time gets `CampaignTimeout`, in every way to a body, and who named no limit waits. (python-etcd3 #599)
    """
    assert entered_behind_a_leader(ways, {}) == ""


@pytest.mark.backend("sqlite")
def test_python_etcd3_599_comes_back_without_the_refusal(file: Ways, tmp_path: Path) -> None:
    """A mutant whose `__enter__` takes no notice of the answer."""
    mutant = (
        "elector.py",
        """
        term = self._elector._campaign(Patience.WAIT, self._timeout, block=True, owner=self)
        assert term is not None  # WAIT has no other answer
        self._term = term
        return term
""",
        """
        from coordkit.errors import CampaignTimeout
        try:
            self._term = self._elector._campaign(Patience.WAIT, self._timeout, block=True, owner=self)
        except CampaignTimeout:
            self._term = None
        return self._term
""",
    )
    assert entered_behind_a_leader(file, patched(tmp_path / "mutant", mutant)) == "not-refused"


# -- redis-py #3847 ----------------------------------------------------------------------------------------------------


def left_by_a_cancelled_release(ways: Ways, env: Env, soon: float = SOON) -> str:
    """What became of a seat whose release was cancelled."""
    with Child(scenes.gives_up, ways.url(0), soon, env=env) as child:
        told = child.line()
        if told != "leads":
            return told
        ways.cut(0)
        child.tell()
        assert child.expect("cancelled") == "0", "no answer has come, so it was cancelled in the midst of it"
        ways.heal(0)
        child.tell()
        told = child.line()
    wait_for(lambda: not ways.entries(ELECTION))
    return told


def test_redis_py_3847_a_cancelled_release_leaves_no_lock(ways: Ways) -> None:
    """There the asyncio lock forgot its token before it had deleted the key: a cancellation in between left a key that
    its owner could not release any more, nor anybody take. Here a release that has begun is the engine's: it goes on
    whatever becomes of the task that asked, and one that was cancelled before can be repeated. (redis-py #3847)
    """
    assert left_by_a_cancelled_release(ways, {}) == "free"


RELEASE_BY_THE_CALLER: Patch = (
    "aio.py",
    """
            try:
                self._leave(release=release)
            except BaseException:  # a Ctrl-C: no half of it may be missing
                self._leave(release=release)
                raise
""",
    """
            tenure.end(TermState.RESIGNED, None)
            await slot.engine.ask_async(lambda: slot.desk.keeper.backend.leader(tenure.election))
            self._leave(release=release)
""",
)


@pytest.mark.backend("sqlite")
def test_redis_py_3847_comes_back_where_the_caller_releases(file: Ways, tmp_path: Path) -> None:
    """A mutant that ends the term locally, and asks the store in the caller's task before it gives the seat up."""
    env = patched(tmp_path / "mutant", RELEASE_BY_THE_CALLER)
    assert left_by_a_cancelled_release(file, env, soon=3.0).startswith("stuck")


# -- redisson, getToken ------------------------------------------------------------------------------------------------


def read_late(ways: Ways, env: Env) -> tuple[list[int], str]:
    """The token as it was taken, as it was read late, and the successor's; what a fence says to the second."""
    with Child(scenes.reads_again, ways.url(0), env=env) as child:
        tokens = [int(word) for word in child.expect("tokens").split()]
        return tokens, child.line()


def test_redisson_get_token_read_late_is_not_the_successors(ways: Ways) -> None:
    """There `getToken` reads the counter of the lock at the store, so who asks after its lease has run out is given
    the token of its successor, with which a fence lets it pass. Here the token is a value of the term, fixed when it
    was won and never read again. (redisson `RFencedLock.getToken`; no report of its own is known)
    """
    (taken, late, successors), answer = read_late(ways, {})
    assert taken == late < successors
    assert answer == "refused"


@pytest.mark.backend("sqlite")
def test_redisson_get_token_comes_back_where_it_is_looked_up(file: Ways, tmp_path: Path) -> None:
    """A mutant whose token is the newest of its election."""
    mutants = (
        ("term.py", "\nclass Tenure:\n", "\nNEWEST: dict[str, FencingToken] = {}\n\n\nclass Tenure:\n"),
        ("term.py", "        self.token = token\n", "        self.token = NEWEST[election] = token\n"),
        ("term.py", "        return self._tenure.token\n", "        return NEWEST[self._tenure.election]\n"),
    )
    (taken, late, successors), answer = read_late(file, patched(tmp_path / "mutant", *mutants))
    assert taken < late == successors
    assert answer == "admitted"


# -- client-go #1187 ---------------------------------------------------------------------------------------------------


def told_of_an_end(ways: Ways, journal: Path, env: Env) -> list[str]:
    """What was told of an end by candidates that had never led, or had resigned; empty if nothing was."""
    journalled = {"COORDKIT_JOURNAL": str(journal), **env}
    with leading(ways.url(0)) as term, Child(scenes.never_leads, ways.url(1), env=journalled) as child:
        wrong = child.expect("ran").split()
        term.resign()
        child.tell()
        told = child.expect("told")
        assert child.exit_code() == 0
    if told != "stopped":
        wrong.append(told)
    events: dict[str, set[str]] = {}  # of each entry
    for line in journal.read_text(encoding="utf-8").splitlines():
        record: dict[str, Any] = json.loads(line)
        events.setdefault(record["entry"], set()).add(record["event"])
    won = [seen - {"campaign", "won", "renewed", "watched"} for seen in events.values() if "won" in seen]
    assert len(events) >= 7, "five that do not lead, and two that do"
    wrong += [
        f"{event} without a win" for seen in events.values() if "won" not in seen for event in seen - {"campaign"}
    ]
    wrong += [f"{sorted(seen)} is one end" for seen in won if seen not in ({"resigned"}, {"lost", "notified"})]
    assert len(won) == 2
    return wrong


def test_client_go_1187_nobody_is_told_of_an_end_that_had_no_beginning(ways: Ways, tmp_path: Path) -> None:
    """There the callback for the end of leading ran whenever the elector ended, also where it had never led: who frees
    or fences something in it did so under another's leadership. Here `on_lost` belongs to a term, which only a win
    makes, and is not called for one that was resigned. (client-go #1187)
    """
    assert told_of_an_end(ways, tmp_path / "journal", {}) == []


@pytest.mark.backend("sqlite")
@pytest.mark.parametrize(
    "mutant",
    [
        (
            "campaign.py",
            """
        entry.task = None
        self._leave_queue(entry)
""",
            """
        entry.task = None
        self._leave_queue(entry)
        self.host.journal.write("lost", entry="nobody", election=self.spec.election)
""",
        ),
        (
            "elector.py",
            "if self._callbacks and self._tenure.state()[0] is TermState.LOST:",
            "if self._callbacks:",
        ),
    ],
    ids=["at the end of a campaign", "at the end of any term"],
)
def test_client_go_1187_comes_back_where_any_end_is_told(file: Ways, mutant: Patch, tmp_path: Path) -> None:
    """Mutants that tell of a loss whenever a campaign is given up, and of any end of a term."""
    assert told_of_an_end(file, tmp_path / "journal", patched(tmp_path / "mutant", mutant)) != []


# -- consul #9788 ------------------------------------------------------------------------------------------------------


def outlived(ways: Ways, place: Place, env: Env) -> float:
    """Seconds by which a command that does not want to end outlived the lease under which it was started."""
    lines = ["--ttl", "3"]
    first = place.run(*lines, command=place.beat("deaf"), COORDKIT_URL=ways.url(0), **env)
    token = place.first_beat(first).token
    second = place.run(*lines, COORDKIT_URL=ways.url(1), **env)
    ways.cut(0)
    if not ways.apart:
        wait_for(lambda: lease_over(place, token))
        ways.heal(0)
    successor = place.first_beat(second, 2)  # the other machine has the lease, and its command has begun
    last = max(line.at for line in place.lines() if line.token == token)
    assert successor.token > token
    return max(last - place.deadline(token), last - successor.at)


def lease_over(place: Place, token: int) -> bool:
    """Whether the lease of this term is over, by its own journal."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) > place.deadline(token)


def test_consul_9788_no_child_outlives_the_lock(ways: Ways, place: Place) -> None:
    """There the command that ran under a lock was told to end a minute and a half after the lock had passed on, for the
    client of a node that was cut off took that long to see it: two nodes ran it side by side. Here the lease's end on
    the local clock counts, which needs no network: the command is dead before it, heard or not. (consul #9788)
    """
    assert outlived(ways, place, {}) < 0


@pytest.mark.backend("sqlite")
def test_consul_9788_comes_back_with_a_late_stop(file: Ways, place: Place, tmp_path: Path) -> None:
    """A mutant that stops the command after the lease."""
    mutant = (
        "cli/supervise.py",
        "made = Plan(ttl, stop=grace + 2 * slack, kill=2 * slack, guard=slack)",
        "made = Plan(ttl, stop=-1.0, kill=-31.0, guard=-32.0)",
    )
    assert outlived(file, place, patched(tmp_path / "mutant", mutant)) > 0
