"""The links from candidates to servers: a proxy before each server for each side, on which some of the candidates are.

The rule: what is made bad is healed when the fault is over. Servers do not talk to each other by these links.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, Self

from tests.chaos import schedule
from tests.chaos.schedule import SIDES, Step
from tests.servers.cluster import Cluster
from tests.servers.ports import address
from tests.servers.proxy import Proxy

OF_PLACES = (0, 0, 0, 0, 1, 1, 1, 2)  # on which side the candidate in each place is


class Sides:
    """`enough`: set when nothing has to last any longer. A context manager."""

    def __init__(self, cluster: Cluster[Any], enough: threading.Event) -> None:
        self._cluster = cluster
        self._enough = enough
        self._proxies = [[Proxy(member.host, member.port) for member in cluster.members] for _ in SIDES]

    def urls(self, url: str) -> list[str]:
        """For each place, with the addresses of the proxies of its side."""
        return [self._through(self._proxies[side], url) for side in OF_PLACES]

    def _through(self, proxies: Sequence[Proxy], url: str) -> str:
        for member, proxy in zip(self._cluster.members, proxies, strict=True):
            direct = address(member.host, member.port)
            assert direct in url
            url = url.replace(direct, address(proxy.host, proxy.port))
        return url

    @staticmethod
    def places(side: str) -> list[int]:
        """Which candidates are on it."""
        return [place for place, number in enumerate(OF_PLACES) if SIDES[number] == side]

    def suffer(self, step: Step) -> None:
        """Make it and mend it."""
        proxies = self._proxies[SIDES.index(step.whom)]
        first = int(step.pick * len(proxies))
        hit = [proxies[(first + more) % len(proxies)] for more in range(reached(step, len(proxies)))]
        for proxy in hit:
            _spoil(proxy, step)
        self._enough.wait(step.lasts)
        for proxy in hit:
            proxy.heal()

    def close(self) -> None:
        for proxies in self._proxies:
            for proxy in proxies:
                proxy.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def reached(step: Step, servers: int) -> int:
    """To how many servers the links are bad."""
    few = (servers - 1) // 2
    return {schedule.ALL: servers, schedule.MOST: servers - few, schedule.FEW: few}[step.reach]


def _spoil(proxy: Proxy, step: Step) -> None:
    much = step.strength
    match step.kind:
        case schedule.CUT:
            proxy.cut()
        case schedule.REQUESTS_HELD:
            proxy.hold_requests()
        case schedule.REPLIES_HELD:
            proxy.hold_replies()
        case schedule.REPLIES_DROPPED:
            proxy.drop_replies()
        case schedule.REPLIES_DOUBLED:
            proxy.double_replies()
        case schedule.DELAYED:
            proxy.delay(0.02 + 0.08 * much)
        case schedule.JITTER:
            proxy.jitter(0.05 + 0.2 * much)
        case schedule.STALLS:  # as TCP is when packets are lost: all behind them wait until they are sent again
            proxy.stall(0.02 + 0.1 * much, 0.2)
        case schedule.NARROW:
            proxy.narrow(20_000 + 80_000 * much)
        case schedule.HALF_OPEN:
            proxy.half_open()
        case schedule.RESET:
            proxy.reset()
        case other:
            raise ValueError(other)
