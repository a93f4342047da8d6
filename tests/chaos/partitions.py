"""Partitions of a cluster that has hosts of its own, and of the candidates on two more: what each must come to.

The rule: a cut is of packets, by the receiver; no process is told. Every fault ends with a healed network, one leader,
nothing left and a journal that is judged.
"""

from __future__ import annotations

import enum
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.servers.cluster import Cluster, NotReady
from tests.servers.local import Place
from tests.servers.namespaces import Network
from tests.servers.rights import NotAllowed
from tests.support.contest import Candidate, Contest, measured, nothing_left, now, spans_of, stays_quiet
from tests.support.rights import lacking

TTL = 3.0
GROUPS = ("a", "b")
LOCAL_END = 0.5  # s: the local timer looks at least four times a second


@dataclass(frozen=True, slots=True)
class Field:
    """A cluster in a network. `takeover`: s, from the cut until another has to lead. `left`: what candidates store."""

    network: Network
    cluster: Cluster[Any]
    url: Callable[..., str]
    takeover: float
    left: Callable[[], object]
    marked: Callable[[str], None] = lambda _: None

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(member.name for member in self.cluster.members)

    @contextmanager
    def contest(self, folder: Path) -> Iterator[Contest]:
        """Candidates of this cluster, which is healthy and empty before and after."""
        self.mend()
        self.marked(self.url())
        try:
            with Contest(folder, self.url(), ttl=TTL) as contest:
                yield contest
        except BaseException:
            print(self.cluster.logs())
            raise
        finally:
            self.mend()

    def mend(self) -> None:
        self.network.heal()
        self.cluster.heal()
        self.cluster.clear()

    def candidate(self, contest: Contest, group: str, *, only: Sequence[Any] | None = None) -> Candidate:
        """On the host of this group, for all members or for these."""
        return contest.candidate(self.url(members=only), before=self.network[group].before)

    def ends_well(self, contest: Contest) -> float:
        """After the fault: the network heals, one leads, all leave, nothing is left. When the cluster was ready."""
        self.network.heal()
        healed = now()
        self.cluster.ready()
        ready = now()
        print(f"the cluster was ready {ready - healed:.2f} s after the network was healed")
        contest.one_leads()
        measured("one leader in a cluster that is ready", ready, now(), self.takeover)
        contest.all_leave()
        nothing_left(self.left)
        return ready


@contextmanager
def network(size: int, name: str) -> Iterator[tuple[Network, tuple[Place, ...]]]:
    """Hosts for so many members, and those of the candidates. Without the rights for it: skipped, and in CI failed."""
    members = [f"{name}{number}" for number in range(1, size + 1)]
    try:
        made = Network([*members, *GROUPS])
    except NotAllowed as reason:
        lacking(f"network namespaces: {reason}")
    with made:
        yield made, made.some(*members)


# -- what happens ----------------------------------------------------------------------------------------------


def a_minority_with_the_leader(field: Field, folder: Path, minority: Sequence[str]) -> None:
    """Symmetric: the leader's candidate and these members, from all others."""
    rest = [name for name in field.names if name not in minority]
    with field.contest(folder) as contest:
        leader = field.candidate(contest, "a")
        token = leader.leads()
        other = field.candidate(contest, "b")
        field.network.part(["a", *minority], ["b", *rest])
        cut = now()
        assert leader.lost() == "expired"
        after = other.leads()
        assert leader.writes_late(token) == "refused"
        stays_quiet(0.5, leader)  # it contends, in vain
        field.ends_well(contest)
        old, new = spans_of(contest.report(), token, after)
        assert old.reason == "expired"
        measured("the term ended by its own clock", cut, old.until, TTL, slack=LOCAL_END)
        measured("the majority's side led", cut, new.since, field.takeover)
        assert new.since >= old.until
        assert after > token


