"""Many processes on five real voters, while they, their links and the voters suffer all that can be done to them.

The journal, the record of faults and the resource are the judges. What the votes promise is stated as bounds: how long
nobody leads after a fault, and that nothing is left behind.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.chaos.run import ALLOWED, seed
from tests.chaos.schedule import VOTER_KINDS
from tests.chaos.standard import ELECTIONS, Terms, stand
from tests.servers.redis import Redis
from tests.support.voting import held_by, mark_new

pytestmark = [pytest.mark.chaos, pytest.mark.backend("redis")]

TTL = 2.0
TERMS = Terms(
    "redis",
    TTL,
    VOTER_KINDS,
    takeover=TTL * 1.02 + 0.5,  # a record is watched for its ttl and a margin, and then one ballot or another is lost
    recovers=1.1 * TTL,  # a voter that was started again, or forgot, counts for nobody for a ttl
    apart=1.1 * TTL,  # so more than two of them at once are not what five voters can bear
    touched_by_few=False,
    backwards=True,  # a clock that is ahead may be forgotten with the voters, and then tokens fall: see the docs
)


@pytest.mark.timeout(ALLOWED)
def test_no_two_leaders_while_candidates_and_voters_fall(redis: Redis[Any], faketime: Path, tmp_path: Path) -> None:
    url = redis.url(max_ttl=str(TTL), cluster="chaos")
    mark_new(redis, url)
    stand(
        tmp_path,
        redis,
        url,
        TERMS,
        seed=seed(),
        faketime=faketime,
        left=lambda: [name for name in ELECTIONS if held_by(redis, name)],
    )
