"""What every server of a ZooKeeper ensemble comes to hold: a tree of nodes, and sessions. No clock, no chance.

The rule: it does what ZooKeeper 3.8 does with one transaction after the other (DataTree and PrepRequestProcessor), as
far as coordkit asks for it. Whose request is refused, and when a session is over, is not its affair.

A sequence is the parent's count of all children that it ever had, 32 bits with a sign. Servers of before 3.6 let it
wrap. Later ones never set it back, so that it stays at the last positive number, and nodes share that (`sticks`);
only what is under way at the same time counts on, below zero.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from kazoo.exceptions import (
    KazooException,
    NoChildrenForEphemeralsError,
    NodeExistsError,
    NoNodeError,
    NotEmptyError,
    RolledBackError,
    RuntimeInconsistency,
)
from kazoo.protocol.states import EventType, ZnodeStat

LAST = 2**31 - 1  # sequence

Event = tuple[str, str]  # of kazoo's EventType, path


@dataclass(frozen=True, slots=True)
class Create:
    """Asked for: a node."""

    path: str
    data: bytes = b""
    ephemeral: bool = False
    sequence: bool = False


@dataclass(frozen=True, slots=True)
class Delete:
    """Asked for: that it is there no more."""

    path: str


@dataclass(frozen=True, slots=True)
class Put:
    """Asked for: new data."""

    path: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Check:
    """Asked for: that it is there."""

    path: str


Op = Create | Delete | Put | Check


@dataclass(frozen=True, slots=True)
class Made:
    """Decided: a node is made."""

    path: str
    data: bytes
    owner: int  # session, or 0
    count: int  # of its parent, after it


@dataclass(frozen=True, slots=True)
class Opened:
    """Decided: a session begins."""

    session: int
    timeout: float


@dataclass(frozen=True, slots=True)
class Closed:
    """Decided: a session ends, and its nodes go."""

    session: int
    expired: bool


Effect = Made | Delete | Put | Opened | Closed


@dataclass(slots=True)
class Node:
    """One node."""

    czxid: int
    data: bytes = b""
    owner: int = 0
    mzxid: int = 0
    version: int = 0
    count: int = 0  # the next sequence
    children: dict[str, None] = field(default_factory=dict)

    def stat(self) -> ZnodeStat:
        """As kazoo shows it."""
        return ZnodeStat(
            self.czxid,
            self.mzxid or self.czxid,
            0,
            0,
            self.version,
            0,
            0,
            self.owner,
            len(self.data),
            len(self.children),
            0,
        )


class Tree:
    """The state after so many transactions."""

    def __init__(self, *, sticks: bool) -> None:
        self.sticks = sticks
        self.zxid = 0
        self.nodes: dict[str, Node] = {"/": Node(0)}
        self.sessions: dict[int, float] = {}  # timeouts
        self.owned: dict[int, dict[str, None]] = {}  # by session: paths

    def copy(self) -> Tree:
        """Another one with the same in it."""
        made = Tree(sticks=self.sticks)
        made.zxid = self.zxid
        made.nodes = {path: copy.copy(node) for path, node in self.nodes.items()}
        for node in made.nodes.values():
            node.children = dict(node.children)
        made.sessions = dict(self.sessions)
        made.owned = {session: dict(paths) for session, paths in self.owned.items()}
        return made

    # --- reading ---------------------------------------------------------------------------------------------

    def stat(self, path: str) -> ZnodeStat | None:
        """None if there is no such node."""
        node = self.nodes.get(path)
        return None if node is None else node.stat()

    def children(self, path: str) -> list[str]:
        """Their names, in no order that means anything."""
        return list(self._node(path).children)

    def data(self, path: str) -> bytes:
        """What is written there."""
        return self._node(path).data

    def _node(self, path: str) -> Node:
        if (node := self.nodes.get(path)) is None:
            raise NoNodeError
        return node

    # --- deciding: what a request comes to, as things stand ----------------------------------------------------

    def decide(self, session: int, op: Op) -> tuple[list[Effect], Any]:
        """The effects and the answer, or raises the refusal."""
        match op:
            case Create():
                parent = self._node(parent_of(op.path))
                if parent.owner:
                    raise NoChildrenForEphemeralsError
                path = f"{op.path}{parent.count:010d}" if op.sequence else op.path
                if path in self.nodes:
                    raise NodeExistsError
                return [Made(path, op.data, session if op.ephemeral else 0, _wrapped(parent.count + 1))], path
            case Delete():
                if self._node(op.path).children:
                    raise NotEmptyError
                return [op], True
            case Put():
                self._node(op.path)
                return [op], True
            case Check():
                self._node(op.path)
                return [], True

    def decide_all(self, session: int, ops: Sequence[Op]) -> tuple[list[Effect], list[Any]]:
        """All of them or none, each seeing those before it; what is answered for each."""
        builds = any(isinstance(op, Create) for op in ops)  # on what those before it have made
        ahead, effects, answers = self.copy() if builds else self, list[Effect](), list[Any]()
        for op in ops:
            try:
                found, answer = ahead.decide(session, op)
            except KazooException as error:
                after = [RuntimeInconsistency() for _ in ops[len(answers) + 1 :]]
                return [], [*(RolledBackError() for _ in answers), error, *after]
            if builds:
                ahead.apply(ahead.zxid, found, speculative=True)
            effects += found
            answers.append(answer)
        return effects, answers

    # --- applying --------------------------------------------------------------------------------------------

    def apply(self, zxid: int, effects: Sequence[Effect], *, speculative: bool = False) -> list[Event]:
        """Carry it out; what there is to tell to those who watch."""
        self.zxid = zxid
        events: list[Event] = []
        for effect in effects:
            match effect:
                case Made():
                    events += self._make(effect, speculative=speculative)
                case Delete():
                    events += self._delete(effect.path)
                case Put():
                    node = self.nodes[effect.path]
                    node.data, node.mzxid, node.version = effect.data, zxid, node.version + 1
                    events.append((EventType.CHANGED, effect.path))
                case Opened():
                    self.sessions[effect.session] = effect.timeout
                case Closed():
                    self.sessions.pop(effect.session, None)
                    for path in list(self.owned.get(effect.session, ())):
                        events += self._delete(path)
        return events

    def _make(self, made: Made, *, speculative: bool) -> list[Event]:
        above = parent_of(made.path)
        parent = self.nodes[above]
        if speculative or not self.sticks or made.count > parent.count:
            parent.count = made.count
        self.nodes[made.path] = Node(self.zxid, made.data, made.owner)
        parent.children[made.path.rpartition("/")[2]] = None
        if made.owner:
            self.owned.setdefault(made.owner, {})[made.path] = None
        return [(EventType.CREATED, made.path), (EventType.CHILD, above)]

    def _delete(self, path: str) -> list[Event]:
        above, node = parent_of(path), self.nodes.pop(path)
        del self.nodes[above].children[path.rpartition("/")[2]]
        if node.owner:
            self.owned[node.owner].pop(path)
        return [(EventType.DELETED, path), (EventType.CHILD, above)]


def parent_of(path: str) -> str:
    """The path above."""
    return path.rpartition("/")[0] or "/"


def _wrapped(count: int) -> int:
    return (count + 2**31) % 2**32 - 2**31