def one_way_to_the_leader(field: Field, folder: Path, lost: str) -> None:
    """Asymmetric: the leader's requests or the replies to it are lost, of all members."""
    with field.contest(folder) as contest:
        leader = field.candidate(contest, "a")
        token = leader.leads()
        other = field.candidate(contest, "b")
        if lost == "replies":
            field.network.drop(field.names, ["a"])
        else:
            field.network.drop(["a"], field.names)
        cut = now()
        assert leader.lost() == "expired"
        after = other.leads()
        dropped = [field.network.dropped(name) for name in ("a", *field.names)]
        assert any(dropped[:1] if lost == "replies" else dropped[1:]), dropped
        assert leader.writes_late(token) == "refused"
        field.ends_well(contest)
        old, new = spans_of(contest.report(), token, after)
        measured("the term ended by its own clock", cut, old.until, TTL, slack=LOCAL_END)
        measured("another led", cut, new.since, field.takeover + TTL)  # what arrives may renew for a ttl more
        assert new.since >= old.until
        assert after > token


class Cut(enum.Enum):
    """What is lost between the leader of the cluster and its followers."""

    ALL = "all"
    WORDS = "its words"
    ANSWERS = "its followers' answers"


ELECTION_SECONDS = {Cut.ALL: 25.0, Cut.WORDS: 6.0, Cut.ANSWERS: 6.0}  # for so long another leader is waited for


def the_stores_leader_alone(field: Field, folder: Path, cut: Cut, *, only_it: bool) -> None:
    """The leader of the cluster, from its followers; the candidates reach all. `only_it`: the leader asks no other."""
    with field.contest(folder) as contest:
        head = field.cluster.leader()
        leader = field.candidate(contest, "a", only=[head] if only_it else None)
        token = leader.leads()
        other = field.candidate(contest, "b")
        followers = [name for name in field.names if name != head.name]
        if cut is not Cut.ANSWERS:
            field.network.drop([head.name], followers)
        if cut is not Cut.WORDS:
            field.network.drop(followers, [head.name])
        since = now()
        try:
            field.cluster.leader(ELECTION_SECONDS[cut], other_than=head)
            print(f"the cluster has another leader after {now() - since:.2f} s")
        except NotReady:  # one that is heard and hears nothing keeps ZooKeeper's elections from ending
            assert cut is not Cut.ALL
            print(f"the cluster has no other leader within {ELECTION_SECONDS[cut]:g} s")
        if only_it:
            assert leader.lost() == "expired"
            assert other.leads() > token
            assert leader.writes_late(token) == "refused"
        else:
            stays_quiet(TTL, leader, other, word="fails")  # whether the term holds is counted
        held = leader.count("lost") == 0
        field.ends_well(contest)
        report = contest.report()
        (old,) = spans_of(report, token)
        print(
            f"the term {'held' if held else 'ended'}, {old.renewals} renewals, {old.until - since:.2f} s after the cut"
        )
        assert old.reason == "expired" if only_it else old.reason in (None, "expired")


def no_majority(field: Field, folder: Path, sides: Sequence[Sequence[str]]) -> None:
    """Each of these groups from the others: a candidate with some members, none with most."""
    with field.contest(folder) as contest:
        leader = field.candidate(contest, "a")
        token = leader.leads()
        other = field.candidate(contest, "b")
        for one, another in itertools.combinations(sides, 2):
            field.network.part(one, another)
        cut = now()
        assert leader.lost() == "expired"
        stays_quiet(field.takeover, leader, other)
        healed = now()
        ready = field.ends_well(contest)
        report = contest.report()
        old, new, *_ = sorted(report.spans, key=lambda span: span.token)
        assert old.token == token
        measured("the term ended by its own clock", cut, old.until, TTL, slack=LOCAL_END)
        print(f"one led {new.since - healed:.2f} s after the network was healed")
        measured("one led in a cluster that is ready", min(ready, new.since), new.since, field.takeover)
        assert new.since >= healed
