"""What tests can do to a cluster and to its members, be they processes or containers.

The rule: nothing is taken for done that the servers have not confirmed. A cluster is ready when each member answers,
is healthy and names the same leader of the same term; a deadline bounds every wait.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, Self, TypeVar

POLL_SECONDS = 0.02  # servers tell of a change only when they are asked


class NotReady(Exception):
    """A cluster did not become what was waited for; the message has every member's last words."""


class Member(Protocol):
    """One server of a cluster. What was asked for twice is done once."""

    @property
    def name(self) -> str: ...

    @property
    def host(self) -> str:
        """Where clients reach it."""
        ...

    @property
    def port(self) -> int: ...

    @property
    def pid(self) -> int:
        """Of the server process; `LookupError` while it is not running."""
        ...

    @property
    def running(self) -> bool:
        """Whether there is a process, paused or not."""
        ...

    @property
    def paused(self) -> bool: ...

    def start(self) -> None:
        """Not awaited: `Cluster.ready` does that."""
        ...

    def stop(self) -> None:
        """Ask it to end, and wait until it has."""
        ...

    def kill(self) -> None:
        """End it without asking, and wait until it has."""
        ...

    def pause(self) -> None:
        """It keeps its connections and memory, and does nothing."""
        ...

    def resume(self) -> None: ...

    def restart(self) -> None:
        """Stop, then start."""
        ...

    def wipe(self) -> None:
        """Remove its data; `RuntimeError` while it is running."""
        ...

    def cut_off(self) -> None:
        """No traffic between it and the other members, both ways; clients still reach it."""
        ...

    def rejoin(self) -> None: ...

    def last_words(self, lines: int = 40) -> str:
        """The end of its log."""
        ...


M = TypeVar("M", bound=Member)


@dataclass(frozen=True, slots=True)
class View:
    """What a member says of its cluster: the leader's name, and in which term. Where nobody leads: "" and 0."""

    leader: str
    term: int


class Cluster(ABC, Generic[M]):
    """Members that belong together. As a context manager: started and ready, closed in the end."""

    def __init__(self, members: Sequence[M]) -> None:
        self.members = tuple(members)

    @abstractmethod
    def view(self, member: M) -> View | None:
        """What this member says; None if it does not answer within about a second, is not healthy, or has no leader."""

    def views(self, asked: Sequence[M]) -> dict[str, View | None]:
        """What each of these says, by its name."""
        return {member.name: self.view(member) for member in asked}

    @abstractmethod
    def clear(self) -> None:
        """Nothing is left of what clients have stored. The cluster has to be healthy."""

    @abstractmethod
    def close(self) -> None:
        """Leave nothing behind; harmless twice."""

    def start(self) -> None:
        """Start every member that is down; not awaited."""
        for member in self.members:
            member.start()

    def ready(self, timeout: float = 30.0, *, among: Sequence[M] | None = None) -> M:
        """Wait until all members, or these, are healthy and agree; their leader. `NotReady` if they do not.

        It is raised at once where a member is down or paused, for that will not change by waiting.
        """
        asked = self.members if among is None else tuple(among)
        deadline = time.monotonic() + timeout
        while True:
            for member in asked:
                if not member.running or member.paused:
                    raise NotReady(f"{member.name} is {'paused' if member.running else 'down'}\n{self.logs()}")
            views = self.views(asked)
            one, *others = views.values()
            if one and all(other == one for other in others):
                return self.member(one.leader) if one.leader else asked[0]
            if time.monotonic() > deadline:
                raise NotReady(f"not ready after {timeout:g} s: {views}\n{self.logs()}")
            time.sleep(POLL_SECONDS)

    def leader(self, timeout: float = 10.0, *, other_than: M | None = None) -> M:
        """Whom a strict majority follows, in one term; `NotReady` if there is nobody in time.

        A leader that has just been paused or cut off is still followed, until the others have noticed. Who waits for
        its successor says so by `other_than`.
        """
        deadline = time.monotonic() + timeout
        while True:
            asked = [member for member in self.members if member.running and not member.paused]
            views = Counter(view for view in self.views(asked).values() if view)
            if views:
                ((view, followers),) = views.most_common(1)
                if 2 * followers > len(self.members) and (other_than is None or view.leader != other_than.name):
                    return self.member(view.leader)
            if time.monotonic() > deadline:
                raise NotReady(f"no leader after {timeout:g} s: {dict(views)}\n{self.logs()}")
            time.sleep(POLL_SECONDS)

    def followers(self) -> tuple[M, ...]:
        """All members but the leader."""
        leader = self.leader()
        return tuple(member for member in self.members if member.name != leader.name)

    def member(self, name: str) -> M:
        """The member of this name."""
        return next(member for member in self.members if member.name == name)

    def heal(self) -> None:
        """Resume and rejoin all members, start those that are down, and wait until they are ready."""
        for member in self.members:
            member.resume()
            member.rejoin()
            member.start()
        self.ready()

    def logs(self) -> str:
        """Every member's last words."""
        return "\n".join(f"--- {member.name}\n{member.last_words(15)}" for member in self.members)

    def __enter__(self) -> Self:
        try:
            self.start()
            self.ready()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
