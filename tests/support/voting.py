"""What tests do to the records of voters by hand: mark servers as new, read, and take away.

The rule: what is read is parsed here, not by coordkit; only the marking goes by its own script.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from coordkit.backends.redis.scripts import script
from coordkit.backends.redis.target import agreement_of, key_of
from coordkit.registry import parse
from tests.servers.redis import Redis


def mark_new(voters: Redis[Any], url: str) -> None:
    """As an operator would with `coordkit doctor --init`: these empty servers count at once for candidates of `url`."""
    address = parse(url)
    for number, member in enumerate(voters.members):
        told = voters.hand(member).eval(
            script("init").text, 1, key_of(address), "nonce", agreement_of(address), f"birth{number}"
        )
        assert told[6] == ["marked"], told


def held_by(voters: Redis[Any], election: str, key: str = "coordkit") -> list[str]:
    """Whose seats a majority of the voters has recorded, by the candidate's id: nobody, or one."""
    found = Counter[str]()
    for member in voters.members:
        record = voters.hand(member).hget(key, f"e:{election}")
        if record is not None:
            assert isinstance(record, str)
            fields = record.split(" ", 7)
            if fields[4] == "held":
                found[json.loads(fields[7])["id"]] += 1
    return [name for name, count in found.items() if count > len(voters.members) // 2]


def take_away(voters: Redis[Any], election: str, key: str = "coordkit") -> None:
    """An operator removes the record of an election from every voter."""
    for member in voters.members:
        voters.hand(member).hdel(key, f"e:{election}")


def fields_of(voters: Redis[Any], key: str = "coordkit") -> Sequence[dict[str, str]]:
    """All that each voter has written down."""
    return [voters.hand(member).hgetall(key) for member in voters.members]
