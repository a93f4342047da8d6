"""Until when the servers must keep one ZooKeeper session. Pure: no I/O, no clock, no threads.

The rule: the leader of the ensemble ends a session when the session's timeout has passed since the leader itself heard
of it, and an answer to the client does not mean that the leader has. A follower answers reads and pings alone, even
one that is cut off; and a write that it forwards does not touch the session at the leader [tried: the node was gone
2.3 s after a committed write, timeout 8 s]. What touches it is the list of sessions with which the follower answers
the leader's pings, twice a tick.

So a session counts as heard of at `since`, the newest moment before which the client asked for something that

- was answered, so the follower had the session in its list from then on, and
- was followed, `PING_GAP` of the timeout after that answer, by a write whose answer came: what the leader sends to a
  follower arrives in order, so before that answer a ping had arrived, and with it the list was sent, and
- that write was followed, after its answer, by another that committed over the same connection: what a follower sends
  to the leader arrives in order, too, so the list arrived before that one.

Both writes were answered soon, so that no stalled server sat on them while the leader did not hear of us. One write is
not enough: while what the leader sends stands still, a write may overtake the ping [tried: two leaders in 6 of 6 runs].

A connection that is made touches the session at the leader: that counts from before it was asked for, once a write
over it has committed (for a stalled leader greets, too), or at once if the session was made by it.

This assumes that the leader pings at least every `PING_GAP` of the timeout, which servers do whose shortest timeout of
a session is two ticks or more: that is ZooKeeper's default.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from coordkit.lease import Instant, Promise, acting_time, held_for, waited_for

PING_GAP = 0.27  # of the timeout: the leader pings every half tick, a timeout has two ticks or more, and a bit
SOON = 0.25  # of the timeout: a write that is answered later proves nothing
GRAIN = 0.01  # of the timeout: of answers that come faster, few are remembered


class Touch(NamedTuple):
    """A request that the follower has answered."""

    sent: Instant
    answered: Instant


class Lifeline:
    """What is known of one session. Mutable; owned by the loop that sees the answers, in the order of the wire."""

    def __init__(self, timeout: float, drift: float) -> None:
        self.timeout = timeout  # seconds, as the servers have granted it
        self._drift = drift
        self._since: Instant | None = None  # heard of at the leader, proved
        self._proved: Instant | None = None  # when the request was sent that proved it
        self._asked: Instant | None = None  # before this connection was asked for
        self._touches: deque[Touch] = deque()  # on this connection, oldest first
        self._listed: deque[Touch] = deque()  # of them, with the answer by which the follower had sent its list

    def connected(self, asked: Instant, *, new: bool) -> None:
        """A server has greeted us over a connection that was asked for at `asked`; `new`: with a new session."""
        self.disconnected()  # what another server had in its list may never have been sent
        self._asked = asked
        if new:
            self._prove(asked, asked)

    def disconnected(self) -> None:
        """Nothing can be learnt until there is a connection again."""
        self._touches.clear()
        self._listed.clear()
        self._asked = None

    def touched(self, sent: Instant, answered: Instant) -> None:
        """A request that changes nothing was answered."""
        touches = self._touches
        if touches and held_for(touches[-1].answered, answered) < GRAIN * self.timeout:
            return
        touches.append(Touch(sent, answered))
        while len(touches) > 1 and waited_for(touches[1].answered, answered) >= PING_GAP * self.timeout:
            touches.popleft()  # the one after it serves whatever write comes

    def committed(self, sent: Instant, answered: Instant) -> None:
        """A write was answered, so the leader had a majority behind it."""
        asked = self._asked
        if asked is not None and sent.boot >= asked.boot and held_for(sent, answered) <= SOON * self.timeout:
            self._prove(asked, sent)
            while self._listed and waited_for(self._listed[0].answered, sent) > 0:
                self._prove(self._listed.popleft().sent, sent)
            listed: Touch | None = None
            while self._touches and waited_for(self._touches[0].answered, sent) >= PING_GAP * self.timeout:
                listed = self._touches.popleft()
            if listed is not None:
                self._listed.append(Touch(listed.sent, answered))
        self.touched(sent, answered)

    def promise(self) -> Promise | None:
        """Until when the session's nodes may be acted on, counted from the request that proved it; None: unknown."""
        if self._since is None or self._proved is None:
            return None
        return Promise(self._proved, acting_time(self.timeout, self._drift) - held_for(self._since, self._proved))

    def _prove(self, since: Instant, by: Instant) -> None:
        if self._since is None or since.boot >= self._since.boot:
            self._since = since
        if self._proved is None or by.boot >= self._proved.boot:
            self._proved = by
