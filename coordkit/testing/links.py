"""The way between a client and the store `memory://`, on which messages are lost, late, doubled or overtaken.

The rule: a message has a fate, the delays after which its copies arrive; no delay means that it is lost. A request
that is under way arrives although its sender has stopped waiting, and then it counts.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from coordkit.errors import Unavailable

T = TypeVar("T")

Later = Callable[[float, Callable[[], None]], object]  # do this after so many seconds
LOST: tuple[float, ...] = ()


class Weather(Protocol):
    """Decides the fate of each message: seconds after which copies of it arrive, none if it is lost."""

    def request(self) -> Sequence[float]:
        """The fate of a request to the store."""
        ...

    def reply(self) -> Sequence[float]:
        """The fate of the store's answer."""
        ...

    def hint(self) -> Sequence[float]:
        """The fate of a notification from the store."""
        ...


class Calm:
    """Every message arrives once, after the same delays (s)."""

    def __init__(self, request: float = 0.0, reply: float = 0.0) -> None:
        self._request = (request,)
        self._reply = (reply,)

    def request(self) -> Sequence[float]:
        return self._request

    def reply(self) -> Sequence[float]:
        return self._reply

    def hint(self) -> Sequence[float]:
        return self._reply


class LinkFaults:
    """Faults to order on one link, over its weather. May be called from any thread; counts for messages sent later.

    What is ordered for single requests, or replies, befalls them one after the other, in the order of ordering.
    """

    def __init__(self) -> None:
        self.weather: Weather = Calm()
        self._cut = False
        self._refused = False
        self._requests: deque[Sequence[float] | None] = deque()  # fates ordered for the next ones; None: the weather's
        self._replies: deque[Sequence[float] | None] = deque()

    def cut(self, *, refused: bool = False) -> None:
        """Partition: nothing gets through. Calls hang until their caller gives up, or with `refused` fail at once."""
        self._cut, self._refused = True, refused

    def heal(self) -> None:
        """End of every fault. What was lost stays lost."""
        self._cut = self._refused = False
        self._requests.clear()
        self._replies.clear()
        self.weather = Calm()

    def lose_requests(self, count: int = 1) -> None:
        """The next `count` requests do not arrive."""
        self._requests.extend([LOST] * count)

    def lose_replies(self, count: int = 1) -> None:
        """The next `count` requests that arrive are carried out, but their answers are lost."""
        self._replies.extend([LOST] * count)

    def delay_requests(self, seconds: float, count: int = 1) -> None:
        """The next `count` requests arrive late, whether or not anybody still waits."""
        self._requests.extend([(seconds,)] * count)

    def delay_replies(self, seconds: float, count: int = 1) -> None:
        """The next `count` answers arrive late."""
        self._replies.extend([(seconds,)] * count)

    def spare_requests(self, count: int = 1) -> None:
        """Nothing befalls the next `count` requests: what is ordered after this is for later ones."""
        self._requests.extend([None] * count)

    def spare_replies(self, count: int = 1) -> None:
        """Nothing befalls the next `count` answers."""
        self._replies.extend([None] * count)

    def delay(self, seconds: float) -> None:
        """From now on every message takes this long."""
        self.weather = Calm(seconds, seconds)

    def check_refused(self) -> None:
        """Raise `Unavailable` if connections are refused."""
        if self._cut and self._refused:
            raise Unavailable("connection refused", backend="memory")

    def request(self) -> Sequence[float]:
        """The fate of a request."""
        return self._fate(self._requests, self.weather.request)

    def reply(self) -> Sequence[float]:
        """The fate of an answer."""
        return self._fate(self._replies, self.weather.reply)

    def hint(self) -> Sequence[float]:
        """The fate of a notification."""
        return LOST if self._cut else self.weather.hint()

    def _fate(self, ordered: deque[Sequence[float] | None], weather: Callable[[], Sequence[float]]) -> Sequence[float]:
        if self._cut:
            return LOST
        fate = ordered.popleft() if ordered else None
        return weather() if fate is None else fate


class FaultyLink:
    """A `Link` of the memory backend that obeys `LinkFaults`; the two ways are given as functions that do it later."""

    def __init__(self, faults: LinkFaults, to_store: Later, to_client: Later) -> None:
        self._faults = faults
        self._to_store = to_store
        self._to_client = to_client

    async def call(self, operation: Callable[[], T]) -> T:
        """Send the request; wait for the first answer, for ever if there is none."""
        self._faults.check_refused()
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        def arrive() -> None:
            value = operation()

            def settle() -> None:
                if not answer.done():
                    answer.set_result(value)

            for delay in self._faults.reply():
                self._to_client(delay, settle)

        for delay in self._faults.request():
            self._to_store(delay, arrive)
        return await answer

    def hint(self, deliver: Callable[[], None]) -> None:
        """Carry a notification."""
        for delay in self._faults.hint():
            self._to_client(delay, deliver)
