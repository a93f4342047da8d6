"""Many processes on five real voters, while they and the voters are killed, paused, restarted, emptied and set back.

The journal is the judge. What the votes promise is stated as bounds: how long nobody leads after a crash when all is
calm, how long at most under all this trouble, and that nothing is left behind.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from coordkit.testing.contract import eventually
from tests.chaos.members import VOTER_KINDS, Trouble
from tests.chaos.run import LONGER, seed
from tests.chaos.standard import ELECTIONS, stand
from tests.servers.redis import Redis
from tests.support.voting import held_by, mark_new

pytestmark = [pytest.mark.chaos, pytest.mark.backend("redis")]

EACH = 2  # times each kind of trouble that a minority can have
TTL = 2.0
TAKEOVER = 1.1 * TTL + 2.0  # and a machine that is busy


@pytest.mark.timeout(300 + LONGER)
def test_no_two_leaders_while_candidates_and_voters_fall(redis: Redis[Any], tmp_path: Path) -> None:
    number = seed()
    url = redis.url(max_ttl=str(TTL))
    mark_new(redis, url)
    # A voter that was started again counts for nobody for a ttl: two of them at once are what five voters can bear.
    trouble = Trouble(redis, ttl=TTL, seed=number, kinds=VOTER_KINDS, pause=TTL / 2)
    stand(tmp_path, url, trouble, ttl=TTL, seed=number, each=EACH, takeover=TAKEOVER)
    eventually(lambda: not any(held_by(redis, name) for name in ELECTIONS), "nobody holds a seat any more")
