"""What happened to the terms of a short schedule, and what must not have. No adapter, no voters.

The rule: no two terms of an election overlap in true time, from the moment in which the win was told to the one in
which its holder acts no more, by its own clocks or because it has left; and tokens rise in the order of wins.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from coordkit.lease import Promise
from coordkit.testing.virtual import VirtualClock
from tests.simulation.storm import Broken

COMMAND = "python -m tests.simulation --redis-ballots"  # that plays a seed again


@dataclass(slots=True)
class Term:
    """Somebody has believed to lead, in true time. `until` moves: it was renewed, given up, or told that it is lost."""

    election: str
    token: int
    who: str
    since: float  # when its win was told
    until: float
    fate: str = "ran out"


@dataclass(slots=True)
class Course:
    """What happened in one schedule."""

    seed: int
    terms: list[Term] = field(default_factory=list)  # in the order in which wins were told
    lines: list[tuple[float, str]] = field(default_factory=list)  # true time, and what
    ends: Counter[str] = field(default_factory=Counter)  # of attempts, renewals, releases
    troubles: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def check(self) -> None:
        """Judge everything; raises `Broken` with the seed and what is wrong."""
        wrong = [*self.wrong, *overlaps(self.terms), *out_of_order(self.terms)]
        if wrong:
            shown = "\n  ".join(wrong[:10])
            raise Broken(f"seed {self.seed}: {len(wrong)} wrong, `{COMMAND} --seed {self.seed}`:\n  {shown}")

    def fates(self) -> Counter[str]:
        """How terms have ended."""
        return Counter(term.fate for term in self.terms)

    def told(self) -> Iterator[str]:
        """Step by step."""
        for at, what in self.lines:
            yield f"{at:10.4f}  {what}"

    @property
    def digest(self) -> str:
        """Equal for equal runs."""
        terms = [(term.election, term.token, term.who, term.since, term.until) for term in self.terms]
        return hashlib.sha256(json.dumps([self.lines, terms]).encode()).hexdigest()


def overlaps(terms: Sequence[Term]) -> list[str]:
    """Pairs of terms of one election of which one had begun before the other was over."""
    return [
        f"{after.who} led {after.election} with {after.token} from {after.since:.6f}, "
        f"{before.who} with {before.token} until {before.until:.6f}"
        for number, before in enumerate(terms)
        for after in terms[number + 1 :]
        if after.election == before.election and before.since <= after.since < before.until
    ]


def out_of_order(terms: Sequence[Term]) -> list[str]:
    """Tokens that are not above the one before in their election."""
    newest: dict[str, int] = {}
    wrong = []
    for term in terms:
        if term.token <= newest.get(term.election, 0):
            wrong.append(f"{term.token} of {term.who} in {term.election} comes after {newest[term.election]}")
        newest[term.election] = max(term.token, newest.get(term.election, 0))
    return wrong


def over_at(clock: VirtualClock, promise: Promise) -> float:
    """When its holder acts no more, in true time: by the faster of the two clocks that it goes by."""
    sent, rates, starts = promise.sent, clock._rates, clock._starts
    return min(
        (sent.boot + promise.span - starts[0]) / rates[0],
        (sent.raw + promise.span - starts[1]) / rates[1],
    )
