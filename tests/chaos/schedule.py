"""What is to go wrong in a run, and when: drawn from a seed beforehand, kept as a file, played again from it.

The rule: pure. A step names its victims by what they are at that moment (a leader, a side, the number of a server), so
the same file gives the same faults on another machine; who leads when, the machine decides. Lengths are in seconds.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

# Of a candidate:
KILLED = "killed"
PAUSED = "paused beyond the ttl"
PAUSED_BRIEFLY = "paused within the ttl"
PAUSED_IN_WRITE = "paused in a write"
GIL_HELD = "interpreter lock held by C"
GIL_SPUN = "interpreter lock held by Python"
STARVED = "starved of CPU"
STEPPED = "wall clock stepped"
STROBED = "wall clock strobed"
# Of the links from some candidates to the servers:
CUT = "links cut"
REQUESTS_HELD = "requests held"
REPLIES_HELD = "replies held"
REPLIES_DROPPED = "replies dropped"
REPLIES_DOUBLED = "replies doubled"
DELAYED = "links delayed"
JITTER = "links with jitter"
STALLS = "links that stall"
NARROW = "links that are narrow"
HALF_OPEN = "links half open"
RESET = "links reset"
# Of servers:
SERVER_KILLED = "server killed"
SERVER_PAUSED = "server paused"
SERVER_RESTARTED = "server restarted"
SERVER_CUT_OFF = "server cut off"
LEADER_PAUSED = "leader of the servers paused"
FORGOT = "server forgot everything"
WENT_BACK = "server went back to older data"
ROLLED = "all servers restarted in turn"
MAJORITY = "majority of the servers down"


@dataclass(frozen=True, slots=True)
class Shape:
    """A kind of fault: how often it comes in a round, and how long it lasts, in ttls."""

    weight: int
    least: float = 0.0
    most: float = 0.0


OF_CANDIDATES = {
    KILLED: Shape(6),
    PAUSED: Shape(4, 1.1, 5.0),
    PAUSED_BRIEFLY: Shape(1, 0.5, 0.9),
    PAUSED_IN_WRITE: Shape(3, 2.2, 4.0),  # so long that another has written since
    GIL_HELD: Shape(1, 0.5, 2.0),
    GIL_SPUN: Shape(1, 0.5, 2.0),
    STARVED: Shape(1, 0.5, 2.0),
    STEPPED: Shape(1, 0.5, 1.5),
    STROBED: Shape(1, 0.5, 1.5),
}
OF_LINKS = {
    CUT: Shape(4, 1.0, 2.5),
    REQUESTS_HELD: Shape(1, 1.1, 2.0),
    REPLIES_HELD: Shape(1, 1.1, 2.0),
    REPLIES_DROPPED: Shape(1, 0.5, 1.5),
    REPLIES_DOUBLED: Shape(1, 0.2, 1.0),
    DELAYED: Shape(1, 0.5, 2.0),
    JITTER: Shape(1, 0.5, 2.0),
    STALLS: Shape(1, 0.5, 2.0),
    NARROW: Shape(1, 0.5, 2.0),
    HALF_OPEN: Shape(1, 0.5, 1.5),
    RESET: Shape(1),
}
OF_SERVERS = {
    SERVER_KILLED: Shape(1, 0.1, 0.75),
    SERVER_PAUSED: Shape(1, 0.1, 1.0),
    SERVER_RESTARTED: Shape(1),
    SERVER_CUT_OFF: Shape(1, 0.1, 1.5),
    LEADER_PAUSED: Shape(1, 1.05, 1.5),
    FORGOT: Shape(1),
    WENT_BACK: Shape(1, 0.25, 1.0),
    ROLLED: Shape(1),
    MAJORITY: Shape(1, 0.1, 0.75),
}
SHAPES = OF_CANDIDATES | OF_LINKS | OF_SERVERS
OF_EVERY_CLUSTER = (*OF_CANDIDATES, *OF_LINKS)
MEMBER_KINDS = (SERVER_KILLED, SERVER_PAUSED, SERVER_RESTARTED, SERVER_CUT_OFF, LEADER_PAUSED, ROLLED, MAJORITY)
# Of servers that know nothing of each other:
VOTER_KINDS = (SERVER_KILLED, SERVER_PAUSED, SERVER_RESTARTED, FORGOT, WENT_BACK, ROLLED, MAJORITY)

LEADER, WAITER = "leader", "waiter"
OF_WAITERS = (KILLED, PAUSED, PAUSED_BRIEFLY, STEPPED, STROBED)  # what may befall one who does not lead as well
SIDES = ("left", "right", "alone")
ALL, MOST, FEW = "all servers", "most servers", "few servers"


@dataclass(frozen=True, slots=True)
class Step:
    """One fault. `whom`: a leader or a waiter; a side; "" for servers. `reach`: to which servers links are bad.

    `gap`: seconds after the step before. `settled`: not before each election has a leader again, and nothing else is
    wrong, unless that takes too long. `pick`, `strength`: at least 0 and below 1; which of the victims that could be
    meant, and how bad it is.
    """

    kind: str
    whom: str
    reach: str
    lasts: float
    gap: float
    settled: bool
    pick: float
    strength: float


def plan(seed: int, number: int, kinds: Sequence[str], ttl: float) -> list[Step]:
    """One round of a run, each kind as often as its weight says; the first is number 0."""
    chance = random.Random(f"{seed} {number}")
    bag = [kind for kind in kinds for _ in range(SHAPES[kind].weight)]
    chance.shuffle(bag)
    return [_step(kind, chance, ttl) for kind in bag]


def _step(kind: str, chance: random.Random, ttl: float) -> Step:
    shape = SHAPES[kind]
    whom = reach = ""
    if kind in OF_CANDIDATES:
        whom = WAITER if kind in OF_WAITERS and chance.random() < 0.2 else LEADER
    elif kind in OF_LINKS:
        (whom,) = chance.choices(SIDES, [4, 4, 2])
        (reach,) = chance.choices([ALL, MOST, FEW], [6, 2, 2])
    return Step(
        kind,
        whom,
        reach,
        round(chance.uniform(shape.least, shape.most) * ttl, 3),
        round(chance.uniform(0.1, 0.8), 3),
        chance.random() < 0.4,
        round(chance.random(), 6),
        round(chance.random(), 6),
    )


def rounds(seed: int, kinds: Sequence[str], ttl: float) -> Iterator[list[Step]]:
    """All that a run may need, one round after the other."""
    number = 0
    while True:
        yield plan(seed, number, kinds, ttl)
        number += 1


def written(seed: int, steps: Sequence[Step]) -> str:
    """The text of a schedule's file."""
    body = ",\n  ".join(json.dumps(asdict(step)) for step in steps)
    return f'{{"seed": {seed}, "steps": [\n  {body}\n]}}\n'


def read(text: str) -> tuple[int, list[Step]]:
    """The seed and the steps of such a file; `ValueError` if it is none."""
    try:
        held = json.loads(text)
        steps = [Step(**step) for step in held["steps"]]
        seed = int(held["seed"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"this is no schedule: {error!r}") from error
    for step in steps:
        if step.kind not in SHAPES:
            raise ValueError(f"no such kind of fault: {step.kind!r}")
    return seed, steps
